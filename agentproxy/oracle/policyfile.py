"""policy.yaml as the oracle takes it: a wrong one not at all, and what is risky in it with lines of the log."""

import logging
from collections.abc import Iterable
from pathlib import Path

import trio

from agentproxy.oracle.policy import Policy
from agentproxy.oracle.policycheck import check
from agentproxy.oracle.signerlink import ASK_SECONDS
from agentproxy.oracle.signing import SigningService
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import KeyFacts
from agentproxy.runtime.config import load

__all__ = ["Remarks", "load_policy", "require_sound"]

logger = logging.getLogger(__name__)

# The same reload gives the signer its keys file, and what it serves since then shows when it is asked next.
SETTLE_SECONDS = 2 * ASK_SECONDS


def load_policy(path: Path) -> Policy:
    """Read and check a policy, as far as it can be checked without the signer's keys.

    Raises:
        ConfigError: with every problem and its path.
    """
    policy = load(path, Policy)
    require_sound(path, policy)
    return policy


def require_sound(path: Path, policy: Policy, keys: Iterable[KeyFacts] = ()) -> None:
    """Refuse a policy that is wrong; one that is only risky passes.

    Args:
        keys: what the signer serves, as far as that is known.

    Raises:
        ConfigError: with every problem and its path.
    """
    errors = [problem for problem in check(policy, keys) if not problem.warning]
    if errors:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in errors))


class Remarks:
    """What the log says about the policy in use, with the keys that the signer serves."""

    def __init__(self, service: SigningService) -> None:
        self._service = service
        self._made_about: Policy | None = None

    def make(self) -> None:
        """Make them now."""
        policy = self._made_about = self._service.policy
        for problem in check(policy, self._service.keys.values()):
            # Nothing is signed wrongly meanwhile: each request is judged by the key that it asks for.
            logger.log(logging.WARNING if problem.warning else logging.ERROR, "policy: %s", problem)

    async def make_later(self) -> None:
        """Make them about a policy that has just been read, unless new keys of the signer's were a reason before.

        By the keys of before, the log would say of each new key that nobody serves it, and be wrong a second later.
        """
        await trio.sleep(SETTLE_SECONDS)
        if self._made_about is not self._service.policy:
            self.make()

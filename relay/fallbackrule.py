"""Whether this host may sign by itself now: the mode, the oracle's word, the keys, and how long no oracle has answered.

All of it is looked at anew each time; nothing here changes anything.
"""

from datetime import UTC, datetime

import trio

from agentproxy.protocol.fields import KeyFacts
from relay.client import Client
from relay.config import RelayConfig
from relay.fallbackkeys import FallbackKeys, usable
from relay.fallbackmode import FallbackMode
from relay.fallbackswitch import SwitchKeeper
from relay.keylist import KeyList
from relay.outage import Outage
from relay.permission import Permission

__all__ = ["FallbackRule"]

# gpg connects before it hashes: so long it may be at work when fallback ends.
LATE_SECONDS = 600.0


class FallbackRule:
    """Decides, by what others keep.

    Args:
        config: read from relay.yaml.
        client: knows since when no oracle has been there.
        oracles_keys: what oracles serve.
        permission: what an oracle allows.
        keys: the host's own.
        switch: what an operator switched.
        outage: what the run before saw of the present outage.
    """

    def __init__(  # noqa: PLR0913, PLR0917  one for each thing that the decision depends on
        self,
        config: RelayConfig,
        client: Client,
        oracles_keys: KeyList,
        permission: Permission,
        keys: FallbackKeys,
        switch: SwitchKeeper,
        outage: Outage,
    ) -> None:
        self._config = config
        self._client = client
        self._oracles_keys = oracles_keys
        self._permission = permission
        self._keys = keys
        self._switch = switch
        self._outage = outage

    def objection(self, began: float) -> str:
        """Why a connection that began at that time may not sign any more; empty when it may.

        gpg keeps its mode while it works. But a connection that somebody holds open must not outlive what it was
        allowed by: the oracle's no counts at once, the end of a switch or of an outage after LATE_SECONDS.
        """
        if problem := self.forbidden():
            return problem
        return self.why_not() if trio.current_time() - began > LATE_SECONDS else ""

    def mode(self) -> tuple[FallbackMode, str]:
        """The mode that holds, and its operator's reason."""
        switch = self._switch.current()
        return (switch.mode, switch.reason) if switch else (self._config.fallback.mode, "relay.yaml")

    def why_not(self) -> str:
        """Why this host does not sign by itself now; empty when it does."""
        mode, _ = self.mode()
        if mode is FallbackMode.NEVER:
            return "the mode is never"
        if problem := self.forbidden():
            return problem
        good, refused = self.usable()
        if not good:
            return "no key to sign with: " + ("; ".join(refused) or "blind-oracle-relay fallback setup makes one")
        away = self._away_seconds()
        if mode is FallbackMode.AUTO and away is None:
            return "an oracle is there"
        after = self._config.fallback.after_seconds
        if mode is FallbackMode.AUTO and away is not None and away < after:
            return f"no oracle for {away:.0f} of {after} s"
        return ""

    def forbidden(self) -> str:
        """Why the oracle's policy is against it; empty when it is not."""
        verdict = self._permission.verdict
        if verdict.allowed:
            return ""
        name = self._config.name
        if not verdict.by:
            return f"no oracle has allowed it yet: its policy must say runners.{name}.fallback: true"
        if why := verdict.taken_back:
            return (
                f"an oracle took the permission back, since {why}: once it takes this runner again, its policy decides"
            )
        return f"the oracle forbids it, said by {verdict.by}: its policy must say runners.{name}.fallback: true"

    def _away_seconds(self) -> float | None:
        """For how long no oracle has answered; None: one has just now. One that turns us away has answered."""
        since, answered = self._client.unreachable_since, self._permission.answered
        if since is None:
            return None
        if answered is not None:
            return trio.current_time() - max(since, answered)
        return self._outage.seconds(trio.current_time() - since)

    def usable(self) -> tuple[list[KeyFacts], list[str]]:
        """The keys that may sign, and why each of the others may not."""
        oracles = {key.facts.keygrip for key in self._oracles_keys.served}
        return usable(self._keys.all(), oracles, self._config.fallback.accept_oracle_keys, datetime.now(UTC))

"""Whether the oracle's policy lets this runner sign by itself: what an oracle said last, kept on disk.

Nothing heard means no. An oracle that turns this runner away has taken the permission back; one that is out of reach
has not. So an operator of the oracle decides, and the relay keeps to it while nobody is there to ask.
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import trio

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.protocol.unstructure import unstructured
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically
from relay.errors import RejectedError

__all__ = ["Permission", "Verdict"]

logger = logging.getLogger(__name__)

_MAX_FILE = 4096  # bytes
# These say that the runner, or what it shows, is no longer wanted. An expired certificate does not: then the last word
# of the policy stands. A registry out of reach is an outage like others.
_TAKEN_BACK = frozenset(
    {
        RejectionCode.CERTIFICATE_UNKNOWN,
        RejectionCode.CERTIFICATE_REVOKED,
        RejectionCode.TOKEN_UNKNOWN,
        RejectionCode.TOKEN_REVOKED,
        RejectionCode.TOKEN_OF_ANOTHER_RUNNER,
        RejectionCode.RUNNER_DISABLED,
        RejectionCode.RUNNER_UNKNOWN,
        RejectionCode.ADDRESS_FORBIDDEN,
    }
)
_BACK = "taken back: "  # before the reason, in the file, too; no node's name has a space


@frozen
class Verdict:
    """What was heard last."""

    allowed: bool = False
    by: str = ""  # the oracle's node, or why it was taken back; empty: nothing was heard yet
    since: datetime | None = None

    @property
    def taken_back(self) -> str:
        """Why an oracle that turned this runner away no longer lets it; empty: it is the policy's word that counts."""
        return "" if self.allowed or not self.by.startswith(_BACK) else self.by.removeprefix(_BACK)


class Permission:
    """Keeps the last verdict.

    Args:
        path: where it is kept; its directory exists.

    Attributes:
        verdict: what counts now.
        answered: when, on trio's clock, an oracle last turned us away for another reason than an outage.
    """

    def __init__(self, path: Path) -> None:
        self.verdict = Verdict()
        self.answered: float | None = None
        self._path = path
        self._is_kept = True  # the file says what was heard last
        self._pen = trio.Lock()

    def load(self) -> None:
        """Read what was heard before this start; what cannot be read is no permission."""
        try:
            with self._path.open("rb") as file:
                self.verdict = structured(json.loads(file.read(_MAX_FILE)), Verdict)
        except FileNotFoundError:
            return
        except (OSError, *UNREADABLE) as error:
            logger.warning("permission to fall back not read, so there is none, path=%s error=%s", self._path, error)

    async def told(self, node: str, *, allowed: bool) -> None:
        """Take what a node's policy says."""
        self.answered = None
        await self._take(allowed, node)

    async def rejected(self, error: RejectedError) -> None:
        """Take it that an oracle answered, and whether it took back what it had allowed."""
        if error.code is not RejectionCode.NOT_OPERATIONAL:
            self.answered = trio.current_time()
        if error.code in _TAKEN_BACK and (self.verdict.allowed or not self._is_kept):
            await self._take(allowed=False, by=f"{_BACK}{error}")

    async def _take(self, allowed: bool, by: str) -> None:  # noqa: FBT001  its callers name it
        before = self.verdict
        if (allowed, by) == (before.allowed, before.by) and self._is_kept:
            return
        self.verdict = Verdict(allowed, by, datetime.now(UTC))
        if allowed != before.allowed:
            logger.info("falling back is %s, by=%s", "allowed" if allowed else "forbidden", by)
        elif not allowed and self._is_kept:
            return  # no file, or one that says no already
        try:
            async with self._pen:  # what was heard last is written last
                self._is_kept = False  # until all of it is done; what failed is tried again when it is heard again
                await trio.to_thread.run_sync(self._write, self.verdict)
                self._is_kept = True
        except OSError as error:
            logger.error("permission to fall back not kept, path=%s error=%s", self._path, error)  # noqa: TRY400  no bug

    def _write(self, verdict: Verdict) -> None:
        if not verdict.allowed:
            # Works on a full disk, too: a no must not be forgotten by the next start.
            self._path.unlink(missing_ok=True)
        plain = unstructured(verdict)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(self._path, json.dumps(plain).encode("ascii"), 0o644)

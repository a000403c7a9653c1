"""Compares what relays remember of the audit log with the log: warns when somebody cut or rewrote it.

An online warning only, since a taken-over oracle could keep silent: proof is `blind-oracle audit verify --head`.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentproxy.oracle.caller import Caller
from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.signer_answers import HeadCompared
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import CompareHead, Outcome, Record

__all__ = ["HeadSource", "KeptHeads"]

logger = logging.getLogger(__name__)


# Between two warnings about what one runner brings: whoever owns it can make up heads as fast as it can connect, and
# neither journal nor audit log shall fill with them.
WARNING_SECONDS = 60.0


class HeadSource(Protocol):
    """What we need of the signer; `agentproxy.oracle.signerlink` is the real one."""

    def next_id(self) -> int:
        """An id for the next request."""

    def send(self, request: ToSigner, answer: Callable[[FromSigner | BackendError], None]) -> None:
        """Ask; `answer` is called exactly once."""

    def record(self, request: Record) -> None:
        """Ask for a record, without waiting for it."""


@dataclass(slots=True)
class _Warned:
    at: float
    suppressed: int = 0  # since then


class KeptHeads:
    """The heads that relays bring to this node.

    Args:
        node: whose log it is; heads of other nodes are for those to look at.
        clock: seconds that only grow.
    """

    def __init__(self, node: str, signer: HeadSource, clock: Callable[[], float]) -> None:
        self._node = node
        self._signer = signer
        self._clock = clock
        self._warned: dict[str, _Warned] = {}  # by runner

    def compare(self, caller: Caller, heads: Sequence[Head]) -> None:
        """Look whether the log still holds what this caller saw of it; nobody waits for the result.

        Only the furthest is looked at: a relay keeps one for each node, and each costs the signer a read of its log.
        """
        head = max((one for one in heads if one.node == self._node), key=lambda one: one.sequence, default=None)
        if head is not None:
            request = CompareHead(self._signer.next_id(), head)
            self._signer.send(request, functools.partial(self._judge, caller, head))

    def _judge(self, caller: Caller, head: Head, answer: FromSigner | BackendError) -> None:
        if isinstance(answer, HeadCompared):
            if not answer.fits:
                self._warn(caller, head, answer.reason)
        else:
            logger.info("a relay's head was not compared, runner=%s sequence=%d", caller.runner, head.sequence)

    def _warn(self, caller: Caller, head: Head, reason: str) -> None:
        last, now = self._warned.get(caller.runner), self._clock()
        if last is not None and now - last.at < WARNING_SECONDS:
            last.suppressed += 1
            return
        suppressed = 0 if last is None else last.suppressed
        self._warned[caller.runner] = _Warned(now)
        logger.error(
            "the audit log is not what runner %s saw: %s; keep it, and run audit verify with that relay's heads.json, "
            "suppressed=%d",
            caller.runner,
            reason,
            suppressed,
        )
        details = {"sequence": str(head.sequence), "hash": head.hash.hex()}
        if suppressed:
            details["suppressed"] = str(suppressed)
        asserted = caller.asserted(None, None)
        self._signer.record(
            Record(
                self._signer.next_id(), "head_misfit", Outcome.DONE, reason, asserted, details=details, durable=False
            )
        )

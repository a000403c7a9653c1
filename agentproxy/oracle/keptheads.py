"""Compares what relays remember of the audit log with the log: warns when somebody cut or rewrote it.

An online warning only, since a taken-over oracle could keep silent: proof is `blind-oracle audit verify --head`.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from agentproxy.oracle.caller import Caller
from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.signer_answers import HeadCompared
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import CompareHead, Outcome, Record

__all__ = ["HeadSource", "KeptHeads"]

logger = logging.getLogger(__name__)


class HeadSource(Protocol):
    """What we need of the signer; `agentproxy.oracle.signerlink` is the real one."""

    def next_id(self) -> int:
        """An id for the next request."""

    def send(self, request: ToSigner, answer: Callable[[FromSigner | BackendError], None]) -> None:
        """Ask; `answer` is called exactly once."""

    def record(self, request: Record) -> None:
        """Ask for a record, without waiting for it."""


class KeptHeads:
    """The heads that relays bring to this node.

    Args:
        node: whose log it is; heads of other nodes are for those to look at.
    """

    def __init__(self, node: str, signer: HeadSource) -> None:
        self._node = node
        self._signer = signer

    def compare(self, caller: Caller, heads: Sequence[Head]) -> None:
        """Look whether the log still holds what this caller saw of it; nobody waits for the result."""
        for head in heads:
            if head.node == self._node:
                request = CompareHead(self._signer.next_id(), head)
                self._signer.send(request, functools.partial(self._judge, caller, head))

    def _judge(self, caller: Caller, head: Head, answer: FromSigner | BackendError) -> None:
        if isinstance(answer, HeadCompared):
            if not answer.fits:
                self._warn(caller, head, answer.reason)
        else:
            logger.info("a relay's head was not compared, runner=%s sequence=%d", caller.runner, head.sequence)

    def _warn(self, caller: Caller, head: Head, reason: str) -> None:
        logger.error(
            "the audit log is not what runner %s saw: %s; keep it, and run audit verify with that relay's heads.json",
            caller.runner,
            reason,
        )
        details = {"sequence": str(head.sequence), "hash": head.hash.hex()}
        asserted = caller.asserted(None, None)
        self._signer.record(
            Record(
                self._signer.next_id(), "head_misfit", Outcome.DONE, reason, asserted, details=details, durable=False
            )
        )

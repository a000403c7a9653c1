"""Notices an enrolment file that is used after it has ended: somebody has a copy of it."""

import logging
from collections.abc import Callable
from typing import Protocol

from agentproxy.oracle.authn import Proof
from agentproxy.oracle.complaints import Complaints
from agentproxy.oracle.credentials import Credentials, TokenKind
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.signer_requests import Outcome, Record

__all__ = ["BootstrapReuse"]

logger = logging.getLogger(__name__)

SILENT_SECONDS = 60.0  # one record of each token in this time: whoever has the file must not fill the log


class _Recorder(Protocol):
    def next_id(self) -> int: ...

    def record(self, request: Record) -> None: ...


class BootstrapReuse:
    """Warns and records.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, signer: _Recorder, clock: Callable[[], float]) -> None:
        self._signer = signer
        self._clock = clock
        self._recorded: dict[str, float] = {}

    def look_at(self, credentials: Credentials, proof: Proof, complaints: Complaints) -> None:
        """Look at somebody who was turned away.

        Args:
            credentials: as they are now.
            proof: what they have shown.
            complaints: how many lines of the log a token may cause: whoever has the file must not fill that, either.
        """
        token = credentials.tokens.get(proof.token_sha256)
        if token is None or token.kind is not TokenKind.BOOTSTRAP or token.revoked is None:
            return
        if complaints.may_tell(f"token {token.id}"):
            logger.warning(
                "an enrolment file was used again after its end: who has a copy? runner=%s token=%s address=%s",
                token.runner, token.id, proof.address,
            )  # fmt: skip
        now = self._clock()
        if now - self._recorded.get(token.id, float("-inf")) < SILENT_SECONDS:
            return
        self._recorded[token.id] = now
        certificate = None if proof.certificate_sha256 is None else proof.certificate_sha256.hex()
        asserted = Asserted(token.runner, token.id, certificate, proof.address, proof.channel)
        reason = "token_revoked: an enrolment file was used again after its end"
        self._signer.record(Record(self._signer.next_id(), "hello", Outcome.REFUSED, reason, asserted, durable=False))

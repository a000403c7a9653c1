"""A record of the relay's journal before it has its place there."""

import secrets
from dataclasses import replace
from datetime import datetime

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.journal import MAX_RECORD, JournalOperation, JournalRecord
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.values import frozen
from relay.journalchain import JournalEnd

__all__ = ["Draft"]


@frozen
class Draft:
    """A record without its place; the fields are `JournalRecord`'s."""

    operation: JournalOperation
    request: str
    mode: str = ""
    reason: str = ""
    fingerprint: Fingerprint | None = None
    keygrip: Keygrip | None = None
    digest: Digest | None = None
    signature_sha256: bytes | None = None
    socket: str = ""
    distribution: str | None = None
    claims: Claims | None = None

    def placed(self, end: JournalEnd, time: datetime) -> JournalRecord:
        """The record behind `end`; behind nothing it begins a journal. One that a report can carry."""
        return _fitting(
            JournalRecord(
                journal=end.journal or secrets.token_hex(16),
                sequence=end.sequence + 1,
                time=time,
                operation=self.operation,
                request=self.request,
                prev=end.hash,
                mode=self.mode,
                reason=self.reason,
                fingerprint=self.fingerprint,
                keygrip=self.keygrip,
                digest=self.digest,
                signature_sha256=self.signature_sha256,
                socket=self.socket,
                distribution=self.distribution,
                claims=self.claims,
            )
        )


def _fitting(record: JournalRecord) -> JournalRecord:
    """What nobody needs goes first, and the signature always stays."""
    if len(record.line()) <= MAX_RECORD or record.claims is None:
        return record
    claims = record.claims
    return replace(record, claims=Claims(uid=claims.uid, user=claims.user, pid=claims.pid))

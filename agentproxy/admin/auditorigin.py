"""Whether this oracle made a signature: what the log says about one that was found in a file."""

import enum
from dataclasses import dataclass

from agentproxy.admin.auditindex import AuditIndex, Found
from agentproxy.admin.auditquery import Query
from agentproxy.admin.signedfiles import FileSignature
from agentproxy.protocol.signer_messages import Outcome

__all__ = ["Origin", "Verdict", "origin_of"]


class Verdict(enum.StrEnum):
    """What the log says."""

    MADE = "made"
    CHANGED = "changed"
    ANOTHER = "another"
    NEVER = "never"


_WORDS = {
    Verdict.MADE: "this oracle made it",
    Verdict.CHANGED: "this oracle made this signature for other content: the file was changed",
    Verdict.ANOTHER: "this oracle signed the same, but did not make this signature",
    Verdict.NEVER: "this oracle never made it",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """One signature, and its record."""

    signature: FileSignature
    verdict: Verdict
    found: Found | None  # the record; None when there is none

    @property
    def words(self) -> str:
        """The verdict for people."""
        return _WORDS[self.verdict]


def origin_of(signature: FileSignature, index: AuditIndex) -> Origin:
    """Look a signature up, by what was signed and by its own numbers."""
    signed = Outcome.SIGNED.value
    same_digest = [
        found
        for found in index.find(Query(digest=signature.digest.value.hex(), outcome=signed))
        if found.record.entry.digest == signature.digest
    ]
    for found in same_digest:
        if found.record.entry.signature_sha256 == signature.signature_sha256:
            return Origin(signature, Verdict.MADE, found)
    same_signature = next(index.find(Query(signature=signature.signature_sha256, outcome=signed)), None)
    if same_signature is not None:
        return Origin(signature, Verdict.CHANGED, same_signature)
    if same_digest:
        return Origin(signature, Verdict.ANOTHER, same_digest[0])
    return Origin(signature, Verdict.NEVER, None)

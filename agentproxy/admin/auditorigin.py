"""Whether this oracle made a signature: what the log says about one that was found in a file."""

import enum

from agentproxy.admin.auditindex import AuditIndex, Found
from agentproxy.admin.auditquery import Query
from agentproxy.admin.signedfiles import FileSignature
from agentproxy.protocol.signer_requests import Outcome
from agentproxy.protocol.values import frozen
from agentproxy.signer.record import Entry

__all__ = ["Origin", "Verdict", "origin_of"]


class Verdict(enum.StrEnum):
    """What the log says."""

    MADE = "made"
    FALLBACK = "fallback"
    CHANGED = "changed"
    ANOTHER = "another"
    NEVER = "never"


_WORDS = {
    Verdict.MADE: "this oracle made it",
    Verdict.FALLBACK: "the build server made it with its own key (fallback), as it reported",
    Verdict.CHANGED: "this oracle made this signature for other content: the file was changed",
    Verdict.ANOTHER: "this oracle signed the same, but did not make this signature",
    Verdict.NEVER: "this oracle never made it",
}


@frozen
class Origin:
    """One signature, and its record."""

    signature: FileSignature
    verdict: Verdict
    found: Found | None  # the record; None when there is none

    @property
    def words(self) -> str:
        """The verdict for people."""
        trouble = self.found.record.entry.reason if self.found and self.verdict is Verdict.FALLBACK else ""
        return f"{_WORDS[self.verdict]}; it should not exist: {trouble}" if trouble else _WORDS[self.verdict]

    @property
    def is_accounted(self) -> bool:
        """Whether it is this oracle's, or a build server's that was allowed to sign by itself."""
        if self.verdict is Verdict.FALLBACK:
            return self.found is not None and not self.found.record.entry.reason
        return self.verdict is Verdict.MADE


def origin_of(signature: FileSignature, index: AuditIndex) -> Origin:
    """Look a signature up, by what was signed and by its own numbers."""
    same_digest = [
        found
        for found in index.find(Query(digest=signature.digest.value.hex(), made=True))
        if found.record.entry.digest == signature.digest and _maker_in(found.record.entry) is not Verdict.NEVER
    ]
    for found in same_digest:
        if found.record.entry.signature_sha256 == signature.signature_sha256:
            return Origin(signature, _maker_in(found.record.entry), found)
    for found in index.find(Query(signature=signature.signature_sha256, made=True)):
        if _maker_in(found.record.entry) is not Verdict.NEVER:
            return Origin(signature, Verdict.CHANGED, found)
    if same_digest:
        return Origin(signature, Verdict.ANOTHER, same_digest[0])
    return Origin(signature, Verdict.NEVER, None)


def _maker_in(entry: Entry) -> Verdict:
    """Whose signature a record tells of; NEVER: it has only the word of an oracle, which may be taken over."""
    if entry.outcome is Outcome.SIGNED:  # which the signer alone writes
        return Verdict.MADE
    is_report = (entry.operation, entry.asserted.channel) == ("fallback_sign", "fallback")
    return Verdict.FALLBACK if is_report else Verdict.NEVER

"""Whether a log holds the heads that somebody kept of it, once `verifylog` has read its records."""

from collections.abc import Mapping, Sequence

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Head
from agentproxy.signer.diagnosis import Damage, DamageKind
from agentproxy.signer.segment import ChainEnd, Segment, holding

__all__ = ["check_heads", "notes_on_heads"]


def check_heads(
    segments: list[Segment], heads: Sequence[Head], start: ChainEnd, end: ChainEnd, hashes: Mapping[int, bytes]
) -> Damage | None:
    """The first head that does not fit.

    Args:
        start: what the first record says that it continues; sequence 0 unless older segments were archived.
        end: of the chain.
        hashes: of the records that the heads name, as far as they are here.
    """
    for head in sorted(heads, key=lambda head: head.sequence):
        path = str(holding(segments, head.sequence).path)
        if head.node != segments[0].node:
            return Damage(DamageKind.EDITED, path, 0, head.sequence, f"the head is of node {head.node}")
        if head.sequence > end.sequence:
            explanation = f"the log ends with record {end.sequence}, and a saved head names record {head.sequence}"
            return Damage(DamageKind.CUT_OFF, path, 0, end.sequence + 1, explanation)
        if head.sequence == start.sequence and start.hash != head.hash:
            explanation = f"it continues another record {head.sequence} than a saved head names"
            return Damage(DamageKind.EDITED, path, 1, head.sequence + 1, explanation)
        if head.sequence in hashes and hashes[head.sequence] != head.hash:
            explanation = "a saved head has another hash for it: it, or a record before it, was rewritten"
            return Damage(DamageKind.EDITED, path, 0, head.sequence, explanation)
    return None


def notes_on_heads(heads: Sequence[Head], first: int) -> tuple[str, ...]:
    """Which heads could be compared with nothing, since their records were archived.

    Args:
        heads: that somebody kept elsewhere.
        first: sequence of the log's first record.

    Raises:
        ConfigError: that is so of all of them. A log that was made up from there on would be good for ever.
    """
    before = sorted(head.sequence for head in heads if head.sequence < first - 1)
    if before and len(before) == len(heads):
        message = f"the log begins with record {first}, and no saved head names one from {first - 1} on"
        raise ConfigError(message, "put the archived segments back for this, or name a later head")
    return tuple(f"a saved head names record {number}, which was archived: it is not compared" for number in before)

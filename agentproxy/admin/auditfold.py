"""Which records of a log are repetitions of one, so that a person sees it once.

A relay repeats a request whose answer was lost, and reports its journal again after a crash. The oracle forgets a
request's id after minutes, and when it starts: whoever sends an id again later may have something else signed. So an id
alone makes no repetition: what was asked of which key, and what came out, must be the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from agentproxy.protocol.signer_requests import Outcome

__all__ = ["Place", "fold"]

_Asked = tuple[str | None, str | int, int | None, str | None, str | None]
_Made = tuple[str | None]


@dataclass(slots=True)
class Place:
    """Where a record stands, and what it shares with its repetitions."""

    sequence: int
    first: int  # sequence of its segment's first record
    offset: int
    length: int
    asked: _Asked  # runner; request, or a journal's record, or else only itself; hash algorithm, digest, key
    made: _Made | None  # the signature's hash; None: nothing was signed
    sequences: list[int] = field(default_factory=list)  # of all its records, with its own

    @classmethod
    def of_row(  # noqa: PLR0913, PLR0917  the index's columns
        cls,
        sequence: int,
        first: int,
        offset: int,
        length: int,
        runner: str | None,
        request: str | None,
        hash_algorithm: int | None,
        digest: str | None,
        outcome: str,
        key: str | None,
        signature: str | None,
    ) -> Self:
        """Take the index's columns in the order that a search selects them."""
        asked = (runner, request or sequence, hash_algorithm, digest, key)
        # What a build server reports that it signed has no outcome of ours.
        made = outcome == Outcome.SIGNED or signature is not None
        return cls(sequence, first, offset, length, asked, (signature,) if made else None)


def fold(places: Iterable[Place]) -> list[Place]:
    """Make one of each record and its repetitions, of which the last is kept.

    Two signatures are never one, although they may be of the same digest: an oracle that was restarted may make another
    one with ECDSA. A request that was refused or failed belongs to the first signature that came out of it, and to none
    by another key: nobody shall hide an attempt on a key that is not theirs behind a signature that they may have.

    Args:
        places: oldest first.
    """
    kept: dict[tuple[_Asked, _Made | None], Place] = {}
    for place in places:
        before = kept.get((place.asked, place.made))
        place.sequences = [] if before is None else before.sequences
        place.sequences.append(place.sequence)
        kept[place.asked, place.made] = place
    signed: dict[_Asked, Place] = {}
    for place in kept.values():
        if place.made is not None:
            signed.setdefault(place.asked, place)
    for place in kept.values():
        if place.made is None and place.asked in signed:
            signed[place.asked].sequences = sorted([*signed[place.asked].sequences, *place.sequences])
    alone = (place for place in kept.values() if place.made is not None or place.asked not in signed)
    return sorted(alone, key=lambda place: place.sequence)

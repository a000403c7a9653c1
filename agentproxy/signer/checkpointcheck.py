"""Reads a log's checkpoints and checks them against public keys from outside."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.values import frozen
from agentproxy.signer.checkpoint import Checkpoint, checkpoints_path
from agentproxy.signer.diagnosis import Damage, DamageKind
from agentproxy.signer.logkey import LogPublicKey
from agentproxy.signer.segment import Segment, open_segment

__all__ = ["Proof", "check_coverage", "last_head", "newest_head", "read_proof"]

_TAIL = 65_536  # bytes: more than a hundred checkpoints


@frozen
class Proof:
    """What a public key says about a log."""

    heads: tuple[Head, ...] = ()  # of good checkpoints, in the file's order
    damage: Damage | None = None  # the first bad one
    torn: bool = False  # a crash, or a signer that is writing now, left a part of a line

    @property
    def covered(self) -> int:
        """Sequence of the last record under a checkpoint; 0 when there is none."""
        return max((head.sequence for head in self.heads), default=0)


def read_proof(directory: Path, node: str, keys: Sequence[LogPublicKey]) -> Proof:
    """Check every checkpoint's signature; whether the log fits them is `verifylog`'s part.

    Args:
        keys: of which one must have signed each; several where the key was replaced.

    Raises:
        ConfigError: the file cannot be read, or is none.
    """
    path = checkpoints_path(directory, node)
    try:
        content = _content(path)
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "auditors need to read it") from error
    *lines, rest = content.split(b"\n")
    by_id = {key.id: key for key in keys}
    heads: list[Head] = []
    for number, line in enumerate(lines, 1):
        previous = heads[-1].sequence if heads else 0
        try:
            heads.append(_checked(line, node, previous, by_id))
        except RemoteProtocolError as error:
            damage = Damage(DamageKind.FORGED, str(path), number, previous + 1, str(error))
            return Proof(tuple(heads), damage)
    return Proof(tuple(heads), torn=bool(rest))


def last_head(directory: Path, node: str) -> Head | None:
    """The furthest place that a checkpoint names, whoever signed it; None when nothing there can be read as one.

    A log that was cut and went on has checkpoints of earlier places behind those of later ones.

    Raises:
        OSError: the file is there and cannot be read, or is none.
    """
    try:
        lines = _content(checkpoints_path(directory, node)).split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    return max(_heads(lines, node), key=lambda head: head.sequence, default=None)


def newest_head(directory: Path, node: str) -> Head | None:
    """The place that the last readable checkpoint names: the log's end, or a record before it.

    Raises:
        OSError: the file is there and cannot be read, or is none.
    """
    try:
        lines = _content(checkpoints_path(directory, node), _TAIL).split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    return next(_heads(reversed(lines), node), None)


def _content(path: Path, most: int | None = None) -> bytes:
    """The file, or its last `most` bytes; a FIFO would keep a reader waiting for ever, so `open_segment` refuses it."""
    with os.fdopen(open_segment(path), "rb") as file:
        if most is not None:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read()


def _heads(lines: Iterable[bytes], node: str) -> Iterator[Head]:
    for line in lines:
        # A power loss can leave zeros, and a part of a line before others.
        with contextlib.suppress(RemoteProtocolError):
            head = Checkpoint.parse(line).head
            if head.node == node:
                yield head


def _checked(line: bytes, node: str, previous: int, keys: dict[bytes, LogPublicKey]) -> Head:
    checkpoint = Checkpoint.parse(line)
    if checkpoint.head.node != node:
        raise RemoteProtocolError(f"the checkpoint is of node {checkpoint.head.node}")
    if checkpoint.head.sequence < previous:
        raise RemoteProtocolError(f"the checkpoint of record {checkpoint.head.sequence} follows that of {previous}")
    key = keys.get(checkpoint.key)
    if key is None:
        raise RemoteProtocolError(f"the checkpoint is signed with another key, {checkpoint.key.hex()[:16]}…")
    if not checkpoint.is_signed_by(key):
        raise RemoteProtocolError("the checkpoint's signature is wrong")
    return checkpoint.head


def check_coverage(segments: Sequence[Segment], proof: Proof) -> Damage | None:
    """Every finished segment ends under a checkpoint: it was sealed with one, so a missing one was taken away."""
    path = str(checkpoints_path(segments[0].path.parent, segments[0].node))
    if not proof.heads:
        return Damage(DamageKind.UNPROVEN, path, 0, segments[0].first, "there is no checkpoint at all")
    if proof.covered < segments[-1].first - 1:
        explanation = f"the last checkpoint covers record {proof.covered}, and finished segments follow it"
        return Damage(DamageKind.UNPROVEN, path, 0, proof.covered + 1, explanation)
    return None

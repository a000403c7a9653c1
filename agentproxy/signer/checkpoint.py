"""A signed place in the audit log, and the exact line of bytes it becomes; docs/PROTOCOL.md shows one.

What is signed is a text of five lines that says what it is for: no other use of an Ed25519 key can be taken for it.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.times import format_time, parse_time
from agentproxy.protocol.values import frozen
from agentproxy.signer.logkey import LogKey, LogPublicKey

__all__ = ["Checkpoint", "checkpoints_path"]

_LINE = re.compile(
    r'\{"checkpoint":1,"node":"([A-Za-z0-9][A-Za-z0-9._+-]{0,63})","sequence":([1-9][0-9]{0,17}),'
    r'"hash":"([0-9a-f]{64})","time":"([^"]{27})","key":"([0-9a-f]{64})","signature":"([0-9a-f]{128})"\}'
)


def checkpoints_path(directory: Path, node: str) -> Path:
    """The file of a log's checkpoints."""
    return directory / f"{node}.checkpoints"


@frozen
class Checkpoint:
    """The log's key says: this was the log's head."""

    head: Head
    time: datetime  # the signer's clock when it was signed
    key: bytes  # 32 bytes: `LogPublicKey.id`
    signature: bytes  # 64 bytes: Ed25519 over `_signed_text`

    @classmethod
    def sign(cls, head: Head, time: datetime, key: LogKey) -> Self:
        """Sign a head; the caller has seen it reach the disk."""
        return cls(head, time, key.public.id, key.private.sign(_signed_text(head, time)))

    @classmethod
    def parse(cls, untrusted: bytes) -> Self:
        """Read a line without its newline.

        Raises:
            RemoteProtocolError: it is not, byte for byte, what `line` writes.
        """
        match = _LINE.fullmatch(untrusted.decode("ascii", "replace"))
        if match is None:
            raise RemoteProtocolError("this line is not a checkpoint")
        node, sequence, hash_, time, key, signature = match.groups()
        head = Head(node, int(sequence), bytes.fromhex(hash_))
        return cls(head, parse_time(time), bytes.fromhex(key), bytes.fromhex(signature))

    def line(self) -> bytes:
        """The checkpoint's bytes without the newline that follows them in the file."""
        return (
            f'{{"checkpoint":1,"node":"{self.head.node}","sequence":{self.head.sequence},'
            f'"hash":"{self.head.hash.hex()}","time":"{format_time(self.time)}",'
            f'"key":"{self.key.hex()}","signature":"{self.signature.hex()}"}}'
        ).encode("ascii")

    def is_signed_by(self, key: LogPublicKey) -> bool:
        """Whether this key signed exactly this."""
        try:
            key.key.verify(self.signature, _signed_text(self.head, self.time))
        except InvalidSignature:
            return False
        return True


def _signed_text(head: Head, time: datetime) -> bytes:
    lines = ("blind-oracle audit checkpoint 1", head.node, str(head.sequence), head.hash.hex(), format_time(time))
    return "".join(f"{line}\n" for line in lines).encode("ascii")

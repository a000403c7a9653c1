"""What was signed in a file: for each signature in it, the digest that must stand in an audit log."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agentproxy.admin.signaturepackets import MAX_SIGNATURES, SignaturePacket, read_signatures
from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.rpmfile import MAGIC, read_rpm
from agentproxy.protocol.values import frozen

__all__ = ["SIGNATURE_SUFFIXES", "FileSignature", "signatures_of"]

SIGNATURE_SUFFIXES = (".asc", ".sig")
_BLOCK = 1 << 20  # bytes
_DOCUMENT = 0  # RFC 9580, 5.2.1


@frozen
class FileSignature:
    """One signature in a file."""

    file: Path
    what: str  # header, header and payload, or the name of the signed file
    digest: Digest  # what a signer was given
    signature_sha256: bytes  # 32 bytes, as in the audit record
    intact: bool  # the file is what was signed, as far as the signature's first two bytes tell


def signatures_of(path: Path) -> list[FileSignature]:
    """Take an RPM, a detached signature beside its file, or a file beside its detached signature; empty: not signed.

    Raises:
        ConfigError: it is none of these, cannot be read, or has a signature that we do not know.
    """
    try:
        with _opened(path) as file:
            if file.read(len(MAGIC)) == MAGIC:
                file.seek(0)
                return list(_of_rpm(path, file))
        signature = path if path.suffix in SIGNATURE_SUFFIXES else _beside(path)
        return list(_detached(signature))
    except OSError as error:
        raise ConfigError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    except RemoteProtocolError as error:
        raise ConfigError(f"{path}: {error}") from error


def _opened(path: Path) -> BinaryIO:
    """Open a file, and nothing that keeps a reader waiting or has no end: a repository may have it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RemoteProtocolError(f"expected a regular file as {path.name}")
    return os.fdopen(descriptor, "rb")


def _beside(path: Path) -> Path:
    for suffix in SIGNATURE_SUFFIXES:
        signature = path.with_name(path.name + suffix)
        if signature.exists():
            return signature
    raise RemoteProtocolError("expected an RPM, a detached signature (.asc or .sig), or a file with one beside it")


def _of_rpm(path: Path, file: BinaryIO) -> Iterator[FileSignature]:
    rpm = read_rpm(file)
    for blobs, what, end in ((rpm.header, "header", rpm.header_end), (rpm.package, "header and payload", None)):
        for packet in [packet for blob in blobs for packet in read_signatures(blob)]:
            file.seek(rpm.header_start)
            yield _signed(path, what, packet, file, None if end is None else end - rpm.header_start)


def _detached(path: Path) -> Iterator[FileSignature]:
    with _opened(path) as file:
        packets = read_signatures(file.read(MAX_SIGNATURES + 1))
    signed = path.with_suffix("")
    for packet in packets:
        with _opened(signed) as file:
            yield _signed(path, signed.name, packet, file, None)


def _signed(path: Path, what: str, packet: SignaturePacket, file: BinaryIO, size: int | None) -> FileSignature:
    """Hash `size` bytes, or all there are, and what the signature adds."""
    if packet.kind != _DOCUMENT:
        raise RemoteProtocolError(f"expected a signature of a binary document, got type {packet.kind:#04x}")
    try:
        state = hashlib.new(packet.hash_algorithm.name.lower())
    except ValueError as error:
        raise RemoteProtocolError(f"this machine has no {packet.hash_algorithm.name}") from error
    left = size
    while block := file.read(_BLOCK if left is None else min(_BLOCK, left)):
        state.update(block)
        left = None if left is None else left - len(block)
    if left:
        raise RemoteProtocolError("the RPM is cut off")
    state.update(packet.trailer)
    digest = Digest(packet.hash_algorithm, state.digest())
    numbers = hashlib.sha256(packet.numbers).digest()
    return FileSignature(path, what, digest, numbers, digest.value[:2] == packet.left16)

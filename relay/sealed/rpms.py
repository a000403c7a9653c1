"""RPMs as they are signed: read by us and by rpm-rs, and written only when both agree on what was signed."""

import hashlib
import re
from io import BytesIO
from types import TracebackType
from typing import BinaryIO

import rpm_rs

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.rpmfile import RpmFront, read_front
from agentproxy.protocol.signatures import RsaSignature
from agentproxy.protocol.values import frozen
from relay.cleaning import clean
from relay.sealed.errors import Told, UnfitError
from relay.sealed.signatureheader import has_signature, with_signature

__all__ = ["Rpm", "read", "write_signed"]

# Numbers of rpmtag.h. The second says by what the first was made, and rpm 4 knows nothing but SHA-256 there.
_PAYLOAD_DIGEST, _PAYLOAD_DIGEST_ALGORITHM = 5092, 5093
_SHA256 = re.compile(rb"[0-9a-f]{64}")
_SHA256_NUMBER = (8).to_bytes(4, "big")
_CHUNK = 1 << 20  # bytes
_RSA, _OTHER = 1, 0
_WRITING = Told("what replaces it cannot be written")
_MOST_TOLD = 200  # characters of what rpm-rs says, which repeats what stands in the package


@frozen
class Rpm:
    """A package that can be signed."""

    front: RpmFront
    nevra: str  # name-epoch:version-release.arch
    payload_sha256: bytes  # as the header says
    is_signed: bool

    @property
    def header(self) -> bytes:
        """What is signed."""
        return self.front.header


def read(file: BinaryIO) -> Rpm:
    """Read a package up to its payload.

    Raises:
        UnfitError: it is no RPM, it is damaged, or its signed header would say nothing about its payload.
    """
    try:
        front = read_front(file)
        front.check_room()  # rpm-rs would make room for whatever it says, and where there is none, end the process
        payload_sha256 = _payload_digest(front)
        is_signed = has_signature(front.signatures)
    except RemoteProtocolError as error:
        raise UnfitError(str(error)) from error
    nevra = _nevra(_second_look(front.lead + _signature_bytes(front) + front.header, front))
    return Rpm(front, nevra, payload_sha256, is_signed)


def _signature_bytes(front: RpmFront) -> bytes:
    index, data = front.signature_index, front.signature_data
    intro = b"\x8e\xad\xe8\x01" + bytes(4) + (len(index) // 16).to_bytes(4, "big") + len(data).to_bytes(4, "big")
    made = intro + index + data
    return made + bytes(-len(made) % 8)


def _payload_digest(front: RpmFront) -> bytes:
    digest, algorithm = front.tag(_PAYLOAD_DIGEST), front.tag(_PAYLOAD_DIGEST_ALGORITHM)
    if digest is None:
        raise UnfitError(
            "its header holds no digest of its payload, so a signature would not protect what it installs; "
            "rpmbuild of EL8 or newer writes one"
        )
    if algorithm is not None and algorithm.value != _SHA256_NUMBER:
        raise UnfitError("its header's digest of its payload is not of SHA-256")
    if len(digest.texts) != 1 or _SHA256.fullmatch(digest.texts[0]) is None:
        raise UnfitError("its header's digest of its payload is none")
    return bytes.fromhex(digest.texts[0].decode("ascii"))


class _PanicIsDamage:
    """For calls of rpm-rs: a panic of its Rust code, such as for an offset behind a header's end, is no Exception."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell of a panic in our own words; whatever else there is goes on."""
        if kind is not None and kind.__name__ == "PanicException":
            raise UnfitError("it is damaged: rpm-rs gave up on its header") from error


def _second_look(front_bytes: bytes, front: RpmFront) -> "rpm_rs.PackageMetadata":
    """The same bytes as rpm-rs understands them."""
    with _PanicIsDamage():
        try:
            metadata = rpm_rs.PackageMetadata.from_bytes(front_bytes)
            metadata.verify_digests()
            header = bytes(metadata.header_bytes())
        except Exception as error:  # whatever it raises: nothing of it is documented, and none of it is ours
            raise UnfitError(f"it is damaged: {clean(str(error), _MOST_TOLD)}") from error
    if header != front.header:
        raise UnfitError("two readers do not agree on its header")
    return metadata


def _nevra(metadata: "rpm_rs.PackageMetadata") -> str:
    with _PanicIsDamage():
        try:
            name = metadata.nevra()
            arch = "src" if metadata.is_source_package() else name.arch
        except Exception as error:  # as above
            raise UnfitError(f"it is damaged: {clean(str(error), _MOST_TOLD)}") from error
    return f"{name.name}-{name.epoch or 0}:{name.version}-{name.release}.{arch}"


def write_signed(rpm: Rpm, signature: DocumentSignature, original: BinaryIO, size: int, signed: BinaryIO) -> None:
    """Write the package with this signature.

    Args:
        rpm: as `read` gave it.
        signature: of its header, already checked.
        original: the package, open.
        size: of the package, in bytes.
        signed: takes the whole new package.

    Raises:
        UnfitError: the payload is not what the header says, or the result does not hold the signature.
        OSError: it cannot be written.
    """
    packet = signature.packet
    algorithm = _RSA if isinstance(signature.signature, RsaSignature) else _OTHER
    front = with_signature(rpm.front, packet, algorithm) + rpm.header
    again = _second_look(front, read_front(BytesIO(front)))
    with _PanicIsDamage():
        found = bytes(again.header_bytes()), [bytes(each) for each in again.raw_signatures()]
    if found != (rpm.header, [packet]):
        raise UnfitError("the signature would not be found in it")
    with _WRITING:
        signed.write(front)
    original.seek(rpm.front.header_end)
    left = max(0, size - rpm.front.header_end)
    payload = hashlib.sha256()
    # Never to the end of the file: a small one was read whole before, and to ask for more would be two system calls.
    while chunk := original.read(min(left, _CHUNK)):
        left -= len(chunk)
        payload.update(chunk)
        with _WRITING:
            signed.write(chunk)
    if payload.digest() != rpm.payload_sha256:
        raise UnfitError(
            "its payload is not the one that its header names: it is damaged, or changed while it was read"
        )

"""OpenPGP signatures over documents, version 4, from their numbers: what is hashed, the packet, its armor.

Nothing but time and issuer goes into a signature, and only its signer chooses them; so a packet follows from few
values, and those travel instead of it. Source: RFC 9580, 4.2.1 (packets), 5.2.3 (version 4), 5.2.4 (what is hashed) and
9.1 (numbers of algorithms).

GnuPG 2.4 makes Ed448 keys of version 5 only, and signs with them in version 5 (draft-koch-librepgp, 5.2.3). It verifies
version 4 as well, if the issuer's fingerprint tells the key's version and the halves keep their leading zeros.
"""

from datetime import datetime

from agentproxy.protocol.armor import armored
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, Fingerprint, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import DsaSignature, EcdsaSignature, EddsaSignature, RsaSignature, Signature
from agentproxy.protocol.values import frozen

__all__ = ["DocumentSignature", "algorithm_of", "trailer"]

BINARY_DOCUMENT = 0x00  # 5.2.1.1: the only type that is made here
_RSA, _DSA, _ECDSA, _EDDSA = 1, 17, 19, 22
_SIGNATURE_PACKET = 0xC2  # tag 2 in the present format
_CREATED, _ISSUER, _ISSUER_FINGERPRINT = 2, 16, 33  # types of subpackets (5.2.3.7)
_KEY_VERSIONS = {20: 4, 32: 5}  # by the bytes of a fingerprint, among the keys that `_check_issuer` lets pass


def algorithm_of(key: PublicKey, fingerprint: Fingerprint) -> int:
    """OpenPGP's number of the algorithm of a key's signatures.

    Raises:
        RemoteProtocolError: such a key with such a fingerprint makes no version 4 signatures.
    """
    _check_issuer(fingerprint, is_ed448=isinstance(key, EccPublicKey) and key.curve is Curve.ED448)
    if isinstance(key, RsaPublicKey):
        return _RSA
    if isinstance(key, DsaPublicKey):
        return _DSA
    return _EDDSA if key.curve.is_edwards else _ECDSA


def _check_issuer(fingerprint: Fingerprint, *, is_ed448: bool) -> None:
    # 32 bytes are also version 6, whose keys make no version 4 signatures (RFC 9580, 5.2.3), and no Ed448 of this kind.
    if is_ed448 and len(fingerprint.value) != 32:
        raise RemoteProtocolError("Ed448 signatures are for version 5 keys, whose fingerprints have 32 bytes")
    if not is_ed448 and len(fingerprint.value) != 20:
        raise RemoteProtocolError("version 4 signatures are for version 4 keys")


def trailer(algorithm: int, hash_algorithm: HashAlgorithm, fingerprint: Fingerprint, created: datetime) -> bytes:
    """What is hashed behind the document: the signature's own beginning, and its length.

    Args:
        algorithm: of the key, as `algorithm_of` gives it.
        hash_algorithm: of the signature.
        fingerprint: the issuer's, which `algorithm_of` took.
        created: the signature's time; fractions of a second are dropped.

    Raises:
        RemoteProtocolError: the time does not fit.
    """
    head = _head(algorithm, hash_algorithm, fingerprint, created)
    return head + b"\x04\xff" + len(head).to_bytes(4, "big")


def _head(algorithm: int, hash_algorithm: HashAlgorithm, fingerprint: Fingerprint, created: datetime) -> bytes:
    version = _KEY_VERSIONS[len(fingerprint.value)]
    hashed = _subpacket(_ISSUER_FINGERPRINT, bytes([version]) + fingerprint.value)
    hashed += _subpacket(_CREATED, _seconds(created).to_bytes(4, "big"))
    return bytes([4, BINARY_DOCUMENT, algorithm, hash_algorithm]) + len(hashed).to_bytes(2, "big") + hashed


def _seconds(created: datetime) -> int:
    """The time as it stands in a signature."""
    seconds = int(created.timestamp())
    if not 0 < seconds < 1 << 32:
        raise RemoteProtocolError("an OpenPGP time lies between 1970 and 2106")
    return seconds


def _subpacket(kind: int, body: bytes) -> bytes:
    return bytes([1 + len(body), kind]) + body


def _mpi(number: bytes) -> bytes:
    octets = number.lstrip(b"\x00")
    return int.from_bytes(octets, "big").bit_length().to_bytes(2, "big") + octets


def _whole(half: bytes) -> bytes:
    """A half of Ed448, which GnuPG wants with its leading zeros; those count as bits."""
    bits = 8 * len(half) if half[0] == 0 else int.from_bytes(half, "big").bit_length()
    return bits.to_bytes(2, "big") + half


@frozen
class DocumentSignature:
    """A detached signature over a binary document.

    Raises:
        RemoteProtocolError: parts that no version 4 signature can have.
    """

    fingerprint: Fingerprint  # of the key that signed; 32 bytes with Ed448, else 20
    created: datetime  # whole seconds
    digest: Digest  # of the document with `trailer` behind it
    signature: Signature

    def __post_init__(self) -> None:
        if self.created.microsecond:
            raise RemoteProtocolError("created: OpenPGP counts whole seconds")
        _check_issuer(self.fingerprint, is_ed448=self._is_ed448)
        _seconds(self.created)  # what could be wrong with a trailer, which takes longer to make

    @property
    def key_id(self) -> str:
        """16 upper-case hex digits."""
        return self.fingerprint.key_id

    @property
    def trailer(self) -> bytes:
        """What was hashed behind the document."""
        return trailer(self._algorithm, self.digest.algorithm, self.fingerprint, self.created)

    @property
    def packet(self) -> bytes:
        """The signature as RPM headers and detached signature files hold it, binary."""
        head = _head(self._algorithm, self.digest.algorithm, self.fingerprint, self.created)
        unhashed = _subpacket(_ISSUER, bytes.fromhex(self.key_id))
        body = head + len(unhashed).to_bytes(2, "big") + unhashed + self.digest.value[:2]
        written = _whole if self._is_ed448 else _mpi
        body += b"".join(map(written, self._numbers))
        return bytes([_SIGNATURE_PACKET]) + _length(len(body)) + body

    @property
    def armored(self) -> str:
        """The packet as text, as in an .asc file."""
        return armored(self.packet, "SIGNATURE").decode("ascii")

    @property
    def _algorithm(self) -> int:
        match self.signature:
            case RsaSignature():
                return _RSA
            case DsaSignature():
                return _DSA
            case EcdsaSignature():
                return _ECDSA
            case EddsaSignature():
                return _EDDSA

    @property
    def _is_ed448(self) -> bool:
        return isinstance(self.signature, EddsaSignature) and len(self.signature.r) == Curve.ED448.field_size

    @property
    def _numbers(self) -> tuple[bytes, ...]:
        if isinstance(self.signature, RsaSignature):
            return (self.signature.s,)
        return (self.signature.r, self.signature.s)


def _length(size: int) -> bytes:
    """The length of a packet's body in the present format (4.2.1.1, 4.2.1.2); ours have less than 8384 bytes."""
    if size < 192:
        return bytes([size])
    return (size - 192 + 0xC000).to_bytes(2, "big")

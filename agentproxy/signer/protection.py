"""Unlocks the protected lists of gpg-agent's key files with a passphrase.

Two forms are read: `openpgp-s2k3-ocb-aes` (what agents write today) and `openpgp-s2k3-sha1-aes-cbc` (older ones). The
third, `openpgp-native`, is an import that no agent has unlocked yet: gpg converts it on first use.

Source: GnuPG's agent/keyformat.txt and agent/protect.c; RFC 9580, 3.7.1.3 (iterated and salted S2K).
"""

import hashlib
import hmac
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESOCB3

from agentproxy.protocol.errors import KeyUnavailableError
from agentproxy.protocol.values import frozen
from agentproxy.signer.keytext import Node, canonical, parse_expression

__all__ = ["unlocked"]

_OCB = b"openpgp-s2k3-ocb-aes"
_KEY_SIZE = 16  # AES-128
_BLOCK = 16
_OCB_NONCE = 12
_OCB_TAG = 16
_SALT = 8
_SHA1 = 20
_LEAST_COUNT = 65536  # protect.c refuses less
_MOST_COUNT = 4_000_000_000  # about four seconds of SHA-1: more is a file that wants to keep us busy
_CHUNK = 1 << 20

_DECIMAL = re.compile(rb"[1-9][0-9]{0,10}")

_LOCKED_HINT = "put it into the file NAME of the directory that `passphrases` names in signer.yaml"
_NATIVE_HINT = (
    "unlock it once with gpg in that GnuPG home (any signature will do), or import it with `blind-oracle key import`"
)


@frozen
class _Sealed:
    """The parts of `(protected MODE ((sha1 SALT COUNT) NONCE) CIPHERTEXT)`."""

    mode: bytes
    salt: bytes
    count: int
    nonce: bytes
    ciphertext: bytes


def unlocked(key: tuple[Node, ...], passphrase: bytes | None) -> tuple[Node, ...]:
    """The list of an algorithm, such as `(rsa …)`, with its secret numbers in place of its `protected` list.

    Args:
        key: the list inside `(protected-private-key …)`.
        passphrase: as gpg took it, without a newline.

    Raises:
        KeyUnavailableError: no passphrase, the wrong one, damage, or another form of protection.
    """
    places = [place for place, item in enumerate(key) if _named(item, b"protected")]
    if len(places) != 1:
        raise KeyUnavailableError("expected one list `protected`")
    sealed = _sealed(key[places[0]])
    if passphrase is None:
        raise KeyUnavailableError("the key is protected with a passphrase and none was given", _LOCKED_HINT)
    key_octets = _session_key(passphrase, sealed.salt, sealed.count)
    rest = (*key[: places[0]], *key[places[0] + 1 :])
    if sealed.mode == _OCB:
        secrets = _open_ocb(sealed, key_octets, rest)
    else:
        secrets = _open_cbc(sealed, key_octets, key, places[0])
    return tuple(item for item in (*rest, *secrets) if not _named(item, b"protected-at"))


def _named(item: Node, name: bytes) -> bool:
    return isinstance(item, tuple) and bool(item) and item[0] == name


def _sealed(item: Node) -> _Sealed:
    match item:
        case (b"protected", b"openpgp-native", *_):
            raise KeyUnavailableError("gpg imported this key and never unlocked it (openpgp-native)", _NATIVE_HINT)
        case (
            b"protected",
            (b"openpgp-s2k3-ocb-aes" | b"openpgp-s2k3-sha1-aes-cbc") as mode,
            ((b"sha1", bytes() as salt, bytes() as count), bytes() as nonce),
            bytes() as ciphertext,
        ):
            pass
        case (b"protected", bytes(), *_):
            raise KeyUnavailableError(
                "unknown form of protection", "gpg --change-passphrase writes a form that is known"
            )
        case _:
            raise KeyUnavailableError("the list `protected` is damaged")
    nonce_size = _OCB_NONCE if mode == _OCB else _BLOCK
    if len(salt) != _SALT or len(nonce) != nonce_size or not 32 <= len(ciphertext) <= 8192:
        raise KeyUnavailableError("the list `protected` is damaged")
    return _Sealed(mode, salt, _count(count), nonce, ciphertext)


def _count(untrusted: bytes) -> int:
    """The number of octets to hash; a number below 256 is OpenPGP's coded octet (old agents wrote that)."""
    if _DECIMAL.fullmatch(untrusted) is None:
        raise KeyUnavailableError("the count of the passphrase's hash is damaged")
    number = int(untrusted)
    count = (16 + (number & 15)) << ((number >> 4) + 6) if number < 256 else number
    if not _LEAST_COUNT <= count <= _MOST_COUNT:
        raise KeyUnavailableError(f"the count of the passphrase's hash: expected {_LEAST_COUNT} to {_MOST_COUNT}")
    return count


def _session_key(passphrase: bytes, salt: bytes, count: int) -> bytes:
    unit = salt + passphrase
    left = max(count, len(unit))
    chunk = unit * max(1, _CHUNK // len(unit))
    state = hashlib.sha1(usedforsecurity=False)
    while left > len(chunk):
        state.update(chunk)
        left -= len(chunk)
    state.update(chunk[:left])
    return state.digest()[:_KEY_SIZE]


def _open_ocb(sealed: _Sealed, key_octets: bytes, rest: tuple[Node, ...]) -> tuple[Node, ...]:
    # The plain lists, `protected-at` with them, are authenticated: an edited public half does not open.
    try:
        plaintext = AESOCB3(key_octets).decrypt(sealed.nonce, sealed.ciphertext, canonical(rest))
    except InvalidTag:
        raise KeyUnavailableError("wrong passphrase, or the file is damaged") from None
    match parse_expression(plaintext):
        case (tuple() as secrets,):
            return secrets
        case _:
            raise KeyUnavailableError("the unlocked part is damaged")


def _open_cbc(sealed: _Sealed, key_octets: bytes, key: tuple[Node, ...], place: int) -> tuple[Node, ...]:
    if len(sealed.ciphertext) % _BLOCK:
        raise KeyUnavailableError("the list `protected` is damaged")
    decryptor = Cipher(algorithms.AES(key_octets), modes.CBC(sealed.nonce)).decryptor()
    plaintext = decryptor.update(sealed.ciphertext) + decryptor.finalize()
    if not plaintext.startswith(b"(("):
        raise KeyUnavailableError("wrong passphrase, or the file is damaged")
    match parse_expression(plaintext, padding=_BLOCK):
        case (tuple() as secrets, (b"hash", b"sha1", bytes() as check)) if len(check) == _SHA1:
            pass
        case _:
            raise KeyUnavailableError("wrong passphrase, or the file is damaged")
    merged = (*key[:place], *secrets, *key[place + 1 :])
    computed = hashlib.sha1(canonical(merged), usedforsecurity=False).digest()
    if not hmac.compare_digest(computed, check):
        raise KeyUnavailableError("the file is damaged: its integrity check fails")
    return secrets

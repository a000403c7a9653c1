"""Canonical S-expressions, and what gpg-agent says with them: signatures and public keys.

Only the canonical form (RFC 9804, 6.1), and of it only what libgcrypt reads and writes: lists of lists and
non-empty atoms, without display hints. Signatures and keys are parsed into numbers and written anew from them.
Source of the layouts: libgcrypt's manual, 6.5 (public key S-expressions); gpg-agent.texi, Agent PKSIGN.
"""

import re
from typing import TypeAlias

from agentproxy.protocol.errors import LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import (
    DsaSignature,
    EcdsaSignature,
    EddsaSignature,
    RsaSignature,
    Signature,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_LENGTH",
    "SExpression",
    "encode",
    "encode_public_key",
    "encode_signature",
    "parse",
    "parse_public_key",
    "parse_signature",
]

MAX_DEPTH = 20  # lists inside each other; a protected key has 6
MAX_LENGTH = 65_536  # bytes of a whole expression; the longest we read, a protected RSA-8192 key, has about 7000

SExpression: TypeAlias = "bytes | tuple[SExpression, ...]"

# No leading zeros: a length must have one spelling, else two readers may see two expressions in the same bytes.
# libgcrypt refuses a length of 0 as well. Six digits reach beyond MAX_LENGTH and never near an integer overflow.
_TOKEN = re.compile(rb"(\()|(\))|([1-9][0-9]{0,5}):")


def parse(untrusted: bytes) -> tuple[SExpression, ...]:
    """Read one list that fills `untrusted` to its last byte.

    Raises:
        RemoteProtocolError: anything that is not one canonical list, nests deeper than MAX_DEPTH or is longer than
            MAX_LENGTH.
    """
    if len(untrusted) > MAX_LENGTH:
        raise RemoteProtocolError(f"S-expression: longer than {MAX_LENGTH} bytes")
    lists: list[list[SExpression]] = []
    position = 0
    while token := _TOKEN.match(untrusted, position):
        position = token.end()
        if token[1]:
            if len(lists) == MAX_DEPTH:
                raise RemoteProtocolError(f"S-expression: nested deeper than {MAX_DEPTH} lists")
            lists.append([])
        elif not lists:
            raise RemoteProtocolError("S-expression: expected a list")
        elif token[2]:
            finished = tuple(lists.pop())
            if not lists:
                return _only(finished, untrusted, position)
            lists[-1].append(finished)
        else:
            atom = untrusted[position : position + int(token[3])]
            position += int(token[3])
            if position > len(untrusted):
                raise RemoteProtocolError("S-expression: an atom is longer than what there is")
            lists[-1].append(atom)
    raise RemoteProtocolError(f"S-expression: expected '(', ')' or a length at byte {position}")


def _only(finished: tuple[SExpression, ...], untrusted: bytes, position: int) -> tuple[SExpression, ...]:
    if position != len(untrusted):
        raise RemoteProtocolError(f"S-expression: {len(untrusted) - position} bytes follow it")
    return finished


def encode(expression: SExpression) -> bytes:
    """The canonical form of `expression`.

    Raises:
        LocalProtocolError: an atom is empty, which libgcrypt does not read.
    """
    if isinstance(expression, tuple):
        return b"(" + b"".join(map(encode, expression)) + b")"
    if not expression:
        raise LocalProtocolError("an atom has at least one byte")
    return b"%d:%s" % (len(expression), expression)


def encode_signature(signature: Signature) -> bytes:
    """The `(7:sig-val(…))` of PKSIGN's data lines."""
    name, s = signature.algorithm.encode("ascii"), signature.s
    r = b"" if isinstance(signature, RsaSignature) else b"(1:r%d:%s)" % (len(signature.r), signature.r)
    return b"(7:sig-val(%d:%s%s(1:s%d:%s)))" % (len(name), name, r, len(s), s)


def parse_signature(untrusted: bytes) -> Signature:
    """The numbers in an agent's `(7:sig-val(…))`.

    Agents differ in the leading zeros of numbers, and some readers of OpenPGP signatures do not take any:
    they are removed here. The halves of EdDSA keep their length.

    Raises:
        RemoteProtocolError: another layout, another algorithm, or numbers that cannot be a signature's.
    """
    match parse(untrusted):
        case (b"sig-val", (b"rsa", s)):
            return RsaSignature(_number(s, b"s"))
        case (b"sig-val", (b"dsa", r, s)):
            return DsaSignature(_number(r, b"r"), _number(s, b"s"))
        case (b"sig-val", (b"ecdsa", r, s)):
            return EcdsaSignature(_number(r, b"r"), _number(s, b"s"))
        case (b"sig-val", (b"eddsa", r, s)):
            return EddsaSignature(_value(r, b"r"), _value(s, b"s"))
    raise RemoteProtocolError("sig-val: expected an RSA, DSA, ECDSA or EdDSA signature")


def _value(pair: SExpression, name: bytes) -> bytes:
    match pair:
        case (found, bytes() as value) if found == name:
            return value
    raise RemoteProtocolError(f"expected ({name.decode('ascii')} …)")


def _number(pair: SExpression, name: bytes) -> bytes:
    return _value(pair, name).lstrip(b"\x00")


def parse_public_key(untrusted: bytes) -> PublicKey:
    """The numbers in an agent's `(10:public-key(…))`.

    Raises:
        RemoteProtocolError: another layout, another algorithm or curve, or numbers that cannot be a key's.
    """
    match parse(untrusted):
        case (b"public-key", (b"rsa", n, e)):
            return RsaPublicKey(_number(n, b"n"), _number(e, b"e"))
        case (b"public-key", (b"dsa", p, q, g, y)):
            return DsaPublicKey(_number(p, b"p"), _number(q, b"q"), _number(g, b"g"), _number(y, b"y"))
        case (b"public-key", (b"ecc", curve, *_, q)):
            return _ecc_public_key(_value(curve, b"curve"), _value(q, b"q"))
    raise RemoteProtocolError("public-key: expected an RSA, DSA or ECC key")


def _ecc_public_key(name: bytes, q: bytes) -> EccPublicKey:
    curves = {curve.value.encode("ascii"): curve for curve in Curve}
    if name not in curves:
        raise RemoteProtocolError("public-key: a curve that is not served here")
    # gpg-agent writes OpenPGP's prefix before the point of Ed25519.
    return EccPublicKey(curves[name], q[1:] if curves[name] is Curve.ED25519 and q[:1] == b"\x40" else q)


def encode_public_key(key: PublicKey) -> bytes:
    """The `(10:public-key(…))` of a READKEY reply, byte for byte as gpg-agent writes it."""
    inner: tuple[SExpression, ...]
    match key:
        case RsaPublicKey():
            inner = (b"rsa", (b"n", _signed(key.n)), (b"e", _signed(key.e)))
        case DsaPublicKey():
            numbers = ((b"p", key.p), (b"q", key.q), (b"g", key.g), (b"y", key.y))
            inner = (b"dsa", *((name, _signed(value)) for name, value in numbers))
        case EccPublicKey(curve=Curve.ED25519):
            inner = (b"ecc", (b"curve", b"Ed25519"), (b"flags", b"eddsa"), (b"q", b"\x40" + key.q))
        case _:
            inner = (b"ecc", (b"curve", key.curve.value.encode("ascii")), (b"q", key.q))
    return encode((b"public-key", inner))


def _signed(number: bytes) -> bytes:
    """Libgcrypt's standard format: a zero octet goes before a number whose top bit is set."""
    return b"\x00" + number if number[0] & 0x80 else number

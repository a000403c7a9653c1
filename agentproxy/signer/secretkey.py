"""From the S-expression of a key file to a key that can sign.

Every relation between the numbers is checked, by `cryptography` where it has a check: a file with one flipped bit
must not become a key that signs wrongly, since one wrong RSA signature gives the factors away.
"""

from dataclasses import field

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from agentproxy.protocol.errors import KeyUnavailableError, RemoteProtocolError
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.signatures import unsigned
from agentproxy.protocol.values import frozen
from agentproxy.signer.keytext import Node
from agentproxy.signer.protection import unlocked
from agentproxy.signer.strength import OTHER_KEY_HINT, check_strength

__all__ = ["ECDSA_CURVES", "PrivateKey", "SecretKey", "build"]

PrivateKey = (
    rsa.RSAPrivateKey
    | dsa.DSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

ECDSA_CURVES: dict[Curve, type[ec.EllipticCurve]] = {
    Curve.P256: ec.SECP256R1,
    Curve.P384: ec.SECP384R1,
    Curve.P521: ec.SECP521R1,
}
_INCONSISTENT = "the key's numbers do not fit each other: the file is damaged"
_CARD_HINT = (
    "its secret part lies on a smartcard or another device: import the key itself, or serve it by another backend"
)


@frozen
class SecretKey:
    """A private key with its public half; neither its repr nor an error shows a secret number."""

    public: PublicKey
    private: PrivateKey = field(repr=False)


def build(expression: Node, passphrase: bytes | None) -> SecretKey:
    """The key in a key file's S-expression, checked.

    Raises:
        KeyUnavailableError: not a private key, shadowed, locked, of a kind or size that is not served, or damaged.
    """
    match expression:
        case (b"private-key", tuple() as key, *_):
            pass
        case (b"protected-private-key", tuple() as locked, *_):
            key = unlocked(locked, passphrase)
        case (b"shadowed-private-key", *_):
            raise KeyUnavailableError("the file holds a stub only", _CARD_HINT)
        case _:
            raise KeyUnavailableError("the S-expression is not a private key")
    return _from_list(key)


def _from_list(key: tuple[Node, ...]) -> SecretKey:
    name = key[0] if key else b""
    builder = _BUILDERS.get(name) if isinstance(name, bytes) else None
    if builder is None:
        raise KeyUnavailableError("the key's algorithm cannot sign or is not served: expected rsa, dsa or ecc")
    parameters = _parameters(key[1:])
    try:
        return builder(parameters)
    except (ValueError, RemoteProtocolError):
        # Without the cause: a library's words about bad numbers may contain the numbers.
        raise KeyUnavailableError(_INCONSISTENT) from None


def _parameters(items: tuple[Node, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in items:
        match item:
            case (bytes() as name, bytes() as value):
                text = name.decode("latin-1")
                if text in found:
                    raise KeyUnavailableError(_INCONSISTENT)
                found[text] = value
            case _:
                raise KeyUnavailableError("a parameter of the key is not a pair")
    return found


def _number(parameters: dict[str, bytes], name: str) -> int:
    value = parameters.get(name, b"")
    number = int.from_bytes(value, "big")
    if not 0 < len(value) <= 1025 or number == 0:
        raise KeyUnavailableError(f"the key has no parameter {name}")
    return number


def _build_rsa(parameters: dict[str, bytes]) -> SecretKey:
    n, e, d, p, q, u = (_number(parameters, name) for name in "nedpqu")
    public = RsaPublicKey(unsigned(n), unsigned(e))
    check_strength(public)
    if p * q != n or (p * u) % q != 1 or not 1 < p < n or not 1 < e < 1 << 64:
        raise KeyUnavailableError(_INCONSISTENT)
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa.rsa_crt_dmp1(d, p),
        dmq1=rsa.rsa_crt_dmq1(d, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(e, n),
    )
    return SecretKey(public, numbers.private_key())


def _build_dsa(parameters: dict[str, bytes]) -> SecretKey:
    p, q, g, y, x = (_number(parameters, name) for name in "pqgyx")
    public = DsaPublicKey(unsigned(p), unsigned(q), unsigned(g), unsigned(y))
    check_strength(public)
    if (p - 1) % q or not 0 < x < q or not 1 < g < p or pow(g, q, p) != 1 or pow(g, x, p) != y:
        raise KeyUnavailableError(_INCONSISTENT)
    numbers = dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g))
    return SecretKey(public, dsa.DSAPrivateNumbers(x, numbers).private_key())


def _build_ecc(parameters: dict[str, bytes]) -> SecretKey:
    try:
        curve = Curve(parameters.get("curve", b"").decode("ascii"))
    except ValueError:
        served = ", ".join(curve.value for curve in Curve)
        raise KeyUnavailableError(f"the key's curve is not served: expected one of {served}", OTHER_KEY_HINT) from None
    q, secret = parameters.get("q", b""), parameters.get("d", b"")
    if curve.is_edwards:
        return _build_edwards(curve, q, secret)
    public = EccPublicKey(curve, q)
    private = ec.derive_private_key(_number(parameters, "d"), ECDSA_CURVES[curve]())
    point = private.public_key().public_numbers()
    if public.q[1:] != b"".join(value.to_bytes(curve.field_size, "big") for value in (point.x, point.y)):
        raise KeyUnavailableError(_INCONSISTENT)
    return SecretKey(public, private)


def _build_edwards(curve: Curve, q: bytes, secret: bytes) -> SecretKey:
    size = curve.field_size
    # OpenPGP's number format drops zero octets of the seed or adds one; its points may have the prefix 0x40.
    seed = secret.lstrip(b"\x00").rjust(size, b"\x00")
    public = EccPublicKey(curve, q[1:] if len(q) == size + 1 and q[0] == 0x40 else q)
    private: ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
    if curve is Curve.ED25519:
        private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    else:
        private = ed448.Ed448PrivateKey.from_private_bytes(seed)
    if not secret or private.public_key().public_bytes_raw() != public.q:
        raise KeyUnavailableError(_INCONSISTENT)
    return SecretKey(public, private)


_BUILDERS = {b"rsa": _build_rsa, b"dsa": _build_dsa, b"ecc": _build_ecc}

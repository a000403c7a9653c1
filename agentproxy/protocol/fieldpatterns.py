"""The texts that `fieldtexts` writes, read: each is taken apart by a regular expression.

`json` and `structure` take twice as long, right after a wake-up above all. A pattern knows one text for a value, ours,
and only takes it apart: whether the parts are right, their classes check as always. Other texts may be right as well;
`json` and `structure` have to say.
"""

from collections.abc import Mapping, Sequence

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted, Claims, Head
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.jsonobject import bare_object
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.signatures import DsaSignature, EcdsaSignature, EddsaSignature, RsaSignature, Signature
from agentproxy.protocol.times import parse_time

__all__ = [
    "ASSERTED", "DIGEST", "HEAD", "KEYGRIP", "NUMBER", "OBJECT", "SEAL", "SIGNATURE", "STATE", "TEXT",
    "WANTED",
    "asserted_of", "claims_of", "digest_of", "head_of", "seal_of", "signature_of", "state_of",
]  # fmt: skip

# A simple value is one group; whoever reads the groups of another names them.
TEXT = r'"([ !#-\[\]-~]*)"'  # printable ASCII without escapes: it stands for itself
NUMBER = r"(0|[1-9][0-9]{0,18})"
KEYGRIP = r'"([0-9A-F]{40})"'
OBJECT = r"(\{.*\})"  # whatever this is, only JSON can say
_HEX = r'"([0-9a-f]+)"'
_REST = r'"([0-9a-f]*)"'
_FINGERPRINT = r'"([0-9A-F]{40}(?:[0-9A-F]{24})?)"'  # 20 or 32 bytes
_TIME = r'"([0-9T:.Z-]{27})"'
DIGEST = rf'\{{"algorithm":{NUMBER},"value":{_HEX}\}}'
SIGNATURE = rf'\{{"algorithm":"([a-z]+)",(?:"r":{_HEX},)?"s":{_HEX}\}}'
STATE = rf'\{{"algorithm":{NUMBER},"chaining_value":{_HEX},"length":{NUMBER},"rest":{_REST}\}}'
SEAL = rf'\{{"fingerprint":{_FINGERPRINT},"created":{_TIME},"digest":{DIGEST},"signature":{SIGNATURE}\}}'
HEAD = rf'\{{"node":{TEXT},"sequence":{NUMBER},"hash":{_HEX}\}}'

# What a request for a signature ends in; four groups.
WANTED = rf'"remaining_ms":{NUMBER}(?:,"distribution":{TEXT})?(?:,"claims":{OBJECT})?(?:,"socket":{TEXT})?'


def _optional(name: str, value: str) -> str:
    """A member that may be missing, behind a comma unless it is its object's first."""
    return rf'(?:(?:(?<=\{{)|(?<!\{{),)"{name}":{value})?'


_ASSERTED_TEXTS = "".join(
    _optional(name, TEXT) for name in ("runner", "token", "certificate", "address", "channel", "distribution")
)
ASSERTED = rf"\{{{_ASSERTED_TEXTS}{_optional('claims', OBJECT)}\}}"

_ALGORITHMS = {str(int(algorithm)): algorithm for algorithm in HashAlgorithm}
_PAIRS: Mapping[str, type[DsaSignature] | type[EcdsaSignature] | type[EddsaSignature]] = {
    cls.algorithm: cls for cls in (DsaSignature, EcdsaSignature, EddsaSignature)
}
_CLAIMS = frozenset(Claims.__dataclass_fields__)


def digest_of(algorithm: str, value: str) -> Digest:
    """Read the groups of DIGEST."""
    return Digest(_ALGORITHMS[algorithm], bytes.fromhex(value))


def state_of(algorithm: str, chaining_value: str, length: str, rest: str) -> HashState:
    """Read the groups of STATE."""
    return HashState(_ALGORITHMS[algorithm], bytes.fromhex(chaining_value), int(length), bytes.fromhex(rest))


def signature_of(algorithm: str, r: str | None, s: str) -> Signature:
    """Read the groups of SIGNATURE."""
    if r is not None:
        return _PAIRS[algorithm](bytes.fromhex(r), bytes.fromhex(s))
    if algorithm != RsaSignature.algorithm:
        raise RemoteProtocolError("expected r")
    return RsaSignature(bytes.fromhex(s))


def seal_of(groups: Sequence[str]) -> DocumentSignature:
    """Read the groups of SEAL."""
    fingerprint, created, algorithm, value, *signature = groups
    return DocumentSignature(
        Fingerprint(bytes.fromhex(fingerprint)),
        parse_time(created),
        digest_of(algorithm, value),
        signature_of(*signature),
    )


def head_of(node: str, sequence: str, digest: str) -> Head:
    """Read the groups of HEAD."""
    return Head(node, int(sequence), bytes.fromhex(digest))


def asserted_of(groups: Sequence[str | None]) -> Asserted:
    """Read the groups of ASSERTED."""
    runner, token, certificate, address, channel, distribution, claims = groups
    return Asserted(
        runner,
        token,
        certificate,
        address,
        "relay" if channel is None else channel,
        distribution,
        None if claims is None else claims_of(claims),
    )


def claims_of(untrusted: str) -> Claims:
    """Read the text of an object."""
    fields = bare_object(untrusted)
    if not fields.keys() <= _CLAIMS:
        raise RemoteProtocolError("claims: unknown fields")
    take = fields.get
    return Claims(
        _number(take("uid")),
        _text(take("user")),
        _number(take("pid")),
        _texts(take("commands", [])),
        _text(take("file")),
        _text(take("package")),
        _texts_by_name(take("job", {})),
        _texts(take("distributions", [])),
    )


def _number(value: object) -> int | None:
    if value is None or type(value) is int:
        return value
    raise RemoteProtocolError("expected an integer")


def _text(value: object) -> str | None:
    if value is None or type(value) is str:
        return value
    raise RemoteProtocolError("expected a string")


def _texts(value: object) -> tuple[str, ...]:
    if type(value) is list and set(map(type, value)) <= {str}:
        return tuple(value)
    raise RemoteProtocolError("expected a list of strings")


def _texts_by_name(value: object) -> dict[str, str]:
    if type(value) is dict and set(map(type, value.values())) <= {str}:
        return value
    raise RemoteProtocolError("expected an object of strings")

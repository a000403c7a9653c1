"""What is asked and answered, as the OpenAPI document shows it. A field that is not here is refused with 422.

There is no field for a signature's time, type or subpackets: those are the signer's alone.
"""

from dataclasses import field
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

from agentproxy.protocol.fields import MAX_CLAIM, MAX_JOB_FIELDS
from agentproxy.protocol.values import frozen

__all__ = [
    "MAX_ITEMS",
    "BatchAnswer",
    "BatchItem",
    "BatchRequest",
    "ClaimsField",
    "HealthReport",
    "ItemAnswer",
    "KeyList",
    "KeyReport",
    "ProblemDocument",
    "ProblemField",
    "RecordReport",
    "RepodataRequest",
    "RpmRequest",
    "SignatureReport",
    "Version",
]

MAX_ITEMS = 256

_STRICT = ConfigDict(extra="forbid")
_STATE_256 = r"sha256-state:[0-9a-f]{64}:(?:0|[1-9][0-9]{0,18}):(?:[0-9a-f]{2}){0,63}"
_STATE_512 = r"sha512-state:[0-9a-f]{128}:(?:0|[1-9][0-9]{0,18}):(?:[0-9a-f]{2}){0,127}"
_HASH = rf"^(?:sha256:[0-9a-f]{{64}}|{_STATE_256}|{_STATE_512})$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$"
_HASH_WORDS = (
    "sha256-state:… or sha512-state:…: the state of the hash behind the whole content, which is then signed itself; "
    "sha256:…: a checksum, and then the line sha256:… is signed"
)

Hash = Annotated[str, Field(pattern=_HASH, max_length=512, description=_HASH_WORDS)]
Name = Annotated[str, Field(pattern=_NAME)]
Token = Annotated[str, Field(max_length=256, description="unless it stands in Authorization: Bearer")]
Text = Annotated[str, Field(max_length=MAX_CLAIM, description="A control character becomes a question mark.")]


@frozen
class ClaimsField:
    """What the audit log shall say about the request: claimed, never proven, and never a reason to allow anything."""

    __pydantic_config__ = _STRICT
    file: Text | None = None
    package: Text | None = None  # name-epoch:version-release.arch
    job: Annotated[dict[str, Text], Field(max_length=MAX_JOB_FIELDS)] = field(default_factory=dict)


@frozen
class RpmRequest:
    """A signature for the header of an RPM."""

    __pydantic_config__ = _STRICT
    package_hash: Hash
    distribution: Name
    key_type: Name | None = None
    token: Token | None = field(default=None, repr=False)
    claims: ClaimsField | None = None


@frozen
class RepodataRequest:
    """A signature for repomd.xml or another file."""

    __pydantic_config__ = _STRICT
    repodata_hash: Hash
    key_type: Name | None = None
    distribution: Name | None = None  # for keys that the policy restricts to some
    token: Token | None = field(default=None, repr=False)
    claims: ClaimsField | None = None


@frozen
class BatchItem:
    """One of many: either hash, and what belongs to it."""

    __pydantic_config__ = _STRICT
    package_hash: Hash | None = None
    repodata_hash: Hash | None = None
    distribution: Name | None = None
    key_type: Name | None = None
    claims: ClaimsField | None = None


def _as_it_came(untrusted: object) -> object:
    return untrusted


_Object = Annotated[dict[str, object], Field(description="Anything else has a result of its own, with status 422.")]
# What is in an item is looked at item by item: one that is wrong shall not keep the others from being signed.
_UntrustedItem = Annotated[dict[str, object], BeforeValidator(_as_it_came, json_schema_input_type=BatchItem | _Object)]


@frozen
class BatchRequest:
    """Many signatures at once."""

    __pydantic_config__ = _STRICT
    items: Annotated[list[_UntrustedItem], Field(min_length=1, max_length=MAX_ITEMS)]
    token: Token | None = field(default=None, repr=False)


@frozen
class RecordReport:
    """Where the audit log has it."""

    node: str
    sequence: int
    hash: str  # SHA-256 of the record's line, hex


@frozen
class SignatureReport:
    """A signature."""

    signature: str  # detached, armored
    key_id: str
    timestamp: str  # the signature's own time, RFC 3339, UTC, whole seconds
    fingerprint: str
    key: str  # its name in the policy
    signed: Annotated[str, Field(pattern="^(content|statement)$")]
    record: RecordReport


@frozen
class ProblemField:
    """One field that is wrong."""

    field: str
    message: str


@frozen
class ProblemDocument:
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemField] = field(default_factory=list)
    retry_after: int | None = None  # seconds; of an item alone, since a whole answer has the header Retry-After


@frozen
class ItemAnswer:
    """What became of one item: a signature or a problem."""

    status: int  # as if it had been asked alone
    result: SignatureReport | None = None
    problem: ProblemDocument | None = None


@frozen
class BatchAnswer:
    """What became of each item, in their order."""

    results: list[ItemAnswer]


@frozen
class KeyReport:
    """A key that this runner may use."""

    name: str
    key_type: str
    fingerprint: str
    primary: str  # fingerprint of the certificate's primary key
    key_id: str
    algorithm: str
    hash_algorithms: list[str]
    distributions: list[str]  # patterns; empty: for any
    created: str
    expires: str | None
    user_id: str
    seal_only: bool


@frozen
class KeyList:
    """All of them."""

    keys: list[KeyReport]


@frozen
class HealthReport:
    """How the oracle is; each part says ok, or what is wrong."""

    status: Annotated[str, Field(pattern="^(ok|unavailable)$")]
    checks: dict[str, str]


@frozen
class Version:
    """What runs here."""

    software: str
    api: int

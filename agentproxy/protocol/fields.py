"""Dataclasses that stand inside messages of more than one stream, with the bounds that make them safe to log."""

import re
from collections.abc import Iterable
from dataclasses import field
from datetime import datetime
from json.encoder import encode_basestring_ascii

from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.keys import Fingerprint, Keygrip, PublicKey
from agentproxy.protocol.values import frozen

__all__ = [
    "Asserted",
    "Claims",
    "Head",
    "KeyFacts",
    "check_name",
    "check_request_id",
    "check_text",
    "check_wanted",
    "size_of_texts",
    "without_controls",
]

# A name of a runner, key, key type, node or distribution: it appears in file names, logs and shell lines.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_REQUEST_ID = re.compile(r"[0-9a-f]{32}")
_ASSERTED_TEXTS = ("runner", "token", "certificate", "address", "channel", "distribution")
# C0, C1 and the line separators: they would let a caller forge lines in a log or colours on a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

MAX_REMAINING_MS = 600_000  # ten minutes: longer than any caller waits, short enough to mean something
MAX_CLAIM = 1024  # characters of one claim
MAX_ASSERTED = 256  # characters of what the oracle asserts
MAX_COMMANDS = 8  # gpg, rpmsign, a shell or two, the runner
MAX_JOB_FIELDS = 16
MAX_DISTRIBUTIONS = 4  # the package's, the environment's
# Bytes of all texts of claims as we write them, in ASCII; whoever sends raw UTF-8 may send a third of what we make of
# it. It is half a frame, so that claims are passed on in one with all that the oracle asserts and the reason of a
# refusal: six texts of 256 characters and one of 1024 are at most 30,720 bytes. Command lines of gpg and its parents
# take about 1000.
MAX_CLAIMS = 32_768
_LONGEST_ESCAPE = 12  # bytes that one character becomes: two escapes of six
_SURELY_FITTING = (MAX_CLAIMS - 512) // _LONGEST_ESCAPE  # characters of fewer than 128 texts, with quotes and commas
_MOST_BITS = 63  # of a uid, a pid or a sequence: JSON knows numbers of thousands of digits


def check_name(untrusted: str, what: str) -> None:
    """Raise RemoteProtocolError unless this is a name: 1 to 64 letters, digits, `.`, `_`, `+`, `-`."""
    if _NAME.fullmatch(untrusted) is None:
        raise RemoteProtocolError(f"{what}: expected 1 to 64 letters, digits, '.', '_', '+' or '-'")


def check_request_id(untrusted: str) -> None:
    """Raise RemoteProtocolError unless this is a request's id: 32 lower-case hex digits."""
    if _REQUEST_ID.fullmatch(untrusted) is None:
        raise RemoteProtocolError("id: expected 32 lower-case hex digits")


def check_wanted(request_id: str, remaining_ms: int, distribution: str | None, socket: str | None) -> None:
    """Raise RemoteProtocolError unless this may stand in a request for a signature."""
    check_request_id(request_id)
    if distribution is not None:
        check_name(distribution, "distribution")
    if socket is not None:
        check_name(socket, "socket")
    if not 0 <= remaining_ms <= MAX_REMAINING_MS:
        raise RemoteProtocolError(f"remaining_ms: expected 0 to {MAX_REMAINING_MS}")


def check_text(untrusted: str, what: str, longest: int = MAX_CLAIM) -> None:
    """Raise RemoteProtocolError unless this is at most `longest` characters without control characters."""
    # Almost every text is printable, which is quick to see, and nothing printable is a control character.
    if len(untrusted) > longest or not (untrusted.isprintable() or _CONTROL.search(untrusted) is None):
        raise RemoteProtocolError(f"{what}: expected at most {longest} characters, none of them control characters")


def without_controls(untrusted: str) -> str:
    """The same text with a question mark for each character that `check_text` refuses."""
    return untrusted if untrusted.isprintable() else _CONTROL.sub("?", untrusted)


def size_of_texts(texts: Iterable[str]) -> int:
    """How many bytes these are in our JSON, each with what parts it from the next."""
    return sum(len(encode_basestring_ascii(text)) + 1 for text in texts)


@frozen
class Claims:
    """What a relay saw of its caller: claimed, never proven, and never a reason to allow anything."""

    uid: int | None = None
    user: str | None = None
    pid: int | None = None
    commands: tuple[str, ...] = ()  # command lines: gpg's first, then its parents'
    file: str | None = None  # what rpmsign or gpg works on
    package: str | None = None  # name-epoch:version-release.arch, from the package's header
    job: dict[str, str] = field(default_factory=dict)  # of the CI system: project, pipeline, job, url
    # What package and environment say they are for. The one exception: each may turn yes into no, never the reverse.
    distributions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.commands) > MAX_COMMANDS or len(self.job) > MAX_JOB_FIELDS:
            raise RemoteProtocolError("claims: too many commands or job fields")
        texts = (self.user, *self.commands, self.file, self.package, *self.job, *self.job.values())
        length = 0
        for text in texts:
            if text is None:
                continue
            length += len(text)
            # Asked here, too, for almost every text is right, and a call costs as much.
            if len(text) > MAX_CLAIM or not text.isprintable():
                check_text(text, "claims")
        # Only whoever has much to say is looked at twice: this stands in the way of every signature.
        if length > _SURELY_FITTING and size_of_texts(text for text in texts if text is not None) > MAX_CLAIMS:
            raise RemoteProtocolError(f"claims: expected at most {MAX_CLAIMS} bytes in ASCII, with escapes")
        for number in (self.uid, self.pid):
            if number is not None and number.bit_length() > _MOST_BITS:
                raise RemoteProtocolError(f"claims: expected uid and pid of at most {_MOST_BITS} bits")
        if len(self.distributions) > MAX_DISTRIBUTIONS:
            raise RemoteProtocolError(f"claims: at most {MAX_DISTRIBUTIONS} distributions")
        for name in self.distributions:
            check_name(name, "claims: distribution")


@frozen
class Asserted:
    """What the oracle says about a request; the signer writes it into the record and believes none of it."""

    runner: str | None = None
    token: str | None = None  # the token's public id, never the token
    certificate: str | None = None  # SHA-256 of the client certificate, lower-case hex
    address: str | None = None  # host:port
    channel: str = "relay"  # relay, http, ssh, fallback, cli; with the relay's name of its socket: relay/NAME
    distribution: str | None = None
    claims: Claims | None = None

    def __post_init__(self) -> None:
        texts = (self.runner, self.token, self.certificate, self.address, self.channel, self.distribution)
        for what, text in zip(_ASSERTED_TEXTS, texts, strict=True):
            if text is not None and (len(text) > MAX_ASSERTED or not text.isprintable()):
                check_text(text, what, MAX_ASSERTED)


@frozen
class Head:
    """The end of an audit log: whoever keeps one can later prove that nothing up to it was cut or rewritten."""

    node: str
    sequence: int  # of the last record; the first record has 1
    hash: bytes  # 32 bytes: SHA-256 of the last record's line without its newline

    def __post_init__(self) -> None:
        check_name(self.node, "node")
        if not 1 <= self.sequence < 1 << _MOST_BITS or len(self.hash) != 32:
            raise RemoteProtocolError("head: expected a sequence from 1 and a hash of 32 bytes")

    def or_later(self, other: "Head | None") -> "Head":
        """The further one of two ends of one log that were told at different times."""
        return self if other is None or other.sequence <= self.sequence else other


@frozen
class KeyFacts:
    """A key that the signer serves, as far as the public may know it."""

    name: str  # such as "modern"
    fingerprint: Fingerprint  # of the key that signs
    primary: Fingerprint  # of the certificate it stands in; the same for a primary key
    keygrip: Keygrip
    public_key: PublicKey
    hash_algorithms: tuple[HashAlgorithm, ...]
    can_certify: bool
    created: datetime
    expires: datetime | None = None
    user_id: str = ""
    seal_only: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "key name")
        if self.public_key.keygrip != self.keygrip:
            raise RemoteProtocolError("keygrip: it is not the public key's")
        check_text(self.user_id, "user_id")  # a relay's `status` shows it to root, and its oracle may be taken over

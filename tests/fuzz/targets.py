"""What is fuzzed: each target takes any bytes and may raise RemoteProtocolError, nothing else."""

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from agentproxy.protocol.assuan import LineReader, ReplyReader, parse_command, unescape_leniently
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Asserted, Claims, Head
from agentproxy.protocol.frames import FrameReader, encode_frame
from agentproxy.protocol.gpgerror import GpgError
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.journal import FIRST_PREV, JournalOperation, JournalRecord, parse_line
from agentproxy.protocol.keys import Curve, EccPublicKey, Fingerprint
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.oracle_messages import Signed
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.rpmfile import Entry, read_front
from agentproxy.protocol.seal_messages import Seal, Sealed, SealState, StateSealed
from agentproxy.protocol.sexp import (
    encode,
    encode_public_key,
    encode_signature,
    parse,
    parse_public_key,
    parse_signature,
)
from agentproxy.protocol.signatures import EddsaSignature
from agentproxy.protocol.signer_answers import DigestSigned
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER
from agentproxy.protocol.signer_requests import SignDigest
from agentproxy.protocol.wire import MessageCodec, Tagged
from relay.sealed.signatureheader import assembled, has_signature, with_signature
from relay.session import Session, SessionKey, SignNeeded

__all__ = ["TARGETS", "Target"]

KEY = EccPublicKey(Curve.ED25519, bytes(32))
SESSION_KEY = SessionKey(KEY.keygrip, KEY, frozenset({HashAlgorithm.SHA256}))


@dataclass(frozen=True)
class Target:
    """A function to call with any bytes, and inputs that lead to its depths."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def assuan(untrusted: bytes) -> None:
    """Both roles, the lenient escapes, and a whole session behind them."""
    with contextlib.suppress(RemoteProtocolError):
        replies = ReplyReader()
        replies.receive_data(untrusted)
        while replies.next_reply() is not None:
            pass
    unescape_leniently(untrusted)
    session = Session((SESSION_KEY,))
    events = session.receive(untrusted)
    while events and isinstance(events[-1], SignNeeded):
        session.failed(GpgError.TIMEOUT)
        events = session.receive(b"")
    lines = LineReader()
    lines.receive_data(untrusted)
    while (line := lines.next_line()) is not None:
        with contextlib.suppress(RemoteProtocolError):
            parse_command(line)


def sexp(untrusted: bytes) -> None:
    """What parses is written back byte for byte; a signature is read again as itself."""
    assert encode(parse(untrusted)) == untrusted
    signature = parse_signature(untrusted)
    assert parse_signature(encode_signature(signature)) == signature


def journal(untrusted: bytes) -> None:
    """A line that is read is written as it was."""
    assert parse_line(untrusted).line() == untrusted


def publickey(untrusted: bytes) -> None:
    """An agent's public key that is read is read again as itself."""
    key = parse_public_key(untrusted)
    assert parse_public_key(encode_public_key(key)) == key


def frames(untrusted: bytes) -> None:
    """Frames, and the payloads in them as messages of every direction."""
    reader = FrameReader()
    reader.receive_data(untrusted)
    while (payload := reader.next_payload()) is not None:
        assert untrusted.startswith(encode_frame(payload))
        untrusted = untrusted[4 + len(payload) :]
        for codec in (FROM_RELAY, FROM_ORACLE, TO_SIGNER, FROM_SIGNER):
            # We never write that blank, so only what reads our own texts quickly sees a difference, and must not.
            assert _outcome(codec, payload) == _outcome(codec, payload.replace(b"{", b"{ ", 1))


def _outcome(codec: MessageCodec[Tagged], payload: bytes) -> Tagged | str:
    try:
        return codec.decode(payload)
    except RemoteProtocolError as error:
        return str(error)


def hashstates(untrusted: bytes) -> None:
    """A state that is read is written as it was, and can be finished."""
    try:
        text = untrusted.decode("ascii")
    except UnicodeDecodeError:
        return
    state = HashState.parse(text)
    assert str(state) == text
    assert len(state.finished(b"trailer").value) == state.algorithm.digest_size


def rpm(untrusted: bytes) -> None:
    """A front that is read takes a signature, and is then read as the same with that signature."""
    front = read_front(io.BytesIO(untrusted))
    with contextlib.suppress(RemoteProtocolError):
        front.tag(5092)
    signed = read_front(io.BytesIO(with_signature(front, b"packet", 1) + front.header))
    assert signed.header == front.header
    assert has_signature(signed.signatures)
    assert [entry.value for entry in signed.signatures.entries if entry.tag in {267, 268}] in ([b"packet"], [])


def _rpm_seed(*entries: Entry) -> bytes:
    lead = b"\xed\xab\xee\xdb\x04".ljust(78, b"\0") + b"\x00\x05" + bytes(16)
    signature = assembled(list(entries))
    return lead + signature + bytes(-len(signature) % 8) + assembled([Entry(5092, 8, 1, b"0" * 64 + b"\0")])


_RECORD = JournalRecord(
    "ab" * 16, 1, datetime(2026, 11, 22, tzinfo=UTC), JournalOperation.SWITCH, "0" * 32, FIRST_PREV, "forced", "drill"
)

_DIGEST = Digest(HashAlgorithm.SHA256, bytes(32))
_CLAIMS = Claims(0, "user", 1, ('gpg -u "a key"',), "file", "package", {"job": "1"}, ("el9",))
_SIGNATURE = EddsaSignature(bytes(32), bytes(32))
_HEAD = Head("node", 1, bytes(32))
_STATE = HashState(HashAlgorithm.SHA256, bytes(32), 65, b"x")
_SEAL = DocumentSignature(Fingerprint(bytes(20)), datetime(2026, 11, 22, tzinfo=UTC), _DIGEST, _SIGNATURE)
_ED448_SEAL = replace(_SEAL, fingerprint=Fingerprint(bytes(32)), signature=EddsaSignature(bytes(57), bytes(57)))

TARGETS: Mapping[str, Target] = {
    "journal": Target(journal, (_RECORD.line(),)),
    "publickey": Target(publickey, (encode_public_key(KEY),)),
    "assuan": Target(
        assuan,
        (
            b"RESET\nOPTION pinentry-user-data=x\nSIGKEY %s\nSETHASH 8 %s\nPKSIGN\nRESET\nSIGKEY %s\nPKSIGN\n"
            % (str(KEY.keygrip).encode(), b"1" * 64, b"A" * 40),
            b"HAVEKEY --list=1000\nREADKEY -- %s\nKEYINFO --list\nBYE\n" % str(KEY.keygrip).encode(),
            b"# x\nS KEYINFO a\nD a%0Ab\nERR 1 x\nINQUIRE X y\nOK x\n",
        ),
    ),
    "sexp": Target(sexp, (b"(7:sig-val(3:rsa(1:s1:\x01)))", b"(7:sig-val(5:ecdsa(1:r1:\x01)(1:s1:\x01)))")),
    "hashstates": Target(
        hashstates,
        tuple(
            str(HashState.initial(algorithm).updated(b"x" * size)).encode()
            for algorithm in (HashAlgorithm.SHA256, HashAlgorithm.SHA512)
            for size in (0, 5, 200)
        ),
    ),
    "rpm": Target(
        rpm,
        (
            _rpm_seed(Entry(1000, 4, 1, bytes(4)), Entry(1008, 7, 64, bytes(64))),
            _rpm_seed(Entry(268, 7, 3, b"old"), Entry(273, 6, 1, b"text\0"), Entry(278, 8, 2, b"one\0two\0")),
        ),
    ),
    "frames": Target(
        frames,
        (
            encode_frame(b'{"type":"ping","id":"%s"}' % (b"0" * 32)),
            encode_frame(b'{"type":"hello","protocol":1,"token":"x","software":"y"}'),
            encode_frame(b'{"type":"list_keys","id":1}') + encode_frame(b"[]"),
            encode_frame(FROM_RELAY.encode(Sign("0" * 32, KEY.keygrip, _DIGEST, 1, "el9", _CLAIMS, "gpg"))),
            encode_frame(
                TO_SIGNER.encode(SignDigest(1, "0" * 32, KEY.keygrip, _DIGEST, Asserted("r", claims=_CLAIMS)))
            ),
            encode_frame(FROM_SIGNER.encode(DigestSigned(1, _SIGNATURE, _HEAD))),
            encode_frame(FROM_ORACLE.encode(Signed("0" * 32, _SIGNATURE, _HEAD))),
            encode_frame(FROM_RELAY.encode(Seal("0" * 32, KEY.keygrip, _STATE, 1, "el9", _CLAIMS, "gpg"))),
            encode_frame(TO_SIGNER.encode(SealState(1, "0" * 32, KEY.keygrip, _STATE, Asserted("r", claims=_CLAIMS)))),
            encode_frame(FROM_SIGNER.encode(StateSealed(1, _SEAL, _HEAD))),
            encode_frame(FROM_ORACLE.encode(Sealed("0" * 32, _SEAL, _HEAD))),
            encode_frame(FROM_ORACLE.encode(Sealed("0" * 32, _ED448_SEAL, _HEAD))),
        ),
    ),
}

"""What is fuzzed: each target takes any bytes and may raise RemoteProtocolError, nothing else."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentproxy.protocol.assuan import LineReader, ReplyReader, parse_command, unescape_leniently
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.frames import FrameReader, encode_frame
from agentproxy.protocol.gpgerror import GpgError
from agentproxy.protocol.keys import Curve, EccPublicKey
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY
from agentproxy.protocol.sexp import encode, encode_signature, parse, parse_signature
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER
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


def frames(untrusted: bytes) -> None:
    """Frames, and the payloads in them as messages of every direction."""
    reader = FrameReader()
    reader.receive_data(untrusted)
    while (payload := reader.next_payload()) is not None:
        assert untrusted.startswith(encode_frame(payload))
        untrusted = untrusted[4 + len(payload) :]
        for codec in (FROM_RELAY, FROM_ORACLE, TO_SIGNER, FROM_SIGNER):
            with contextlib.suppress(RemoteProtocolError):
                codec.decode(payload)


TARGETS: Mapping[str, Target] = {
    "assuan": Target(
        assuan,
        (
            b"RESET\nOPTION pinentry-user-data=x\nSIGKEY %s\nSETHASH 8 %s\nPKSIGN\n" % (b"A" * 40, b"1" * 64),
            b"HAVEKEY --list=1000\nREADKEY -- %s\nKEYINFO --list\nBYE\n" % str(KEY.keygrip).encode(),
            b"# x\nS KEYINFO a\nD a%0Ab\nERR 1 x\nINQUIRE X y\nOK x\n",
        ),
    ),
    "sexp": Target(sexp, (b"(7:sig-val(3:rsa(1:s1:\x01)))", b"(7:sig-val(5:ecdsa(1:r1:\x01)(1:s1:\x01)))")),
    "frames": Target(
        frames,
        (
            encode_frame(b'{"type":"ping","id":"%s"}' % (b"0" * 32)),
            encode_frame(b'{"type":"hello","protocol":1,"token":"x","software":"y"}'),
            encode_frame(b'{"type":"list_keys","id":1}') + encode_frame(b"[]"),
        ),
    ),
}

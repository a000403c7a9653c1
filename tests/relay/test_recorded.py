"""Real clients' conversations, played to our session: each must get what made it go on when it talked to gpg-agent."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.protocol.assuan import Data, Err, Ok, ReplyReader, StatusLine
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.keys import Curve, EccPublicKey, Keygrip
from agentproxy.protocol.sexp import parse_signature
from agentproxy.protocol.signatures import EddsaSignature
from relay.session import Reply, Session, SessionKey, SignNeeded

RECORDINGS = sorted((Path(__file__).parent.parent / "vectors" / "assuan").glob("*.txt"))
ANY_KEY = EccPublicKey(Curve.ED25519, bytes(32))
SIGNATURE = EddsaSignature(b"\n" * 32, b"%" * 32)
SHA2 = frozenset({HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512})

Exchange = tuple[str, list[str]]


def connections(recording: Path) -> Iterator[list[Exchange]]:
    for block in recording.read_text().split("connect ")[1:]:
        lines = block.splitlines()[1:]
        yield [(sent[3:], answer[3:].split(", ")) for sent, answer in zip(lines[::2], lines[1::2], strict=True)]


def keys_of(recording: Path) -> list[SessionKey]:
    """One key, and those that the recorded client asked for: its agent had them all."""
    words = {word for exchanges in connections(recording) for sent, _ in exchanges for word in sent.split()}
    grips = sorted(word for word in words if len(word) == 40 and word.isalnum())
    names = [ANY_KEY.keygrip, *map(Keygrip.parse, grips)]
    return [SessionKey(name, ANY_KEY, SHA2) for name in names]


def kinds(answer: bytes) -> list[str]:
    reader, found = ReplyReader(), list[str]()
    reader.receive_data(answer)
    while (reply := reader.next_reply()) is not None:
        kind = {Ok: "OK", Data: "D", StatusLine: "S"}.get(
            type(reply)
        ) or f"ERR {reply.code if isinstance(reply, Err) else ''}"
        if found[-1:] != [kind]:
            found.append(kind)
    return found


def answer_to(session: Session, sent: str) -> bytes:
    (event,) = session.receive(sent.encode() + b"\n")
    if isinstance(event, SignNeeded):
        event = session.signed(SIGNATURE)
    assert isinstance(event, Reply)
    return event.data


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_a_recorded_client_gets_what_it_got_from_the_real_agent(recording: Path) -> None:
    keys = keys_of(recording)
    for exchanges in connections(recording):
        session = Session(keys)
        for sent, expected in exchanges:
            answer = answer_to(session, sent)
            if sent == "SCD SERIALNO":  # any error of a card will do: there is none
                assert kinds(answer)[-1].startswith("ERR "), sent
            elif sent.startswith("PKSIGN"):
                assert signature_in(answer) == SIGNATURE
            else:
                assert kinds(answer) == expected, sent


def signature_in(answer: bytes) -> object:
    reader, data = ReplyReader(), b""
    reader.receive_data(answer)
    while isinstance(reply := reader.next_reply(), Data):
        data += reply.data
    assert reply == Ok()
    return parse_signature(data)


def test_each_kind_of_client_has_a_recording() -> None:
    programs = {recording.stem.rpartition("-")[0] for recording in RECORDINGS}
    for client in ("gpg-2.2.40", "gpg-2.4.7", "sq-1.3.1", "gpg-sq-0.13.1", "rpmsign-4.18.0", "rpmsign-4.20.1"):
        assert any(program.startswith(client) for program in programs)
    for client in ("git-2.39.5", "debsign-2.23.4", "gpgme-1.18.0", "python-gnupg-0.5.4"):
        assert any(program.startswith(client) for program in programs)

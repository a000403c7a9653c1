"""Our formats against a real gpg-agent: keygrips, public keys, signatures, and the limit of a line."""

import contextlib

import pytest

from agentproxy.protocol.assuan import MAX_LINE
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.sexp import encode_public_key, encode_signature, parse, parse_signature
from tests.protocol.conftest import ALGORITHMS, AgentConversation, RealAgent


def public_key(expression: object) -> PublicKey:
    match expression:
        case (b"public-key", (b"rsa", (b"n", n), (b"e", e))):
            return RsaPublicKey(n.lstrip(b"\x00"), e)
        case (b"public-key", (b"dsa", *numbers)):
            return DsaPublicKey(*(value.lstrip(b"\x00") for _, value in numbers))
        case (b"public-key", (b"ecc", (b"curve", b"Ed25519"), (b"flags", b"eddsa"), (b"q", q))):
            return EccPublicKey(Curve.ED25519, q.removeprefix(b"\x40"))
        case (b"public-key", (b"ecc", (b"curve", curve), (b"q", q))):
            return EccPublicKey(Curve(curve.decode()), q)
    raise AssertionError(expression)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_keygrip_and_public_key_are_the_agents(name: str, real_agent: RealAgent, agent: AgentConversation) -> None:
    grip = real_agent.keygrips[name]
    received = agent.ask("READKEY", f"-- {grip}")
    key = public_key(parse(received))
    assert key.keygrip == grip
    assert encode_public_key(key) == received


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_signature_of_the_agent_is_read_and_written(
    name: str, real_agent: RealAgent, agent: AgentConversation
) -> None:
    agent.ask("SIGKEY", str(real_agent.keygrips[name]))
    agent.ask("SETHASH", "10 " + "5A" * 64)
    received = agent.ask("PKSIGN")
    signature = parse_signature(received)
    assert parse_signature(encode_signature(signature)) == signature
    assert signature.algorithm == {"rsa": "rsa", "dsa": "dsa", "ed2": "eddsa", "nis": "ecdsa"}[name[:3]]


def test_the_longest_line_is_the_agents_too(agent: AgentConversation) -> None:
    text = b"x" * (MAX_LINE - len(b"SETKEYDESC \n"))
    agent._socket.sendall(b"SETKEYDESC " + text + b"\n")
    assert agent._answer() == b""
    agent._socket.sendall(b"SETKEYDESC x" + text + b"\n")
    with contextlib.suppress(ConnectionResetError):  # it hangs up, with or without reading what is left
        assert agent._socket.recv(100) == b""

"""Our formats against a real gpg-agent: keygrips, public keys, signatures, and the limit of a line."""

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey

from agentproxy.protocol.assuan import MAX_LINE
from agentproxy.protocol.keys import Curve, DsaPublicKey, EccPublicKey, PublicKey, RsaPublicKey
from agentproxy.protocol.sexp import encode_public_key, encode_signature, parse, parse_signature
from agentproxy.protocol.signatures import EddsaSignature
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


# Made with gpg 2.4.7 and libgcrypt 1.11: gpg 2.2 has no Ed448.
ED448_GRIP = "FD2A8AFB1CF51F9DC55DCFD74D40135791BACE80"
ED448_POINT = bytes.fromhex(
    "2bf7405dc888382bf23111f043860d522e24dc8ac7ddde14d616279d5053993b33659edc15d861a90c56f4da11c001eb25f0f1797cbe6b8180"
)
ED448_R = bytes.fromhex(
    "c38b63e215f371f912306a123bd2810b69a93a209c73a6f5430f191c4e7d2b4efb14929d021f903b474d5a51e4872a81a737f30167675c8e00"
)
ED448_S = bytes.fromhex(
    "b24971d902385293be3503dc625403c35649fe99ce05058b17cec1fac7c6dc6a87dd9628a9a0653f8b306855062e811d6005735ca16f012600"
)


def test_ed448_is_as_a_newer_agent_has_it() -> None:
    received = b"(10:public-key(3:ecc(5:curve5:Ed448)(1:q57:" + ED448_POINT + b")))"
    key = public_key(parse(received))
    assert str(key.keygrip) == ED448_GRIP
    assert encode_public_key(key) == received
    signature = parse_signature(b"(7:sig-val(5:eddsa(1:r57:" + ED448_R + b")(1:s57:" + ED448_S + b")))")
    assert isinstance(signature, EddsaSignature)
    Ed448PublicKey.from_public_bytes(ED448_POINT).verify(signature.r + signature.s, b"\x5a" * 64)

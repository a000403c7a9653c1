"""Messages about seals with parts that no seal can have: refused, for the reason that `json` and `structure` give."""

from datetime import UTC, datetime

import pytest

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.messages import FROM_RELAY
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.seal_messages import Seal, StateSealed
from agentproxy.protocol.signatures import EddsaSignature
from agentproxy.protocol.signer_messages import FROM_SIGNER
from agentproxy.protocol.wire import MessageCodec, Tagged

GRIP = Keygrip(b"\xab" * 20)
STATE_65 = HashState(HashAlgorithm.SHA256, b"\xcd" * 32, 65, b"x")
ED25519 = DocumentSignature(
    Fingerprint(b"\xab" * 20),
    datetime(2026, 11, 22, 10, tzinfo=UTC),
    Digest(HashAlgorithm.SHA256, b"\xcd" * 32),
    EddsaSignature(b"\xef" * 32, b"\xee" * 32),
)
ASKED = FROM_RELAY.encode(Seal("0" * 32, GRIP, STATE_65, 5))
ANSWERED = FROM_SIGNER.encode(StateSealed(1, ED25519, Head("node", 1, bytes(32))))


@pytest.mark.parametrize(
    ("codec", "payload", "old", "new", "why"),
    [
        (FROM_RELAY, ASKED, b'"algorithm":8', b'"algorithm":9', "SHA-256 or SHA-512"),
        (FROM_RELAY, ASKED, b'"algorithm":8', b'"algorithm":4', "unknown hash algorithm"),
        (FROM_RELAY, ASKED, b'"algorithm":8', b'"algorithm":10', "chaining value"),
        (FROM_RELAY, ASKED, b"cd" * 32, b"cd" * 31, "chaining value"),
        (FROM_RELAY, ASKED, b"cd" * 32, b"cd" * 31 + b"c", "lower-case hex"),
        (FROM_RELAY, ASKED, b"cd" * 32, b"CD" * 32, "lower-case hex"),
        (FROM_RELAY, ASKED, b'"length":65', b'"length":64', "in no whole block"),
        (FROM_RELAY, ASKED, b'"length":65', b'"length":1', "standard's"),
        (FROM_RELAY, ASKED, b'"length":65', b'"length":%d' % (2**60 + 1), "at most"),
        (FROM_RELAY, ASKED, b'"length":65', b'"length":"65"', "an integer"),
        (FROM_RELAY, ASKED, b'"78"', b'"7"', "lower-case hex"),
        (FROM_RELAY, ASKED, b'"78"', b'""', "in no whole block"),
        (FROM_SIGNER, ANSWERED, b"AB" * 20, b"AB" * 32, "version 4 keys"),
        (FROM_SIGNER, ANSWERED, b"AB" * 20, b"AB" * 19, "40 or 64 hex digits"),
        (FROM_SIGNER, ANSWERED, b":00.000000Z", b":00.000001Z", "whole seconds"),
        (FROM_SIGNER, ANSWERED, b":00.000000Z", b":00Z", "a time has the form"),
        (FROM_SIGNER, ANSWERED, b":00.000000Z", b":60.000000Z", "no such time"),
        (FROM_SIGNER, ANSWERED, b"2026-11-22T10", b"1970-01-01T00", "1970 and 2106"),
        (FROM_SIGNER, ANSWERED, b"2026-11-22", b"2106-02-08", "1970 and 2106"),
        (FROM_SIGNER, ANSWERED, b'"ef', b'"ef' + b"ef" * 25, "EdDSA halves"),
        (FROM_SIGNER, ANSWERED, b'"eddsa"', b'"rsa"', "unknown field"),
    ],
)
def test_what_no_seal_can_hold_is_refused_with_the_reason_of_json_and_structure(
    codec: MessageCodec[Tagged], payload: bytes, old: bytes, new: bytes, why: str
) -> None:
    changed = payload.replace(old, new)
    assert changed != payload
    with pytest.raises(RemoteProtocolError, match=why) as caught:
        codec.decode(changed)
    with pytest.raises(RemoteProtocolError) as slowly:
        codec.decode(changed.replace(b"{", b"{ ", 1))  # never written by us, so nothing reads it quickly
    assert str(caught.value) == str(slowly.value)


def test_an_ed448_signature_is_a_seal_of_a_version_5_key_only() -> None:
    changed = ANSWERED.replace(b"ef" * 32, b"ef" * 57).replace(b"ee" * 32, b"ee" * 57)
    with pytest.raises(RemoteProtocolError, match="Ed448"):
        FROM_SIGNER.decode(changed)
    whole = FROM_SIGNER.decode(changed.replace(b"AB" * 20, b"AB" * 32))
    assert isinstance(whole, StateSealed)
    assert whole.seal.fingerprint == Fingerprint(b"\xab" * 32)

"""Signatures that the signer writes whole: real tools verify them, and nobody outside chooses their type or time."""

import hashlib
import json
import struct
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Curve, EccPublicKey, Fingerprint, Keygrip
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.seal_messages import SealState, StateSealed
from agentproxy.protocol.signatures import EddsaSignature
from agentproxy.protocol.signer_answers import DigestSigned, NotDone
from agentproxy.protocol.signer_messages import TO_SIGNER
from agentproxy.signer import keyfile
from agentproxy.signer.keyring import Keyring
from agentproxy.signer.keytext import canonical
from agentproxy.signer.record import signature_sha256
from agentproxy.signer.software import SoftwareBackend
from agentproxy.signer.verifylog import verify
from tests.signer.conftest import ALGORITHMS, GnupgHome
from tests.signer.logs import records_in
from tests.signer.running import Client, signer, state, write_keys
from tests.signer.test_pipeline import _desk

CONTENT = b"<repomd/>\n" * 40
KEYS = [
    *((name, HashAlgorithm.SHA512) for name in ALGORITHMS),
    *((name, HashAlgorithm.SHA256) for name in ("rsa2048", "rsa3072", "dsa2048", "ed25519", "p256")),
]


def request(id_: int, grip: Keygrip, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> SealState:
    hashed = HashState.initial(algorithm).updated(CONTENT)
    return SealState(id_, f"{id_:032x}", grip, hashed, Asserted(runner="builder"))


def sealed(directory: Path, grip: Keygrip, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> DocumentSignature:
    with signer(directory), Client(directory) as client:
        answer = client.ask(request(client.next_id(), grip, algorithm))
    assert isinstance(answer, StateSealed)
    return answer.seal


def gpg_status(home: GnupgHome, directory: Path, signature: bytes, content: bytes = CONTENT) -> list[str]:
    """gpg's status lines; the detached signature may be armored or not."""
    (directory / "content").write_bytes(content)
    (directory / "content.sig").write_bytes(signature)
    command = ["gpg", "--homedir", str(home.path), "--batch", "--status-fd", "1", "--verify"]
    files = [str(directory / "content.sig"), str(directory / "content")]
    done = subprocess.run([*command, *files], capture_output=True, timeout=60, check=False)
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize(("name", "algorithm"), KEYS)
def test_gpg_and_gpgv_verify_what_the_signer_made_for_every_kind_of_key(
    home: GnupgHome, tmp_path: Path, name: str, algorithm: HashAlgorithm
) -> None:
    before = int(datetime.now(UTC).timestamp())
    with state(home, name) as directory:
        write_keys(directory, home, name, hash_algorithms=[algorithm.name.lower()])
        seal = sealed(directory, home.grips[name], algorithm)
    for signature in (seal.packet, seal.armored.encode()):
        status = gpg_status(home, tmp_path, signature)
        (valid,) = [line.split()[2:] for line in status if " VALIDSIG " in line]
        assert valid[0] == home.fingerprints[name] == str(seal.fingerprint)
        assert before <= int(valid[2]) <= int(datetime.now(UTC).timestamp())
        assert (valid[4], valid[7], valid[8]) == ("4", str(int(algorithm)), "00")
    assert not any("VALIDSIG" in line for line in gpg_status(home, tmp_path, seal.packet, CONTENT + b"x"))
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(home.gpg("--export", home.fingerprints[name]))
    gpg_status(home, tmp_path, seal.packet)  # puts the right content back
    command = ["gpgv", "--keyring", str(keyring), str(tmp_path / "content.sig"), str(tmp_path / "content")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_its_record_tells_type_time_digest_and_length_of_the_content(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory:
        with signer(directory), Client(directory) as client:
            answer = client.ask(request(client.next_id(), home.grips["ed25519"]))
        assert isinstance(answer, StateSealed)
        _, record, _ = records_in(directory / "audit")
        assert (record["operation"], record["outcome"], record["key"]) == ("seal", "signed", "ed25519")
        assert record["digest"] == hashlib.sha256(CONTENT + answer.seal.trailer).hexdigest()
        assert record["digest"] == answer.seal.digest.value.hex()
        assert record["signature_sha256"] == signature_sha256(answer.seal.signature).hex()
        created = f"{answer.seal.created:%Y-%m-%dT%H:%M:%S}.000000Z"
        assert record["details"] == {"type": "0x00", "content_length": str(len(CONTENT)), "created": created}
        assert verify(directory / "audit", heads=[answer.head]).damage is None


def test_a_key_that_is_seal_only_seals_and_signs_nothing(home: GnupgHome, tmp_path: Path) -> None:
    with state(home, "rsa2048") as directory:
        write_keys(directory, home, "rsa2048", seal_only=True, usage=["certify", "sign"])
        with signer(directory), Client(directory) as client:
            signed = client.sign(home.grips["rsa2048"])
            answer = client.ask(request(client.next_id(), home.grips["rsa2048"]))
        assert isinstance(signed, NotDone)
        assert "seal" in signed.reason
        assert isinstance(answer, StateSealed)
        assert any(" GOODSIG " in line for line in gpg_status(home, tmp_path, answer.seal.packet))
        outcomes = [(record["operation"], record["outcome"]) for record in records_in(directory / "audit")[1:3]]
        assert outcomes == [("sign", "refused"), ("seal", "signed")]


def test_what_the_keys_file_does_not_allow_is_not_sealed(home: GnupgHome) -> None:
    with state(home, "rsa2048") as directory:
        write_keys(directory, home, "rsa2048", hash_algorithms=["sha512"])
        with signer(directory), Client(directory) as client:
            answer = client.ask(request(client.next_id(), home.grips["rsa2048"]))
            unknown = client.ask(request(client.next_id(), Keygrip(bytes(20))))
        assert isinstance(answer, NotDone)
        assert answer.code is FailureCode.KEY_UNAVAILABLE
        assert "SHA256" in answer.reason
        assert isinstance(unknown, NotDone)
        refused = records_in(directory / "audit")[1:3]
        told = [(each["operation"], each["outcome"], each["digest"]) for each in refused]
        assert told == [("seal", "refused", None)] * 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"created": datetime(2100, 1, 1, tzinfo=UTC)}, "clock"),  # stepped back since the start
        ({"expires": datetime(2021, 1, 1, tzinfo=UTC)}, "expired"),
        ({"fingerprint": Fingerprint(bytes(32))}, "version 4"),  # of another version
    ],
)
async def test_a_key_that_no_signature_of_now_can_be_of_seals_nothing(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with _desk(tmp_path) as desk:
        facts = replace(desk.requests.keyring.facts[desk.grip], **changes)  # type: ignore[arg-type]  # a table of fields
        desk.requests.keyring = Keyring({desk.grip: facts}, desk.backend)
        (answer,) = await desk.ask(request(1, desk.grip))
        assert isinstance(answer, NotDone)
        assert reason in answer.reason
        assert desk.backend.signatures == 0


async def test_an_ed448_key_of_gpg_2_4_seals(tmp_path: Path) -> None:
    """In the form that gpg 2.4.7 verifies; a conformance test asks it."""
    private = ed448.Ed448PrivateKey.from_private_bytes(bytes(range(57)))
    public = EccPublicKey(Curve.ED448, private.public_key().public_bytes_raw())
    lists = (b"ecc", (b"curve", b"Ed448"), (b"q", public.q), (b"d", private.private_bytes_raw()))
    key = keyfile.parse(canonical((b"private-key", lists)), public.keygrip, None)
    issuer = Fingerprint(bytes(range(32)))
    with _desk(tmp_path) as desk:
        facts = replace(
            desk.requests.keyring.facts[desk.grip], keygrip=public.keygrip, public_key=public, fingerprint=issuer
        )
        desk.requests.keyring = Keyring({public.keygrip: facts}, SoftwareBackend({public.keygrip: key}))
        (answer,) = await desk.ask(request(1, public.keygrip, HashAlgorithm.SHA512))
    assert isinstance(answer, StateSealed)
    seal = answer.seal
    assert isinstance(seal.signature, EddsaSignature)
    digest = hashlib.sha512(CONTENT + seal.trailer).digest()
    private.public_key().verify(seal.signature.r + seal.signature.s, digest)
    assert seal.fingerprint == issuer
    assert b"\x22\x21\x05" + issuer.value in seal.packet
    assert records_in(tmp_path)[-1]["fingerprint"] == str(issuer)


async def test_a_faulty_backends_seal_never_leaves(tmp_path: Path) -> None:
    with _desk(tmp_path) as desk:
        desk.backend.flip = True
        (answer,) = await desk.ask(request(1, desk.grip))
        assert isinstance(answer, NotDone)
        assert answer.code is FailureCode.BAD_SIGNATURE


def plain(home: GnupgHome) -> dict[str, object]:
    fields: dict[str, object] = json.loads(TO_SIGNER.encode(request(1, home.grips["rsa2048"])))
    return fields


STATES: list[dict[str, object]] = [
    {"algorithm": 9, "chaining_value": "00" * 64, "length": 0, "rest": ""},  # SHA-384
    {"algorithm": 2, "chaining_value": "00" * 20, "length": 64, "rest": ""},  # SHA-1
    {"algorithm": 8, "chaining_value": "00" * 31, "length": 64, "rest": ""},
    {"algorithm": 8, "chaining_value": "00" * 64, "length": 64, "rest": ""},
    {"algorithm": 8, "chaining_value": "00" * 32, "length": 0, "rest": ""},
    {"algorithm": 8, "chaining_value": "00" * 32, "length": 65, "rest": ""},
    {"algorithm": 8, "chaining_value": "00" * 32, "length": 64, "rest": "00" * 64},
    {"algorithm": 8, "chaining_value": "00" * 32, "length": -64, "rest": ""},
    {"algorithm": 8, "chaining_value": "00" * 32, "length": 2**61, "rest": ""},
    {"algorithm": 8, "chaining_value": "00" * 32, "length": 2**64, "rest": ""},
    {"algorithm": 8, "chaining_value": "00" * 32, "length": 64.0, "rest": ""},
    {"algorithm": 8, "chaining_value": "00" * 32, "length": "64", "rest": ""},
]


@pytest.mark.parametrize("broken", STATES)
def test_an_impossible_state_ends_the_connection_and_touches_no_key(home: GnupgHome, broken: dict[str, object]) -> None:
    payload = json.dumps({**plain(home), "state": broken}).encode()
    with state(home, "rsa2048") as directory:
        with signer(directory), Client(directory) as client:
            client.socket.sendall(struct.pack(">I", len(payload)) + payload)
            assert client.receive() is None
        assert [record["operation"] for record in records_in(directory / "audit")] == [
            "signer_started",
            "signer_stopped",
        ]


CHOICES: list[dict[str, object]] = [
    {"created": "2020-01-01T00:00:00.000000Z"},
    {"time": 1577836800},
    {"type_": 16},
    {"signature_type": "0x10"},
    {"fingerprint": "00" * 20},
    {"issuer": "0000000000000000"},
    {"trailer": "0410010800"},
    {"subpackets": []},
    {"digest": {"algorithm": 8, "value": "00" * 32}},
]


@pytest.mark.parametrize("choice", CHOICES)
def test_nobody_can_choose_type_time_or_issuer_of_a_seal(home: GnupgHome, choice: dict[str, object]) -> None:
    payload = json.dumps({**plain(home), **choice}).encode()
    with state(home, "rsa2048") as directory:
        with signer(directory), Client(directory) as client:
            client.socket.sendall(struct.pack(">I", len(payload)) + payload)
            assert client.receive() is None
        assert len(records_in(directory / "audit")) == 2


def test_what_is_hidden_in_the_content_stays_content(home: GnupgHome, tmp_path: Path) -> None:
    """A taken-over oracle sends the state behind what gpg hashes for a certification, trailer and all."""
    primary = home.gpg("--export", home.fingerprints["ed25519"])
    body = b"\x99" + struct.pack(">H", len(primary)) + primary + b"\xb4" + struct.pack(">I", 1) + b"x"
    head = b"\x04\x13\x16\x08\x00\x06\x05\x02" + struct.pack(">I", 1577836800)
    forged = body + head + b"\x04\xff" + struct.pack(">I", len(head))
    with state(home, "ed25519") as directory:
        write_keys(directory, home, "ed25519", seal_only=True)
        with signer(directory), Client(directory) as client:
            hashed = HashState.initial(HashAlgorithm.SHA256).updated(forged)
            answer = client.ask(SealState(1, "0" * 32, home.grips["ed25519"], hashed, Asserted()))
            wanted = Digest(HashAlgorithm.SHA256, hashlib.sha256(forged).digest())
            assert isinstance(answer, StateSealed)
            assert answer.seal.digest != wanted
            assert not isinstance(client.sign(home.grips["ed25519"]), DigestSigned)
    # What came out is a signature over those bytes as a document, made now, and nothing else.
    (valid,) = [line.split() for line in gpg_status(home, tmp_path, answer.seal.packet, forged) if " VALIDSIG " in line]
    assert valid[10] == "00"
    assert datetime.now(UTC) - datetime.fromtimestamp(int(valid[4]), UTC) < timedelta(minutes=5)

"""The signer as its peers see it: a process behind a socket."""

import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Asserted, Claims
from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.signatures import EddsaSignature
from agentproxy.protocol.signer_answers import (
    CheckpointTaken,
    DigestSigned,
    Issued,
    Keys,
    NotDone,
    Recorded,
    StatusReport,
)
from agentproxy.protocol.signer_requests import (
    CertificateKind,
    Issue,
    ListKeys,
    Outcome,
    Record,
    SignDigest,
    Status,
    TakeCheckpoint,
)
from agentproxy.signer.checkpoint import Checkpoint
from agentproxy.signer.logkey import read_public_key
from agentproxy.signer.record import signature_sha256
from agentproxy.signer.verify import check
from agentproxy.signer.verifylog import verify
from tests.signer.conftest import GnupgHome
from tests.signer.logs import records_in, write_log
from tests.signer.running import (
    BOUND_SECONDS,
    Client,
    logs_of,
    sign_request,
    signer,
    start,
    state,
    write_config,
    write_keys,
)


def test_a_signature_comes_with_the_head_that_holds_its_record(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory:
        with signer(directory), Client(directory) as client:
            keys = client.ask(ListKeys(client.next_id()))
            answer = client.sign(home.grips["ed25519"], 5)
        assert isinstance(keys, Keys)
        assert isinstance(answer, DigestSigned)
        assert isinstance(answer.signature, EddsaSignature)
        check(keys.keys[0].public_key, Digest(HashAlgorithm.SHA512, (5).to_bytes(64, "big")), answer.signature)
        started, signed, stopped = records_in(directory / "audit")
        assert started["operation"] == "signer_started"
        assert started["details"] == {
            "version": "0.1.0",
            "key.ed25519": home.fingerprints["ed25519"],
            "audit_key": read_public_key(directory / "audit" / "node-1.pub").id.hex(),
        }
        assert signed["key"] == "ed25519"
        assert signed["request"] == f"{5:032x}"
        assert signed["digest"] == (5).to_bytes(64, "big").hex()
        assert signed["signature_sha256"] == signature_sha256(answer.signature).hex()
        assert signed["asserted"]["runner"] == "builder"  # type: ignore[index]  # JSON
        assert isinstance(signed["duration_us"], int)
        assert stopped["operation"] == "signer_stopped"
        assert verify(directory / "audit", heads=[answer.head]).damage is None


@pytest.mark.parametrize("name", ["rsa2048", "ed25519", "p256", "p521"])
def test_every_kind_of_key_signs(home: GnupgHome, name: str) -> None:
    with state(home, name) as directory:
        write_keys(directory, home, name, hash_algorithms=["sha512"])
        with signer(directory), Client(directory) as client:
            assert isinstance(client.sign(home.grips[name]), DigestSigned)


def test_many_requests_are_in_flight_on_several_connections(home: GnupgHome) -> None:
    grip = home.grips["rsa2048"]
    with state(home, "rsa2048") as directory:
        with signer(directory), Client(directory) as one, Client(directory) as other:
            for client in (one, other):
                client.send(*(sign_request(number, grip, number) for number in range(100)))
            for client in (one, other):
                answers = [client.receive() for _ in range(100)]
                assert sorted(answer.id for answer in answers if isinstance(answer, DigestSigned)) == [*range(100)]
        report = verify(directory / "audit")
        assert (report.damage, report.records) == (None, 202)


def test_what_was_in_flight_is_finished_when_it_is_told_to_end(home: GnupgHome) -> None:
    grip = home.grips["rsa3072"]
    with state(home, "rsa3072") as directory, signer(directory) as process, Client(directory) as client:
        client.send(*(sign_request(number, grip, number) for number in range(50)))
        assert isinstance(client.receive(), DigestSigned)
        process.send_signal(signal.SIGTERM)
        answers = iter(client.receive, None)
        assert len([answer for answer in answers if isinstance(answer, DigestSigned)]) == 49


@pytest.mark.parametrize(
    ("overrides", "algorithm", "reason"),
    [
        ({"seal_only": True}, HashAlgorithm.SHA256, "seal"),
        ({"hash_algorithms": ["sha512"]}, HashAlgorithm.SHA256, "SHA256"),
        ({}, HashAlgorithm.SHA1, "SHA1"),
    ],
)
def test_the_keys_file_has_the_last_word(
    home: GnupgHome, overrides: dict[str, object], algorithm: HashAlgorithm, reason: str
) -> None:
    with state(home, "rsa2048") as directory:
        write_keys(directory, home, "rsa2048", **overrides)
        with signer(directory), Client(directory) as client:
            digest = Digest(algorithm, bytes(algorithm.digest_size))
            answer = client.ask(SignDigest(1, "0" * 32, home.grips["rsa2048"], digest, Asserted()))
        assert isinstance(answer, NotDone)
        assert answer.code is FailureCode.KEY_UNAVAILABLE
        assert reason in answer.reason
        record = records_in(directory / "audit")[1]
        assert (record["outcome"], record["signature_sha256"]) == ("refused", None)
        assert reason in str(record["reason"])


def test_an_unknown_key_is_refused_and_recorded(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory:
        with signer(directory), Client(directory) as client:
            answer = client.sign(Keygrip(bytes(20)))
        assert isinstance(answer, NotDone)
        assert not answer.retryable
        assert records_in(directory / "audit")[1]["keygrip"] == "00" * 20


def test_what_the_oracle_reports_is_recorded(home: GnupgHome) -> None:
    asserted = Asserted(runner="b", claims=Claims(uid=7, commands=("gpg",)))
    with state(home, "ed25519") as directory:
        with signer(directory), Client(directory) as client:
            done = client.ask(Record(1, "token_revoked", Outcome.DONE, "leaked", asserted, details={"token": "abc"}))
            refused = client.ask(Record(2, "sign", Outcome.REFUSED, "forbidden: no", asserted, durable=False))
        assert isinstance(done, Recorded)
        assert isinstance(refused, Recorded)
        assert (done.head.sequence, refused.head.sequence) == (2, 3)
        record = records_in(directory / "audit")[1]
        assert (record["operation"], record["details"]) == ("token_revoked", {"token": "abc"})


def test_a_certificate_leaves_a_record(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory:
        with signer(directory), Client(directory) as client:
            issued = client.ask(Issue(1, CertificateKind.CLIENT, "builder-1", (), 30, Asserted(channel="cli")))
            bad = client.ask(Issue(2, CertificateKind.SERVER, "node-1", ("*.example.org",), 30, Asserted()))
        assert isinstance(issued, Issued)
        assert isinstance(bad, NotDone)
        assert x509.load_pem_x509_certificate(issued.certificate.encode())
        _, record, refusal, _ = records_in(directory / "audit")
        assert record["operation"] == "issue"
        details = record["details"]
        assert isinstance(details, dict)
        assert details["common_name"] == "builder-1"
        assert details["public_key_sha256"] == issued.public_key_sha256.hex()
        assert refusal["outcome"] == "refused"
        assert "PRIVATE" not in (directory / "audit" / "node-1-000000000001.jsonl").read_text()


def test_no_certificate_names_hosts_that_its_record_has_no_room_for(home: GnupgHome) -> None:
    hosts = (*(f"{letter * 60}.{'x' * 60}.{'x' * 60}.{'x' * 60}.example" for letter in "abcd"), "oracle.example.org")
    with state(home, "ed25519") as directory:
        with signer(directory), Client(directory) as client:
            refused = client.ask(Issue(1, CertificateKind.SERVER, "node-1", hosts, 30, Asserted()))
            issued = client.ask(Issue(2, CertificateKind.SERVER, "node-1", hosts[1:], 30, Asserted()))
        assert isinstance(refused, NotDone)
        assert "hosts" in refused.reason
        assert isinstance(issued, Issued)
        _, refusal, record, _ = records_in(directory / "audit")
        assert refusal["outcome"] == "refused"
        assert record["details"]["hosts"] == ",".join(hosts[1:])  # type: ignore[index]  # JSON


def test_a_certificate_and_a_signature_have_their_records_also_on_a_disk_that_is_nearly_full(home: GnupgHome) -> None:
    """Whatever the oracle says of who asked: reports of fallback may be left out then."""
    asserted = Asserted(channel="fallback")
    with state(home, "ed25519") as directory:
        write_config(directory, audit={"directory": "audit", "reserve_bytes": 1 << 60})
        with signer(directory), Client(directory) as client:
            left_out = client.ask(Record(1, "fallback_sign", Outcome.DONE, "", asserted))
            issued = client.ask(Issue(2, CertificateKind.CLIENT, "builder-1", (), 30, asserted))
            signed = client.ask(replace(sign_request(3, home.grips["ed25519"]), asserted=asserted))
        assert isinstance(left_out, NotDone)
        assert isinstance(issued, Issued)
        assert isinstance(signed, DigestSigned)
        operations = [record["operation"] for record in records_in(directory / "audit")]
        assert operations == ["signer_started", "records_left_out", "issue", "sign", "signer_stopped"]


def test_status_tells_what_a_health_check_asks(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory, signer(directory), Client(directory) as client:
        client.sign(home.grips["ed25519"])
        report = client.ask(Status(9))
        assert isinstance(report, StatusReport)
        assert (report.operational, report.keys, report.signatures) == (True, 1, 1)
        assert report.head is not None
        assert report.head.sequence == 2
        for times in (report.sign_times, report.audit_times):
            assert times is not None
            assert sum(times.counts) >= 1
            assert times.total_us > 0
        assert report.audit_bytes > 1000
        assert report.last_checkpoint is not None


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 2) + b"{}",
        struct.pack(">I", 9) + b"not JSON!",
        struct.pack(">I", 40) + b'{"type":"export_key","id":1,"name":"rsa"}'[:40],
        b'\x00\x00\x00\x20{"type":"list_keys","id":1,"x":2}',
        os.urandom(4096),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_ends_its_connection_and_the_signer_lives(home: GnupgHome, garbage: bytes) -> None:
    with state(home, "ed25519") as directory, signer(directory), Client(directory) as good:
        with Client(directory) as bad:
            bad.socket.sendall(garbage)
            bad.socket.shutdown(socket.SHUT_WR)
            assert bad.receive() is None
        assert isinstance(good.sign(home.grips["ed25519"]), DigestSigned)


def test_a_peer_with_another_uid_is_turned_away(home: GnupgHome) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    program = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.settimeout(20)\n"
        "s.connect(sys.argv[1]); sys.exit(0 if s.recv(1) == b'' else 1)"
    )
    with state(home, "ed25519") as directory, signer(directory):
        directory.chmod(0o755)
        (directory / "signer.sock").chmod(0o666)  # so that it is the check that refuses
        done = subprocess.run(
            [sys.executable, "-c", program, str(directory / "signer.sock")], timeout=BOUND_SECONDS, check=False
        )
        assert done.returncode == 0


def test_the_socket_is_closed_to_others(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory, signer(directory):
        assert (directory / "signer.sock").stat().st_mode & 0o007 == 0


def test_the_process_cannot_be_dumped(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory, signer(directory) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert "Max core file size        0                    0" in limits
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0  # what an undumpable process's files belong to


def test_a_second_signer_on_one_directory_is_refused(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory, signer(directory):
        write_config(directory, socket="other.sock")
        code, errors = _run(directory)
        assert code == 78
        assert "another signer writes this audit log" in errors


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda directory: (directory / "signer.yaml").unlink(), "signer.yaml"),
        (lambda directory: (directory / "keys.yaml").write_text("keys: ["), "keys.yaml"),
        (lambda directory: (directory / "authority.key").chmod(0o644), "authority.key"),
        (lambda directory: (directory / "authority.crt").unlink(), "authority.crt"),
        (lambda directory: (directory / "audit").rmdir(), "audit"),
        (
            lambda directory: os.mkfifo(directory / "audit" / "node-1.checkpoints"),
            "node-1.checkpoints: cannot be read: expected a regular file",
        ),
    ],
)
def test_a_wrong_configuration_is_one_clear_error(home: GnupgHome, break_it: object, message: str) -> None:
    with state(home, "ed25519") as directory:
        assert callable(break_it)
        break_it(directory)
        code, errors = _run(directory)
    assert code == 78
    first = errors.splitlines()[0]
    assert first.startswith("blind-oracle: error: ")
    assert message in first
    assert "Traceback" not in errors


def test_keys_are_reloaded_whole_or_not_at_all(home: GnupgHome) -> None:
    with state(home, "ed25519", "p256") as directory:
        write_keys(directory, home, "ed25519")
        with signer(directory) as process, Client(directory) as client:
            assert isinstance(client.sign(home.grips["p256"]), NotDone)
            write_keys(directory, home, "ed25519", "p256")
            process.send_signal(signal.SIGHUP)
            while not isinstance(client.sign(home.grips["p256"]), DigestSigned):
                pass
        operations = [record["operation"] for record in records_in(directory / "audit")]
        assert operations.count("keys_reloaded") == 1


def _run(directory: Path) -> tuple[int, str]:
    process = start(directory)
    _, errors = process.communicate(timeout=BOUND_SECONDS)
    return process.returncode, errors.decode()


def test_a_checkpoint_is_signed_on_request_and_at_the_end(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory:
        with signer(directory), Client(directory) as client:
            client.sign(home.grips["ed25519"])
            taken = client.ask(TakeCheckpoint(client.next_id()))
        key = read_public_key(directory / "audit" / "node-1.pub")
        assert isinstance(taken, CheckpointTaken)
        assert Checkpoint(taken.head, taken.time, taken.key, taken.signature).is_signed_by(key)
        assert taken.head.sequence == 2
        report = verify(directory / "audit", keys=[key])
        assert (report.damage, report.covered, report.records) == (None, 3, 3)
        assert (directory / "audit.key").stat().st_mode & 0o777 == 0o600


def test_a_log_from_before_checkpoints_gets_its_key_at_the_next_start(home: GnupgHome) -> None:
    with state(home, "ed25519") as directory:
        write_log(directory / "audit", 5)
        assert not list((directory / "audit").glob("*.checkpoints"))
        with signer(directory), Client(directory) as client:
            client.ask(ListKeys(client.next_id()))
        key = read_public_key(directory / "audit" / "node-1.pub")
        assert verify(directory / "audit", keys=[key]).covered == 7


def test_the_configuration_says_when_segments_are_sealed(home: GnupgHome) -> None:
    small = {"directory": "audit", "reserve_bytes": 0, "rotate_bytes": 1 << 20}
    with state(home, "ed25519", audit=small) as directory:
        with signer(directory), Client(directory) as client:
            details = {f"d{number}": "x" * 1024 for number in range(30)}
            for _ in range(40):
                record = Record(client.next_id(), "hello", Outcome.DONE, "", Asserted(), details=details)
                assert isinstance(client.ask(record), Recorded)
        assert len(logs_of(directory)) == 2
        key = read_public_key(directory / "audit" / "node-1.pub")
        report = verify(directory / "audit", keys=[key])
        assert (report.damage, report.segments) == (None, 2)
        assert report.checkpoints >= 3


@pytest.mark.parametrize("wrong", [{"rotate_bytes": 5}, {"rotate_days": 0}, {"rotate_days": 400}])
def test_a_rotation_that_makes_no_sense_is_refused(home: GnupgHome, wrong: dict[str, int]) -> None:
    with state(home, "ed25519", audit={"directory": "audit", **wrong}) as directory:
        process = start(directory)
        _, errors = process.communicate(timeout=BOUND_SECONDS)
        assert process.returncode == 78
        assert next(iter(wrong)) in errors.decode()

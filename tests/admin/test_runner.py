import base64
import hashlib
import json
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from agentproxy.admin.layout import Layout, load_oracle
from agentproxy.oracle.policy import Policy
from agentproxy.oracle.registry import Registry
from agentproxy.runtime.config import load
from agentproxy.signer.record import AuditRecord
from agentproxy.signer.verifylog import verify
from tests.admin.exports import Exports
from tests.admin.shell import Result, blind_oracle

ED25519 = base64.b64encode(b"\0\0\0\x0bssh-ed25519" + b"\0\0\0\x20" + bytes(32)).decode()


@pytest.fixture(name="state")
def made_state(short: Path, exports: Exports) -> Layout:
    layout = Layout(short / "s")
    assert blind_oracle("init", layout.root, "--host", "oracle.example").status == 0
    result = blind_oracle("key", "import", exports.subkeys["modern"], "--name", "modern", "--policy-add", *at(layout))
    assert result.status == 0, result.errors
    return layout


def at(layout: Layout) -> tuple[str | Path, ...]:
    return ("--config", layout.oracle_config)


def add(state: Layout, name: str, *words: str | Path) -> Result:
    return blind_oracle("runner", "add", name, "--output", state.root / f"{name}.enrolment", *words, *at(state))


def records(state: Layout) -> list[AuditRecord]:
    [segment] = (state.audit).glob("*.jsonl")
    return [AuditRecord.parse(line) for line in segment.read_bytes().splitlines()]


def test_one_command_gives_a_build_server_all_that_it_needs(state: Layout) -> None:
    result = add(state, "build-01", "--key", "modern", "--policy-add")
    assert result.status == 0, result.errors
    file = state.root / "build-01.enrolment"
    assert file.stat().st_mode & 0o777 == 0o600
    content = json.loads(file.read_text())
    assert content["format"] == "blind-oracle enrolment 1"
    assert content["runner"] == "build-01"
    assert content["oracles"] == [{"address": "oracle.example:7443", "server_name": "oracle.example"}]
    assert re.fullmatch(r"bo_[A-Za-z0-9_-]{43}", content["token"])
    certificate = x509.load_pem_x509_certificate(content["certificate"].encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(content["authority"].encode()))
    assert content["token"] not in result.output + result.errors
    assert load(state.policy, Policy).runners["build-01"].keys == ("modern",)


def test_the_registry_knows_hashes_only_and_the_log_knew_first(state: Layout) -> None:
    assert add(state, "b1").status == 0
    content = json.loads((state.root / "b1.enrolment").read_text())
    registry = Registry.open(load_oracle(state.oracle_config).database)
    try:
        token = registry.find_token(hashlib.sha256(content["token"].encode()).digest())
        der = ssl.PEM_cert_to_DER_cert(content["certificate"])
        certificate = registry.find_certificate(hashlib.sha256(der).digest())
    finally:
        registry.close()
    assert token is not None
    assert certificate is not None
    assert token.runner == certificate.runner == "b1"
    assert token.expires is not None
    operations = [record.entry.operation for record in records(state)]
    assert operations.index("runner_added") < operations.index("credentials_issued")
    added = next(record.entry for record in records(state) if record.entry.operation == "credentials_issued")
    assert added.asserted.runner == added.details["runner"] == "b1"
    assert added.details["kind"] == token.kind == "bootstrap"
    assert added.details["token_sha256"] == token.sha256.hex()
    assert added.details["certificate_sha256"] == certificate.sha256.hex()
    for file in state.root.rglob("*"):
        if file.is_file() and file.name != "b1.enrolment":
            assert content["token"].encode() not in file.read_bytes(), file
    assert verify(state.audit).damage is None


def test_a_runner_is_added_while_the_signer_runs(state: Layout) -> None:
    command = [sys.executable, "-m", "agentproxy.signer", "--config", state.signer_config]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as signer:
        try:
            while not (state.run / "signer.sock").exists():
                assert signer.poll() is None
            assert add(state, "b1").status == 0
            assert signer.poll() is None
        finally:
            signer.send_signal(signal.SIGTERM)
            signer.wait(10)
            assert signer.stderr is not None
            signer.stderr.read()
    started = [record for record in records(state) if record.entry.operation == "signer_started"]
    assert len(started) == 1


def test_a_second_runner_of_the_name_and_an_existing_file_are_refused(state: Layout) -> None:
    assert add(state, "b1").status == 0
    before = (state.root / "b1.enrolment").read_bytes()
    result = add(state, "b1")
    assert result.status == 1
    assert "b1.enrolment: is there already" in result.errors
    assert (state.root / "b1.enrolment").read_bytes() == before
    result = blind_oracle("runner", "add", "b1", "--output", state.root / "other", *at(state))
    assert result.status == 1
    assert "runner b1 exists already" in result.errors
    assert not (state.root / "other").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a b"], "runner: expected 1 to 64 letters"),
        (["b1", "--key", "gone"], "no key gone"),
        (["b1", "--policy-add"], "--policy-add: expected --key, too"),
    ],
)
def test_wrong_values_are_refused_and_leave_no_file(words: list[str], expected: str, state: Layout) -> None:
    result = blind_oracle("runner", "add", *words, "--output", state.root / "f", *at(state))
    assert result.status == 1
    assert expected in result.errors
    assert not (state.root / "f").exists()


def test_a_signer_that_cannot_start_says_why_and_nothing_is_added(state: Layout) -> None:
    (state.signer / "authority.key").chmod(0o644)
    result = add(state, "b1")
    assert result.status == 1
    assert "the signer does not start" in result.errors
    assert "authority.key: others may read it" in result.errors
    assert not (state.root / "b1.enrolment").exists()
    registry = Registry.open(load_oracle(state.oracle_config).database)
    assert registry.snapshot().runners == {}
    registry.close()


def test_an_oracle_that_listens_everywhere_must_be_told_its_name(state: Layout) -> None:
    text = state.oracle_config.read_text()
    text = re.sub(r"addresses: .*", "addresses: []", text)
    state.oracle_config.write_text(text)
    result = add(state, "b1")
    assert result.status == 1
    assert "addresses: expected what build servers dial" in result.errors


def test_a_build_server_that_comes_over_ssh_is_enrolled_again_over_ssh(state: Layout) -> None:
    with state.oracle_config.open("a") as file:
        file.write("attach: {socket: run/attach.sock, users: [tunnel], address: 'ssh://tunnel@oracle.example'}\n")
    key = state.root / "id.pub"
    key.write_text(f"ssh-ed25519 {ED25519} build-01\n")
    first = add(state, "build-01", "--ssh-key", key)
    assert first.status == 0, first.errors
    again = state.root / "again.enrolment"
    result = blind_oracle("runner", "enroll", "build-01", "--ssh-key", key, "--output", again, *at(state))
    assert result.status == 0, result.errors
    assert json.loads(again.read_text())["oracles"] == [
        {"address": "ssh://tunnel@oracle.example", "server_name": "oracle.example"}
    ]
    (line,) = (line for line in first.output.splitlines() if line.startswith("restrict,"))
    assert line in result.output.splitlines()


def test_whoever_enrols_a_build_server_again_without_its_ssh_key_is_told_what_the_file_names(state: Layout) -> None:
    assert add(state, "build-01").status == 0
    words = "for a build server that comes over ssh: --ssh-key FILE"
    told = []
    for number in range(2):
        output = state.root / f"again-{number}"
        told.append(blind_oracle("runner", "enroll", "build-01", "--output", output, *at(state)).output)
        with state.oracle_config.open("a") as file:
            file.write("attach: {socket: run/attach.sock, users: [tunnel], address: 'ssh://tunnel@oracle.example'}\n")
    assert [words in output for output in told] == [False, True]

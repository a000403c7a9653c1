"""The whole way of a signature: unmodified gpg and rpmsign, real relay, TLS, oracle, signer, and its record."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.admin.layout import load_oracle, load_signer
from agentproxy.signer.keysfile import load as load_keys
from tests.admin.shell import blind_oracle
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, System, until

DEADLINE_SECONDS = 10  # of a dev system's relay
SLACK_SECONDS = 5  # for gpg and the relay to notice, on a busy machine
SPEC = """\
Name: hello
Version: 1.0
Release: 1
Summary: A package to sign
License: Apache-2.0
BuildArch: noarch
%description
A package to sign.
%files
"""


@pytest.fixture(name="package")
def built_package(tmp_path: Path) -> Path:
    (tmp_path / "hello.spec").write_text(SPEC)
    command = ["rpmbuild", "--quiet", "--define", f"_topdir {tmp_path}/build", "-bb", tmp_path / "hello.spec"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    [package] = (tmp_path / "build").rglob("*.rpm")
    return package


@pytest.mark.parametrize("key", ["modern", "legacy"])
def test_gpg_signs_with_a_key_that_is_not_there_and_the_record_says_so(
    system: System, offline: Offline, key: str, tmp_path: Path
) -> None:
    before = len(system.signed())
    done = system.sign(key, "--output", tmp_path / "sig")
    assert done.returncode == 0, done.stderr
    assert system.is_good((tmp_path / "sig").read_text(), offline.fingerprints[key])
    [record] = system.signed()[before:]
    assert (record["operation"], record["key"]) == ("sign", key)
    assert record["fingerprint"] == offline.fingerprints[key]
    assert record["asserted"]["runner"] == "dev"  # type: ignore[index]  any JSON
    assert record["signature_sha256"] == _sha256_of_rsa_number(tmp_path / "sig", offline)


def _sha256_of_rsa_number(signature: Path, offline: Offline) -> str:
    """What the record keeps of a signature: SHA-256 of RSA's number, the last field of the packet (RFC 9580, 5.2.3).

    One in 200 numbers is shorter than the modulus.
    """
    body = offline.gpg("--dearmor", "--output", "-", str(signature))[3:]  # behind tag and two octets of length
    at = 6 + int.from_bytes(body[4:6])  # the hashed subpackets
    at += 2 + int.from_bytes(body[at : at + 2]) + 2  # the others, and the digest's first two octets
    return hashlib.sha256(body[at + 2 :]).hexdigest()


def test_rpmsign_signs_a_package_that_rpm_then_accepts(
    system: System, offline: Offline, package: Path, tmp_path: Path
) -> None:
    for key in ("legacy", "modern"):
        database, public = tmp_path / f"db-{key}", tmp_path / f"{key}.asc"
        public.write_bytes(offline.public(key))
        assert system.run("rpmkeys", "--dbpath", database, "--import", public).returncode == 0
        before = len(system.signed())
        done = system.run(*_rpmsign(package, key))
        assert done.returncode == 0, done.stderr
        shown = system.run("rpmkeys", "--dbpath", database, "-K", package)
        assert (shown.returncode, shown.stdout.strip()) == (0, f"{package}: digests signatures OK")
        assert len(system.signed()) == before + 1


def _rpmsign(package: Path, key: str) -> tuple[str | Path, ...]:
    macros = ("--define", f"_gpg_name {key}@example.org", "--define", "__gpg /usr/bin/gpg")
    return ("rpmsign", *macros, "--addsign", package)


def test_git_signs_a_commit_and_a_tag(system: System, tmp_path: Path) -> None:
    settings = ("user.name=B", "user.email=b@example.org", "user.signingkey=modern@example.org", "commit.gpgsign=true")
    git = ("git", "-C", tmp_path, *(word for setting in settings for word in ("-c", setting)))
    for words in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "first"), ("tag", "-s", "-m", "t", "v1")):
        done = system.run(*git, *words)
        assert done.returncode == 0, done.stderr
    for words in (("tag", "-v", "v1"), ("verify-commit", "HEAD")):
        assert "Good signature" in system.run(*git, *words).stderr


def test_forty_at_once_all_get_their_signature_and_their_record(
    system: System, offline: Offline, tmp_path: Path
) -> None:
    before, environment = len(system.signed()), system.environment
    files = [tmp_path / str(number) for number in range(40)]
    for each in files:
        each.write_text(f"{each}\n")
    command = ("gpg", "--batch", "--armor", "-u", "modern@example.org", "--detach-sign")
    running = [subprocess.Popen([*command, each], env=environment) for each in files]
    assert [process.wait(SECONDS) for process in running] == [0] * 40
    for each in files:
        assert system.is_good(Path(f"{each}.asc").read_text(), offline.fingerprints["modern"], each.read_text())
    digests = [str(record["digest"]) for record in system.signed()[before:]]
    assert len(digests) == len(set(digests)) == 40


def test_the_log_is_whole_and_holds_what_the_relay_was_told(system: System, tmp_path: Path) -> None:
    assert system.sign().returncode == 0
    report = system.run("blind-oracle-relay", "status", "--json")
    assert report.returncode == 0, report.stderr
    (tmp_path / "status").write_text(report.stdout)
    result = blind_oracle("audit", "verify", system.audit, "--head", tmp_path / "status")
    assert result.status == 0, result.output + result.errors
    assert "1 saved head found in it" in result.output


def _primes(system: System) -> Iterator[bytes]:
    """A prime factor of each key, big-endian: who has it, has the key."""
    oracle = load_oracle(system.directory / "oracle.yaml")
    signer = load_signer(oracle)
    for entry in load_keys(signer.keys_file).keys.values():
        text = (signer.gnupg_home / "private-keys-v1.d" / f"{entry.keygrip}.key").read_bytes()
        if b"(1:p" in text:
            start = text.index(b":", text.index(b"(1:p") + 4) + 1
            yield text[start:][:129].lstrip(b"\0")[:128]
        else:
            start = text.index(b"(p #") + 4
            yield bytes.fromhex(b"".join(text[start : text.index(b"#", start)].split()).decode()).lstrip(b"\0")


def _forms(prime: bytes) -> tuple[bytes, ...]:
    """As a number stands in files and in memory; OpenSSL keeps numbers little-endian."""
    middle = prime[32:96]
    return middle, middle[::-1], middle.hex().encode(), middle.hex().upper().encode()


def test_the_secret_part_is_in_no_file_outside_the_signers_directory(system: System) -> None:
    assert system.sign().returncode == 0
    primes = list(_primes(system))
    assert [len(prime) for prime in primes] == [128, 128]
    for path in system.directory.rglob("*"):
        if path.is_file() and not path.is_relative_to(system.directory / "signer"):
            content = path.read_bytes()
            for prime in primes:
                assert not any(form in content for form in _forms(prime)), path


def test_the_secret_part_is_not_in_the_memory_of_oracle_and_relay(system: System) -> None:
    assert system.sign().returncode == 0
    forms = [form for prime in _primes(system) for form in _forms(prime)]
    for part in ("oracle", "relay"):
        seen = 0
        for chunk in _memory(system, part):
            seen += len(chunk)
            assert not any(form in chunk for form in forms), part
        assert seen > 1_000_000
    # The same search finds it where it has to be, so it would have found it there.
    try:
        found = any(form in chunk for chunk in _memory(system, "signer") for form in forms)
    except PermissionError:
        return  # the signer is not dumpable, and we are not root
    assert found


def _memory(system: System, part: str) -> Iterator[bytes]:
    pid = system.pid(part)
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            addresses, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            memory.seek(start)
            try:
                yield memory.read(end - start)
            except OSError:
                continue  # the mapping is gone, or of a device


def _kill(system: System, part: str, number: signal.Signals = signal.SIGKILL) -> None:
    pid = system.pid(part)
    assert pid is not None
    os.kill(pid, number)


def test_without_the_oracle_gpg_ends_within_the_deadline_and_afterwards_signs_again(
    system: System, offline: Offline, tmp_path: Path
) -> None:
    relay = system.pid("relay")
    _kill(system, "oracle")
    began = time.monotonic()
    done = system.sign("modern", "--output", tmp_path / "sig")
    assert time.monotonic() - began < DEADLINE_SECONDS + SLACK_SECONDS
    assert done.returncode == 2
    assert "signing failed: Network error" in done.stderr
    assert not (tmp_path / "sig").exists()
    system.start("oracle")
    assert system.is_good(system.sign().stdout, offline.fingerprints["modern"])
    assert system.pid("relay") == relay


def test_an_oracle_that_dies_while_rpmsign_waits_leaves_the_package_as_it_was(system: System, package: Path) -> None:
    before = package.read_bytes()
    _kill(system, "oracle", signal.SIGSTOP)
    began = time.monotonic()
    command = [str(word) for word in _rpmsign(package, "modern")]
    with subprocess.Popen(command, env=system.environment, stderr=subprocess.PIPE, text=True) as rpmsign:
        status = ("blind-oracle-relay", "status", "--json")
        until(lambda: json.loads(system.run(*status).stdout)["waiting"] == 1, "rpmsign's gpg asks for a signature")
        _kill(system, "oracle")
        _, errors = rpmsign.communicate(timeout=SECONDS)
    assert time.monotonic() - began < DEADLINE_SECONDS + SLACK_SECONDS
    assert rpmsign.returncode != 0
    assert "signing failed" in errors
    assert package.read_bytes() == before


def test_a_killed_signer_comes_back_by_itself_and_the_log_stays_whole(system: System, offline: Offline) -> None:
    before, oracle = len(system.signed()), system.pid("oracle")
    assert system.sign().returncode == 0
    _kill(system, "signer")
    done = system.sign()
    assert done.returncode == 0, done.stderr
    assert system.is_good(done.stdout, offline.fingerprints["modern"])
    assert system.pid("oracle") == oracle
    assert len(system.signed()) >= before + 2
    system.assert_log_is_whole()

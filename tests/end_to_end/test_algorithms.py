"""Every algorithm that gpg 2.2 makes and we serve: gpg signs and verifies, rpm where it can, with the right bytes."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.protocol.digests import Digest, HashAlgorithm
from tests.admin.shell import blind_oracle
from tests.end_to_end.assuanclient import AssuanClient
from tests.end_to_end.offline import Offline, offline_machine
from tests.end_to_end.packages import build_packages, is_signed, rpmsign
from tests.end_to_end.place import System, system_with

ALGORITHMS = ("rsa2048", "rsa3072", "rsa4096", "ed25519", "nistp256", "nistp384", "nistp521", "dsa2048")
HASHES = {"nistp384": HashAlgorithm.SHA384, "nistp521": HashAlgorithm.SHA512}
PASSPHRASE = "correct horse"


@pytest.fixture(name="workshop", scope="module")
def keys_of_all_kinds() -> Iterator[Offline]:
    with offline_machine() as machine:
        for algorithm in ALGORITHMS:
            machine.make(algorithm, algorithm)
        machine.make("locked", "rsa2048", passphrase=PASSPHRASE)
        yield machine


@pytest.fixture(name="system", scope="module")
def system_with_all_kinds(workshop: Offline) -> Iterator[System]:
    with system_with({name: workshop.exports[name] for name in ALGORITHMS}) as system:
        yield system


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gpg_signs_and_verifies(system: System, workshop: Offline, algorithm: str) -> None:
    done = system.sign(algorithm)
    assert done.returncode == 0, done.stderr
    assert system.is_good(done.stdout, workshop.fingerprints[algorithm])
    assert not system.is_good(done.stdout, workshop.fingerprints[algorithm], "another text")


@pytest.mark.parametrize("algorithm", ["rsa2048", "rsa3072", "rsa4096", "ed25519"])
def test_rpm_accepts_what_rpmsign_made(system: System, workshop: Offline, algorithm: str, tmp_path: Path) -> None:
    (package,) = build_packages(tmp_path, ["hello"])
    assert not is_signed(system, workshop, algorithm, package, tmp_path / "rpmdb")
    done = rpmsign(system, algorithm, package)
    assert done.returncode == 0, done.stderr
    assert is_signed(system, workshop, algorithm, package, tmp_path / "rpmdb")


@pytest.mark.parametrize("algorithm", ["nistp256", "nistp384", "nistp521", "dsa2048"])
def test_no_number_of_a_hundred_signatures_begins_with_a_zero_octet(
    system: System, workshop: Offline, algorithm: str
) -> None:
    """gpgv-sq and newer rpm refuse numbers with leading zeros, which one signature in 128 would have."""
    hash_algorithm = HASHES.get(algorithm, HashAlgorithm.SHA256)
    lengths = set()
    with AssuanClient(system.socket) as client:
        for _ in range(100):
            digest = Digest(hash_algorithm, secrets.token_bytes(hash_algorithm.digest_size))
            expression = client.signature_bytes(workshop.keygrips[algorithm], digest)
            numbers = atoms(expression)
            assert len(numbers) == 2
            assert all(number[0] != 0 for number in numbers), expression
            lengths |= {len(number) for number in numbers}
    assert max(lengths) - min(lengths) <= 3


def atoms(expression: bytes) -> list[bytes]:
    """The numbers behind `r` and `s` of a canonical S-expression, as they are."""
    found, at = [], 0
    while (at := expression.find(b"(1:", at)) >= 0:
        length, _, _ = expression[at + 4 :].partition(b":")
        start = at + 4 + len(length) + 1
        found.append(expression[start : start + int(length)])
        at = start + int(length)
    return found


def test_a_key_with_a_passphrase_is_imported_by_an_operator_and_signs(
    system: System, workshop: Offline, tmp_path: Path
) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(f"{PASSPHRASE}\n")
    passphrase.chmod(0o600)
    config = {"BLIND_ORACLE_CONFIG": str(system.directory / "oracle.yaml")}
    result = blind_oracle(
        "key", "import", workshop.exports["locked"], "--name", "locked", "--policy-add",
        "--passphrase-file", passphrase, environment=config,
    )  # fmt: skip
    assert result.status == 0, result.errors
    policy = system.directory / "policy.yaml"
    policy.write_text(policy.read_text().replace("keys: [", "keys: [locked, "))
    system.stop()
    system.start()
    stored = (system.directory / "signer/gnupg/private-keys-v1.d" / f"{workshop.keygrips['locked']}.key").read_bytes()
    assert b"protected-private-key" in stored
    done = system.sign("locked")
    assert done.returncode == 0, done.stderr
    assert system.is_good(done.stdout, workshop.fingerprints["locked"])

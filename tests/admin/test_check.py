"""`blind-oracle check`."""

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.admin.changing import changing
from agentproxy.admin.layout import Layout, load_oracle
from agentproxy.admin.signeraccess import signer_for
from agentproxy.oracle.changes import CredentialsIssued, RunnerAdded
from agentproxy.oracle.database import SqliteFile
from agentproxy.oracle.registry import Registry
from agentproxy.protocol.signer_requests import CertificateKind
from agentproxy.signer.authority import Authority
from tests.admin.exports import Exports
from tests.admin.shell import blind_oracle
from tests.oracle.world import put

NAMES = [
    "signer",
    "keys",
    "policy",
    "registry",
    "certificates",
    "listen",
    "audit log",
    "fallback",
    "disk space",
    "file modes",
]


@pytest.fixture(name="state")
def made_state(short: Path, exports: Exports) -> Layout:
    layout = Layout(short / "s")
    assert blind_oracle("init", layout.root, "--host", "localhost").status == 0
    words = ("--name", "modern", "--policy-add", "--config", layout.oracle_config)
    assert blind_oracle("key", "import", exports.subkeys["modern"], *words).status == 0
    return layout


@pytest.fixture(name="signer")
def running_signer(state: Layout) -> Iterator[Path]:
    with running(state) as path:
        yield path


def running(state: Layout) -> AbstractContextManager[Path]:
    return signer_for(load_oracle(state.oracle_config))


def check(state: Layout, *words: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    result = blind_oracle("check", "--json", "--config", state.oracle_config, *words)
    assert result.errors == ""
    plain = json.loads(result.output)
    assert result.status == ["ok", "warning", "critical"].index(plain["status"])
    found: dict[str, list[tuple[str, str]]] = {}
    for one in plain["checks"]:
        found.setdefault(one["check"], []).append((one["status"], one["message"]))
    return result.status, found


def test_a_healthy_oracle_has_status_0(state: Layout, signer: Path) -> None:
    status, found = check(state)
    assert status == 0, found
    assert list(found) == NAMES
    assert found["signer"] == [("ok", "operational; keys: 1, signatures since its start: 0")]
    assert found["audit log"][0][1].startswith("its last ")
    quiet = blind_oracle("check", "--quiet", "--config", state.oracle_config)
    assert (quiet.status, quiet.output) == (0, "")


def test_a_signer_that_is_away_is_critical(state: Layout) -> None:
    status, found = check(state)
    assert status == 2
    assert found["signer"][0][0] == "critical"
    assert found["policy"] == [("ok", "good")]
    result = blind_oracle("check", "--quiet", "--config", state.oracle_config)
    assert result.output.startswith("critical  signer: ")
    assert "signer.sock: cannot reach the signer" in result.output


def test_no_configuration_is_critical(short: Path) -> None:
    status, found = check(Layout(short))
    assert status == 2
    assert list(found) == ["configuration"]


@pytest.mark.parametrize(
    ("rule", "status", "expected"),
    [
        (
            "{keys: [modern], token_only: true}",
            1,
            ("warning", "runners.b.token_only: whoever reads the token can sign"),
        ),
        ("{keys: [gone]}", 2, ("critical", "runners.b.keys[0]: expected a name from keys, got 'gone'")),
    ],
)
def test_the_policy_is_looked_at(
    state: Layout, signer: Path, rule: str, status: int, expected: tuple[str, str]
) -> None:
    state.policy.write_text(state.policy.read_text().replace("runners: {}", f"runners: {{b: {rule}}}"))
    got, found = check(state)
    assert got == status
    ((level, message),) = found["policy"]
    assert (level, message[: len(expected[1])]) == expected


def test_a_key_file_that_is_gone_is_critical_before_the_next_start(state: Layout, signer: Path) -> None:
    (file,) = (state.signer / "gnupg" / "private-keys-v1.d").iterdir()
    file.unlink()
    status, found = check(state)
    assert status == 2
    assert found["keys"] == [("critical", "key modern has no key file in the signer's GnuPG home")]


def test_a_key_that_can_certify_stays_a_warning(state: Layout, exports: Exports) -> None:
    words = ("--name", "old", "--accept-certification", "--config", state.oracle_config)
    assert blind_oracle("key", "import", exports.subkeys["certifying"], *words).status == 0
    with running(state):
        status, found = check(state)
    assert status == 1
    risk = "key old can certify, which was accepted: a signature of it may change certificates"
    assert found["keys"] == [("warning", risk)]


@pytest.mark.parametrize(
    ("days", "level", "status"), [(70, "ok", 0), (50, "warning", 1), (20, "warning", 1), (6, "critical", 2)]
)
def test_the_servers_certificate_is_warned_of_in_time(
    state: Layout, signer: Path, days: int, level: str, status: int
) -> None:
    issue_server(state, ("localhost",), days + 1)
    got, found = check(state)
    assert (got, found["certificates"][0][0]) == (status, level)
    if level != "ok":
        assert found["certificates"][0][1].startswith(f"certificate of this oracle expires in {days} days, on ")


def test_a_certificate_without_the_name_that_is_dialled_is_critical(state: Layout, signer: Path) -> None:
    issue_server(state, ("other.example", "127.0.0.2"), 700)
    status, found = check(state)
    assert status == 2
    ((level, message),) = found["certificates"]
    assert (level, "not for localhost, so build servers" in message) == ("critical", True)
    told = blind_oracle("check", "--config", state.oracle_config).output
    assert "certificate renew --host other.example --host 127.0.0.2 --host localhost" in told


@pytest.mark.parametrize(
    ("listen", "dialled", "is_told"),
    [
        ("127.0.0.1:7443", "localhost:7443", False),
        ("127.0.0.1:7443", "oracle.example:7443", True),
        ("localhost:7443", "10.0.0.1:7443", True),
        ("[::]:7443", "oracle.example:7443", False),
        ("10.0.0.1:7443", "oracle.example:7443", False),
    ],
)
def test_an_oracle_that_only_its_own_host_reaches_is_told_and_no_trouble(
    state: Layout, signer: Path, listen: str, dialled: str, *, is_told: bool
) -> None:
    issue_server(state, (dialled.partition(":")[0],), 700)
    text = state.oracle_config.read_text().replace("localhost:7443", dialled)
    state.oracle_config.write_text(text.replace('listen: "127.0.0.1:7443"', f'listen: "{listen}"'))
    status, found = check(state)
    ((level, message),) = found["listen"]
    assert (status, level) == (0, "ok")
    said = f"build servers are to dial {dialled}, and only this host reaches {listen}"
    assert message.startswith(said) if is_told else message == "good"


def issue_server(state: Layout, hosts: tuple[str, ...], days: int) -> None:
    authority = Authority.load(
        (state.signer / "authority.key").read_bytes(), (state.signer / "authority.crt").read_bytes()
    )
    issued = authority.issue(CertificateKind.SERVER, "node", hosts, days, datetime.now(UTC))
    (state.oracle / "server.crt").write_bytes(issued.certificate)
    (state.oracle / "server.key").write_bytes(issued.private_key)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("oracle/server.key", "oracle/server.key: not the PEM key of the certificate"),
        ("oracle/authority.crt", "oracle/server.crt: not issued by the CA in {root}/oracle/authority.crt"),
        ("signer/authority.crt", "oracle/server.crt: not issued by the CA in {root}/signer/authority.crt"),
    ],
)
def test_files_of_another_oracle_are_critical_before_the_next_start(
    state: Layout, signer: Path, name: str, message: str
) -> None:
    assert blind_oracle("init", state.root.parent / "other", "--host", "localhost").status == 0
    (state.root / name).write_bytes((state.root.parent / "other" / name).read_bytes())
    status, found = check(state)
    assert status == 2
    ((level, told),) = found["certificates"]
    assert level == "critical"
    assert told.startswith(f"{state.root}/{message.format(root=state.root)}")


def test_an_openpgp_certificate_that_is_gone_is_a_warning(state: Layout, signer: Path) -> None:
    (state.certificates / "modern.pgp").unlink()
    status, found = check(state)
    assert status == 1
    ((level, message),) = found["keys"]
    assert (level, message.partition(",")[0]) == ("warning", f"{state.certificates}/modern.pgp: is missing")


def test_a_build_server_whose_credentials_end_is_a_warning(state: Layout, signer: Path) -> None:
    registry = Registry.open(SqliteFile(state.oracle / "registry.sqlite"))
    ends = datetime.now(UTC) + timedelta(days=5, hours=1)
    put(registry, RunnerAdded("b"))
    put(registry, CredentialsIssued("b", b"1" * 32, ends, b"2" * 32, b"3" * 32, ends + timedelta(days=90)))
    registry.close()
    status, found = check(state)
    assert status == 1
    ((level, message),) = found["registry"]
    assert (level, message.partition(", on")[0]) == ("warning", "token of b expires in 5 days")


def test_a_registry_that_is_gone_is_critical(state: Layout, signer: Path) -> None:
    (state.oracle / "registry.sqlite").unlink()
    status, found = check(state)
    assert status == 2
    assert found["registry"][0][0] == "critical"


@pytest.mark.parametrize("damage", ["edited", "cut"])
def test_a_damaged_end_of_the_log_is_critical(state: Layout, signer: Path, damage: str) -> None:
    (segment,) = state.audit.glob("*.jsonl")
    lines = segment.read_bytes().rstrip(b"\x00").splitlines(keepends=True)
    changed = [lines[0].replace(b'"cli"', b'"cly"'), *lines[1:]] if damage == "edited" else lines[:-1]
    assert changed != lines
    segment.write_bytes(b"".join(changed))
    status, found = check(state)
    assert status == 2
    ((level, message),) = found["audit log"]
    expected = "does not continue the record before it" if damage == "edited" else "and the signer has written"
    assert (level, expected in message) == ("critical", True)


@pytest.mark.parametrize(
    ("name", "mode", "status"),
    [
        ("oracle/server.key", 0o640, 2),
        ("signer/authority.key", 0o604, 2),
        ("signer/passphrases", 0o750, 2),
        ("signer/audit.key", 0o644, 2),
        ("oracle.yaml", 0o666, 2),
        ("signer", 0o777, 2),
        ("oracle", 0o770, 1),
        (".", 0o777, 2),
        ("policy.yaml", 0o664, 1),
        ("policy.yaml", 0o666, 2),
    ],
)
def test_files_for_others_are_found(state: Layout, signer: Path, name: str, mode: int, status: int) -> None:
    (state.root / name).chmod(mode)
    got, found = check(state)
    assert got == status
    ((_, message),) = found["file modes"]
    assert str(state.root / name) in message
    assert f"(mode {mode:04o})" in message


def test_too_little_room_for_the_log_is_critical(state: Layout, signer: Path) -> None:
    config = state.signer / "signer.yaml"
    status = os.statvfs(state.audit)
    for reserve, expected in ((status.f_bavail * status.f_frsize * 3 // 4, 1), (1 << 62, 2)):
        config.write_text(
            config.read_text().replace(
                "  directory: ../audit\n", f"  directory: ../audit\n  reserve_bytes: {reserve}\n"
            )
        )
        got, found = check(state)
        assert (got, found["disk space"][0][0]) == (expected, ["ok", "warning", "critical"][expected])
        config.write_text(config.read_text().replace(f"  reserve_bytes: {reserve}\n", ""))


def test_without_the_signers_files_the_rest_is_looked_at(state: Layout, signer: Path) -> None:
    config = state.oracle_config
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "signer/signer.yaml" not in line))
    status, found = check(state)
    assert status == 1
    assert found["configuration"][0][1].startswith("the signer's files were not looked at: signer.config is not set")
    assert found["signer"][0][0] == found["keys"][0][0] == found["policy"][0][0] == "ok"


def test_a_renewed_certificate_makes_it_well_again(state: Layout, signer: Path) -> None:
    issue_server(state, ("other.example",), 5)
    assert check(state)[0] == 2
    result = blind_oracle("certificate", "renew", "--host", "localhost", "--config", state.oracle_config)
    assert result.status == 0, result.errors
    assert "for localhost, expires " in result.output
    assert check(state)[0] == 0
    again = blind_oracle("certificate", "renew", "--config", state.oracle_config)
    assert "for localhost, expires " in again.output
    assert (state.oracle / "server.key").stat().st_mode & 0o777 == 0o600
    assert check(state)[0] == 0


def test_a_certificate_that_cannot_be_written_leaves_its_key_as_it_was(state: Layout, signer: Path) -> None:
    key, certificate = state.tls / "server.key", state.tls / "server.crt"
    before = key.read_bytes()
    certificate.unlink()
    certificate.symlink_to(state.root / "gone" / "server.crt")
    result = blind_oracle("certificate", "renew", "--host", "localhost", "--config", state.oracle_config)
    assert result.status == 1
    assert "cannot be written: No such file or directory" in result.errors
    assert key.read_bytes() == before
    assert [path.name for path in state.tls.iterdir() if path.name.startswith(".")] == []


def test_a_key_without_its_certificate_is_told_with_what_to_do(state: Layout, signer: Path) -> None:
    certificate = state.tls / "server.crt"
    certificate.unlink()
    certificate.mkdir()
    result = blind_oracle("certificate", "renew", "--host", "localhost", "--config", state.oracle_config)
    assert result.status == 1
    assert f"server.crt: cannot be replaced: Is a directory; {state.tls / 'server.key'} is new already" in result.errors
    assert "then again, with --host: blind-oracle certificate renew" in result.errors
    certificate.rmdir()
    again = blind_oracle("certificate", "renew", "--host", "localhost", "--config", state.oracle_config)
    assert again.status == 0, again.errors
    assert check(state)[0] == 0


def test_of_two_that_renew_at_once_one_waits(state: Layout, signer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [(state.tls / name).read_bytes() for name in ("server.key", "server.crt")]
    monkeypatch.setattr("agentproxy.admin.changing.WAIT_SECONDS", 0.1)
    with changing(state.tls / "server.key"):
        result = blind_oracle("certificate", "renew", "--config", state.oracle_config)
    assert result.status == 1
    assert "server.key: another command has been changing it" in result.errors
    assert [(state.tls / name).read_bytes() for name in ("server.key", "server.crt")] == before


def test_a_key_that_is_not_there_is_named(state: Layout) -> None:
    (state.tls / "server.key").unlink()
    _, found = check(state)
    assert ("critical", f"{state.tls / 'server.key'}: is missing") in found["file modes"]


@contextmanager
def as_somebody_else(closed: Path) -> Iterator[None]:
    """Be a user who may not enter a directory, and may enter all above it."""
    mode, uid = closed.stat().st_mode & 0o777, os.geteuid()
    closed.chmod(0)
    if uid == 0:  # who may enter everything
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(uid)
        closed.chmod(mode)


def test_a_configuration_that_is_not_for_us_is_critical_and_no_traceback(state: Layout) -> None:
    assert blind_oracle("runner", "list", "--config", state.oracle_config).status == 0  # all modules are imported now
    with as_somebody_else(state.root):
        status, found = check(state)
        result = blind_oracle("runner", "list", "--config", state.oracle_config)
    assert (status, found) == (2, {"configuration": [("critical", f"{state.oracle_config}: Permission denied")]})
    assert (result.status, result.errors.splitlines()[0]) == (
        1,
        f"blind-oracle: error: {state.oracle_config}: Permission denied",
    )


def test_a_registry_that_is_not_for_us_is_a_warning_and_the_rest_is_looked_at(state: Layout, signer: Path) -> None:
    for directory in (state.root.parent, state.root):
        directory.chmod(0o755)
    assert check(state)[0] == 0
    with as_somebody_else(state.oracle):
        _, found = check(state)
        result = blind_oracle("runner", "list", "--config", state.oracle_config)
    ((level, message),) = found["registry"]
    assert (level, message.partition(":")[0]) == ("warning", str(state.registry))
    assert list(found)[-1] == NAMES[-1]
    assert (result.status, result.errors.splitlines()[0]) == (
        1,
        f"blind-oracle: error: {state.registry}: Permission denied",
    )

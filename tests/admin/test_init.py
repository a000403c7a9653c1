import os
import stat
from pathlib import Path

import pytest
from cryptography import x509

from agentproxy.admin import statedirectory
from agentproxy.admin.layout import Layout, SystemLayout, load_oracle, load_signer
from agentproxy.admin.statedirectory import Wanted
from agentproxy.oracle.policyfile import load_policy
from agentproxy.oracle.registry import Registry
from agentproxy.runtime.tlscontext import server_context
from agentproxy.signer.authority import Authority
from agentproxy.signer.keysfile import load as load_keys
from agentproxy.signer.verifylog import verify
from tests.admin.shell import blind_oracle


@pytest.fixture(name="state", scope="module")
def made_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("init") / "state"
    result = blind_oracle("init", state, "--host", "oracle.example", "--host", "10.0.0.1", "--node", "no")
    assert result.status == 0, result.errors
    return state


def test_all_that_init_writes_can_be_read_back(state: Path) -> None:
    oracle = load_oracle(state / "oracle.yaml")
    assert (oracle.node, oracle.listen, oracle.addresses) == ("no", "[::]:7443", ("oracle.example:7443",))
    assert oracle.policy == state / "policy.yaml"
    assert load_policy(oracle.policy).runners == {}
    signer = load_signer(oracle)
    assert signer.audit.directory.resolve() == state / "audit"
    assert signer.socket.resolve() == oracle.signer.socket
    assert load_keys(signer.keys_file).keys == {}
    Authority.load(signer.authority.key.read_bytes(), signer.authority.certificate.read_bytes())
    server_context(oracle.tls.certificate, oracle.tls.key, oracle.tls.authority)
    Registry.open(oracle.database).close()


@pytest.mark.parametrize(
    ("words", "listen"),
    [
        ([], "127.0.0.1:7443"),
        (["--host=localhost", "--host=127.0.0.2", "--host=::1"], "127.0.0.1:7443"),
        (["--host=oracle.example"], "[::]:7443"),
        (["--host=localhost", "--host=10.0.0.1"], "[::]:7443"),
        (["--host=oracle.example", "--listen=127.0.0.1:7000"], "127.0.0.1:7000"),
    ],
)
def test_an_oracle_that_others_dial_listens_for_them(words: list[str], listen: str, tmp_path: Path) -> None:
    assert blind_oracle("init", tmp_path / "s", *words).status == 0
    assert load_oracle(tmp_path / "s/oracle.yaml").listen == listen


def test_the_servers_certificate_is_for_the_hosts_and_from_the_authority(state: Path) -> None:
    certificate = x509.load_pem_x509_certificate((state / "oracle/server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["oracle.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    authority = x509.load_pem_x509_certificate((state / "oracle/authority.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)


def test_nobody_else_can_look_in_and_no_secret_is_readable_by_others(state: Path) -> None:
    for path in (state, *state.rglob("*")):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for name in ("oracle/server.key", "signer/authority.key", "oracle/registry.sqlite"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600, name


def test_the_audit_log_begins_with_the_credentials_that_were_made(state: Path) -> None:
    report = verify(state / "audit")
    assert (report.records, report.damage) == (1, None)
    assert '"operation":"initialized"' in next((state / "audit").glob("*.jsonl")).read_text()


def test_the_hosts_are_this_machines_unless_given(tmp_path: Path) -> None:
    assert blind_oracle("init", tmp_path / "s").status == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "s/oracle/server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}


def test_two_state_directories_do_not_trust_each_other(state: Path, tmp_path: Path) -> None:
    assert blind_oracle("init", tmp_path / "other").status == 0
    ours = x509.load_pem_x509_certificate((state / "oracle/authority.crt").read_bytes())
    theirs = x509.load_pem_x509_certificate((tmp_path / "other/oracle/authority.crt").read_bytes())
    assert ours.public_key() != theirs.public_key()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--listen", "nowhere"], "expected host:port, got 'nowhere'"),
        (["--listen", "h:70000"], "expected host:port, got 'h:70000'"),
        (["--node", "a b"], "node: expected 1 to 64 letters, digits"),
        (
            ["--host", "good.example", "--host", "*.example"],
            "hosts: expected lower-case DNS names without wildcards, or IP addresses, got '*.example'",
        ),
        (["--host", "a\nb"], "hosts: expected lower-case DNS names without wildcards, or IP addresses, got 'a\\nb'"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_made(words: list[str], expected: str, tmp_path: Path) -> None:
    result = blind_oracle("init", tmp_path / "s", *words)
    assert result.status == 1
    assert f"blind-oracle: error: {expected}" in result.errors
    assert not (tmp_path / "s").exists()


def test_an_existing_empty_directory_is_taken_and_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o755)
    assert blind_oracle("init", tmp_path / "s").status == 0
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_what_somebody_else_has_prepared_is_not_taken(tmp_path: Path) -> None:
    for name in ("empty", "behind"):
        (tmp_path / name).mkdir()
    os.chown(tmp_path / "empty", 12345, 12345)
    (tmp_path / "link").symlink_to("behind")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
    for name, reason in (("empty", "belongs to uid 12345"), ("link", "a symbolic link of uid 12345")):
        result = blind_oracle("init", tmp_path / name)
        assert result.status == 1
        assert f"{tmp_path / name}: {reason}" in result.errors
        assert list((tmp_path / name).iterdir()) == []


def test_a_place_that_others_can_rename_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    result = blind_oracle("init", tmp_path / "open" / "s")
    assert result.status == 1
    assert f"others can write {tmp_path / 'open'} above it, so they could replace what is made here" in result.errors
    assert list((tmp_path / "open").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = blind_oracle("init", tmp_path / "file" / "s")
    assert result.status == 1
    assert "Traceback" not in result.errors
    assert f"{tmp_path / 'file'}" in result.errors


def test_a_second_oracle_takes_the_authority_of_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert blind_oracle("init", first, "--node=a", "--host=a.example").status == 0
    result = blind_oracle(
        "init", second, "--node=b", "--host=b.example", "--authority", first / "signer", "--other-oracle=a.example:7443"
    )
    assert result.status == 0, result.errors
    assert "a copy of the CA" in result.output
    for name in ("authority.crt", "authority.key"):
        assert (first / "signer" / name).read_bytes() == (second / "signer" / name).read_bytes()
    assert load_oracle(second / "oracle.yaml").other_oracles == ("a.example:7443",)


def test_an_authority_that_others_could_read_is_no_authority(tmp_path: Path) -> None:
    assert blind_oracle("init", tmp_path / "a", "--node=a").status == 0
    (tmp_path / "a" / "signer" / "authority.key").chmod(0o644)
    result = blind_oracle("init", tmp_path / "b", "--node=b", "--authority", tmp_path / "a" / "signer")
    assert result.status == 1
    assert "authority.key" in result.errors
    assert not (tmp_path / "b").exists()


def test_of_two_at_once_the_second_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill, state = statedirectory._fill, tmp_path / "s"
    kept: dict[Path, bytes] = {}

    def behind_another(layout: Layout | SystemLayout, wanted: Wanted, made: statedirectory._Made) -> None:
        monkeypatch.setattr(statedirectory, "_fill", fill)
        assert blind_oracle("init", state, "--node", "first").status == 0
        kept.update({path: path.read_bytes() for path in state.rglob("*") if path.is_file()})
        fill(layout, wanted, made)

    monkeypatch.setattr(statedirectory, "_fill", behind_another)
    result = blind_oracle("init", state, "--node", "second")
    assert (result.status, result.errors) == (
        1,
        f"blind-oracle: error: {state}/oracle: cannot be written: File exists\n",
    )
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == kept

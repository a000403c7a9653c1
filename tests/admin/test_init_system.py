import os
import pwd
import re
import stat
from pathlib import Path

import pytest

from agentproxy.admin.layout import SystemLayout, load_oracle, load_signer
from agentproxy.admin.statedirectory import Wanted, create_system
from agentproxy.oracle.policyfile import load_policy
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.tlscontext import server_context
from agentproxy.signer.authority import Authority
from agentproxy.signer.verifylog import verify
from tests.admin.shell import blind_oracle

WANTED = Wanted("node-1", ("oracle.example",), "[::]:7443")
# Two users of every Debian, each with a group of its name; who is not root makes everything for himself.
USERS = ("daemon", "mail") if os.geteuid() == 0 else (pwd.getpwuid(os.geteuid()).pw_name,) * 2


@pytest.fixture(name="system")
def made_system(tmp_path: Path) -> SystemLayout:
    layout = layout_below(tmp_path)
    create_system(layout, WANTED)
    return layout


def layout_below(prefix: Path) -> SystemLayout:
    return SystemLayout(prefix, *USERS)


def test_all_that_a_system_gets_can_be_read_back(system: SystemLayout) -> None:
    oracle = load_oracle(system.oracle_config)
    assert (oracle.listen, oracle.addresses, oracle.signer.start) == ("[::]:7443", ("oracle.example:7443",), False)
    assert oracle.registry == system.registry
    assert oracle.bound_address_file == system.oracle_run / "oracle.address"
    assert load_policy(oracle.policy).runners == {}
    signer = load_signer(oracle)
    assert (signer.gnupg_home, signer.audit.directory) == (system.gnupg, system.audit)
    assert signer.socket == oracle.signer.socket == system.run / "signer.sock"
    Authority.load(signer.authority.key.read_bytes(), signer.authority.certificate.read_bytes())
    server_context(oracle.tls.certificate, oracle.tls.key, oracle.tls.authority)
    assert verify(system.audit).records == 1


def test_the_signer_lets_in_root_its_own_user_and_the_oracles_user(system: SystemLayout) -> None:
    peers = load_signer(load_oracle(system.oracle_config)).peers
    assert peers == {0, os.geteuid(), pwd.getpwnam(system.oracle_user).pw_uid}


def test_a_user_that_is_not_there_is_named(system: SystemLayout) -> None:
    text = system.signer_config.read_text()
    system.signer_config.write_text(text.replace(f'["{system.oracle_user}"]', '["nobody-here"]'))
    with pytest.raises(ConfigError, match="peer_users: there is no user 'nobody-here'"):
        load_signer(load_oracle(system.oracle_config)).peers  # noqa: B018  the property asks the system


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for other users")
def test_each_user_owns_what_it_writes_and_root_the_rest(system: SystemLayout) -> None:
    owned = {system.oracle_user: (system.registry.parent,), system.signer_user: (system.gnupg.parent, system.audit)}
    for user, places in owned.items():
        for path in (one for place in places for one in (place, *place.rglob("*"))):
            assert path.owner() == user, path
        assert [stat.S_IMODE(place.stat().st_mode) for place in places] == [0o700] * len(places)
    for path in (system.etc, *system.etc.rglob("*")):
        assert path.owner() == "root", path
    assert system.signer.group() == system.signer_user
    assert stat.S_IMODE(system.signer.stat().st_mode) == 0o750


def test_secrets_in_etc_are_readable_by_root_alone(system: SystemLayout) -> None:
    for path in (system.tls / "server.key", system.signer / "authority.key", system.signer / "audit.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((system.signer / "passphrases").stat().st_mode) == 0o700


def test_a_second_init_changes_nothing(system: SystemLayout) -> None:
    before = {path: path.read_bytes() for path in system.prefix.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=re.escape(f"{system.oracle_config}: an oracle is here already")):
        create_system(system, WANTED)
    assert {path: path.read_bytes() for path in system.prefix.rglob("*") if path.is_file()} == before


def test_an_audit_log_without_its_oracle_is_not_written_over(tmp_path: Path) -> None:
    layout = layout_below(tmp_path)
    layout.audit.mkdir(parents=True)
    (layout.audit / "node-1-0000000001.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"jsonl: an oracle is here already"):
        create_system(layout, WANTED)
    assert not layout.etc.exists()


def test_a_policy_that_is_there_already_stays(tmp_path: Path) -> None:
    layout = layout_below(tmp_path)
    layout.etc.mkdir(parents=True)
    layout.policy.write_text("keys: {}\nrunners: {}\n# ours\n")
    create_system(layout, WANTED)
    assert layout.policy.read_text().endswith("# ours\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is asked to make files for other users")
def test_without_its_users_nothing_can_begin_and_the_hint_says_who_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no user and group 'nobody-here'") as caught:
        create_system(SystemLayout(tmp_path, "nobody-here", "nobody-here"), WANTED)
    assert "systemd-sysusers" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for other users")
def test_a_link_in_a_daemon_s_directory_gives_it_nothing_of_another_s(tmp_path: Path) -> None:
    layout, other = layout_below(tmp_path / "prefix"), tmp_path / "other"
    other.mkdir(mode=0o755)
    before = other.stat()
    layout.gnupg.parent.mkdir(parents=True)
    layout.gnupg.symlink_to(other)
    os.chown(layout.gnupg, 12345, 12345, follow_symlinks=False)
    with pytest.raises(ConfigError, match=re.escape(f"{layout.gnupg}: a symbolic link of uid 12345")):
        create_system(layout, WANTED)
    assert (other.stat().st_uid, other.stat().st_mode, list(other.iterdir())) == (before.st_uid, before.st_mode, [])


def test_a_link_of_our_own_to_another_disk_is_followed(tmp_path: Path) -> None:
    layout, disk = layout_below(tmp_path / "prefix"), tmp_path / "disk"
    disk.mkdir()
    layout.gnupg.parent.parent.mkdir(parents=True)
    layout.gnupg.parent.symlink_to(disk)
    create_system(layout, WANTED)
    assert (disk / layout.gnupg.name).is_dir()
    assert disk.owner() == layout.signer_user


def test_init_wants_a_directory_or_the_system() -> None:
    for words in (["init"], ["init", "x", "--system"]):
        result = blind_oracle(*words)
        assert result.status == 2
        assert "expected DIRECTORY or --system" in result.errors

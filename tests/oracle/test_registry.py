import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.oracle.registry import Registry, RegistryError
from agentproxy.protocol.errors import ConfigError

NOW = datetime.now(UTC).replace(microsecond=7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


def sha256(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_what_was_written_is_read_back(path: Path) -> None:
    registry = Registry.create(path)
    registry.add_runner("a")
    token = registry.add_token("a", sha256(1), NOW)
    registry.add_certificate("a", sha256(2), sha256(3), None)
    registry.note_use({token.id: NOW})
    seen = Registry.open(path).snapshot()
    assert (seen.runners["a"].name, seen.runners["a"].disabled) == ("a", False)
    assert (seen.tokens[sha256(1)].expires, seen.tokens[sha256(1)].last_used) == (NOW, NOW)
    assert (seen.certificates[sha256(2)].runner, seen.certificates[sha256(2)].public_key_sha256) == ("a", sha256(3))
    assert registry.find_token(sha256(1)) == seen.tokens[sha256(1)]
    assert registry.find_certificate(sha256(9)) is None


def test_only_we_can_read_it(path: Path) -> None:
    registry = Registry.create(path)
    registry.add_runner("a")
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_each_change_of_credentials_moves_the_generation_and_nothing_else_does(path: Path) -> None:
    registry = Registry.create(path)
    generations = [registry.generation()]

    def note() -> None:
        generations.append(registry.generation())

    registry.add_runner("a")
    note()
    token = registry.add_token("a", sha256(1), None)
    note()
    registry.expire_token(token.id, NOW)
    note()
    registry.revoke_token(token.id)
    note()
    registry.revoke_public_key(sha256(3))
    note()
    registry.set_disabled("a", disabled=True)
    note()
    registry.remove_runner("a")
    note()
    assert len(set(generations)) == len(generations)
    before = registry.generation()
    registry.note_use({token.id: NOW})
    registry.snapshot()
    assert registry.generation() == before


def test_a_rotation_only_shortens_a_token_s_life(path: Path) -> None:
    registry = Registry.create(path)
    registry.add_runner("a")
    token = registry.add_token("a", sha256(1), NOW)
    registry.expire_token(token.id, NOW + timedelta(days=1))
    assert registry.snapshot().tokens[sha256(1)].expires == NOW
    registry.expire_token(token.id, NOW - timedelta(days=1))
    assert registry.snapshot().tokens[sha256(1)].expires == NOW - timedelta(days=1)


def test_a_removed_runner_s_keys_stay_revoked_for_its_successor(path: Path) -> None:
    registry = Registry.create(path)
    registry.add_runner("a")
    registry.add_certificate("a", sha256(2), sha256(3), None)
    registry.remove_runner("a")
    registry.add_runner("a")
    seen = registry.snapshot()
    assert (seen.tokens, seen.certificates) == ({}, {})
    assert seen.revoked_public_keys == {sha256(3)}


def test_a_change_that_fails_changes_nothing(path: Path) -> None:
    registry = Registry.create(path)
    registry.add_runner("a")
    registry.add_token("a", sha256(1), None)
    before = registry.snapshot()
    with pytest.raises(ConfigError, match="exists already"):
        registry.add_runner("a")
    with pytest.raises(ConfigError, match="no runner b"):
        registry.add_token("b", sha256(2), None)
    with pytest.raises(RegistryError):
        registry.add_token("a", sha256(1), None)
    with pytest.raises(ConfigError, match="no token"):
        registry.revoke_token("ffffffffffff")
    assert registry.snapshot() == before


def test_a_second_registry_is_not_made_over_the_first(path: Path) -> None:
    Registry.create(path)
    with pytest.raises(ConfigError, match="cannot be made"):
        Registry.create(path)


def test_what_is_no_registry_is_not_opened(path: Path) -> None:
    with pytest.raises(ConfigError, match="no registry there"):
        Registry.open(path)
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(ConfigError, match="cannot be read as a registry"):
        Registry.open(path)


def test_a_registry_that_is_gone_is_noticed_and_not_made_anew(path: Path) -> None:
    registry = Registry.create(path)
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(RegistryError):
        registry.generation()
    assert not path.exists()


def test_readers_do_not_wait_for_a_writer(path: Path) -> None:
    registry = Registry.create(path)
    with sqlite3.connect(path) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert registry.generation() == 1
        writer.execute("ROLLBACK")
    writer.close()


def test_another_version_is_refused(path: Path) -> None:
    Registry.create(path)
    with sqlite3.connect(path) as writer:
        writer.execute("UPDATE generation SET schema_version = 99")
    writer.close()
    with pytest.raises(ConfigError, match="version 99"):
        Registry.open(path)

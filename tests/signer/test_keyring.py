"""Opening the signer's keys: everything that must not be served is refused at start, with place, reason and hint."""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.frames import MAX_PAYLOAD
from agentproxy.protocol.times import format_time
from agentproxy.signer.config import AuditConfig, AuthorityConfig, SignerConfig
from agentproxy.signer.keyring import Keyring, _size, _size_problems, open_keyring
from tests.oracle.samples import MODERN
from tests.signer.conftest import PASSPHRASE, GnupgHome

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CREATED = NOW - timedelta(days=365)


class Desk:
    """A signer's files in a temporary directory, with real key files in them."""

    def __init__(self, directory: Path, home: GnupgHome, locked: GnupgHome) -> None:
        self.directory, self.home, self.locked = directory, home, locked
        self.gnupg_home = directory / "gnupg"
        (self.gnupg_home / "private-keys-v1.d").mkdir(parents=True)
        self.gnupg_home.chmod(0o700)
        (self.gnupg_home / "private-keys-v1.d").chmod(0o700)
        (directory / "passphrases").mkdir(mode=0o700)
        self.keys_file = directory / "keys.yaml"
        self.text = "keys:\n"

    def add(self, name: str, key: str, *, locked: bool = False, **fields: str) -> Path:
        source = self.locked if locked else self.home
        grip, fingerprint = source.grips[key], source.fingerprints[key]
        target = self.gnupg_home / "private-keys-v1.d" / f"{grip}.key"
        shutil.copy(source.path / "private-keys-v1.d" / target.name, target)
        entry = {
            "fingerprint": fingerprint,
            "primary": fingerprint,
            "keygrip": str(grip),
            "usage": "[sign]",
            "created": format_time(CREATED),
            **fields,
        }
        self.text += f"  {name}:\n" + "".join(f"    {field}: {value}\n" for field, value in entry.items())
        return target

    def passphrase(self, name: str, text: str, mode: int = 0o600) -> None:
        path = self.directory / "passphrases" / name
        path.write_text(text)
        path.chmod(mode)

    def open(self, now: datetime = NOW) -> Keyring:
        self.keys_file.write_text(self.text)
        nowhere = self.directory / "nowhere"
        config = SignerConfig(
            node="node1",
            socket=nowhere,
            keys_file=self.keys_file,
            gnupg_home=self.gnupg_home,
            audit=AuditConfig(nowhere),
            authority=AuthorityConfig(nowhere, nowhere),
            passphrases=self.directory / "passphrases",
        )
        return open_keyring(config, now)

    def refused(self, now: datetime = NOW) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            self.open(now)
        assert caught.value.hint, caught.value
        return caught.value


@pytest.fixture
def desk(tmp_path: Path, home: GnupgHome, locked_home: GnupgHome) -> Desk:
    return Desk(tmp_path, home, locked_home)


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "credentials"
    directory.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    return directory


def test_several_keys_open_with_their_facts(desk: Desk) -> None:
    desk.add("modern", "ed25519", hash_algorithms="[sha512]", user_id="Builds")
    desk.add("legacy", "rsa2048", expires=format_time(NOW + timedelta(days=1)))
    keyring = desk.open()
    assert keyring.backend.keygrips() == set(keyring.facts)
    facts = {fact.name: fact for fact in keyring.facts.values()}
    assert facts["modern"].user_id == "Builds"
    assert [algorithm.name for algorithm in facts["legacy"].hash_algorithms] == ["SHA256", "SHA384", "SHA512"]
    assert not facts["legacy"].can_certify


def test_no_keys_is_a_keyring_without_keys(desk: Desk) -> None:
    desk.text = "keys: {}\n"
    assert desk.open().facts == {}


def test_an_expired_key_is_refused_with_a_hint(desk: Desk) -> None:
    desk.add("modern", "ed25519", expires=format_time(NOW))
    error = desk.refused()
    assert "keys.yaml: keys.modern.expires: the key expired on 2026-11-22" in str(error)
    assert "quick-set-expire" in error.hint


def test_a_key_of_the_future_is_refused(desk: Desk) -> None:
    desk.add("modern", "ed25519", created=format_time(NOW + timedelta(days=1)))
    assert "begins on" in str(desk.refused())


def test_a_key_that_can_certify_is_refused_unless_accepted_by_name(desk: Desk) -> None:
    desk.add("modern", "ed25519", usage="[certify, sign]")
    error = desk.refused()
    assert "keys.modern.usage: the key can certify" in str(error)
    assert "subkey" in error.hint


@pytest.mark.parametrize("accepted", ["accept_certification", "seal_only"])
def test_a_key_that_can_certify_opens_when_accepted(desk: Desk, accepted: str) -> None:
    desk.add("legacy", "rsa2048", usage="[certify, sign]", **{accepted: "true"})
    (fact,) = desk.open().facts.values()
    assert fact.can_certify
    assert fact.seal_only is (accepted == "seal_only")


@pytest.mark.parametrize("name", ["md4", "SHA256", "10", "sha256 "])
def test_an_unknown_hash_algorithm_is_refused(desk: Desk, name: str) -> None:
    desk.add("modern", "ed25519", hash_algorithms=f'["{name}"]')
    assert "keys.modern.hash_algorithms[0]" in str(desk.refused())


def test_a_broken_hash_algorithm_is_served_only_where_it_is_named(desk: Desk) -> None:
    desk.add("legacy", "rsa2048", hash_algorithms="[sha1, sha256]")
    desk.add("other", "rsa3072")
    broken = {fact.name: any(a.is_broken for a in fact.hash_algorithms) for fact in desk.open().facts.values()}
    assert broken == {"legacy": True, "other": False}


def test_an_algorithm_too_short_for_the_key_is_refused(desk: Desk) -> None:
    desk.add("modern", "p384", hash_algorithms="[sha256, sha384]")
    error = desk.refused()
    assert "sha256" in str(error)
    assert "384 bits" in error.hint


def test_a_missing_key_file_is_refused(desk: Desk) -> None:
    desk.add("modern", "ed25519").unlink()
    assert "No such file" in str(desk.refused())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_may_read_is_refused(desk: Desk, mode: int) -> None:
    path = desk.add("modern", "ed25519")
    path.chmod(mode)
    error = desk.refused()
    assert str(path) in str(error)
    assert f"chmod 600 {path}" in error.hint


@pytest.mark.parametrize("place", [".", "private-keys-v1.d"])
def test_a_directory_of_keys_that_others_may_enter_is_refused(desk: Desk, place: str) -> None:
    desk.add("modern", "ed25519")
    (desk.gnupg_home / place).chmod(0o755)
    error = desk.refused()
    assert "others may look into it" in str(error)
    assert "chmod 700" in error.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_file_of_somebody_else_is_refused(desk: Desk) -> None:
    os.chown(desk.add("modern", "ed25519"), 12345, -1)
    assert "12345" in str(desk.refused())


def test_a_keys_file_that_others_may_change_is_refused(desk: Desk) -> None:
    desk.add("modern", "ed25519")
    desk.open()
    desk.keys_file.chmod(0o664)
    assert "others may change it" in str(desk.refused())


def test_the_same_key_under_two_names_is_refused(desk: Desk) -> None:
    desk.add("modern", "ed25519")
    desk.add("second", "ed25519")
    assert "keys.second.keygrip: the same key as modern" in str(desk.refused())


def test_a_file_that_holds_another_key_is_refused(desk: Desk) -> None:
    first, second = desk.add("modern", "ed25519"), desk.add("legacy", "rsa2048")
    first.write_bytes(second.read_bytes())
    assert "holds another key" in str(desk.refused())


def test_all_problems_are_told_together(desk: Desk) -> None:
    desk.add("one", "ed25519").unlink()
    desk.add("two", "rsa2048", expires=format_time(NOW - timedelta(days=1)))
    desk.add("three", "p256", usage="[certify, sign]").chmod(0o644)
    lines = str(desk.refused()).splitlines()
    assert len(lines) == 4
    assert [line.split("keys.")[-1].split(":")[0].split(".")[0] for line in lines] == ["two", "three", "one", "three"]


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_protected_key_opens_with_the_passphrase_in_its_file(desk: Desk, ending: str) -> None:
    desk.add("modern", "rsa2048", locked=True)
    desk.passphrase("modern", PASSPHRASE + ending)
    assert len(desk.open().facts) == 1


@pytest.mark.parametrize("name", ["passphrase.modern", "passphrase_modern", "encrypted_modern"])
def test_a_protected_key_opens_with_a_credential_which_goes_before_the_file(
    desk: Desk, credentials: Path, name: str
) -> None:
    desk.add("modern", "rsa2048", locked=True)
    desk.passphrase("modern", "wrong")
    (credentials / name).write_text(PASSPHRASE)
    (credentials / name).chmod(0o440)
    assert len(desk.open().facts) == 1


def test_a_protected_key_without_a_passphrase_is_refused_with_a_hint(desk: Desk) -> None:
    desk.add("modern", "rsa2048", locked=True)
    error = desk.refused()
    assert "none was given" in str(error)
    assert "passphrases" in error.hint


def test_a_wrong_passphrase_is_told_and_not_shown(desk: Desk) -> None:
    desk.add("modern", "rsa2048", locked=True)
    desk.passphrase("modern", "hunter2")
    error = desk.refused()
    assert "wrong passphrase" in str(error)
    assert "hunter2" not in str(error) + error.hint
    assert str(desk.directory / "passphrases" / "modern") in error.hint


@pytest.mark.parametrize("damage", ["cut short", "changed", "gone", "a directory", "a FIFO"])
def test_a_damaged_key_file_is_refused_with_file_reason_and_what_to_do(desk: Desk, damage: str) -> None:
    path = desk.add("modern", "rsa2048")
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "cut short":
            path.write_bytes(content[: len(content) // 2])
        case "changed":
            path.write_bytes(content.replace(b"(e #010001#)", b"(e #010003#)"))
        case "a directory":
            path.mkdir(mode=0o700)
        case "a FIFO":
            os.mkfifo(path, 0o600)
    if path.is_file():
        path.chmod(0o600)
    error = desk.refused()
    assert f"keys.modern: {path}: " in str(error)
    assert "restore this file from the backup" in error.hint
    assert "blind-oracle key import FILE --name modern" in error.hint


def test_a_passphrase_that_others_may_read_is_refused(desk: Desk) -> None:
    desk.add("modern", "rsa2048", locked=True)
    desk.passphrase("modern", PASSPHRASE, 0o644)
    assert "others may read it" in str(desk.refused())


@pytest.mark.parametrize("text", ["", "\n", "two\nlines", "nul\x00", "x" * 1025])
def test_a_passphrase_file_that_is_not_one_line_is_refused(desk: Desk, text: str) -> None:
    desk.add("modern", "rsa2048", locked=True)
    desk.passphrase("modern", text)
    assert "expected one line" in str(desk.refused())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "keys"),
        ("keys: {modern: {}}\n", "fingerprint"),
        ("keys: {}\nkey: {}\n", "unknown key"),
        ("keys:\n  ../x: {}\n", "keys"),
        ("\tkeys: {}\n", "keys.yaml"),
    ],
)
def test_a_keys_file_of_another_form_is_refused(desk: Desk, text: str, words: str) -> None:
    desk.text = text
    if text:
        assert words in str(desk.refused())
    else:
        assert desk.open().facts == {}


def test_a_second_load_that_fails_leaves_the_first_keyring_working(desk: Desk) -> None:
    path = desk.add("modern", "ed25519")
    keyring = desk.open()
    path.unlink()
    desk.refused()
    (grip,) = keyring.facts
    assert keyring.backend.public_key(grip).keygrip == grip


def test_more_keys_than_one_message_holds_are_refused_with_how_many_fit() -> None:
    keys = [MODERN] * 100  # RSA-4096
    (problem,) = _size_problems("keys.yaml", keys)
    fitting = int(problem.reason.split()[-4])
    assert problem.reason.startswith("100 keys are too many for one message")
    assert 40 < fitting < 60
    assert _size(keys[:fitting]) <= MAX_PAYLOAD < _size(keys[: fitting + 1])
    assert not [*_size_problems("keys.yaml", keys[:fitting])]

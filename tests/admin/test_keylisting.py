"""What is told about the served keys."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.admin.keyentries import write_entry
from agentproxy.admin.keylisting import key_row, key_rows, key_warnings
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.signer.keyfile import key_path
from agentproxy.signer.keysfile import KeyEntry, KeyUsage

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MODERN = KeyEntry(
    fingerprint=Fingerprint(b"\x01" * 20),
    primary=Fingerprint(b"\x02" * 20),
    keygrip=Keygrip(b"\x03" * 20),
    usage=(KeyUsage.SIGN,),
    created=NOW - timedelta(days=1),
)
LEGACY = replace(
    MODERN,
    fingerprint=Fingerprint(b"\x04" * 20),
    keygrip=Keygrip(b"\x05" * 20),
    usage=(KeyUsage.CERTIFY, KeyUsage.SIGN),
    hash_algorithms=(HashAlgorithm.SHA1, HashAlgorithm.SHA256),
    accept_certification=True,
    expires=NOW + timedelta(days=20),
)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    write_entry(path, "modern", MODERN)
    write_entry(path, "legacy", LEGACY)
    key_path(tmp_path, MODERN.keygrip).parent.mkdir()
    for entry in (MODERN, LEGACY):
        key_path(tmp_path, entry.keygrip).touch()
    return path


def test_a_key_without_risks_gives_no_warning(keys_file: Path) -> None:
    row = key_row(keys_file, keys_file.parent, "modern", NOW)
    assert row.entry == MODERN
    assert key_warnings([row]) == []


def test_accepted_risks_and_a_near_end_keep_being_told(keys_file: Path) -> None:
    assert key_warnings(key_rows(keys_file, keys_file.parent, NOW)) == [
        "key legacy expires in 20 days, on 2026-12-12",
        "key legacy can certify, which was accepted: a signature of it may change certificates",
        "key legacy signs broken digests, which was accepted: sha1",
    ]


def test_a_missing_key_file_is_told(keys_file: Path) -> None:
    key_path(keys_file.parent, MODERN.keygrip).unlink()
    row = key_row(keys_file, keys_file.parent, "modern", NOW)
    assert key_warnings([row]) == ["key modern has no key file in the signer's GnuPG home"]


def test_a_key_that_is_not_served_is_named_with_those_that_are(keys_file: Path) -> None:
    with pytest.raises(ConfigError, match="no key other") as caught:
        key_row(keys_file, keys_file.parent, "other", NOW)
    assert caught.value.hint == "known: modern, legacy"


def test_seal_only_is_told_as_such(keys_file: Path) -> None:
    write_entry(keys_file, "legacy", replace(LEGACY, seal_only=True))
    row = key_row(keys_file, keys_file.parent, "legacy", NOW)
    assert "can certify; it is served for seal only" in row.risks

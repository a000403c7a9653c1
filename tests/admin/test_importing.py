"""Importing exported secret keys into the signer's home, with real gpg on both sides."""

import os
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentproxy.admin import scratch
from agentproxy.admin.dev.processes import find
from agentproxy.admin.importing import ImportedKey, KeyImport, install_key, read_export
from agentproxy.admin.keyentries import remove_entry, write_entry
from agentproxy.admin.scratch import time_limit
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.keys import Fingerprint
from agentproxy.signer import keyfile, keysfile, verify
from agentproxy.signer.keysfile import KeyUsage
from agentproxy.signer.software import SoftwareBackend
from relay.setup import import_certificates
from tests.signer.conftest import PASSPHRASE, GnupgHome

DIGEST = Digest(HashAlgorithm.SHA512, b"\x5a" * 64)


def import_key(gnupg_home: Path, wanted: KeyImport) -> ImportedKey:
    imported = read_export(wanted)
    install_key(gnupg_home, imported)
    return imported


def primary_with_subkeys(home: GnupgHome, *subkeys: tuple[str, str, str], passphrase: str = "") -> str:
    """A certify-only primary with subkeys (algorithm, usage, expiry); its fingerprint."""
    home.make("main", "ed25519", passphrase, "cert")
    fingerprint = home.fingerprints["main"]
    for algorithm, usage, expiry in subkeys:
        home.gpg("--quick-add-key", fingerprint, algorithm, usage, expiry, passphrase=passphrase)
    return fingerprint


def subkeys_of(home: GnupgHome, fingerprint: str) -> list[Fingerprint]:
    rows = home.gpg("--with-colons", "--list-keys", fingerprint).decode().splitlines()
    return [Fingerprint.parse(row.split(":")[9]) for row in rows if row.startswith("fpr:")][1:]


def signs(gnupg_home: Path, imported: ImportedKey, passphrase: bytes | None = None) -> bool:
    grip = imported.entry.keygrip
    key = keyfile.load(gnupg_home, grip, passphrase)
    verify.check(key.public, DIGEST, SoftwareBackend({grip: key}).sign(grip, DIGEST))
    return True


@pytest.mark.parametrize("armor", [False, True])
def test_a_signing_subkey_is_taken_and_its_primary_stays_away(
    empty_home: GnupgHome, tmp_path: Path, armor: bool
) -> None:
    primary = primary_with_subkeys(empty_home, ("rsa2048", "sign", "1y"), ("cv25519", "encr", "1y"))
    exported = empty_home.gpg(*["--armor"] * armor, "--export-secret-subkeys", primary)
    imported = import_key(tmp_path / "gnupg", KeyImport("modern", exported))
    assert [imported.entry.fingerprint] == subkeys_of(empty_home, primary)[:1]
    assert str(imported.entry.primary) == primary
    assert imported.entry.usage == (KeyUsage.SIGN,)
    assert imported.entry.user_id == "main <main@example.org>"
    assert imported.entry.expires is not None
    assert not imported.is_protected
    assert signs(tmp_path / "gnupg", imported)
    files = [path.name for path in (tmp_path / "gnupg/private-keys-v1.d").iterdir()]
    assert files == [f"{imported.entry.keygrip}.key"]


@pytest.mark.parametrize(
    ("raw", "shown"), [(b"J\xf6rg <old@example.org>", "J\ufffdrg <old@example.org>"), ("Jörg ß €".encode(), "Jörg ß €")]
)
def test_a_user_id_of_any_encoding_comes_along_and_is_no_hindrance_to_a_relay(
    empty_home: GnupgHome, tmp_path: Path, raw: bytes, shown: str
) -> None:
    passphrase = "zwölf Boxkämpfer €"
    user = os.fsdecode(raw)
    empty_home.gpg("--allow-freeform-uid", "--quick-gen-key", user, "ed25519", "cert", "never", passphrase=passphrase)
    rows = empty_home.gpg("--with-colons", "--list-keys").decode("latin-1").splitlines()
    primary = next(row.split(":")[9] for row in rows if row.startswith("fpr:"))
    empty_home.gpg("--quick-add-key", primary, "ed25519", "sign", "1y", passphrase=passphrase)
    exported = empty_home.gpg("--export-secret-subkeys", primary, passphrase=passphrase)
    imported = import_key(tmp_path / "gnupg", KeyImport("modern", exported, passphrase=passphrase))
    assert imported.entry.user_id == shown
    assert signs(tmp_path / "gnupg", imported, passphrase.encode())
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    assert import_certificates(home, [imported.certificate]) == (primary,)


def test_the_certificate_is_binary_and_holds_no_secret(empty_home: GnupgHome, tmp_path: Path) -> None:
    primary = primary_with_subkeys(empty_home, ("ed25519", "sign", "1y"))
    imported = import_key(tmp_path / "gnupg", KeyImport("modern", empty_home.gpg("--export-secret-keys", primary)))
    shown = subprocess.run(
        ["gpg", "--list-packets"], input=imported.certificate, capture_output=True, check=True, timeout=30
    ).stdout.decode()
    assert ":public sub key packet:" in shown
    assert ":secret" not in shown


def test_a_protected_key_ends_in_a_form_that_the_signer_reads(empty_home: GnupgHome, tmp_path: Path) -> None:
    primary = primary_with_subkeys(empty_home, ("rsa2048", "sign", "1y"), passphrase=PASSPHRASE)
    exported = empty_home.gpg("--export-secret-subkeys", primary, passphrase=PASSPHRASE)
    imported = import_key(tmp_path / "gnupg", KeyImport("modern", exported, PASSPHRASE))
    assert imported.is_protected
    text = keyfile.key_path(tmp_path / "gnupg", imported.entry.keygrip).read_bytes()
    assert b"openpgp-s2k3-ocb-aes" in text
    assert signs(tmp_path / "gnupg", imported, PASSPHRASE.encode())


@pytest.mark.parametrize(("passphrase", "words"), [(None, "passphrase"), ("wrong", "this passphrase"), ("", "empty")])
def test_a_protected_key_without_its_passphrase_changes_nothing(
    empty_home: GnupgHome, tmp_path: Path, passphrase: str | None, words: str
) -> None:
    empty_home.make("main", "ed25519", PASSPHRASE)
    exported = empty_home.gpg("--export-secret-keys", passphrase=PASSPHRASE)
    with pytest.raises(ConfigError) as caught:
        import_key(tmp_path / "gnupg", KeyImport("modern", exported, passphrase, accept_certification=True))
    assert words in str(caught.value) + caught.value.hint
    assert not (tmp_path / "gnupg").exists()


def test_a_key_that_can_certify_is_refused_unless_accepted(empty_home: GnupgHome, tmp_path: Path) -> None:
    empty_home.make("both", "ed25519", usage="sign")  # gpg lets every primary key certify
    exported = empty_home.gpg("--export-secret-keys")
    with pytest.raises(ConfigError, match="can certify") as caught:
        import_key(tmp_path / "gnupg", KeyImport("modern", exported))
    assert "--accept-certification" in caught.value.hint
    assert import_key(
        tmp_path / "gnupg", KeyImport("a", exported, accept_certification=True)
    ).entry.accept_certification
    sealed = import_key(tmp_path / "gnupg", KeyImport("b", exported, seal_only=True)).entry
    assert sealed.seal_only
    assert not sealed.accept_certification


def test_a_subkey_goes_before_a_primary_that_could_sign_too(empty_home: GnupgHome, tmp_path: Path) -> None:
    empty_home.make("both", "ed25519", usage="sign")
    empty_home.gpg("--quick-add-key", empty_home.fingerprints["both"], "ed25519", "sign", "1y")
    imported = import_key(tmp_path / "gnupg", KeyImport("modern", empty_home.gpg("--export-secret-keys")))
    assert not imported.entry.can_certify


def test_several_signing_keys_are_listed_and_one_is_chosen_by_fingerprint(
    empty_home: GnupgHome, tmp_path: Path
) -> None:
    primary = primary_with_subkeys(empty_home, ("ed25519", "sign", "1y"), ("rsa2048", "sign", "1y"))
    exported = empty_home.gpg("--export-secret-subkeys", primary)
    one, two = subkeys_of(empty_home, primary)
    with pytest.raises(ConfigError) as caught:
        import_key(tmp_path / "gnupg", KeyImport("modern", exported))
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)
    assert "--fingerprint" in caught.value.hint
    assert import_key(tmp_path / "gnupg", KeyImport("modern", exported, fingerprint=two)).entry.fingerprint == two
    with pytest.raises(ConfigError, match="AAAA"):
        import_key(tmp_path / "gnupg", KeyImport("modern", exported, fingerprint=Fingerprint(b"\xaa" * 20)))


def test_a_revoked_subkey_is_no_candidate(empty_home: GnupgHome, tmp_path: Path) -> None:
    primary = primary_with_subkeys(empty_home, ("ed25519", "sign", "1y"), ("rsa2048", "sign", "1y"))
    one, two = subkeys_of(empty_home, primary)
    commands = b"key 1\nrevkey\ny\n0\n\ny\nsave\n"
    empty_home.gpg("--command-fd", "0", "--expert", "--edit-key", primary, stdin=commands)
    exported = empty_home.gpg("--export-secret-subkeys", primary)
    assert import_key(tmp_path / "gnupg", KeyImport("modern", exported)).entry.fingerprint == two
    with pytest.raises(ConfigError, match="revoked"):
        import_key(tmp_path / "gnupg", KeyImport("modern", exported, fingerprint=one))


def test_an_expired_key_is_refused(empty_home: GnupgHome, tmp_path: Path) -> None:
    past = (datetime.now(UTC) - timedelta(days=30)).strftime("%Y%m%dT%H%M%S!")
    empty_home.gpg("--faked-system-time", past, "--quick-gen-key", "old <old@example.org>", "ed25519", "sign", "1d")
    exported = empty_home.gpg("--export-secret-keys")
    with pytest.raises(ConfigError, match="expired"):
        import_key(tmp_path / "gnupg", KeyImport("modern", exported, accept_certification=True))


def test_a_key_ends_at_the_latest_with_its_primary(empty_home: GnupgHome, tmp_path: Path) -> None:
    primary = primary_with_subkeys(empty_home, ("ed25519", "sign", "2y"))
    empty_home.gpg("--quick-set-expire", primary, "1y")
    exported = empty_home.gpg("--export-secret-subkeys", primary)
    expires = import_key(tmp_path / "gnupg", KeyImport("modern", exported)).entry.expires
    assert expires is not None
    assert timedelta(days=364) < expires - datetime.now(UTC) < timedelta(days=366)


def test_a_short_rsa_key_is_refused(empty_home: GnupgHome, tmp_path: Path) -> None:
    empty_home.make("short", "rsa1024")
    exported = empty_home.gpg("--export-secret-keys")
    with pytest.raises(ConfigError, match="1024 bits: expected 2048") as refused:
        import_key(tmp_path / "gnupg", KeyImport("modern", exported, accept_certification=True))
    assert "quick-add-key" in refused.value.hint


def test_a_curve_that_is_not_served_is_refused(empty_home: GnupgHome, tmp_path: Path) -> None:
    empty_home.make("other", "brainpoolP256r1")
    exported = empty_home.gpg("--export-secret-keys")
    with pytest.raises(ConfigError, match="curve is not served") as refused:
        import_key(tmp_path / "gnupg", KeyImport("modern", exported, accept_certification=True))
    assert "quick-add-key" in refused.value.hint


def test_an_export_of_stubs_or_public_keys_is_refused(empty_home: GnupgHome, tmp_path: Path) -> None:
    primary = primary_with_subkeys(empty_home)
    with pytest.raises(ConfigError, match="public keys only"):
        import_key(tmp_path / "gnupg", KeyImport("modern", empty_home.gpg("--export", primary)))


@pytest.mark.parametrize(
    "exported",
    [b"", b"\x00" * 100, b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n", b"\x95" * 5000, bytes(2**20 + 1)],
)
def test_what_is_no_key_is_refused(tmp_path: Path, exported: bytes) -> None:
    with pytest.raises(ConfigError):
        import_key(tmp_path / "gnupg", KeyImport("modern", exported))
    assert not (tmp_path / "gnupg").exists()


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "a" * 65, "a\n"])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="key name"):
        import_key(tmp_path / "gnupg", KeyImport(name, b""))


def test_no_agent_and_no_scratch_home_stay_behind(
    empty_home: GnupgHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_home.make("main", "ed25519", PASSPHRASE)
    exported = empty_home.gpg("--export-secret-keys", passphrase=PASSPHRASE)
    # A place of its own: other tests import at the same time.
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        monkeypatch.setattr(scratch, "_MEMORY", Path(name))
        import_key(tmp_path / "gnupg", KeyImport("modern", exported, PASSPHRASE, accept_certification=True))
        assert list(Path(name).iterdir()) == []
        assert list(find(at=Path(name))) == []
    assert not list((tmp_path / "gnupg").glob("S.*"))


def test_importing_again_updates_the_expiry_and_keeps_what_the_operator_set(
    empty_home: GnupgHome, tmp_path: Path
) -> None:
    path = tmp_path / "keys.yaml"
    primary = primary_with_subkeys(empty_home, ("ed25519", "sign", "1y"))
    first = import_key(tmp_path / "gnupg", KeyImport("modern", empty_home.gpg("--export-secret-subkeys", primary)))
    write_entry(path, "modern", first.entry)
    path.write_text(
        "".join(
            line for line in path.read_text().splitlines(keepends=True) if "- sha3" not in line and "- sha2" not in line
        )
    )
    empty_home.gpg("--quick-set-expire", primary, "3y", "*")
    again = import_key(tmp_path / "gnupg", KeyImport("modern", empty_home.gpg("--export-secret-subkeys", primary)))
    entry = write_entry(path, "modern", again.entry)
    assert entry.hash_algorithms == (HashAlgorithm.SHA512,)
    assert entry.expires is not None
    assert first.entry.expires is not None
    assert entry.expires > first.entry.expires + timedelta(days=700)
    assert keysfile.load(path).keys == {"modern": entry}


def test_keys_are_added_one_beside_the_other_and_removed(empty_home: GnupgHome, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    primary = primary_with_subkeys(empty_home, ("ed25519", "sign", "1y"), ("rsa2048", "sign", "never"))
    exported = empty_home.gpg("--export-secret-subkeys", primary)
    entries = [
        import_key(tmp_path / "gnupg", KeyImport(f"k{i}", exported, fingerprint=each)).entry
        for i, each in enumerate(subkeys_of(empty_home, primary))
    ]
    for index, entry in enumerate(entries):
        write_entry(path, f"k{index}", entry)
    assert keysfile.load(path).keys == {"k0": entries[0], "k1": entries[1]}
    with pytest.raises(ConfigError, match="is the name of key"):
        write_entry(path, "k0", entries[1])
    with pytest.raises(ConfigError, match="there already as k1"):
        write_entry(path, "k2", entries[1])
    assert remove_entry(path, "k0") == entries[0]
    assert keysfile.load(path).keys == {"k1": entries[1]}
    with pytest.raises(ConfigError, match="no key k0"):
        remove_entry(path, "k0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_file_belongs_to_the_owner_of_the_home(empty_home: GnupgHome, tmp_path: Path) -> None:
    (tmp_path / "gnupg").mkdir(mode=0o700)
    os.chown(tmp_path / "gnupg", 12345, 12345)
    primary = primary_with_subkeys(empty_home, ("ed25519", "sign", "1y"))
    exported = empty_home.gpg("--export-secret-subkeys", primary)
    imported = import_key(tmp_path / "gnupg", KeyImport("modern", exported))
    status = keyfile.key_path(tmp_path / "gnupg", imported.entry.keygrip).stat()
    assert (status.st_uid, status.st_mode & 0o777) == (12345, 0o600)


def test_a_link_in_the_place_of_the_signers_key_directory_is_not_followed(
    empty_home: GnupgHome, tmp_path: Path
) -> None:
    (tmp_path / "gnupg").mkdir(mode=0o700)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "gnupg" / "private-keys-v1.d").symlink_to(elsewhere)
    if os.geteuid() == 0:
        os.chown(tmp_path / "gnupg", 12345, 12345)
    primary = primary_with_subkeys(empty_home, ("ed25519", "sign", "1y"))
    exported = empty_home.gpg("--export-secret-subkeys", primary)
    with pytest.raises(ConfigError, match=r"private-keys-v1\.d: expected a directory, found a symbolic link"):
        import_key(tmp_path / "gnupg", KeyImport("modern", exported))
    assert elsewhere.stat().st_uid == os.geteuid()
    assert list(elsewhere.iterdir()) == []


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(ConfigError, match="did not finish"), time_limit(0.1):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
            process.wait(60)

"""What a digest cannot say: through the relay nobody certifies anything, since only subkeys that sign are served.

Each command is tried with the primary's secret key, too, where it must work: that nobody can do what works nowhere
would prove nothing.
"""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.signatures import RsaSignature
from tests.end_to_end.assuanclient import AssuanClient
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import Done, System, forget_home, gpg_in

UNPROTECTED = ("--pinentry-mode", "loopback", "--passphrase", "")
ALIEN = "alien <alien@example.org>"

COMMANDS = {
    "certify another key": ("--quick-sign-key", "{alien}"),
    "certify another key locally": ("--quick-lsign-key", "{alien}"),
    "move the end of the primary key": ("--quick-set-expire", "{primary}", "5y"),
    "move the end of the subkey": ("--quick-set-expire", "{primary}", "5y", "{subkey}"),
    "add a user ID": ("--quick-add-uid", "{primary}", "intruder <intruder@example.org>"),
    "revoke the user ID": ("--quick-revoke-uid", "{primary}", "modern <modern@example.org>"),
    "make a user ID primary": ("--quick-set-primary-uid", "{primary}", "modern of before <modern@old.example.org>"),
    "add a subkey": ("--quick-add-key", "{primary}", "rsa2048", "sign", "1y"),
}
DIALOGUES = {
    # what a person types behind `gpg --edit-key`, and the question of --gen-revoke
    "addkey": "addkey\n4\n2048\n1y\nsave\n",
    "addkey of an existing key": "addkey\n13\n{keygrip}\nq\n1y\nsave\n",
    "expire": "expire\n5y\nsave\n",
    "adduid": "adduid\nintruder\nintruder@example.org\n\nsave\n",
    "revuid": "uid 2\nrevuid\ny\n0\n\ny\nsave\n",
    "revkey": "key 1\nrevkey\ny\n0\n\ny\nsave\n",
    "revoke the whole": "revkey\ny\n0\n\ny\nsave\n",
    "setpref": "setpref AES256 SHA512\ny\nsave\n",
    "sign another": "sign\ny\nsave\n",
    "gen-revoke": "y\n0\n\ny\n",
}


@pytest.fixture(name="alien", scope="module")
def somebody_elses_key(made: System, offline: Offline) -> str:
    """A certificate of somebody else in the build server's home, for our keys to certify."""
    offline.gpg("--quick-gen-key", ALIEN, "rsa2048", "cert", "1y")
    fingerprint = offline.column("alien@example.org", "fpr")[0]
    done = made.gpg("--import", text=offline.gpg("--armor", "--export", fingerprint).decode())
    assert done.returncode == 0, done.stderr
    return fingerprint


@pytest.fixture
def owner(offline: Offline, alien: str) -> Iterator[Path]:
    """A home with the secret primary key: the control of each trial."""
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        home = Path(name) / "home"
        shutil.copytree(offline.home, home, ignore=shutil.ignore_patterns("S.*", "*.secret"))
        try:
            yield home
        finally:
            forget_home(home)


def listing(home: Path) -> str:
    return gpg_in(
        home, "--with-colons", "--fixed-list-mode", "--list-options", "show-unusable-uids", "--check-sigs"
    ).stdout


def command_words(what: str, offline: Offline, alien: str) -> list[str]:
    names = {"alien": alien, "primary": offline.primaries["modern"], "subkey": offline.fingerprints["modern"]}
    return ["--yes", "--local-user", "modern@example.org", *(word.format(**names) for word in COMMANDS[what])]


def dialogue_words(dialogue: str, offline: Offline, alien: str) -> list[str]:
    edited = alien if dialogue == "sign another" else offline.primaries["modern"]
    action = "--gen-revoke" if dialogue == "gen-revoke" else "--edit-key"
    return ["--no-batch", "--expert", "--command-fd", "0", "--local-user", "modern@example.org", action, edited]


def typed_for(dialogue: str, offline: Offline) -> str:
    return DIALOGUES[dialogue].format(keygrip=offline.keygrips["legacy"])


def something_changed(done: Done, before: str, after: str) -> bool:
    return "BEGIN PGP" in done.stdout or after != before


@pytest.mark.parametrize("what", COMMANDS)
def test_a_served_subkey_changes_no_certificate(system: System, offline: Offline, alien: str, what: str) -> None:
    home = Path(system.environment["GNUPGHOME"])
    before, count = listing(home), len(system.signed())
    done = system.gpg(*command_words(what, offline, alien))
    assert done.returncode != 0, done.stdout
    assert not something_changed(done, before, listing(home))
    assert len(system.signed()) == count


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_no_dialogue_with_gpg_changes_a_certificate(
    system: System, offline: Offline, alien: str, dialogue: str
) -> None:
    home = Path(system.environment["GNUPGHOME"])
    before, count = listing(home), len(system.signed())
    done = system.gpg(*dialogue_words(dialogue, offline, alien), text=typed_for(dialogue, offline))
    assert not something_changed(done, before, listing(home))
    assert len(system.signed()) == count


@pytest.mark.parametrize("what", COMMANDS)
def test_the_same_command_works_for_the_primary_keys_owner(
    owner: Path, offline: Offline, alien: str, what: str
) -> None:
    before = listing(owner)
    done = gpg_in(owner, *UNPROTECTED, *command_words(what, offline, alien))
    assert done.returncode == 0, done.stderr
    assert something_changed(done, before, listing(owner)), done.stderr


@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_the_same_dialogue_works_for_the_primary_keys_owner(
    owner: Path, offline: Offline, alien: str, dialogue: str
) -> None:
    before = listing(owner)
    words = dialogue_words(dialogue, offline, alien)
    done = gpg_in(owner, *UNPROTECTED, *words, text=typed_for(dialogue, offline))
    assert something_changed(done, before, listing(owner)), done.stdout + done.stderr


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet; gpg exports keys and user IDs in the old format (RFC 9580, 4.2.2)."""
    while data:
        size = 1 << (data[0] & 3)
        length = int.from_bytes(data[1 : 1 + size])
        yield (data[0] >> 2) & 15, data[1 + size : 1 + size + length]
        data = data[1 + size + length :]


def forged_certification(client: AssuanClient, certificate: bytes, grip: str, issuer: str) -> bytes:
    """A certification (type 0x10) of the certificate's user ID by a subkey, as a hostile client makes it."""
    found = dict(reversed([*packets(certificate)]))  # of each tag the first
    key, user = found[6], found[13]
    fingerprint = bytes.fromhex(issuer)
    hashed = b"\x05\x02" + int(time.time()).to_bytes(4) + b"\x16\x21\x04" + fingerprint
    start = bytes([4, 0x10, 1, 8]) + len(hashed).to_bytes(2) + hashed
    content = b"\x99" + len(key).to_bytes(2) + key + b"\xb4" + len(user).to_bytes(4) + user
    digest = hashlib.sha256(content + start + b"\x04\xff" + len(start).to_bytes(4)).digest()
    signature = client.sign(grip, Digest(HashAlgorithm.SHA256, digest))
    assert isinstance(signature, RsaSignature)
    number = int.from_bytes(signature.s)
    mpi = number.bit_length().to_bytes(2) + number.to_bytes((number.bit_length() + 7) // 8)
    unhashed = b"\x09\x10" + fingerprint[-8:]
    body = start + len(unhashed).to_bytes(2) + unhashed + digest[:2] + mpi
    packet = b"\x89" + len(body).to_bytes(2) + body
    before, name, after = certificate.partition(user)
    return before + name + packet + after


def verdicts(owner: Path, forged: bytes, alien: str, issuer: str) -> list[str]:
    """What gpg thinks of the certifications by `issuer`, after an import: "!" for a good one, "-" for a bad one."""
    (owner / "forged").write_bytes(forged)
    gpg_in(owner, "--import", owner / "forged")
    rows = gpg_in(owner, "--with-colons", "--no-sig-cache", "--check-sigs", alien).stdout.splitlines()
    return [row.split(":")[1] for row in rows if row.startswith("sig:") and row.split(":")[4] == issuer[-16:]]


def test_a_certification_that_a_hostile_client_forges_is_believed_by_nobody(
    system: System, offline: Offline, alien: str, owner: Path
) -> None:
    """Any digest is signed for a hostile client, with a record; but the subkey's binding does not let it certify."""
    count, certificate = len(system.signed()), offline.gpg("--export", alien)
    subkey, primary = offline.fingerprints["modern"], offline.primaries["modern"]
    with AssuanClient(system.socket) as client:
        by_subkey = forged_certification(client, certificate, offline.keygrips["modern"], subkey)
    assert len(system.signed()) == count + 1
    assert verdicts(owner, by_subkey, alien, subkey) == ["-"]

    with AssuanClient(offline.agent_socket) as client:  # the control: the same bytes by a key that may
        by_primary = forged_certification(client, certificate, offline.column(primary, "grp")[0], primary)
    assert verdicts(owner, by_primary, alien, primary) == ["!"]

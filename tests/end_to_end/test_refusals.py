"""What a signing relay must not do, asked by real gpg, by raw Assuan, and by a relay that asks what it likes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentproxy.protocol.codes import RefusalCode
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.gpgerror import GpgError
from agentproxy.protocol.oracle_messages import Refused, Signed
from tests.end_to_end.assuanclient import AssuanClient, AssuanError
from tests.end_to_end.hostile import hostile_relay
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import System, forget_home, gpg_in, until

PROMPT = 20  # seconds; what is refused is refused at once, whatever gpg then does about it
BROKEN = {"MD5": HashAlgorithm.MD5, "SHA1": HashAlgorithm.SHA1, "RIPEMD160": HashAlgorithm.RIPEMD160}
GOOD = Digest(HashAlgorithm.SHA256, bytes(range(32)))


def code(error: GpgError) -> int:
    return error.value & 0xFFFF


def test_a_backdated_signature_is_made_since_a_digest_does_not_tell_and_its_record_has_the_true_time(
    system: System, offline: Offline
) -> None:
    """Documented in docs/SECURITY.md: whoever owns a runner chooses the time in a signature, not in its record."""
    done = system.sign(
        "modern", "--faked-system-time", "20200101T000000!", "--ignore-time-conflict", "--ignore-valid-from"
    )
    assert done.returncode == 0, done.stderr
    checked = system.gpg("--list-packets", text=done.stdout).stdout
    assert "created 1577836800" in checked
    assert not str(system.signed()[-1]["time"]).startswith("2020-")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_hash_algorithm_is_refused_in_gpgs_own_words(system: System, name: str) -> None:
    count = len(system.signed())
    done = system.sign("modern", "--digest-algo", name, "--weak-digest", "SHA512", "--allow-weak-digest-algos")
    assert done.returncode == 2
    assert "Invalid digest algorithm" in done.stderr or "selected digest algorithm is invalid" in done.stderr
    assert done.stdout == ""
    assert len(system.signed()) == count


@pytest.mark.parametrize("algorithm", BROKEN.values())
async def test_neither_relay_nor_oracle_takes_a_digest_of_a_broken_hash_algorithm(
    system: System, offline: Offline, algorithm: HashAlgorithm
) -> None:
    count = len(system.signed())
    digest = Digest(algorithm, bytes(algorithm.digest_size))
    with AssuanClient(system.socket) as client, pytest.raises(AssuanError) as caught:
        client.sign(offline.keygrips["modern"], digest)
    assert caught.value.code == code(GpgError.DIGEST_ALGO)
    async with hostile_relay(system) as hostile:
        answer = await hostile.sign(offline.keygrips["modern"], digest)
    assert isinstance(answer, Refused)
    assert answer.code is RefusalCode.HASH_FORBIDDEN
    until(lambda: system.records()[-1]["hash_algorithm"] == algorithm.value, "the refusal is recorded")
    assert system.records()[-1]["outcome"] == "refused"
    assert len(system.signed()) == count


def test_decryption_is_refused_always_in_the_same_words_though_there_is_a_subkey_for_it(
    system: System, offline: Offline
) -> None:
    assert system.gpg("--import", text=offline.public("modern").decode()).returncode == 0
    sealed = system.gpg(
        "--trust-model", "always", "--armor", "--recipient", "modern@example.org", "--encrypt", text="x"
    )
    assert sealed.returncode == 0, sealed.stderr
    said = {system.gpg("--decrypt", text=sealed.stdout, seconds=PROMPT).stderr for _ in range(3)}
    (words,) = said
    assert "decryption failed: No secret key" in words
    secret = offline.gpg("--list-secret-keys", "--with-colons", "--with-keygrip", "modern@example.org").decode()
    encrypting = [row.split(":")[9] for row in secret.splitlines() if row.startswith("grp:")][2]
    with AssuanClient(system.socket) as client:
        with pytest.raises(AssuanError) as caught:
            client.ask("SETKEY", encrypting)
        assert caught.value.code == code(GpgError.NO_SECKEY)
        client.ask("SETKEY", offline.keygrips["modern"])
        with pytest.raises(AssuanError) as caught:
            client.ask("PKDECRYPT")
        assert caught.value.code == code(GpgError.FORBIDDEN)


FORBIDDEN = {
    "export the secret key": ("--export-secret-keys", "{primary}"),
    "export the secret subkey": ("--export-secret-subkeys", "{subkey}!"),
    "export for ssh": ("--export-secret-ssh-key", "{subkey}!"),
    "delete the secret key": ("--yes", "--delete-secret-keys", "{primary}"),
    "change the passphrase": ("--passwd", "{primary}"),
    "make a key": ("--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", "new@example.org"),
    "look at a card": ("--card-status",),
    "change a PIN": ("--change-pin",),
    "edit a card": ("--no-batch", "--command-fd", "0", "--card-edit"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_is_not_signing_fails_cleanly_and_soon(system: System, offline: Offline, what: str) -> None:
    before, count = system.keyring, len(system.signed())
    names = {"primary": offline.primaries["modern"], "subkey": offline.fingerprints["modern"]}
    done = system.gpg(*(word.format(**names) for word in FORBIDDEN[what]), seconds=PROMPT)
    # gpg itself ends with 0 after a passphrase that it could not change.
    assert done.returncode != 0 or "Forbidden" in done.stderr, done.stdout
    assert "PRIVATE KEY" not in done.stdout
    assert system.keyring == before
    assert len(system.signed()) == count


@contextmanager
def a_users_home() -> Iterator[Path]:
    """A home of somebody who installs packages, far from any relay."""
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        finally:
            forget_home(Path(name))


PARAMETERS = """\
Key-Type: RSA
Key-Grip: {keygrip}
Key-Usage: cert sign
Creation-Date: seconds={created}
Name-Email: intruder@example.org
%commit
"""


def test_a_second_certificate_around_a_served_key_can_be_made_and_takes_nobodys_place(
    system: System, offline: Offline
) -> None:
    """Documented in docs/SECURITY.md: a digest does not tell that it is one of a certificate's own signatures.

    With the subkey's time even the subkey's fingerprint comes out, now as a primary key's: so trust belongs to the
    fingerprint of our primary key, never to the subkey's alone. Each signature in it has its record.
    """
    count = len(system.signed())
    rows = system.gpg("--with-colons", "--list-keys", "modern@example.org").stdout.splitlines()
    created = next(row.split(":")[5] for row in rows if row.startswith("sub:"))
    with system.another_home() as home:
        (home / "parameters").write_text(PARAMETERS.format(keygrip=offline.keygrips["modern"], created=created))
        made = gpg_in(home, "--gen-key", home / "parameters")
        assert made.returncode == 0, made.stderr
        forged = gpg_in(home, "--armor", "--export", "intruder@example.org").stdout
        primaries = gpg_in(home, "--with-colons", "--list-keys", "intruder@example.org").stdout
    assert f"fpr:::::::::{offline.fingerprints['modern']}:" in primaries
    with a_users_home() as user:
        gpg_in(user, "--import", text=offline.public("modern").decode())
        refused = gpg_in(user, "--import", text=forged)
        listed = gpg_in(user, "--with-colons", "--list-keys").stdout
    assert "doesn't match our copy" in refused.stderr
    assert "intruder" not in listed
    assert len(system.signed()) > count


def test_a_secret_key_cannot_be_put_in(system: System, offline: Offline) -> None:
    secret = offline.gpg("--armor", "--export-secret-keys", offline.primaries["legacy"]).decode()
    done = system.gpg("--import", text=secret, seconds=PROMPT)
    assert done.returncode != 0
    listed = system.gpg("--list-secret-keys", "--with-colons", "legacy@example.org").stdout
    assert "sec:" in listed
    assert [row.split(":")[14] for row in listed.splitlines() if row.startswith("sec:")] == ["#"]


@contextmanager
def policy_without(system: System, name: str) -> Iterator[None]:
    """The runner may no longer use a key, as an operator writes it, and a moment later may again."""
    file = system.directory / "policy.yaml"
    text = file.read_text()
    shorter = text.replace("keys: [modern, legacy]", f"keys: [{'modern' if name == 'legacy' else 'legacy'}]")
    assert shorter != text
    try:
        _take(system, shorter)
        yield
    finally:
        _take(system, text)


def _take(system: System, text: str) -> None:
    (system.directory / "policy.yaml").write_text(text)
    system.reload_policy()


def serves(system: System, grip: str) -> bool:
    with AssuanClient(system.socket) as client:
        try:
            client.ask("HAVEKEY", grip)
        except AssuanError:
            return False
    return True


async def test_a_key_that_the_policy_takes_away_is_gone_for_gpg_and_for_whoever_knows_its_keygrip(
    system: System, offline: Offline
) -> None:
    grip = offline.keygrips["legacy"]
    assert system.sign("legacy").returncode == 0
    with AssuanClient(system.socket) as old_client:
        old_client.ask("SIGKEY", grip)
        with policy_without(system, "legacy"):
            until(lambda: not serves(system, grip), "the relay learns of it")
            count = len(system.signed())
            done = system.sign("legacy")
            assert done.returncode == 2
            assert "No secret key" in done.stderr
            assert done.stdout == ""
            with pytest.raises(AssuanError) as caught:  # a conversation that began before
                old_client.sign(grip, GOOD)
            assert caught.value.code == code(GpgError.FORBIDDEN)
            async with hostile_relay(system) as hostile:
                assert grip not in {str(key.facts.keygrip) for key in hostile.welcome.keys}
                for spelling in (grip, grip.lower()):
                    answer = await hostile.sign(spelling, GOOD)
                    assert isinstance(answer, Refused)
                    assert answer.code is RefusalCode.FORBIDDEN
                assert isinstance(await hostile.sign(offline.keygrips["modern"], GOOD), Signed)
            assert len(system.signed()) == count + 1
    until(lambda: serves(system, grip), "the relay learns that it may again")
    assert system.sign("legacy").returncode == 0


def test_a_keygrip_may_be_spelled_in_any_case_and_a_foreign_one_in_none(system: System, offline: Offline) -> None:
    (foreign,) = set(offline.column(offline.primaries["modern"], "grp")[:1])
    with AssuanClient(system.socket) as client:
        for spelling in (foreign, foreign.lower(), foreign.swapcase()):
            with pytest.raises(AssuanError) as caught:
                client.sign(spelling, GOOD)
            assert caught.value.code == code(GpgError.NO_SECKEY)
        client.sign(offline.keygrips["modern"].lower(), GOOD)
    system.assert_log_is_whole()

"""Runs gpg on the fallback's own home, for `fallback setup` only: make, import, list and export keys.

Source of the listing's columns: gnupg, doc/DETAILS.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.values import frozen
from relay.localagent import gpgconf

__all__ = ["ListedKey", "generate", "import_secret", "list_secret", "run", "show_file"]

GPG_SECONDS = 300  # making an RSA-4096 key on a busy host takes a minute
_LISTING = ("--with-colons", "--with-keygrip", "--with-subkey-fingerprint", "--fixed-list-mode")


@frozen
class ListedKey:
    """A key, as gpg lists it."""

    fingerprint: Fingerprint
    primary: Fingerprint
    keygrip: Keygrip
    can_sign: bool
    can_certify: bool
    is_secret: bool  # the secret part is here
    created: datetime
    expires: datetime | None
    user_id: str


def run(home: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """What gpg writes.

    Raises:
        ConfigError: it is missing, refuses, or hangs; with its own words.
    """
    command = ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--quiet", *arguments]
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "HOME": str(home)}
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, check=True, timeout=GPG_SECONDS, env=environment
        )
    except FileNotFoundError as error:
        raise ConfigError("gpg is not installed", "apt-get install gnupg gpg-agent") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode("utf-8", "backslashreplace").strip() or f"exit status {error.returncode}"
        raise ConfigError("\n".join(f"gpg: {line.removeprefix('gpg: ')}" for line in words.splitlines())) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"gpg took longer than {GPG_SECONDS} s") from error
    return done.stdout


def generate(home: Path, user_id: str, algorithm: str, expire: str) -> None:
    """Make a certificate whose primary key certifies only, with a subkey that signs only."""
    unprotected = ("--pinentry-mode", "loopback", "--passphrase", "")
    before = {key.primary for key in list_secret(home)}
    # Without --yes gpg refuses a second key of the same name: this host could never renew one that ends.
    run(home, *unprotected, "--yes", "--quick-generate-key", user_id, algorithm, "cert", expire)
    made = {key.primary for key in list_secret(home)} - before
    for primary in made:
        run(home, *unprotected, "--quick-add-key", str(primary), algorithm, "sign", expire)


def show_file(home: Path, exported: bytes) -> list[ListedKey]:
    """The keys in an exported file; they are imported into a home that is gone afterwards."""
    # `show-only` would not say which secret parts are in the file.
    with tempfile.TemporaryDirectory(prefix=".look-", dir=home.parent, ignore_cleanup_errors=True) as name:
        look = Path(name)
        try:
            import_secret(look, exported)
            return list_secret(look)
        finally:
            gpgconf(look, "--kill", "gpg-agent")
            gpgconf(look, "--remove-socketdir")


def import_secret(home: Path, exported: bytes) -> None:
    """Put the keys of an exported file into the home."""
    run(home, "--import", stdin=exported)


def list_secret(home: Path) -> list[ListedKey]:
    """The keys of the home whose certificates have a secret part here."""
    return list(_parse(run(home, *_LISTING, "--list-secret-keys")))


def _parse(listing: bytes) -> Iterator[ListedKey]:
    rows = [line.split(":") for line in listing.decode("utf-8", "replace").splitlines()]
    primary, user_id, primary_expires = "", "", ""
    for place, row in enumerate(rows):
        if row[0] not in {"sec", "ssb"} or len(row) < 15:
            continue
        fingerprint, keygrip = _following(rows[place + 1 :], "fpr"), _following(rows[place + 1 :], "grp")
        if row[0] == "sec":
            primary, user_id, primary_expires = fingerprint, _following(rows[place + 1 :], "uid"), row[6]
        ends = (row[6], primary_expires)
        try:
            yield ListedKey(
                Fingerprint.parse(fingerprint),
                Fingerprint.parse(primary),
                Keygrip.parse(keygrip),
                can_sign="s" in row[11],
                can_certify="c" in row[11],
                is_secret=row[14] != "#",
                created=datetime.fromtimestamp(int(row[5]), UTC),
                expires=min((datetime.fromtimestamp(int(end), UTC) for end in ends if end), default=None),
                user_id=_printable(user_id),
            )
        except (RemoteProtocolError, ValueError) as error:
            raise ConfigError(f"gpg lists a key that is not understood: {':'.join(row)[:200]!r}") from error


def _following(rows: Sequence[Sequence[str]], kind: str) -> str:
    """Field 10 of the first row of a kind."""
    return next((row[9] for row in rows if row[0] == kind and len(row) > 9), "")


def _printable(user_id: str) -> str:
    # gpg writes a colon and what cannot be printed as \x3a.
    return "".join(character if character.isprintable() else "?" for character in user_id.replace("\\x3a", ":"))

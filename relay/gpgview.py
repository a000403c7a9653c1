"""What this user's gpg sees: its version, where it looks for its agent, and the keys in its home."""

import os
import re
import stat
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen

__all__ = ["GpgView", "ProgramError", "PublicSubkey", "program_version", "refuse_pipes", "why_unreachable"]

# gpg answers in milliseconds, but one that waits for a hanging relay waits for the relay's deadline.
SECONDS = 60
_LONGEST_SOCKET = 106  # bytes; libassuan, assuan-socket.c: one less than the kernel takes
_READ_BY_GPG = ("gpg.conf", "common.conf", "pubring.kbx", "pubring.gpg", "trustdb.gpg", "random_seed")
_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)+")


class ProgramError(Exception):
    """A program is missing, or does not end."""


@frozen
class PublicSubkey:
    """A key in the home that may sign."""

    fingerprint: str
    primary: str
    created: int  # seconds since 1970
    algorithm: str  # as gpg names it, such as rsa4096 or ed25519
    fault: str  # why gpg does not use it, such as "expired on 2026-01-01"; empty: it does


@frozen
class GpgView:
    """gpg with one home, as the user has it."""

    home: Path

    def run(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run gpg, gpgconf or the like.

        Raises:
            ProgramError: it is missing, or does not end.
            ConfigError: gpg would not end, for what lies where its options or keys belong.
        """
        if words[0] == "gpg":
            refuse_pipes(self.home)
        return _run(words, {"GNUPGHOME": str(self.home)}, text)

    @property
    def version(self) -> str:
        """gpg's.

        Raises:
            ProgramError: it does not run, or is no gpg.
            ConfigError: as in `run`.
        """
        done = self.run("gpg", "--version")
        if not (version := _version(done.stdout)):
            said = done.stderr.strip().splitlines() or ["it did not say why"]
            raise ProgramError(f"gpg does not tell its version: {said[-1]}")
        return version

    @property
    def agent_socket(self) -> Path:
        """Where gpg looks for its agent."""
        return Path(self.run("gpgconf", "--list-dirs", "agent-socket").stdout.rstrip("\n"))

    @property
    def has_shim(self) -> bool:
        """Whether gpg would make a missing link by itself."""
        file = self.home / "gpg.conf"
        return file.is_file() and "agent-program" in file.read_text("utf-8", "replace")

    def signing_keys(self) -> dict[str, PublicSubkey]:
        """All keys of the home that can sign, by fingerprint."""
        listed = self.run("gpg", "--batch", "--with-colons", "--with-subkey-fingerprint", "--list-keys").stdout
        found: dict[str, PublicSubkey] = {}
        primary, row = "", [""] * 17
        for line in listed.splitlines():
            fields = line.split(":")
            if fields[0] in {"pub", "sub"}:
                row = fields
                primary = "" if fields[0] == "pub" else primary
            elif fields[0] == "fpr":
                primary = primary or fields[9]
                if "s" in row[11]:
                    fault = _fault(row[1], row[6])
                    found[fields[9]] = PublicSubkey(fields[9], primary, int(row[5] or 0), _algorithm(row), fault)
        return found


def why_unreachable(place: Path) -> str:
    """Why gpg cannot connect to an agent there, whoever listens; it says "No agent running". Empty: it can."""
    is_long = len(os.fsencode(place)) > _LONGEST_SOCKET
    return f"gpg cannot connect to a name of more than {_LONGEST_SOCKET} bytes" if is_long else ""


def refuse_pipes(home: Path) -> None:
    """Look at what gpg opens in a home, before it waits there for ever.

    Raises:
        ConfigError: one is a pipe or a directory.
    """
    for name in _READ_BY_GPG:
        _check_regular(home / name)


def _check_regular(file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except OSError:
        return  # there are none, or gpg says itself what it may not read
    # gpg 2.2 reads a directory again and again, and waits at a pipe for who writes into it.
    if stat.S_ISDIR(mode) or stat.S_ISFIFO(mode):
        raise ConfigError(f"{file}: is no regular file", "move it away")


def _algorithm(row: list[str]) -> str:
    # doc/DETAILS of gnupg: field 4 is the number of RFC 9580, 9.1; field 17 a curve's name.
    curve = row[16] if len(row) > 16 else ""
    return curve or {"1": "rsa", "17": "dsa"}.get(row[3], "") + row[2]


def _fault(validity: str, end: str) -> str:
    match validity[:1]:
        case "e":
            return f"expired on {datetime.fromtimestamp(int(end), UTC):%Y-%m-%d}" if end.isdigit() else "expired"
        case "r":
            return "revoked"
        case "i" | "d":
            return "invalid or disabled"
    return ""


def program_version(*words: str) -> str | None:
    """The version that a program prints first; None: there is no such program; empty: it prints none."""
    try:
        return _version(_run(words, {}, "").stdout)
    except ProgramError:
        return None


def _version(printed: str) -> str:
    found = _VERSION.search(printed)
    return found[0] if found is not None else ""


def _run(words: tuple[str, ...], also: Mapping[str, str], text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, env={**os.environ, "LC_ALL": "C", **also}, input=text, capture_output=True, text=True,
            errors="replace", timeout=SECONDS, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ProgramError(f"{words[0]} is not installed") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{words[0]}: {error}") from error

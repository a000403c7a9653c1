"""Makes a GnuPG home from which unmodified gpg, rpmsign and debsign reach the relay.

It holds public keys only. gpg finds the relay by a redirect where it looks for its agent's socket, and by a shim that
it runs when nothing answers there. Source: gpg-agent.texi, agent-socket redirection; gnupg, common/homedir.c.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import write_atomically

__all__ = ["SetUp", "rpm_macros", "set_up"]

GPGCONF_SECONDS = 20
_SHIM = "agent-shim"
_REDIRECT = "relay-redirect"
_MAX_REDIRECT = 511  # bytes: libassuan reads no more
# Our lines in gpg.conf; others of the same options are taken out, since they would undo them.
_OPTIONS = ("agent-program", "no-permission-warning")
_CONTRARY = ("no-autostart",)
_NOTE = "# The next lines are kept by `blind-oracle-relay setup`."


@dataclass(frozen=True, slots=True)
class SetUp:
    """A GnuPG home that is ready."""

    home: Path
    fingerprints: tuple[str, ...]  # of the certificates in it
    agent_socket: Path  # where this user's gpg looks; now a redirect


def set_up(home: Path, socket: Path, certificates: Sequence[bytes]) -> SetUp:
    """Make or repair `home`; doing it again changes nothing that is right already. It blocks for a second.

    Raises:
        ConfigError: a directory cannot be written, gpg is missing or refuses, or a path cannot stand in a redirect.
    """
    redirect = _redirect(socket)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        shim = home / _SHIM
        write_atomically(shim, files("relay").joinpath(_SHIM).read_bytes(), 0o755)
        write_atomically(home / _REDIRECT, redirect, 0o644)
        _write_options(home / "gpg.conf", shim)
        fingerprints = _import(home, certificates)
        agent_socket = _place_redirect(home, redirect)
    except OSError as error:
        raise ConfigError(f"{error.filename or home}: {error.strerror}") from error
    return SetUp(home, fingerprints, agent_socket)


def _redirect(socket: Path) -> bytes:
    path = str(socket.absolute())
    content = f"%Assuan%\nsocket={path}\n".encode()
    # gpg expands ${NAME} in the path.
    if "$" in path or "\n" in path or len(content) > _MAX_REDIRECT:
        raise ConfigError(f"{path}: a path with '$', a newline or {_MAX_REDIRECT} bytes cannot stand in a redirect")
    return content


def _write_options(file: Path, shim: Path) -> None:
    old = file.read_text("utf-8") if file.exists() else ""
    kept = [line for line in old.splitlines() if line != _NOTE and _option(line) not in {*_OPTIONS, *_CONTRARY}]
    ours = [_NOTE, f"agent-program {shim.absolute()}", "no-permission-warning"]
    new = "\n".join([*kept, *ours]) + "\n"
    if new != old:
        write_atomically(file, new.encode(), 0o644)


def _option(line: str) -> str:
    return (line.split() or [""])[0].removeprefix("--")


def _import(home: Path, certificates: Sequence[bytes]) -> tuple[str, ...]:
    import gnupg  # noqa: PLC0415  `serve` shares this package and does not need it

    try:
        # Without --no-autostart an import would start an agent of gpg's own, where our redirect shall be.
        gpg = gnupg.GPG(gnupghome=str(home), options=["--no-autostart"])
    except (OSError, ValueError) as error:
        raise ConfigError(f"gpg cannot be run: {error}", "apt-get install gnupg") from error
    for certificate in certificates:
        result = gpg.import_keys(certificate)
        if not result.count:
            raise ConfigError(
                "gpg takes no key from a certificate of the oracle", "gpg --show-keys shows what is wrong"
            )
    return tuple(str(key["fingerprint"]) for key in gpg.list_keys())


def _place_redirect(home: Path, redirect: bytes) -> Path:
    place = Path(_gpgconf(home, "--list-dirs", "agent-socket").rstrip("\n"))
    if not place.parent.is_dir():
        raise ConfigError(f"{place.parent}: gpg wants its agent's socket there, and the directory is missing")
    if place.is_socket():
        # An agent that gpg started before this home was set up: it has no keys, and would hide the relay.
        _gpgconf(home, "--kill", "gpg-agent")
    if place.is_symlink() or not place.is_file() or place.read_bytes() != redirect:
        write_atomically(place, redirect, 0o644)
    return place


def _gpgconf(home: Path, *arguments: str) -> str:
    command = ["gpgconf", "--homedir", str(home), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, check=True, timeout=GPGCONF_SECONDS, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError as error:
        raise ConfigError("gpgconf is not installed", "apt-get install gnupg") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"gpgconf {' '.join(arguments)} failed for {home}") from error
    return os.fsdecode(done.stdout)


def rpm_macros(home: Path, key_name: str) -> str:
    """What goes into ~/.rpmmacros so that rpmsign uses `home`; Debian's rpm looks for gpg2, which is not there."""
    return f"%_gpg_path {home}\n%__gpg /usr/bin/gpg\n%_gpg_name {key_name}\n"

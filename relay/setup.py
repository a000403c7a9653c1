"""Makes a GnuPG home from which unmodified gpg, rpmsign, debsign, git and sq reach the relay.

It holds public keys only. gpg finds the relay by a link where it looks for its agent's socket, and by a shim that it
runs when nothing answers there. Source: gnupg, common/homedir.c, common/asshelp.c.
"""

import codecs
import os
import socket
import stat
import subprocess
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import gnupg

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import write_atomically
from relay.gpgview import refuse_pipes, why_unreachable

__all__ = ["SetUp", "import_certificates", "refuse_long_name", "rpm_macros", "set_up"]

GPGCONF_SECONDS = 20
LEAVE_SECONDS = 5.0  # for an agent that was told to end; it removes its socket last, and must not remove our link
_LOOK_SECONDS = 0.05
_MAX_OPTIONS = 1 << 20  # bytes
_SHIM = "agent-shim"
# Both here: whoever becomes another user for a home may then not be able to read Python's files and ours any more.
codecs.lookup("latin-1")  # python-gnupg's
_SHIM_SCRIPT = files("relay").joinpath(_SHIM).read_bytes()
_LINK = "relay-socket"  # in the home, for the shim
_NOTE = "# The next lines are kept by `blind-oracle-relay setup`."
# A real gpg-agent that somebody starts here (sq and gpgconf do, when the relay is away) would take the relay's place:
# with this option it ends at once, for want of a socket from systemd. Where it no longer exists it is ignored.
_AGENT_OPTIONS = ("ignore-invalid-option supervised", "supervised")
# A file that the builders need not write: gpg locks a keyring even to read its trust model.
_SHARED_OPTIONS = ("lock-never",)


@frozen
class SetUp:
    """A GnuPG home that is ready."""

    home: Path
    fingerprints: tuple[str, ...]  # of the certificates in it
    agent_socket: Path  # where this user's gpg looks; now a link to the relay's socket


def refuse_long_name(home: Path, *, shared: bool) -> None:
    """For a new home: not when one is kept in step, whose user may have a login session at other times.

    Raises:
        ConfigError: gpg would not reach the relay from it.
    """
    own = home.absolute() / "S.gpg-agent"
    # In a session gpg looks below /run/user; those who share a home may have none, as a CI's runner.
    place = own if shared else Path(_gpgconf(home, "--list-dirs", "agent-socket").rstrip("\n"))
    if why := why_unreachable(place):
        raise ConfigError(f"{place}: {why}", "choose a shorter path")


def set_up(home: Path, relay: Path, certificates: Sequence[bytes], *, shared: bool = False) -> SetUp:
    """Make or repair `home`; doing it again changes nothing that is right already. It blocks for a second.

    Args:
        home: any directory but one with secret keys in it.
        relay: its socket.
        certificates: the public keys, binary.
        shared: for users who cannot write it, and who find the relay all the same.

    Raises:
        ConfigError: a directory cannot be written or named in gpg.conf, gpg is missing or refuses, or there are secret
            keys.
    """
    target = relay.absolute()
    if "\n" in str(home.absolute()):
        raise ConfigError(f"{home}: what gpg and rpm read cannot hold a newline", "choose another path")
    _refuse_secret_keys(home)
    try:
        home.mkdir(mode=0o755 if shared else 0o700, parents=True, exist_ok=True)
        shim = home / _SHIM
        write_atomically(shim, _SHIM_SCRIPT, 0o755)
        _link(home / _LINK, target)
        ours = (f"agent-program {shim.absolute()}", "no-permission-warning", *(_SHARED_OPTIONS if shared else ()))
        _write_options(home / "gpg.conf", ours, contrary=("no-autostart", *_SHARED_OPTIONS))
        _write_options(home / "gpg-agent.conf", _AGENT_OPTIONS)
        refuse_pipes(home)  # python-gnupg waits for gpg without an end, and root works in homes of others
        fingerprints = import_certificates(home, certificates)
        agent_socket = _place_links(home, target)
        if shared:
            _let_others_read(home)
    except OSError as error:
        raise ConfigError(f"{error.filename or home}: {error.strerror}") from error
    return SetUp(home, fingerprints, agent_socket)


def _refuse_secret_keys(home: Path) -> None:
    if any(home.glob("private-keys-v1.d/*.key")):
        raise ConfigError(
            f"{home}: holds secret keys, which gpg would not find any more", "name another directory with --home"
        )


def _write_options(file: Path, ours: Sequence[str], contrary: Sequence[str] = ()) -> None:
    """Put our lines at the end of `file`, and take out those that would undo them."""
    old = _options_in(file)
    not_kept = {*map(_option, ours), *contrary}
    kept = [line for line in old.splitlines() if line != _NOTE and line not in ours and _option(line) not in not_kept]
    new = "\n".join([*kept, _NOTE, *ours]) + "\n"
    if new != old:
        write_atomically(file, new.encode("utf-8", "surrogateescape"), 0o644)


def _options_in(file: Path) -> str:
    """What gpg reads, which knows no encoding; empty when there is none."""
    try:
        # Without waiting: a pipe in its place would hold root for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"{file}: is no regular file", "move it away")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            content = opened.read(_MAX_OPTIONS + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_OPTIONS:
        raise ConfigError(f"{file}: more than {_MAX_OPTIONS} bytes are no options of gpg's", "move it away")
    return content.decode("utf-8", "surrogateescape")


def _option(line: str) -> str:
    return (line.split() or [""])[0].removeprefix("--")


def import_certificates(home: Path, certificates: Sequence[bytes]) -> tuple[str, ...]:
    """Add public keys, and what is new of those that are there: subkeys, ends, revocations. All fingerprints.

    Raises:
        ConfigError: gpg is missing, or takes nothing from a certificate.
    """
    try:
        # Without --no-autostart an import would start an agent of gpg's own, where our link shall be.
        gpg = gnupg.GPG(gnupghome=str(home), options=["--no-autostart"])
        gpg.encoding = "latin-1"  # takes user IDs of any, as old keys have them
    except (OSError, ValueError) as error:
        raise ConfigError(f"gpg cannot be run: {error}", "apt-get install gnupg") from error
    for certificate in certificates:
        result = gpg.import_keys(certificate)
        if not result.count:
            raise ConfigError(
                f"{home}: gpg takes no key from a certificate of the oracle", "gpg --show-keys shows what is wrong"
            )
    return tuple(str(key["fingerprint"]) for key in gpg.list_keys())


def _place_links(home: Path, target: Path) -> Path:
    """Links for this user now, and in the home: without a login session, or for another user, gpg looks there."""
    place = Path(_gpgconf(home, "--list-dirs", "agent-socket").rstrip("\n"))
    if not place.parent.is_dir():
        raise ConfigError(f"{place.parent}: gpg wants its agent's socket there, and the directory is missing")
    _replace_agent(home, place)
    for one in {place, home.absolute() / "S.gpg-agent"}:
        _link(one, target)
    return place


def _replace_agent(home: Path, place: Path) -> None:
    """Send an agent away that gpg started before this home was set up: it has no keys, and would hide the relay."""
    if place.is_symlink() or not _answers(place):
        return
    _gpgconf(home, "--kill", "gpg-agent")
    deadline = time.monotonic() + LEAVE_SECONDS
    while place.exists() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _answers(place: Path) -> bool:
    """Whether somebody listens there; one that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(LEAVE_SECONDS)
        try:
            stream.connect(str(place))
        except OSError:
            return False
    return True


def _link(place: Path, target: Path) -> None:
    """Make `place` a link to `target`, whatever it was, so that nobody finds nothing in between."""
    if place.is_symlink() and place.readlink() == target:
        return
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        temporary.replace(place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _let_others_read(home: Path) -> None:
    home.chmod(0o755)
    for name in ("pubring.kbx", "trustdb.gpg"):
        if (home / name).exists():
            (home / name).chmod(0o644)


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
    # rpm would put in what a macro of its own says, and take backslashes away: its gpg would look in another home.
    path = str(home).replace("\\", "\\\\").replace("%", "%%")
    return f"%_gpg_path {path}\n%__gpg /usr/bin/gpg\n%_gpg_name {key_name}\n"

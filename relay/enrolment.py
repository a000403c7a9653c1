"""Takes the file that the oracle's operator made for this build server, and writes the relay's configuration.

What is in the file works once and for a day: the oracle is asked for lasting credentials at once, they are stored, and
used once, which ends the file's. A crash in between costs nothing: the same file then works again.
"""

import dataclasses
import hashlib
import secrets
import shutil
import stat
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.oracle_messages import Credentials
from agentproxy.protocol.values import frozen
from agentproxy.runtime.config import load
from agentproxy.runtime.files import make_directory, write_atomically
from agentproxy.runtime.lockfile import held
from relay.config import DEFAULT_CONFIG, OracleAddress
from relay.credentials import CredentialSet, CredentialStore, credentials_directory
from relay.errors import RejectedError
from relay.exchange import confirm, exchange
from relay.starting import STATE
from relay.yamltext import quoted

__all__ = ["Enrolment", "Places", "enrol", "places_for", "read_enrolment"]

_FORMAT = "blind-oracle enrolment 1"
_LOCK = "enroll.lock"
_SCRATCH = ".enrolment."  # what a name begins with, of a directory with the file's own key and token

_ANOTHER = "a file works once and for a day; a new one: blind-oracle runner enroll {runner}{ssh_key}"
_HINTS = {  # where another file would be refused as well
    RejectionCode.RUNNER_UNKNOWN: "blind-oracle reload, on the oracle's host; then this file works",
    RejectionCode.NOT_OPERATIONAL: "its log has the reason; then this file works",
    RejectionCode.RUNNER_DISABLED: "blind-oracle runner enable {runner}, on the oracle's host; then this file works",
}


@frozen
class Enrolment:
    """What an enrolment file says."""

    format: str
    runner: str
    oracles: tuple[OracleAddress, ...]
    authority: str  # PEM, as the next two
    certificate: str
    private_key: str = field(repr=False)
    token: str = field(repr=False)
    expires: datetime

    def __post_init__(self) -> None:
        if self.format != _FORMAT:
            raise ConfigError(f"format: expected {_FORMAT!r}")
        try:
            check_name(self.runner, "runner")
        except RemoteProtocolError as error:
            raise ConfigError(str(error)) from error
        if not self.oracles:
            raise ConfigError("oracles: expected at least one")

    def over(self, ssh_config: Path | None) -> Self:
        """The same, with a configuration for ssh where the way leads over it."""
        if ssh_config is None:
            return self
        oracles = (
            dataclasses.replace(one, ssh_config=ssh_config.absolute()) if one.ssh else one for one in self.oracles
        )
        return dataclasses.replace(self, oracles=tuple(oracles))


@frozen
class Places:
    """Where an enrolled relay keeps its things."""

    config: Path  # relay.yaml; the credentials lie beside it
    state: Path
    socket: Path


def places_for(config: Path) -> Places:
    """The usual places of a relay of the system, or all in one directory for one that is tried out."""
    if config == DEFAULT_CONFIG:
        return Places(config, STATE, Path("/run/blind-oracle-relay/S.gpg-agent"))
    return Places(config, config.parent / "state", config.parent / "run" / "S.gpg-agent")


def read_enrolment(file: Path) -> Enrolment:
    """Read an enrolment file.

    Raises:
        ConfigError: it is missing, not an enrolment file, or expired.
    """
    try:
        enrolment = load(file, Enrolment)  # JSON is YAML, and this loader refuses whatever is not as it should be
    except ConfigError as error:
        if error.hint or not file.is_file():
            raise
        hint = "it is no enrolment file: blind-oracle runner add makes one, on the oracle's host"
        raise ConfigError(str(error), hint) from error
    if enrolment.expires <= datetime.now(UTC):
        raise ConfigError(
            f"{file}: expired on {enrolment.expires:%Y-%m-%d}", "ask the oracle's operator for a new enrolment file"
        )
    return enrolment


def enrol(enrolment: Enrolment, places: Places, *, replace: bool, deadline_seconds: int = 30) -> Path | None:
    """Exchange the file's credentials for lasting ones, and write the configuration.

    Args:
        deadline_seconds: how long gpg shall wait for a signature at most.

    Returns:
        Where the configuration is kept that was here, if it was another one.

    Raises:
        ConfigError: no oracle can be reached or it does not take the file, the file is damaged, another enrolment is
            there and `replace` is not given, another process enrols here, a path cannot stand in relay.yaml, or a
            directory cannot be written.
    """
    configuration = _configuration(enrolment, places, deadline_seconds)  # first: what fails here uses nothing up
    try:
        make_directory(places.config.parent, 0o755)
        make_directory(places.state, 0o700)
        # Of two at once each would have the oracle revoke what the other one stores.
        with held(places.state / _LOCK, "enrolment"):
            _remove_leftovers(places.state)
            _store_credentials(enrolment, places, replace=replace)
            return _write_configuration(places.config, configuration.encode())
    except OSError as error:
        raise ConfigError(f"{error.filename or places.state}: cannot be written: {error.strerror}") from error


def _write_configuration(config: Path, text: bytes) -> Path | None:
    """Write relay.yaml; what it was is kept: its operator may have set sockets, fallback or metrics there."""
    try:
        before = config.read_bytes()
    except FileNotFoundError:
        before = text
    kept = None
    if before != text:
        kept = config.with_name(f"{config.name}.{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}")
        write_atomically(kept, before, stat.S_IMODE(config.stat().st_mode))
    write_atomically(config, text, 0o644)
    return kept


def _remove_leftovers(state: Path) -> None:
    """Remove the keys and tokens of enrolment files that a killed run left, under the lock."""
    for left in state.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


def _store_credentials(enrolment: Enrolment, places: Places, *, replace: bool) -> None:
    store = CredentialStore(credentials_directory(places.state))
    store.check_place()  # before the oracle sees the file, which counts how often it is used
    origin = hashlib.sha256(enrolment.token.encode()).hexdigest()
    is_ours = store.current.origin == origin
    if not replace and not is_ours:
        _refuse_another(places, store)
    # Perhaps an earlier attempt ended between storing and using: then the file may be used up already.
    if not is_ours or not confirm(store.current, enrolment.oracles):
        _exchange(enrolment, places, store, origin)
    store.tidy()


def _refuse_another(places: Places, store: CredentialStore) -> None:
    if places.config.exists() or store.is_present:
        present = places.config if places.config.exists() else store.current.directory
        raise ConfigError(
            f"{present}: this host is enrolled already, with other credentials", "add --replace to give those up"
        )


def _exchange(enrolment: Enrolment, places: Places, store: CredentialStore, origin: str) -> None:
    scratch = CredentialSet(places.state / f"{_SCRATCH}{secrets.token_hex(8)}")
    try:
        make_directory(scratch.directory, 0o700)
        _write_bootstrap(scratch, enrolment)
        fresh = exchange(scratch, enrolment.oracles)
    except RejectedError as error:
        ssh_key = " --ssh-key FILE" if any(oracle.ssh is not None for oracle in enrolment.oracles) else ""
        hint = _HINTS.get(error.code, _ANOTHER).format(runner=enrolment.runner, ssh_key=ssh_key)
        raise ConfigError(f"the oracle does not take this enrolment file: {error}", hint) from error
    finally:
        shutil.rmtree(scratch.directory, ignore_errors=True)
    store.replace(fresh, origin)
    if not confirm(store.current, enrolment.oracles):
        raise ConfigError("the oracle does not take the credentials that it gave", "try again; its log has the reason")


def _write_bootstrap(scratch: CredentialSet, enrolment: Enrolment) -> None:
    """Check everything before the oracle sees it: a damaged file must not spoil anything."""
    try:
        scratch.write(
            Credentials(
                enrolment.runner,
                enrolment.certificate,
                enrolment.private_key,
                enrolment.authority,
                enrolment.token,
                enrolment.expires,
            )
        )
    except RemoteProtocolError as error:
        raise ConfigError(f"the enrolment file is damaged: {error}") from error
    except ConfigError as error:
        raise ConfigError(
            f"the enrolment file is damaged: {str(error).replace(f'{scratch.directory}/', '')}"
        ) from error


def _configuration(enrolment: Enrolment, places: Places, deadline_seconds: int) -> str:
    directory = places.config.parent
    credentials = CredentialStore(credentials_directory(places.state)).current
    oracles = "".join(
        f"  - address: {quoted(oracle.address)}\n    server_name: {quoted(oracle.server_name)}\n"
        + (f"    ssh_config: {quoted(str(oracle.ssh_config))}\n" if oracle.ssh_config else "")
        for oracle in enrolment.oracles
    )
    return f"""\
# Written by `blind-oracle-relay enroll`. Relative paths count from this file's directory.
name: {quoted(enrolment.runner)}
oracles:
{oracles}# The relay replaces these by itself, long before they expire.
authority: {quoted(_relative(credentials.authority, directory))}
certificate: {quoted(_relative(credentials.certificate, directory))}
key: {quoted(_relative(credentials.key, directory))}
token: {quoted(_relative(credentials.token, directory))}
state: {quoted(_relative(places.state, directory))}
sockets:
  - path: {quoted(_relative(places.socket, directory))}
    mode: "0660"
# How long gpg waits for a signature at most.
deadline_seconds: {deadline_seconds}
"""


def _relative(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path.absolute())

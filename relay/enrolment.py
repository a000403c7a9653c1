"""Takes the file that the oracle's operator made for this build server, and writes the relay's configuration.

The credentials in it are the runner's lasting ones. `Enrolment` is the only place that knows the file's form.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.runtime.config import load
from agentproxy.runtime.files import write_atomically
from agentproxy.runtime.tls import client_context
from relay.config import DEFAULT_CONFIG, OracleAddress

__all__ = ["Enrolment", "Places", "enrol", "places_for", "read_enrolment"]

_FORMAT = "blind-oracle enrolment 1"
# File, whether it is secret; relay.yaml comes last, and without it nothing here is an enrolment.
_AUTHORITY, _CERTIFICATE, _KEY, _TOKEN = "authority.crt", "client.crt", "client.key", "token"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Places:
    """Where an enrolled relay keeps its things."""

    config: Path  # relay.yaml; the credentials lie beside it
    state: Path
    socket: Path


def places_for(config: Path) -> Places:
    """The usual places of a relay of the system, or all in one directory for one that is tried out."""
    if config == DEFAULT_CONFIG:
        return Places(config, Path("/var/lib/blind-oracle-relay"), Path("/run/blind-oracle-relay/S.gpg-agent"))
    return Places(config, config.parent / "state", config.parent / "run" / "S.gpg-agent")


def read_enrolment(file: Path) -> Enrolment:
    """Read an enrolment file.

    Raises:
        ConfigError: it is missing, not an enrolment file, or expired.
    """
    enrolment = load(file, Enrolment)  # JSON is YAML, and this loader refuses whatever is not as it should be
    if enrolment.expires <= datetime.now(UTC):
        raise ConfigError(
            f"{file}: expired on {enrolment.expires:%Y-%m-%d}", "ask the oracle's operator for a new enrolment file"
        )
    return enrolment


def enrol(enrolment: Enrolment, places: Places, *, replace: bool, deadline_seconds: int = 30) -> None:
    """Write configuration and credentials; doing it again with the same file changes nothing.

    Args:
        deadline_seconds: how long gpg shall wait for a signature at most.

    Raises:
        ConfigError: the credentials are damaged, another enrolment is there and `replace` is not given, or a
            directory cannot be written.
    """
    directory = places.config.parent
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not replace:
            _refuse_another(enrolment, places)
        _write_credentials(enrolment, directory)
        write_atomically(places.config, _configuration(enrolment, places, deadline_seconds).encode(), 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: cannot be written: {error.strerror}") from error


def _refuse_another(enrolment: Enrolment, places: Places) -> None:
    token = places.config.parent / _TOKEN
    present = places.config if places.config.exists() else token
    if not present.exists() or (token.exists() and token.read_text("ascii", "replace").strip() == enrolment.token):
        return
    raise ConfigError(
        f"{present}: this host is enrolled already, with other credentials", "add --replace to give those up"
    )


def _write_credentials(enrolment: Enrolment, directory: Path) -> None:
    """Check everything in a directory of its own first: a damaged file must not spoil an enrolment that works."""
    contents = (
        (_AUTHORITY, enrolment.authority, 0o644),
        (_CERTIFICATE, enrolment.certificate, 0o644),
        (_KEY, enrolment.private_key, 0o600),
        (_TOKEN, enrolment.token + "\n", 0o600),
    )
    scratch = Path(tempfile.mkdtemp(prefix=".enrolment.", dir=directory))
    try:
        for name, text, mode in contents:
            write_atomically(scratch / name, text.encode(), mode)
        client_context(scratch / _AUTHORITY, scratch / _CERTIFICATE, scratch / _KEY)
        for name, _, _ in contents:
            (scratch / name).replace(directory / name)
    except ConfigError as error:
        raise ConfigError(f"the enrolment file is damaged: {str(error).replace(f'{scratch}/', '')}") from error
    finally:
        shutil.rmtree(scratch)


def _configuration(enrolment: Enrolment, places: Places, deadline_seconds: int) -> str:
    directory = places.config.parent
    oracles = "".join(
        f"  - address: {json.dumps(oracle.address)}\n    server_name: {json.dumps(oracle.server_name)}\n"
        for oracle in enrolment.oracles
    )
    # A JSON string is a YAML string, whatever a path holds.
    return f"""\
# Written by `blind-oracle-relay enroll`. Relative paths count from this file's directory.
name: {json.dumps(enrolment.runner)}
oracles:
{oracles}authority: {_AUTHORITY}
certificate: {_CERTIFICATE}
key: {_KEY}
token: {_TOKEN}
state: {json.dumps(_relative(places.state, directory))}
sockets:
  - path: {json.dumps(_relative(places.socket, directory))}
    mode: "0660"
# How long gpg waits for a signature at most.
deadline_seconds: {deadline_seconds}
"""


def _relative(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path.absolute())

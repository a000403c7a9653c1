"""Makes a state directory: everything that an oracle and its signer need before they have keys and runners."""

import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.admin import templates
from agentproxy.admin.layout import Layout
from agentproxy.oracle.config import parse_address
from agentproxy.oracle.database import Database, Postgresql, SqliteFile
from agentproxy.oracle.registry import Registry
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Asserted, check_name
from agentproxy.protocol.signer_messages import CertificateKind, Outcome
from agentproxy.runtime.files import write_atomically
from agentproxy.signer.authority import Authority, create_authority
from agentproxy.signer.log import AuditLog
from agentproxy.signer.logkey import open_log_key
from agentproxy.signer.record import Entry

__all__ = ["Wanted", "create", "own_hosts", "own_node"]

_SERVER_DAYS = 730
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator decides at the start."""

    node: str
    hosts: tuple[str, ...]  # what the server's certificate is for; the first is what build servers dial
    listen: str = "127.0.0.1:7443"
    registry_database: str | None = None  # libpq's words; None: a SQLite file in the directory


def own_hosts() -> tuple[str, ...]:
    """This machine by its own names: what a first try needs."""
    name = socket.gethostname().lower()
    return tuple(dict.fromkeys((*_LOCAL_HOSTS, *([name] if _HOST.fullmatch(name) else []))))


def own_node() -> str:
    """A name for the node: the machine's, without its domain."""
    name = socket.gethostname().partition(".")[0]
    try:
        check_name(name, "node")
    except RemoteProtocolError:
        return "oracle"
    return name


def create(root: Path, wanted: Wanted) -> Layout:
    """Make the state directory `root`, which must be empty or not there, readable by us alone.

    Raises:
        ConfigError: something is there already, a value is wrong, or nothing can be written.
    """
    try:
        check_name(wanted.node, "node")
        parse_address(wanted.listen)
        database = _database(Layout(root), wanted)
        now = datetime.now(UTC)
        key, certificate = create_authority(wanted.node, now)
        server = Authority.load(key, certificate).issue(
            CertificateKind.SERVER, wanted.node, wanted.hosts, _SERVER_DAYS, now
        )
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from error
    layout = Layout(root)
    try:
        _make_directories(layout)
        _write_configuration(layout, wanted)
        write_atomically(layout.signer / "authority.key", key, 0o600)
        write_atomically(layout.signer / "authority.crt", certificate, 0o644)
        write_atomically(layout.oracle / "authority.crt", certificate, 0o644)
        write_atomically(layout.oracle / "server.key", server.private_key, 0o600)
        write_atomically(layout.oracle / "server.crt", server.certificate, 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename or root}: cannot be written: {error.strerror}") from error
    Registry.create(database).close()
    _record(layout, wanted, hashlib.sha256(certificate).hexdigest(), server.public_key_sha256.hex())
    return layout


def _database(layout: Layout, wanted: Wanted) -> Database:
    if wanted.registry_database is None:
        return SqliteFile(layout.oracle / "registry.sqlite")
    database = Postgresql(wanted.registry_database)
    database.require()
    return database


def _make_directories(layout: Layout) -> None:
    root = layout.root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(f"{root}: expected an empty directory or nothing", "choose another, or empty it first")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    signer = layout.signer
    for directory in (
        layout.oracle,
        layout.oracle / "certificates",
        signer,
        signer / "gnupg",
        signer / "gnupg" / "private-keys-v1.d",
        signer / "passphrases",
        layout.audit,
        layout.run,
    ):
        directory.mkdir(mode=0o700)


def _write_configuration(layout: Layout, wanted: Wanted) -> None:
    port = parse_address(wanted.listen).port
    first = wanted.hosts[0]
    addresses = f'"{f"[{first}]" if ":" in first else first}:{port}"' if port else ""
    database, registry = wanted.registry_database, templates.REGISTRY_FILE
    if database is not None:
        registry = templates.REGISTRY_DATABASE.format(words=_quoted(database))
    texts = {
        layout.oracle_config: templates.ORACLE.format(
            node=_quoted(wanted.node), listen=_quoted(wanted.listen), addresses=addresses, registry=registry
        ),
        layout.signer_config: templates.SIGNER.format(node=_quoted(wanted.node)),
        layout.policy: templates.POLICY,
        layout.signer / "keys.yaml": templates.KEYS,
    }
    for path, text in texts.items():
        write_atomically(path, text.encode(), 0o644)


def _quoted(value: str) -> str:
    """A YAML string: JSON's form is one, and `no` must not become a boolean."""
    return json.dumps(value)


def _record(layout: Layout, wanted: Wanted, authority_sha256: str, public_key_sha256: str) -> None:
    """Begin the audit log with the credentials that it did not see being made."""
    key = open_log_key(layout.signer / "audit.key")
    details = {
        "authority_sha256": authority_sha256,
        "server_public_key_sha256": public_key_sha256,
        "hosts": ",".join(wanted.hosts)[:1024],
        "uid": str(os.getuid()),
        "audit_key": key.public.id.hex(),
    }
    log = AuditLog.open(layout.audit, wanted.node, key=key)
    try:
        log.append([Entry("initialized", Outcome.DONE, Asserted(channel="cli"), details=details)])
    finally:
        log.close()

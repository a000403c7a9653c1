"""Makes all that an oracle and its signer need before they have keys and runners: a directory, or a system's."""

import grp
import hashlib
import json
import os
import pwd
import re
import socket
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path

from agentproxy.admin import templates
from agentproxy.admin.layout import Directory, Layout, SystemLayout
from agentproxy.oracle.config import parse_address
from agentproxy.oracle.database import Database, Postgresql, SqliteFile
from agentproxy.oracle.registry import Registry
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Asserted, check_name
from agentproxy.protocol.signer_requests import CertificateKind, Outcome
from agentproxy.protocol.values import frozen
from agentproxy.runtime.files import read_private, write_atomically
from agentproxy.runtime.ownplace import check_owner, refuse_link
from agentproxy.signer.authority import Authority, IssuedCertificate, create_authority
from agentproxy.signer.log import AuditLog
from agentproxy.signer.logkey import open_log_key
from agentproxy.signer.record import Entry

__all__ = ["Wanted", "create", "create_system", "own_hosts", "own_node", "write_configuration"]

_SERVER_DAYS = 730
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@frozen
class Wanted:
    """What the operator decides at the start."""

    node: str
    hosts: tuple[str, ...]  # what the server's certificate is for; the first is what build servers dial
    listen: str = "127.0.0.1:7443"
    registry_database: str | None = None  # libpq's words; None: a SQLite file in the directory
    registry_file: Path | None = None  # a SQLite file that another oracle of this host has made
    authority: Path | None = None  # a directory with authority.key and authority.crt of another oracle; None: a new CA
    other_oracles: tuple[str, ...] = ()  # host:port of oracles that share both


@frozen
class _Made:
    """What can go wrong before anything is written: the first credentials, and where the registry will lie."""

    key: bytes = field(repr=False)
    certificate: bytes
    server: IssuedCertificate = field(repr=False)
    database: Database


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


def create(root: Path, wanted: Wanted, note: str = "") -> Layout:
    """Make the state directory `root`, which must be empty or not there, readable by us alone.

    Args:
        note: the name of the only file that may be there already.

    Raises:
        ConfigError: something is there already, a value is wrong, or nothing can be written.
    """
    layout = Layout(root)
    try:
        check_owner(root, "replace what is made here")
    except OSError as error:
        raise ConfigError(f"{root}: cannot be looked at: {error.strerror}") from error
    made = _prepare(layout, wanted)
    if root.exists() and (not root.is_dir() or any(one.name != note for one in root.iterdir())):
        raise ConfigError(f"{root}: expected an empty directory or nothing", "choose another, or empty it first")
    _fill(layout, wanted, made)
    return layout


def create_system(layout: SystemLayout, wanted: Wanted) -> None:
    """Make the files of an oracle that systemd runs, each belonging to the user that needs it.

    Raises:
        ConfigError: something of an oracle is there already, its users are not, or nothing can be written.
    """
    made = _prepare(layout, wanted)
    present = [path for path in (layout.oracle_config, layout.signer_config, layout.registry) if path.exists()]
    if layout.audit.is_dir():
        present += layout.audit.iterdir()
    if present:
        raise ConfigError(f"{present[0]}: an oracle is here already", "nothing was changed")
    _check_users(layout)
    _fill(layout, wanted, made)


def _check_users(layout: SystemLayout) -> None:
    for name in (layout.oracle_user, layout.signer_user):
        try:
            pwd.getpwnam(name), grp.getgrnam(name)
        except KeyError as error:
            hint = "the packages make them with systemd-sysusers"
            raise ConfigError(f"there is no user and group {name!r}", hint) from error


def _prepare(layout: Layout | SystemLayout, wanted: Wanted) -> _Made:
    try:
        check_name(wanted.node, "node")
        for address in (wanted.listen, *wanted.other_oracles):
            parse_address(address)
        database = _database(layout, wanted)
        now = datetime.now(UTC)
        key, certificate = _authority(wanted, now)
        server = Authority.load(key, certificate).issue(
            CertificateKind.SERVER, wanted.node, wanted.hosts, _SERVER_DAYS, now
        )
    except RemoteProtocolError as error:
        raise ConfigError(str(error)) from error
    return _Made(key, certificate, server, database)


def _authority(wanted: Wanted, now: datetime) -> tuple[bytes, bytes]:
    if wanted.authority is None:
        return create_authority(wanted.node, now)
    certificate = wanted.authority / "authority.crt"
    try:
        return read_private(wanted.authority / "authority.key"), certificate.read_bytes()
    except OSError as error:
        raise ConfigError(f"{certificate}: cannot be read: {error.strerror}") from error


def _fill(layout: Layout | SystemLayout, wanted: Wanted, made: _Made) -> None:
    try:
        if isinstance(layout, Layout):
            layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            layout.root.chmod(0o700)
            layout.oracle.mkdir(mode=0o700)  # of two at once, which both saw an empty directory, one fails here
        for directory in layout.directories:
            _make_directory(directory)
        write_configuration(layout, wanted)
        write_atomically(layout.signer / "authority.key", made.key, 0o600)
        write_atomically(layout.signer / "authority.crt", made.certificate, 0o644)
        write_atomically(layout.tls / "authority.crt", made.certificate, 0o644)
        write_atomically(layout.tls / "server.key", made.server.private_key, 0o600)
        write_atomically(layout.tls / "server.crt", made.server.certificate, 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename or layout.oracle_config}: cannot be written: {error.strerror}") from error
    if wanted.registry_file is None:
        Registry.create(made.database).close()
    _record(layout, wanted, made)
    _hand_over(layout)


def _database(layout: Layout | SystemLayout, wanted: Wanted) -> Database:
    database: Database
    if wanted.registry_database is not None:
        database = Postgresql(wanted.registry_database)
    elif wanted.registry_file is not None:
        database = SqliteFile(wanted.registry_file)
    else:
        return SqliteFile(layout.registry)
    database.require()
    return database


def _make_directory(wanted: Directory) -> None:
    # What lies in a daemon's directory may be its link to another's, and by the next line another thing than now. A
    # link of root's, to a larger disk, is meant.
    refuse_link(wanted.path)
    follow = 0 if wanted.path.is_symlink() else os.O_NOFOLLOW
    wanted.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(wanted.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow)
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, pwd.getpwnam(wanted.user).pw_uid, grp.getgrnam(wanted.group).gr_gid)
        os.fchmod(descriptor, wanted.mode)
    except OSError as error:
        error.filename = error.filename or str(wanted.path)  # a descriptor's error has no name
        raise
    finally:
        os.close(descriptor)


def _hand_over(layout: Layout | SystemLayout) -> None:
    """Give what libraries made as root to the owner of the directory that it lies in."""
    if os.geteuid() != 0:
        return
    registry = (layout.registry,) if layout.registry.exists() else ()
    for path in (*registry, *layout.audit.iterdir()):
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def write_configuration(layout: Layout | SystemLayout, wanted: Wanted) -> None:
    """Write the four files that operators change; a policy that is there already stays.

    Raises:
        OSError: they cannot be written.
    """
    texts = {
        layout.oracle_config: _oracle_text(layout, wanted),
        layout.signer_config: _signer_text(layout, wanted),
        layout.policy: templates.POLICY,
        layout.signer / "keys.yaml": templates.KEYS,
    }
    for path, text in texts.items():
        if path != layout.policy or not path.exists():
            write_atomically(path, text.encode(), 0o644)


def _oracle_text(layout: Layout | SystemLayout, wanted: Wanted) -> str:
    here = layout.oracle_config.parent
    port = parse_address(wanted.listen).port
    first = wanted.hosts[0]
    addresses = f'"{f"[{first}]" if ":" in first else first}:{port}"' if port else ""
    text = templates.ORACLE.format(
        node=_quoted(wanted.node),
        listen=_quoted(wanted.listen),
        addresses=addresses,
        others=", ".join(map(_quoted, wanted.other_oracles)),
        tls=_shown(layout, layout.tls, here),
        registry=_registry_text(layout, wanted, here),
        certificates=_shown(layout, layout.certificates, here),
        run=_shown(layout, layout.run, here),
        signer=templates.ORACLE_STARTS_SIGNER if isinstance(layout, Layout) else templates.SYSTEMD_STARTS_SIGNER,
    )
    if isinstance(layout, SystemLayout):
        text += templates.ADDRESS_FILE.format(run=_shown(layout, layout.oracle_run, here))
    return text


def _registry_text(layout: Layout | SystemLayout, wanted: Wanted, here: Path) -> str:
    if wanted.registry_database is not None:
        return templates.REGISTRY_DATABASE.format(words=_quoted(wanted.registry_database))
    return templates.REGISTRY_FILE.format(path=_shown(layout, wanted.registry_file or layout.registry, here))


def _signer_text(layout: Layout | SystemLayout, wanted: Wanted) -> str:
    here = layout.signer_config.parent
    return templates.SIGNER.format(
        node=_quoted(wanted.node),
        run=_shown(layout, layout.run, here),
        peers="" if isinstance(layout, Layout) else templates.PEERS.format(user=layout.oracle_user),
        gnupg=_shown(layout, layout.gnupg, here),
        audit=_shown(layout, layout.audit, here),
    )


def _shown(layout: Layout | SystemLayout, path: Path, here: Path) -> str:
    """A path for a file in the directory `here`: relative where the whole can be moved."""
    return os.path.relpath(path, here) if isinstance(layout, Layout) or path.is_relative_to(here) else str(path)


def _quoted(value: str) -> str:
    """A YAML string: JSON's form is one, and `no` must not become a boolean."""
    return json.dumps(value)


def _record(layout: Layout | SystemLayout, wanted: Wanted, made: _Made) -> None:
    """Begin the audit log with the credentials that it did not see being made."""
    key = open_log_key(layout.signer / "audit.key")
    details = {
        "authority_sha256": hashlib.sha256(made.certificate).hexdigest(),
        "server_public_key_sha256": made.server.public_key_sha256.hex(),
        "hosts": ",".join(wanted.hosts)[:1024],
        "uid": str(os.getuid()),
        "audit_key": key.public.id.hex(),
    }
    log = AuditLog.open(layout.audit, wanted.node, key=key)
    try:
        log.append([Entry("initialized", Outcome.DONE, Asserted(channel="cli"), details=details)])
    finally:
        log.close()

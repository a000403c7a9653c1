"""What oracle.yaml says. Relative paths in it are relative to the file's directory."""

import ipaddress
import re
from dataclasses import field
from pathlib import Path

from agentproxy.oracle.database import Database, Postgresql, SqliteFile
from agentproxy.protocol.addresses import SshAddress
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.values import frozen
from agentproxy.runtime.metricsconfig import MetricsConfig

__all__ = [
    "CredentialsConfig",
    "HttpConfig",
    "ListenAddress",
    "OracleConfig",
    "ProxyConfig",
    "SignerConfig",
    "TlsConfig",
    "parse_address",
]

_MODE = re.compile(r"0[0-7]{3}")


@frozen
class ListenAddress:
    """Where the oracle listens."""

    host: str
    port: int  # 0: any free one

    @property
    def is_loopback(self) -> bool:
        """Whether it is this host's for itself; of names only `localhost` is known to be."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def parse_address(text: str) -> ListenAddress:
    """Read `host:port`; an IPv6 address stands in brackets.

    Raises:
        RemoteProtocolError: another form, or no such port.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise RemoteProtocolError(f"expected host:port, got {text!r}")
    return ListenAddress(host, int(port))


@frozen
class TlsConfig:
    """The oracle's own certificate, and the authority whose clients it accepts."""

    certificate: Path
    key: Path
    authority: Path


@frozen
class SignerConfig:
    """How to reach the signer."""

    socket: Path
    config: Path | None = None  # signer.yaml, for the commands; None: they cannot look at the signer's files
    start: bool = True  # whether `serve` starts the signer with that file; where systemd does, false

    @property
    def is_child(self) -> bool:
        """Whether the oracle starts it, and passes on what it is told by SIGHUP."""
        return self.start and self.config is not None


@frozen
class AttachConfig:
    """Relays whose streams come through sshd instead of TLS."""

    socket: Path
    users: tuple[str, ...]  # whose `blind-oracle attach` may bring streams: those who log in with runners' ssh keys
    address: str = ""  # ssh://USER@HOST[:PORT], for enrolment files; empty: `runner add --ssh-key` is not possible

    def __post_init__(self) -> None:
        if not self.users:
            raise RemoteProtocolError("users: expected at least one")
        if self.address:
            SshAddress.parse(self.address)


@frozen
class CredentialsConfig:
    """How long runners' credentials last; relays renew them long before, by themselves."""

    # Renewed after two thirds, these never have only 60 days left, when the first warning of an end would come: whoever
    # gets one knows that a renewal has failed.
    certificate_days: int = 365
    token_days: int = 365
    overlap_minutes: int = 60  # how long the old ones stay good after the first use of the new ones

    def __post_init__(self) -> None:
        if not 1 <= self.certificate_days <= 3660 or not 1 <= self.token_days <= 3660:
            raise RemoteProtocolError("expected certificate_days and token_days from 1 to 3660")
        if not 0 <= self.overlap_minutes <= 10_080:
            raise RemoteProtocolError("expected overlap_minutes from 0 to 10080")


@frozen
class ProxyConfig:
    """The Unix socket for a reverse proxy on this host, whose word about its clients is believed."""

    socket: Path
    user: str  # whom the proxy runs as: nobody else may connect, whatever the mode says
    # A quoted octal number: YAML 1.1 reads 0660 as 432, and 660 would be no mode at all.
    mode: str = "0660"

    def __post_init__(self) -> None:
        check_name(self.user, "user")
        if _MODE.fullmatch(self.mode) is None:
            raise RemoteProtocolError(f'mode: expected a quoted octal number such as "0660", got {self.mode!r}')

    @property
    def bits(self) -> int:
        """The mode as a number."""
        return int(self.mode, 8)


@frozen
class HttpConfig:
    """The HTTP API; sockets may also come from systemd, named http and http-proxy."""

    listen: str | None = None  # host:port, TLS; port 0 takes any free one
    proxy: ProxyConfig | None = None
    max_connections: int = 256  # on each socket; further ones wait

    def __post_init__(self) -> None:
        if self.listen is not None:
            parse_address(self.listen)
        if self.max_connections < 1:
            raise RemoteProtocolError("expected max_connections from 1")


@frozen
class OracleConfig:
    """The whole of oracle.yaml."""

    node: str
    listen: str  # host:port; port 0 takes any free one
    tls: TlsConfig
    policy: Path
    certificates: Path  # a directory of NAME.pgp, the OpenPGP certificates of the keys
    signer: SignerConfig
    registry: Path | None = None  # a SQLite file of this oracle alone
    registry_database: str | None = None  # or a PostgreSQL database, in libpq's words, which several oracles may share
    addresses: tuple[str, ...] = ()  # host:port that enrolment files tell relays; empty: where we listen
    other_oracles: tuple[str, ...] = ()  # the same of oracles that share registry and authority; they come after ours
    address_file: Path | None = None  # the bound address goes there; None: oracle.address beside the signer's socket
    attach: AttachConfig | None = None
    credentials: CredentialsConfig = field(default_factory=CredentialsConfig)
    http: HttpConfig | None = None  # None: no HTTP
    metrics: MetricsConfig | None = None  # None: none; also from systemd, named metrics
    max_connections: int = 1000
    max_in_flight: int = 256  # requests of one connection

    def __post_init__(self) -> None:
        check_name(self.node, "node")
        for address in (self.listen, *self.addresses, *self.other_oracles):
            parse_address(address)
        if (self.registry is None) == (self.registry_database is None):
            raise RemoteProtocolError("expected either registry or registry_database")
        _ = self.database  # its form
        if self.max_connections < 1 or not 1 <= self.max_in_flight <= 4096:
            raise RemoteProtocolError("expected max_connections from 1 and max_in_flight from 1 to 4096")

    @property
    def database(self) -> Database:
        """Where the registry lies.

        Raises:
            ConfigError: registry_database is not in the form that we take.
        """
        if self.registry is not None:
            return SqliteFile(self.registry)
        return Postgresql(self.registry_database or "")

    def out_of_reach(self, *listening: str) -> str:
        """What keeps build servers from the addresses that we tell them; empty when nothing of ours does.

        Args:
            listening: host:port where the oracle listens.
        """
        dialled = [address for address in self.addresses if not parse_address(address).is_loopback]
        if not dialled or not all(parse_address(place).is_loopback for place in listening):
            return ""
        return f"build servers are to dial {', '.join(dialled)}, and only this host reaches {', '.join(listening)}"

    @property
    def bound_address_file(self) -> Path:
        """Where the bound address is written, for those who asked for port 0."""
        return self.address_file or self.signer.socket.parent / "oracle.address"

    @property
    def lock_file(self) -> Path:
        """What a running oracle holds; its pid stands there."""
        return self.bound_address_file.with_name("oracle.lock")

    @property
    def bound_http_address_file(self) -> Path:
        """The same of the HTTP API."""
        return self.bound_address_file.with_name("http.address")

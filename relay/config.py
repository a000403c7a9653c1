"""relay.yaml as types. Paths in it are relative to the file; docs/RUNNERS.md explains each field for operators."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import check_name
from agentproxy.protocol.values import frozen
from agentproxy.runtime.metricsconfig import MetricsConfig
from relay.configcache import recall, remember, seen
from relay.fallbackmode import FallbackConfig

if TYPE_CHECKING:
    from agentproxy.protocol.addresses import SshAddress

__all__ = [
    "CONFIG_VARIABLE",
    "CONTROL_NAME",
    "DEFAULT_CONFIG",
    "DEFAULT_SOCKET_NAME",
    "OracleAddress",
    "RelayConfig",
    "SocketConfig",
    "config_path",
    "load_config",
]

CONFIG_VARIABLE = "BLIND_ORACLE_RELAY_CONFIG"
DEFAULT_CONFIG = Path("/etc/blind-oracle-relay/relay.yaml")
DEFAULT_SOCKET_NAME = "gpg"
# The control socket's name among those that systemd passes; no other one may have it.
CONTROL_NAME = "control"

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253}):([0-9]{1,5})")
_SSH = "ssh://"
# Of a name in DNS, what idna and getaddrinfo refuse with errors of their own.
_HOST = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_IPV6 = re.compile(r"(?=[^:]*:)[0-9A-Fa-f:.]{2,45}")
_MODE = re.compile(r"0[0-7]{3}")
# gpg itself waits for ever, so the limit is ours. Longer than ten minutes no oracle accepts (MAX_REMAINING_MS).
_MAX_DEADLINE_SECONDS = 600
_MAX_IDLE_SECONDS = 86_400
_MAX_CLAIMS_MS = 10_000
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")  # logging's, in lower or upper case
_MAX_ORACLES = 16  # two are what most have; each head of a node's log goes along in every hello


@frozen
class OracleAddress:
    """Where an oracle listens, and the name that its certificate must show."""

    address: str  # host:port, [IPv6]:port, or ssh://user@host[:port]
    server_name: str  # over ssh not used: known_hosts says which host it must be
    ssh_config: Path | None = None  # for `ssh -F`; None: ssh's own configuration

    def __post_init__(self) -> None:
        if self.address.startswith(_SSH):
            _parsed_ssh(self.address)
            return
        match = _ADDRESS.fullmatch(self.address)
        if match is None or not 1 <= int(match[2]) <= 65535:
            raise ConfigError(f"address: expected host:port, got {self.address!r}")
        if not self.address.startswith("["):
            _check_host("address", self.host)
        if _IPV6.fullmatch(self.server_name) is None:
            _check_host("server_name", self.server_name)

    @property
    def ssh(self) -> "SshAddress | None":
        """How to log in, when the stream goes over ssh; None: over TLS."""
        return _parsed_ssh(self.address) if self.address.startswith(_SSH) else None

    @property
    def host(self) -> str:
        """Name or number, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """1 to 65535."""
        return int(self.address.rpartition(":")[2])


@frozen
class SocketConfig:
    """A Unix socket that gpg processes connect to.

    Attributes:
        name: FileDescriptorName= of systemd's socket unit, and what the audit log shows as relay/NAME.
        mode: a quoted octal number: YAML 1.1 reads 0660 as 432, and 660 would be no mode at all.
        users, groups: who may use it, as names or numbers; both empty: whoever its mode lets in.
        keys: names of the only keys that it shows; empty: all that the oracle serves to this runner.
        distribution: of everything that is signed here; None: the relay's.
    """

    path: Path
    name: str = DEFAULT_SOCKET_NAME
    mode: str = "0660"
    users: tuple[str | int, ...] = ()
    groups: tuple[str | int, ...] = ()
    keys: tuple[str, ...] = ()
    distribution: str | None = None

    def __post_init__(self) -> None:
        if _MODE.fullmatch(self.mode) is None:
            raise ConfigError(f'mode: expected a quoted octal number such as "0660", got {self.mode!r}')
        _check_names("name", self.name)
        if self.name == CONTROL_NAME:
            raise ConfigError(f"name: {CONTROL_NAME} is the relay's own socket")
        _check_names("keys", *self.keys)
        if self.distribution is not None:
            _check_names("distribution", self.distribution)

    @property
    def bits(self) -> int:
        """The mode as a number."""
        return int(self.mode, 8)


@frozen
class RelayConfig:
    """Everything that `blind-oracle-relay serve` is told."""

    name: str  # the runner's; the oracle knows it from certificate and token, so here it is for people
    oracles: tuple[OracleAddress, ...]
    authority: Path
    certificate: Path
    key: Path
    token: Path
    state: Path
    sockets: tuple[SocketConfig, ...]
    deadline_seconds: int = 30
    distribution: str | None = None
    last_requests: int = 200  # how many `status --last` can show
    max_connections: int = 2000  # gpg processes at once; more wait in the socket's queue
    # How long a signature may wait for what can be seen of its caller; 0: nothing is looked at.
    claims_ms: int = 5
    # With systemd's sockets: how long nobody may have come before the relay ends; the next gpg starts it again.
    exit_when_idle_seconds: int | None = None
    log_level: str = "info"
    metrics: MetricsConfig | None = None  # None: told to nobody
    fallback: FallbackConfig = FallbackConfig()

    def __post_init__(self) -> None:
        if not self.oracles:
            raise ConfigError("oracles: expected at least one")
        addresses = [oracle.address for oracle in self.oracles]
        if len(set(addresses)) < len(addresses) or len(addresses) > _MAX_ORACLES:
            raise ConfigError(f"oracles: expected at most {_MAX_ORACLES}, each address once")
        self._check_sockets()
        if self.distribution is not None:
            _check_names("distribution", self.distribution)
        if not 1 <= self.deadline_seconds <= _MAX_DEADLINE_SECONDS:
            raise ConfigError(f"deadline_seconds: expected 1 to {_MAX_DEADLINE_SECONDS}")
        if not 1 <= self.last_requests <= 10_000:
            raise ConfigError("last_requests: expected 1 to 10000")
        if not 1 <= self.max_connections <= 100_000:
            raise ConfigError("max_connections: expected 1 to 100000")
        if not 0 <= self.claims_ms <= _MAX_CLAIMS_MS:
            raise ConfigError(f"claims_ms: expected 0 to {_MAX_CLAIMS_MS}")
        if self.exit_when_idle_seconds is not None and not 1 <= self.exit_when_idle_seconds <= _MAX_IDLE_SECONDS:
            raise ConfigError(f"exit_when_idle_seconds: expected 1 to {_MAX_IDLE_SECONDS}")
        if self.log_level.lower() not in _LOG_LEVELS:
            raise ConfigError(f"log_level: expected {', '.join(_LOG_LEVELS[:-1])} or {_LOG_LEVELS[-1]}")

    def _check_sockets(self) -> None:
        if not self.sockets:
            raise ConfigError("sockets: expected at least one")
        _check_distinct("name", [one.name for one in self.sockets])
        _check_distinct("path", [str(one.path) for one in self.sockets])

    @property
    def control_socket(self) -> Path:
        """Where `status` and `setup` ask the running relay."""
        return self.state / "control.sock"


def _parsed_ssh(address: str) -> "SshAddress":
    from agentproxy.protocol.addresses import SshAddress  # noqa: PLC0415  most relays go over TLS

    try:
        return SshAddress.parse(address)
    except RemoteProtocolError as error:
        raise ConfigError(f"address: {error}") from error


def _check_host(what: str, name: str) -> None:
    """Raise ConfigError unless this is a name that can be looked up and stand in a certificate."""
    try:
        plain = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        plain = ""
    if _HOST.fullmatch(plain) is None:
        expected = "a host's name, of at most 253 letters, its parts of 1 to 63 letters, digits and dashes"
        raise ConfigError(f"{what}: expected {expected}, got {name!r}")


def _check_names(what: str, *names: str) -> None:
    for name in names:
        try:
            check_name(name, what)
        except RemoteProtocolError as error:
            raise ConfigError(str(error)) from error


def _check_distinct(what: str, values: list[str]) -> None:
    doubled = sorted({value for value in values if values.count(value) > 1})
    if doubled:
        raise ConfigError(f"sockets: two of them have the {what} {doubled[0]}")


def config_path() -> Path:
    """The configuration file: $BLIND_ORACLE_RELAY_CONFIG, else /etc/blind-oracle-relay/relay.yaml."""
    return Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def load_config(path: Path) -> RelayConfig:
    """Read relay.yaml, or what an earlier start made of the very same file.

    Raises:
        ConfigError: all problems at once, each with file and place.
    """
    known = recall(path, RelayConfig)
    if known is not None:
        return known
    from agentproxy.runtime.config import load  # noqa: PLC0415  YAML takes a quarter of the time to a first signature

    before = seen(path)
    try:
        config = load(path, RelayConfig)
    except ConfigError as error:
        if not path.exists():
            raise ConfigError(str(error), "blind-oracle-relay enroll FILE writes it") from error
        raise
    remember(path, config, before)
    return config

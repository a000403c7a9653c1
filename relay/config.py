"""relay.yaml as types. Paths in it are relative to the file; docs/RUNNERS.md explains each field for operators."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from relay.configcache import recall, remember

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_CONFIG",
    "OracleAddress",
    "RelayConfig",
    "SocketConfig",
    "config_path",
    "load_config",
]

CONFIG_VARIABLE = "BLIND_ORACLE_RELAY_CONFIG"
DEFAULT_CONFIG = Path("/etc/blind-oracle-relay/relay.yaml")

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253}):([0-9]{1,5})")
_MODE = re.compile(r"0[0-7]{3}")
# gpg itself waits for ever, so the limit is ours. Longer than ten minutes no oracle accepts (MAX_REMAINING_MS).
_MAX_DEADLINE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class OracleAddress:
    """Where an oracle listens, and the name that its certificate must show."""

    address: str  # host:port, or [IPv6]:port
    server_name: str

    def __post_init__(self) -> None:
        match = _ADDRESS.fullmatch(self.address)
        if match is None or not 1 <= int(match[2]) <= 65535:
            raise ConfigError(f"address: expected host:port, got {self.address!r}")

    @property
    def host(self) -> str:
        """Name or number, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """1 to 65535."""
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """A Unix socket that gpg processes connect to."""

    path: Path
    # A quoted octal number: YAML 1.1 reads 0660 as 432, and 660 would be no mode at all.
    mode: str = "0660"

    def __post_init__(self) -> None:
        if _MODE.fullmatch(self.mode) is None:
            raise ConfigError(f'mode: expected a quoted octal number such as "0660", got {self.mode!r}')

    @property
    def bits(self) -> int:
        """The mode as a number."""
        return int(self.mode, 8)


@dataclass(frozen=True, slots=True)
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
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not self.oracles:
            raise ConfigError("oracles: expected at least one")
        if not 1 <= self.deadline_seconds <= _MAX_DEADLINE_SECONDS:
            raise ConfigError(f"deadline_seconds: expected 1 to {_MAX_DEADLINE_SECONDS}")
        if not 1 <= self.last_requests <= 10_000:
            raise ConfigError("last_requests: expected 1 to 10000")
        if not 1 <= self.max_connections <= 100_000:
            raise ConfigError("max_connections: expected 1 to 100000")

    @property
    def control_socket(self) -> Path:
        """Where `status` and `setup` ask the running relay."""
        return self.state / "control.sock"


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

    try:
        config = load(path, RelayConfig)
    except ConfigError as error:
        if not path.exists():
            raise ConfigError(str(error), "blind-oracle-relay enroll FILE writes it") from error
        raise
    remember(path, config)
    return config

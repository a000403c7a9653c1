"""When a host may sign by itself: the modes, and what relay.yaml says of them."""

import enum
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.values import frozen

__all__ = ["FallbackConfig", "FallbackMode", "FallbackPlaces"]

_MAX_AFTER_SECONDS = 86_400


class FallbackMode(enum.StrEnum):
    """When the host's own key takes the place of the oracle's."""

    NEVER = "never"
    AUTO = "auto"  # once no oracle has answered for a set time, until one does
    FORCED = "forced"  # whatever the oracles do; only an operator's command says so, and for a bounded time


@frozen
class FallbackConfig:
    """`fallback:` in relay.yaml: what holds while no operator has switched."""

    mode: FallbackMode = FallbackMode.NEVER
    after_seconds: int = 120  # auto: longer than an oracle's restart, shorter than a build's patience
    home: Path | None = None  # the local agent's GnuPG home; None: in the relay's state directory
    # Fingerprints of oracle's keys that may be used though they lie here: named one by one, or refused.
    accept_oracle_keys: tuple[Fingerprint, ...] = ()

    def __post_init__(self) -> None:
        if self.mode is FallbackMode.FORCED:
            raise ConfigError(
                "mode: expected never or auto, got forced",
                "only a command forces it, for a bounded time: blind-oracle-relay fallback on --for 2h --reason TEXT",
            )
        if not 1 <= self.after_seconds <= _MAX_AFTER_SECONDS:
            raise ConfigError(f"after_seconds: expected 1 to {_MAX_AFTER_SECONDS}")


@frozen
class FallbackPlaces:
    """Where everything about falling back lies on this host."""

    directory: Path  # of the relay's state
    home: Path

    @classmethod
    def of(cls, state: Path, config: FallbackConfig) -> "FallbackPlaces":
        """Below the relay's state directory, the home elsewhere when relay.yaml says so."""
        directory = state / "fallback"
        return cls(directory, config.home or directory / "gnupg")

    @property
    def switch(self) -> Path:
        """What an operator switched, for how long, and why."""
        return self.directory / "switch.json"

    @property
    def permission(self) -> Path:
        """What an oracle said last."""
        return self.directory / "permission.json"

    @property
    def outage(self) -> Path:
        """Since when no oracle has answered, while that is so."""
        return self.directory / "outage.json"

    @property
    def keys(self) -> Path:
        """The keys of the home that sign; written by `fallback setup`."""
        return self.directory / "keys.json"

    @property
    def certificate(self) -> Path:
        """The public certificates of these keys, binary."""
        return self.directory / "certificates.pgp"

    @property
    def journal(self) -> Path:
        """What was signed here."""
        return self.directory / "journal.jsonl"

"""Where things lie in a state directory, and which configuration a command works with."""

import os
from dataclasses import dataclass
from pathlib import Path

import click

from agentproxy.oracle.config import OracleConfig
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.config import load
from agentproxy.signer.config import SignerConfig

__all__ = ["CONFIG_VARIABLE", "DEFAULT_CONFIG", "Layout", "config_option", "load_oracle", "load_signer"]

CONFIG_VARIABLE = "BLIND_ORACLE_CONFIG"
DEFAULT_CONFIG = Path("/etc/blind-oracle/oracle.yaml")

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=CONFIG_VARIABLE,
    default=DEFAULT_CONFIG,
    show_default=True,
    show_envvar=True,
    help="The oracle's configuration.",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a state directory as `init` makes it; afterwards the configuration says where they are."""

    root: Path

    @property
    def oracle_config(self) -> Path:
        """oracle.yaml."""
        return self.root / "oracle.yaml"

    @property
    def policy(self) -> Path:
        """Which runner may use which key."""
        return self.root / "policy.yaml"

    @property
    def oracle(self) -> Path:
        """What the oracle needs: certificates and the registry, no signing key."""
        return self.root / "oracle"

    @property
    def signer(self) -> Path:
        """What only the signer may read: keys, passphrases, the CA's key."""
        return self.root / "signer"

    @property
    def signer_config(self) -> Path:
        """signer.yaml."""
        return self.signer / "signer.yaml"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.root / "audit"

    @property
    def run(self) -> Path:
        """Sockets and addresses of what runs now."""
        return self.root / "run"


def load_oracle(path: Path) -> OracleConfig:
    """Read oracle.yaml.

    Raises:
        ConfigError: it is missing or wrong.
    """
    if not path.exists():
        hint = f"blind-oracle init DIR makes one; then: export {CONFIG_VARIABLE}=DIR/oracle.yaml"
        raise ConfigError(f"{path}: there is no configuration", hint)
    return load(path, OracleConfig)


def load_signer(oracle: OracleConfig) -> SignerConfig:
    """Read the signer.yaml that oracle.yaml names.

    Raises:
        ConfigError: it names none, or we cannot read it.
    """
    path = oracle.signer.config
    if path is None:
        raise ConfigError("signer.config is not set: systemd runs the signer", "name its signer.yaml there")
    if not os.access(path.parent, os.X_OK):
        raise ConfigError(f"{path}: only the signer's user and root may read it", "run this as root")
    return load(path, SignerConfig)

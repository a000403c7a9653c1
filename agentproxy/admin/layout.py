"""Where things lie, in one state directory or all over a system, and which configuration a command works with."""

import os
from pathlib import Path

import click

from agentproxy.oracle.config import OracleConfig
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from agentproxy.runtime.config import load
from agentproxy.runtime.filepath import FilePath
from agentproxy.signer.config import SignerConfig

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_CONFIG",
    "Directory",
    "Layout",
    "SystemLayout",
    "config_option",
    "load_oracle",
    "load_signer",
]

CONFIG_VARIABLE = "BLIND_ORACLE_CONFIG"
DEFAULT_CONFIG = Path("/etc/blind-oracle/oracle.yaml")

config_option = click.option(
    "--config",
    type=FilePath(dir_okay=False),
    envvar=CONFIG_VARIABLE,
    default=DEFAULT_CONFIG,
    show_default=True,
    show_envvar=True,
    help="The oracle's configuration.",
)


@frozen
class Directory:
    """A directory that `init` makes: what it is for decides who may enter it."""

    path: Path
    mode: int = 0o700
    user: str = "root"
    group: str = "root"


@frozen
class Layout:
    """The files of a state directory as `init` makes it; afterwards the configuration says where they are.

    All of it is one user's.
    """

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
    def tls(self) -> Path:
        """The oracle's TLS key and certificate, and who issues those of build servers."""
        return self.oracle

    @property
    def certificates(self) -> Path:
        """The OpenPGP certificates of the keys."""
        return self.oracle / "certificates"

    @property
    def registry(self) -> Path:
        """Runners, and hashes of their tokens."""
        return self.oracle / "registry.sqlite"

    @property
    def gnupg(self) -> Path:
        """The signer's GnuPG home."""
        return self.signer / "gnupg"

    @property
    def directories(self) -> tuple[Directory, ...]:
        """What `init` makes below `root`."""
        signer = (self.signer, self.gnupg, self.gnupg / "private-keys-v1.d", self.signer / "passphrases")
        return tuple(Directory(path) for path in (self.oracle, self.certificates, *signer, self.audit, self.run))

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.root / "audit"

    @property
    def run(self) -> Path:
        """Sockets and addresses of what runs now."""
        return self.root / "run"


@frozen
class SystemLayout:
    """The files of an oracle whose processes systemd runs, each as a user of its own.

    What only root changes lies in /etc: there the signer's secrets are root's, and systemd passes them as credentials.
    """

    prefix: Path = Path("/")
    oracle_user: str = "blind-oracle"
    signer_user: str = "blind-oracle-signer"

    @property
    def etc(self) -> Path:
        """All configuration."""
        return self.prefix / "etc/blind-oracle"

    @property
    def oracle_config(self) -> Path:
        """oracle.yaml."""
        return self.etc / "oracle.yaml"

    @property
    def policy(self) -> Path:
        """Which runner may use which key."""
        return self.etc / "policy.yaml"

    @property
    def tls(self) -> Path:
        """The oracle's TLS key and certificate, and who issues those of build servers."""
        return self.etc / "tls"

    @property
    def certificates(self) -> Path:
        """The OpenPGP certificates of the keys."""
        return self.etc / "certificates"

    @property
    def signer(self) -> Path:
        """The signer's configuration, and its secrets, for root alone."""
        return self.etc / "signer"

    @property
    def signer_config(self) -> Path:
        """signer.yaml."""
        return self.signer / "signer.yaml"

    @property
    def registry(self) -> Path:
        """Runners, and hashes of their tokens."""
        return self.prefix / "var/lib/blind-oracle/registry.sqlite"

    @property
    def gnupg(self) -> Path:
        """The signer's GnuPG home."""
        return self.prefix / "var/lib/blind-oracle-signer/gnupg"

    @property
    def audit(self) -> Path:
        """The audit log: the one place where the signer writes."""
        return self.prefix / "var/lib/blind-oracle-audit"

    @property
    def run(self) -> Path:
        """Where systemd listens for the signer."""
        return self.prefix / "run/blind-oracle-signer"

    @property
    def oracle_run(self) -> Path:
        """The oracle's lock, and the address that it listens on."""
        return self.prefix / "run/blind-oracle"

    @property
    def directories(self) -> tuple[Directory, ...]:
        """What `init` makes; the packages make the same."""
        signer = self.signer_user
        return (
            Directory(self.etc, 0o755),
            Directory(self.tls, 0o755),
            Directory(self.certificates, 0o755),
            Directory(self.signer, 0o750, group=signer),
            Directory(self.signer / "passphrases"),
            Directory(self.signer / "encrypted"),
            Directory(self.registry.parent, 0o700, self.oracle_user, self.oracle_user),
            Directory(self.gnupg.parent, 0o700, signer, signer),
            Directory(self.gnupg, 0o700, signer, signer),
            Directory(self.gnupg / "private-keys-v1.d", 0o700, signer, signer),
            Directory(self.audit, 0o700, signer, signer),
        )


def load_oracle(path: Path) -> OracleConfig:
    """Read oracle.yaml.

    Raises:
        ConfigError: it is missing or wrong.
    """
    try:
        is_there = path.exists()
    except OSError as error:
        hint = "run this as root, or as the user whose oracle it is"
        raise ConfigError(f"{path}: {error.strerror}", hint) from error
    if not is_there:
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

"""The GnuPG homes and certificate stores of this host, in a file beside relay.yaml, so that they can be kept in step.

`setup` adds to it. Whoever can write the file chooses where root works, so it must be root's.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from agentproxy.runtime.config import load
from agentproxy.runtime.files import write_atomically
from agentproxy.runtime.lockfile import held
from relay.yamltext import quoted

__all__ = ["Homes", "KeptHome", "change_homes", "homes_file", "joined", "load_homes", "with_home", "with_store"]

PATIENCE_SECONDS = 10.0  # the list is read and written in milliseconds


@frozen
class KeptHome:
    """A GnuPG home as `setup` made it."""

    path: Path
    socket: Path
    shared: bool = False  # others read it


@frozen
class Homes:
    """All that `keyrings` keeps in step."""

    homes: tuple[KeptHome, ...] = ()
    cert_stores: tuple[Path, ...] = ()  # Sequoia's


def homes_file(config: Path) -> Path:
    """Where the list of a relay is whose configuration is `config`."""
    return config.parent / "homes.yaml"


def load_homes(file: Path) -> Homes:
    """Read the list; a missing one is empty.

    Raises:
        ConfigError: it is no such list, or others may write it.
    """
    try:
        status = file.stat()
    except FileNotFoundError:
        return Homes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
        raise ConfigError(f"{file}: others can write it", f"chown root {file}; chmod 644 {file}")
    return load(file, Homes)


def with_home(homes: Homes, home: KeptHome) -> Homes:
    """The list with this home; an earlier entry of the same path goes."""
    return replace(homes, homes=(*(one for one in homes.homes if one.path != home.path), home))


def with_store(homes: Homes, store: Path) -> Homes:
    """The list with this certificate store."""
    return homes if store in homes.cert_stores else replace(homes, cert_stores=(*homes.cert_stores, store))


def joined(homes: Homes, others: Homes) -> Homes:
    """The list with all of another."""
    for home in others.homes:
        homes = with_home(homes, home)
    for store in others.cert_stores:
        homes = with_store(homes, store)
    return homes


def change_homes(file: Path, change: Callable[[Homes], Homes]) -> None:
    """Replace the list by what `change` makes of it as it is now; of several at once each waits for the one before.

    Raises:
        ConfigError: it is no such list, others may write it, or another process does not come to an end.
        OSError: the directory cannot be written.
    """
    with held(file.with_name(f".{file.name}.lock"), "setup", PATIENCE_SECONDS):
        _write(file, change(load_homes(file)))


def _write(file: Path, homes: Homes) -> None:
    lines = [
        "# Kept by `blind-oracle-relay setup`; `blind-oracle-relay keyrings` brings new public keys to all of these."
    ]
    lines.append("homes:" if homes.homes else "homes: []")
    for home in homes.homes:
        lines.append(f"  - path: {quoted(str(home.path))}")
        lines.append(f"    socket: {quoted(str(home.socket))}")
        lines.append(f"    shared: {'true' if home.shared else 'false'}")
    lines.append("cert_stores:" if homes.cert_stores else "cert_stores: []")
    lines += [f"  - {quoted(str(store))}" for store in homes.cert_stores]
    write_atomically(file, "\n".join([*lines, ""]).encode(), 0o644)

"""Brings the oracle's public keys to all GnuPG homes and certificate stores of this host, each as its owner.

A small program for root: the relay has no rights there. It also mends what a stray gpg-agent has done to a home.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.values import frozen
from relay.homes import Homes, KeptHome
from relay.owner import as_owner_of
from relay.setup import set_up

__all__ = ["Kept", "fill_store", "keep_in_step"]

SQ_SECONDS = 60
_NEEDED = "it must be sq 1.0 or newer, such as Debian 13's"


@frozen
class Kept:
    """One home or store, and what came of it."""

    path: Path
    problem: str = ""  # empty: all is well


def keep_in_step(homes: Homes, certificates: Sequence[bytes]) -> Iterator[Kept]:
    """Bring the keys everywhere; one place that cannot be reached stops no other."""
    for home in homes.homes:
        yield _kept(home.path, partial(_bring_home, home, certificates))
    for store in homes.cert_stores:
        yield _kept(store, partial(fill_store, store, certificates))


def _kept(path: Path, bring: Callable[[], str]) -> Kept:
    if not path.is_dir():
        return Kept(path, "is gone; set it up again, or take it out of homes.yaml")
    try:
        as_owner_of(path, bring)
    except ConfigError as error:
        return Kept(path, str(error))
    return Kept(path)


def _bring_home(home: KeptHome, certificates: Sequence[bytes]) -> str:
    set_up(home.path, home.socket, certificates, shared=home.shared)
    return ""


def fill_store(store: Path, certificates: Sequence[bytes]) -> str:
    """Bring the keys to a certificate store of Sequoia's, by its own tool.

    Raises:
        ConfigError: there is no sq of version 1.0 or newer, or it refuses.
    """
    with tempfile.NamedTemporaryFile(prefix="blind-oracle.", suffix=".pgp") as file:
        file.write(b"".join(certificates))
        file.flush()
        command = ["sq", "--cert-store", str(store), "cert", "import", file.name]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SQ_SECONDS, check=False)
        except FileNotFoundError as error:
            raise ConfigError(f"{store}: sq is not installed", f"apt-get install sq; {_NEEDED}") from error
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"{store}: sq took more than {SQ_SECONDS} s") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it did not say why"]
        raise ConfigError(f"{store}: sq cert import failed: {said[0]}", _hint(said[0]))
    return ""


def _hint(said: str) -> str:
    is_too_old = "--cert-store" in said  # an option that it does not know
    return f"this sq is too old to have certificate stores, as Debian 12's 0.27 is: {_NEEDED}" if is_too_old else ""

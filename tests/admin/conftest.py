import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.exports import Exports, make_exports
from tests.signer.conftest import empty_home

__all__ = ["empty_home"]


@pytest.fixture(scope="session")
def exports() -> Iterator[Exports]:
    """Exported secret subkeys, made once by real gpg."""
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp") as name:
        home = Path(name) / "offline"
        try:
            yield make_exports(home)
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True, timeout=30)


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a path so short that sockets fit below it."""
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)

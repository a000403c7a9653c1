"""Files that hold a secret which is made only once they are there: readable by nobody else, never written over."""

import os
from collections.abc import Callable
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["write_secret"]


def write_secret(file: Path, make: Callable[[], bytes]) -> None:
    """Make the file, with mode 0600, then the secret, and put it there; without the secret no file stays.

    Raises:
        ConfigError: something is there, or the file cannot be made; the secret was not.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{file}: is there already", "choose another with --output") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be made: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(make())
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise

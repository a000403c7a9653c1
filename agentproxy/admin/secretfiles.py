"""Files that hold a secret which is made only once they are there: readable by nobody else, never written over."""

import os
from collections.abc import Callable
from pathlib import Path

from agentproxy.protocol.errors import ConfigError

__all__ = ["write_secret"]


_ROOM = 16_384  # bytes: several times an enrolment file


def write_secret(file: Path, make: Callable[[], bytes]) -> None:
    """Make the file, with mode 0600, then the secret, and put it there; without the secret no file stays.

    Raises:
        ConfigError: something is there, the file cannot be made, or has no room: the secret was not made; or it was,
            and cannot be written all the same.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{file}: is there already", "choose another with --output") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be made: {error.strerror}") from error
    try:
        _reserve(file, descriptor)
        _write(file, descriptor, make())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _reserve(file: Path, descriptor: int) -> None:
    # The secret ends others, such as the tokens before it: on a full disk it would be lost, and they with it.
    try:
        os.posix_fallocate(descriptor, 0, _ROOM)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}", "choose another with --output") from error


def _write(file: Path, descriptor: int, secret: bytes) -> None:
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(secret)
            stream.truncate()
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        hint = "what was to stand in it is lost: make another, by runner enroll or token rotate"
        raise ConfigError(f"{file}: cannot be written: {error.strerror}", hint) from error

"""`python -m demo`: plays in a temporary directory and leaves nothing behind, also on Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from demo.shell import CommandFailedError, Shell
from demo.steps import play


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _workplace() -> Iterator[Path]:
    """A directory for everything; whatever was started in it is stopped before it goes."""
    directory = Path(tempfile.mkdtemp(prefix="blind-oracle-demo."))
    try:
        yield directory
    finally:
        # A second Ctrl-C must not leave half of it behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if (directory / "system").exists():
            subprocess.run(
                ["blind-oracle", "dev", "stop", directory / "system"], check=False, stdout=subprocess.DEVNULL
            )
        if (directory / "offline").exists():
            agent = ["gpgconf", "--homedir", directory / "offline", "--kill", "gpg-agent"]
            subprocess.run(agent, check=False)
        shutil.rmtree(directory)


def main() -> int:
    """Play; the exit status is 0, 1 after a broken promise, or 128 + the signal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    # `blind-oracle` is to be found by name, as on a host where it is installed.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    start = time.monotonic()
    with _workplace() as directory:
        try:
            play(Shell(directory))
        except CommandFailedError as error:
            print(f"demo: error: {error}", file=sys.stderr)
            return 1
    print(f"\nAll of this took {time.monotonic() - start:.0f} s, and {directory} is gone again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

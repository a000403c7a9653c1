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

from agentproxy.admin.dev.processes import end, find
from demo.shell import CommandFailedError, Shell
from demo.steps import play

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_END_SECONDS = 10
_PARTING = 5  # attempts: an agent that was told to end removes its sockets while we do, and one may just begin


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    # A second Ctrl-C must not leave half of it behind. What we start from here on ignores it, too.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    print("\ndemo: stopping everything, and cleaning up", file=sys.stderr)
    raise SystemExit(128 + number)


@contextmanager
def _workplace() -> Iterator[Path]:
    """A directory for everything; whatever was started in it is stopped before it goes."""
    directory = Path(tempfile.mkdtemp(prefix="blind-oracle-demo."))
    try:
        yield directory
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if (directory / "system").exists():
            subprocess.run(
                ["blind-oracle", "dev", "stop", directory / "system"], check=False, stdout=subprocess.DEVNULL
            )
        for home in (directory / "offline", directory / "system" / "relay" / "gnupg"):
            if home.exists():
                _leave_home(home)
        # An agent that gpg was just about to start, or that makes a key, hears no request to end. And one look at all
        # processes can miss it, in the moment in which it becomes another program.
        for _ in range(_PARTING):
            for process in find(at=directory):
                end(process, _END_SECONDS)
            shutil.rmtree(directory, ignore_errors=True)


def _leave_home(home: Path) -> None:
    """Stop gpg's agent there, and remove what gpg made for it below /run/user."""
    for what in (("--kill", "gpg-agent"), ("--remove-socketdir",)):
        subprocess.run(["gpgconf", "--homedir", home, *what], check=False, capture_output=True)


def main() -> int:
    """Play; the exit status is 0, 1 after a broken promise, or 128 + the signal."""
    for number in _SIGNALS:
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

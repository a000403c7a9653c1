"""Waits until a process that we start says that it is ready, as systemd would: by NOTIFY_SOCKET (sd_notify(3))."""

import os
import select
import shutil
import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from agentproxy.runtime import systemd

__all__ = ["ReadySocket"]


class ReadySocket:
    """Where one child reports that it is ready."""

    def __init__(self) -> None:
        # In a directory of its own, since the parent's path may be too long for a socket.
        self._directory = Path(tempfile.mkdtemp(prefix="bo"))
        self._path = self._directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.bind(os.fspath(self._path))

    def environment(self) -> dict[str, str]:
        """Our environment for the child, without what systemd meant for us."""
        kept = {name: value for name, value in os.environ.items() if name not in systemd.VARIABLES}
        return {**kept, "NOTIFY_SOCKET": os.fspath(self._path)}

    def wait(self, pid: int, seconds: float) -> bool:
        """Wait until our child `pid` is ready; False when it ended, or `seconds` passed."""
        deadline = time.monotonic() + seconds
        ended = os.pidfd_open(pid)
        try:
            poll = select.poll()
            for descriptor in (ended, self._socket.fileno()):
                poll.register(descriptor, select.POLLIN)
            while (left := deadline - time.monotonic()) > 0:
                ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
                if self._socket.fileno() in ready and self._says_ready():
                    return True
                if ended in ready:
                    return False
            return False
        finally:
            os.close(ended)

    def _says_ready(self) -> bool:
        return "READY=1" in self._socket.recv(4096).decode(errors="replace").splitlines()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
        shutil.rmtree(self._directory, ignore_errors=True)

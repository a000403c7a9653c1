"""A real sshd on loopback, and what a client needs to reach it."""

import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentproxy.admin.dev.ports import free_ports
from tests.end_to_end.place import until

__all__ = ["SECONDS", "Sshd", "make_key", "sshd_in"]

SECONDS = 60.0
_SSHD = "/usr/sbin/sshd"
_SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
PidFile {directory}/sshd.pid
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
X11Forwarding no
PrintMotd no
LogLevel VERBOSE
"""
_CLIENT = """\
Host *
  IdentityFile {directory}/client
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known_hosts
  StrictHostKeyChecking yes
"""


def make_key(path: Path) -> None:
    """An ed25519 key without a passphrase at `path`, its public half beside it."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL)


class Sshd:
    """Its files, and the process while it runs."""

    def __init__(self, directory: Path, extra: str) -> None:
        self.directory = directory
        (self.port,) = free_ports(1)
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        directory.mkdir()
        for name in ("host", "client"):
            make_key(directory / name)
        host_key = (directory / "host.pub").read_text()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        self.authorized.write_text("")
        config = _SSHD_CONFIG.format(port=self.port, directory=directory) + extra
        (directory / "sshd_config").write_text(config)
        self.client_config.write_text(_CLIENT.format(directory=directory))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def authorized(self) -> Path:
        return self.directory / "authorized_keys"

    @property
    def client_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def address(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            command = [_SSHD, "-D", "-e", "-f", str(self.directory / "sshd_config")]
            self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        until(self._listens, "sshd listens")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def descendants(self) -> list[int]:
        """The processes of all sessions."""
        return [] if self._process is None else _descendants(self._process.pid)

    def stop(self) -> None:
        """End it together with every connection that it serves."""
        if self._process is None:
            return
        for pid in [*self.descendants(), self._process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(SECONDS)
        self._process = None


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    found: list[int] = []
    for child in map(int, children):
        found += [*_descendants(child), child]
    return found


@contextmanager
def sshd_in(directory: Path, extra: str = "") -> Iterator[Sshd]:
    """An sshd that runs for as long as the block lasts, with lines of `extra` in its configuration."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it wants to lock its unprivileged half in there
    made = Sshd(directory, extra)
    made.start()
    try:
        yield made
    finally:
        made.stop()

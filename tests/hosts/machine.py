"""A Debian that boots: systemd-nspawn over the root file system of this machine, with all that is written kept apart.

Nothing of this machine changes: its root is the lower half of an overlay, the upper half lies in memory. What is
installed here (gpg, rpm, libfaketime) is there, too; services that this machine has enabled are not started.

Source: systemd-nspawn(1), sd_notify(3) for READY and the leader's pid, nsenter(1).
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Done", "Machine", "machine"]

BOOT_SECONDS = 120  # it takes one; a machine that also runs other tests may need more
LOOK_SECONDS = 0.5  # how often we look whether nspawn has given up
END_SECONDS = 60
COMMAND_SECONDS = 180
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ran in the machine."""

    status: int
    output: str
    errors: str


class Machine:
    """One booted Debian.

    Args:
        directory: mount point and notification socket go there.
        shares: directories of this machine, read-only at the given places.
    """

    def __init__(self, directory: Path, shares: Mapping[str, Path]) -> None:
        self.root = directory / "root"
        self._directory = directory
        self._shares = shares
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def boot(self) -> None:
        """Start it and wait until systemd says that it is up."""
        notify = self._directory / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(notify))
            listener.settimeout(LOOK_SECONDS)
            self._process = self._start(notify)
            self._leader = _wait_until_ready(listener, self._process, self._directory / "console")

    def _start(self, notify: Path) -> subprocess.Popen[bytes]:
        command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", "--register=no", "--keep-unit", "--boot"]
        # Nothing of this machine's network, names or time zone: what a test needs there it makes itself.
        command += ["--private-network", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]
        command += ["--notify-ready=yes", "--console=pipe", "--kill-signal=SIGRTMIN+3", "--hostname=host"]
        # A name of its own, of letters and digits: a directory's own name may end in what no host's name may.
        command += [f"--machine=host{self._directory.stat().st_ino}"]
        command += [f"--bind-ro={source}:{place}" for place, source in self._shares.items()]
        environment = {
            "PATH": os.environ["PATH"],
            "NOTIFY_SOCKET": str(notify),
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        }
        with (self._directory / "console").open("ab") as console:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console, cwd="/"
            )

    def halt(self) -> None:
        """Shut it down in good order; what it wrote stays for the next `boot`."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)  # nspawn passes it on as an order to halt
            try:
                process.wait(END_SECONDS)
            finally:
                process.kill()
                process.wait()

    def run(self, *words: str, user: str = "root", stdin: str = "") -> Done:
        """Run a command, and whatever becomes of it is told."""
        done = subprocess.run(
            self._command(words, user),
            env=_environment(user),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def shell(self, script: str, *, user: str = "root") -> str:
        """Run a script as a person would type it, which must succeed; its output."""
        done = self.run("bash", "-euo", "pipefail", "-c", script, user=user)
        assert done.status == 0, f"{script}\n{done.output}{done.errors}\n{self.journal('--lines=60')}"
        return done.output

    def start(self, *words: str, user: str = "root") -> subprocess.Popen[str]:
        """Start a command and go on."""
        return subprocess.Popen(
            self._command(words, user),
            env=_environment(user),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _command(self, words: Sequence[str], user: str) -> list[str]:
        as_user = ["runuser", "-u", user, "--"] if user != "root" else []
        return ["nsenter", "--target", str(self._leader), *_NAMESPACES, "--", *as_user, *words]

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Not a byte is left on the root file system for as long as the block lasts."""
        upper = self._directory / "upper"
        status = os.statvfs(upper)
        used, whole = ((status.f_blocks - free) * status.f_frsize for free in (status.f_bfree, 0))
        _mount("tmpfs", upper, f"remount,size={used}", "tmpfs")
        try:
            yield
        finally:
            _mount("tmpfs", upper, f"remount,size={whole}", "tmpfs")

    def journal(self, *words: str) -> str:
        """What was logged since the boot, without a command's own success."""
        return self.run("journalctl", "--boot", "--no-pager", "--output=short-precise", *words).output

    def write(self, place: str, text: str, mode: int = 0o644) -> None:
        """Make a file, as root, while the machine runs."""
        self.shell(f"install -D -m {mode:o} /dev/stdin {place} <<'END-OF-FILE'\n{text}\nEND-OF-FILE")


def _environment(user: str) -> dict[str, str]:
    home = "/root" if user == "root" else f"/home/{user}"
    return {"PATH": _PATH, "HOME": home, "USER": user, "LOGNAME": user, "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def _wait_until_ready(listener: socket.socket, process: subprocess.Popen[bytes], console: Path) -> int:
    leader, until = 0, time.monotonic() + BOOT_SECONDS
    while True:
        try:
            words = listener.recv(65536).decode().splitlines()
        except TimeoutError:
            words = []
        if process.poll() is not None or time.monotonic() > until:
            raise AssertionError(f"it does not boot:\n{console.read_text()[-4000:]}")
        for word in words:
            if word.startswith("X_NSPAWN_LEADER_PID="):
                leader = int(word.partition("=")[2])
        if "READY=1" in words:
            return leader


@contextmanager
def machine(shares: Mapping[str, Path], *, size: str = "2g") -> Iterator[Machine]:
    """A machine that has never booted; it and all that it wrote are gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="bo-host.", dir="/var/tmp"))
    made = Machine(directory, shares)
    mounted: list[Path] = []
    try:
        for name in ("upper", "root"):
            (directory / name).mkdir()
        _mount("tmpfs", directory / "upper", f"size={size},mode=755", "tmpfs")
        mounted.append(directory / "upper")
        for name in ("written", "work"):
            (directory / "upper" / name).mkdir()
        layers = f"lowerdir=/,upperdir={directory}/upper/written,workdir={directory}/upper/work"
        _mount("overlay", made.root, layers, "overlay")
        mounted.append(made.root)
        _make_bare(made.root)
        yield made
    finally:
        made.halt()
        for place in reversed(mounted):
            subprocess.run(["umount", str(place)], check=True)
        shutil.rmtree(directory)


def _mount(what: str, place: Path, options: str, kind: str) -> None:
    subprocess.run(["mount", "-t", kind, "-o", options, what, str(place)], check=True)


def _make_bare(root: Path) -> None:
    """Take away what belongs to this machine: services that it has enabled, its names, mounts and identity."""
    for directory in (root / "etc/systemd/system").glob("*.wants"):
        shutil.rmtree(directory)
    for name in ("etc/fstab", "etc/machine-id", "etc/resolv.conf"):
        (root / name).unlink(missing_ok=True)
        (root / name).touch()
    (root / "etc/hosts").unlink(missing_ok=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost host oracle.example.org\n::1 localhost oracle.example.org\n")
    shutil.rmtree(root / "var/log/journal", ignore_errors=True)

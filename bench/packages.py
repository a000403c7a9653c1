"""Signing many small RPMs with the unmodified rpmsign."""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

__all__ = ["Workload", "spread"]

# linux/fs.h: what `chattr +T` sets.
_GET_FLAGS, _SET_FLAGS, _TOP_DIRECTORY = 0x8008_6601, 0x4008_6602, 0x0002_0000

_SPEC = """\
Name: bench
Version: 1
Release: 1
Summary: A small package to sign
License: Apache-2.0
BuildArch: noarch
%description
A small package to sign.
%files
"""


class Workload:
    """One small RPM, and as many copies of it as a run signs.

    Args:
        directory: where everything is built; on the disk that the audit log is on.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        spread(directory)
        spec = directory / "bench.spec"
        spec.write_text(_SPEC)
        command = ["rpmbuild", "--quiet", "--define", f"_topdir {directory}/build", "-bb", str(spec)]
        subprocess.run(command, check=True, capture_output=True)
        (self.package,) = (directory / "build").rglob("*.rpm")

    def sign_seconds(
        self, home: Path, fingerprint: str, count: int, processes: int = 1, env: dict[str, str] | None = None
    ) -> float:
        """Wall time in seconds of `rpmsign --addsign` on `count` fresh copies, shared out among `processes`."""
        names = self._copies(count)
        environment = {**(env or os.environ), "GNUPGHOME": str(home)}
        command = ["rpmsign", "--define", f"_gpg_name {fingerprint}!", "--define", f"_gpg_path {home}"]
        command += ["--define", "__gpg /usr/bin/gpg", "--addsign"]
        start = time.perf_counter()
        running = [
            subprocess.Popen(
                [*command, *names[index::processes]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for index in range(processes)
        ]
        errors = [process.communicate()[1].decode(errors="replace") for process in running]
        taken = time.perf_counter() - start
        for process, error in zip(running, errors, strict=True):
            if process.returncode != 0:
                raise RuntimeError(f"rpmsign: exit status {process.returncode}: {error[-2000:]}")
        return taken

    def seal_seconds(self, client: Path, key: str, count: int, env: dict[str, str]) -> float:
        """Wall time in seconds of one `blind-oracle-sign rpm`, its start included, on `count` fresh copies."""
        command = [str(client), "rpm", "--quiet", "--key", key, *self._copies(count)]
        start = time.perf_counter()
        subprocess.run(command, check=True, env=env, stdin=subprocess.DEVNULL)
        return time.perf_counter() - start

    def _copies(self, count: int) -> list[str]:
        copies = tempfile.mkdtemp(prefix="copies-", dir=self._directory)
        names = [f"{copies}/bench-{number}.rpm" for number in range(count)]
        for name in names:
            shutil.copy(self.package, name)
        return names


def spread(directory: Path) -> None:
    """Have ext4 put each new directory in this one where it has room, instead of beside what was there before.

    An ext4 without a journal, as virtual machines have it, does not give an inode again for minutes after its file was
    removed, and looks at each such inode whenever a file is made near by. Whatever ran and was removed before (a test
    run, a round of this bench) would add to every file that is made here: 0.01 ms became 0.15 for one, of which each
    signing of a package makes two. Does nothing on file systems that know no such flag.
    """
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (flags,) = struct.unpack("I", fcntl.ioctl(opened, _GET_FLAGS, bytes(4)))
        fcntl.ioctl(opened, _SET_FLAGS, struct.pack("I", flags | _TOP_DIRECTORY))
    except OSError:
        return
    finally:
        os.close(opened)

"""Signing many small RPMs with the unmodified rpmsign."""

import os
import shutil
import subprocess
import time
from pathlib import Path

__all__ = ["Workload"]

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
        copies = self._directory / "copies"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        names = [str(copies / f"bench-{number}.rpm") for number in range(count)]
        for name in names:
            shutil.copy(self.package, name)
        return names

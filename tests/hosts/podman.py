"""podman with storage and settings of its own, as far as a machine of tests lets it work."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Podman", "podman"]

SECONDS = 600.0
ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/debian:bookworm-slim"
# What `FROM debian:bookworm-slim` gets here, where no registry of images is in reach: the same system, made by
# mmdebstrap with what the Containerfile would install, so that its apt-get has nothing left to fetch.
_INCLUDED = "python3,gpg,gpg-agent"
# runc, since crun wants cgroups that are not in two hierarchies; limits, since nobody here may raise them.
_CONTAINERS = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
"""
_STORAGE = """\
[storage]
driver = "overlay"
runroot = "{directory}/run"
graphroot = "{directory}/graph"
"""


class Podman:
    """Runs podman; everything that it keeps lies in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "containers.conf").write_text(_CONTAINERS)
        (directory / "storage.conf").write_text(_STORAGE.format(directory=directory))
        self._environment = {
            **os.environ,
            "CONTAINERS_CONF": str(directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
        }

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *map(str, words)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def __call__(self, *words: str | Path) -> str:
        done = self.run(*words)
        assert done.returncode == 0, f"podman {' '.join(map(str, words))}: {done.stderr}{done.stdout}"
        return done.stdout

    def import_base(self) -> None:
        tree = ROOT / ".cache" / "bookworm-slim.tar"
        if not tree.exists():
            tree.parent.mkdir(exist_ok=True)
            fresh = tree.with_suffix(".new")
            command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", f"--include={_INCLUDED}"]
            with fresh.open("wb") as file:
                subprocess.run([*command, "bookworm", "-"], stdout=file, timeout=SECONDS, check=True)
            fresh.rename(tree)
        self("import", "--quiet", tree, BASE)

    def build(self, target: str, context: Path, version: str) -> str:
        """Build one stage of our Containerfile, of packages of that version; the image's name."""
        image = f"localhost/blind-oracle-{target}"
        file = ROOT / "deployment" / "container" / "Containerfile"
        words = ("build", "--quiet", "--pull=never", "--isolation", "chroot", "--target", target, "--tag", image)
        self(*words, "--build-arg", f"VERSION={version}", "--file", file, context)
        return image


@contextmanager
def podman() -> Iterator[Podman]:
    """A podman for the while; containers that still run at the end are removed."""
    directory = Path(tempfile.mkdtemp(prefix="bopod", dir="/tmp"))
    made = Podman(directory)
    try:
        yield made
    finally:
        made.run("rm", "--all", "--force", "--time", "1")
        made.run("unmount", "--all")
        made.run("system", "reset", "--force")
        shutil.rmtree(directory, ignore_errors=True)

"""A Debian release with its own tools: this machine, or a tree of another release, which is entered by chroot."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BOOKWORM", "RELEASES", "TRIXIE", "Done", "Release"]

SECONDS = 120  # for one program on a busy machine
_ROOT = Path(__file__).parents[2]
# The mounts end with the namespace; /tmp is shared, since sockets and work lie there under the same paths.
_ENTER = """\
set -e
tree=$1; shift
mount --rbind /tmp "$tree/tmp"
mount --rbind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
exec chroot "$tree" env -C "$PWD" "$@"
"""
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Release:
    """Where programs run."""

    name: str  # as people call it
    tree: Path | None = None  # None: this machine
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    def run(self, *words: str | Path, home: Path, at: Path, text: str = "", **also: str) -> Done:
        """Run a program with GNUPGHOME `home` in the directory `at`, both below /tmp."""
        return subprocess.run(
            self.command(*words),
            env={"PATH": _PATH, "HOME": str(at), "LC_ALL": "C.UTF-8", "GNUPGHOME": str(home), **also},
            cwd=at,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )

    def command(self, *words: str | Path) -> list[str]:
        """The whole command line, which a shell's child may run as it is."""
        plain = [str(word) for word in words]
        if self.tree is None:
            return plain
        assert os.geteuid() == 0, "only root can enter the tree of another release: sudo make test-conformance"
        assert self.tree.is_dir(), f"{self.tree} is missing: make test-conformance makes it"
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(self.tree), *plain]


BOOKWORM = Release("Debian 12")
TRIXIE = Release("Debian 13", _ROOT / ".cache" / "trixie")
RELEASES = (BOOKWORM, TRIXIE)

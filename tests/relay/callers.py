"""Processes that look like gpg or rpmsign to whoever reads /proc, doing nothing."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentproxy.runtime.peer import Peer

__all__ = ["process_like"]

# Opens what it is told to hold open, says so, and waits for its life's end.
_SCRIPT = b"""
import os
for path in os.environ["HELD"].split(":"):
    path and os.open(path, os.O_RDWR | os.O_NONBLOCK)
print(flush=True)
os.read(int(os.environ["LIFE"]), 1)
"""


@contextmanager
def process_like(
    *words: str, held: Sequence[Path] = (), directory: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Peer]:
    """A child of ours with this command line, but for a "-" behind its first word; as a peer of the relay."""
    life, end_of_life = os.pipe()
    variables = {"HELD": ":".join(map(str, held)), "LIFE": str(life), **(environment or {})}
    with tempfile.TemporaryFile() as script:
        script.write(_SCRIPT)
        script.seek(0)
        child = subprocess.Popen(
            [words[0], "-", *words[1:]],  # the kernel shows the first word, whatever `executable` is
            executable=sys.executable,
            stdin=script,
            stdout=subprocess.PIPE,
            cwd=directory,
            env=variables,
            pass_fds=[life],
        )
    os.close(life)
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"\n"
            yield Peer(child.pid, 12345, 12345, (12345,))
        finally:
            os.close(end_of_life)

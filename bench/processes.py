"""What the kernel says about a process: memory and CPU time."""

import os
from pathlib import Path

__all__ = ["cpu_seconds", "private_kib"]


def private_kib(pid: int) -> int:
    """KiB of memory that no file stands behind: heap, stacks, and what was written into mapped files.

    Not the proportional set size, nor the private pages: both count mapped files by how many processes map them, so
    they move when another Python on the machine starts or ends.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Anonymous")


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

"""What the kernel says about a process: memory and CPU time."""

import os
from pathlib import Path

__all__ = ["cpu_seconds", "private_kib"]


def private_kib(pid: int) -> int:
    """KiB of memory that only this process has: its heap and stacks, and what it wrote into mapped files.

    The proportional set size counts shared pages by how many processes map them, so it moves when another Python on the
    machine starts or ends.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Anonymous")


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

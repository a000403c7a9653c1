"""What the kernel says about a process: memory and CPU time."""

import os
from pathlib import Path

__all__ = ["cpu_seconds", "private_kib"]


def private_kib(pid: int) -> int:
    """KiB of memory that this process has for itself (proportional set size, so shared libraries count once)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

"""What the kernel says about a process, memory and CPU time, and about the machine: what others took of it."""

import os
from pathlib import Path

__all__ = ["Stolen", "cpu_seconds", "private_kib"]

_STAT = Path("/proc/stat")


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


class Stolen:
    """How much of a virtual machine's processors the hypervisor gave to others meanwhile (proc(5), /proc/stat: steal).

    A share of a hundredth already shows in how long the slowest of a hundred requests take.

    Args:
        stat: the file with the counters since boot.
    """

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._since = self._ticks()

    def share(self) -> float:
        """Of all processors' time since this was made, 0 to 1."""
        passed = [now - then for now, then in zip(self._ticks(), self._since, strict=True)]
        total = sum(passed)  # of a moment it may be nothing though counters moved: iowait goes backwards at times
        return passed[-1] / total if total > 0 else 0.0

    def _ticks(self) -> list[int]:
        # user, nice, system, idle, iowait, irq, softirq, steal; what guests of ours took is in user already.
        return [int(ticks) for ticks in self._stat.read_text().split("\n", 1)[0].split()[1:9]]

"""What builders do: signatures, one or many."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.hosts.machine import Done, Machine

__all__ = ["Load", "load", "sign"]

_SIGN = "gpg --homedir ${HOME_FOR_GPG:-~/signing} --batch --yes --output /dev/null --detach-sign /etc/hostname"
_LOOP = f"""\
while [ ! -e /tmp/enough ]; do
    if {_SIGN} 2>/tmp/load.$$; then echo signed; else echo "failed: $(cat /tmp/load.$$)"; fi
done
"""


def sign(machine: Machine, home: str = "") -> Done:
    """One signature, by a user without rights."""
    return machine.run("bash", "-c", f"HOME_FOR_GPG={home}; {_SIGN}", user="builder")


class Load:
    """Builders that sign until they are told that it is enough."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes
        self.signed = 0
        self.failures: list[str] = []

    def collect(self) -> None:
        """Wait for their last signature, and count."""
        for process in self._processes:
            output, _ = process.communicate(timeout=120)
            lines = output.splitlines()
            self.signed += lines.count("signed")
            self.failures += [line for line in lines if line != "signed"]


@contextmanager
def load(machine: Machine, builders: int = 2) -> Iterator[Load]:
    """Builders at work for as long as the block lasts; afterwards it says what became of it."""
    machine.shell("rm -f /tmp/enough")
    made = Load([machine.start("bash", "-c", _LOOP, user="builder") for _ in range(builders)])
    try:
        yield made
    finally:
        machine.shell("touch /tmp/enough")
        made.collect()

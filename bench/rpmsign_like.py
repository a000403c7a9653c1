"""Looks like rpmsign to a relay: holds a package open and lets children of its own, one by one, ask for signatures.

usage: exec -a rpmsign python -m bench.rpmsign_like KEYGRIP COUNT PACKAGE SOCKET…     prints each child's microseconds
"""

import os
import sys
import time
from pathlib import Path

from bench.agent_load import Target, new_caller_us

__all__ = ["main"]


def _ask(target: Target) -> float:
    """As a new process, as each gpg is one."""
    result, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(answer, str(new_caller_us(target)).encode())
        os._exit(0)
    os.close(answer)
    os.waitpid(pid, 0)
    with os.fdopen(result) as file:
        return float(file.read())


def main() -> None:
    """Ask at each socket in turn, as often as the command line says."""
    keygrip, count, package, *sockets = sys.argv[1:]
    held = os.open(package, os.O_RDWR)
    for _ in range(int(count)):
        for path in sockets:
            print(_ask(Target(Path(path), keygrip)))
            time.sleep(0.005)  # rpmsign has something to do between two of them
    os.close(held)


if __name__ == "__main__":
    main()

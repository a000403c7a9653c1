"""Fuzz every target in turn, or the one that is named: `python -m tests.fuzz --seconds 60 [--target sexp]`.

Each runs in a child process, for libFuzzer ends the process that it runs in. What made a target fail is kept, and
the status is 1.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", choices=TARGETS, action="append")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.target or TARGETS:
        directory = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        print(f"{name}: {arguments.seconds} s, corpus and findings in {directory}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz.child", name, str(arguments.seconds), str(directory)]
        if subprocess.run(command, check=False, timeout=arguments.seconds * 3 + 60).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "no target failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

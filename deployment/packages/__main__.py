"""`make relay.pyz`, `make deb`, `make rpm`, `make wheel`.

usage: python -m deployment.packages {relay.pyz,deb,rpm,wheel} [--output DIR] [--python 3.12] [--version VERSION]
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from deployment.packages import deb, rpm
from deployment.packages.contents import Target, contents
from deployment.packages.sources import ROOT, version, wheel_and_sdist
from deployment.packages.zipapp import build as build_zipapp

DEBIAN_PYTHON = "3.11"  # of Debian 12
EL_PYTHON = "3.12"  # a package in EL8 and EL9, the system's own in EL10


def _relay(arguments: argparse.Namespace) -> list[Path]:
    target = arguments.output / "relay.pyz"
    build_zipapp(target, "/usr/bin/env python3")
    return [target]


def _deb(arguments: argparse.Namespace) -> list[Path]:
    target = Target("deb", arguments.python or DEBIAN_PYTHON, arguments.version)
    with tempfile.TemporaryDirectory(prefix="blind-oracle-deb.") as scratch:
        return [deb.build(package, Path(scratch), arguments.output) for package in contents(target, Path(scratch))]


def _rpm(arguments: argparse.Namespace) -> list[Path]:
    target = Target("rpm", arguments.python or EL_PYTHON, arguments.version)
    with tempfile.TemporaryDirectory(prefix="blind-oracle-rpm.") as scratch:
        return [rpm.build(package, Path(scratch), arguments.output) for package in contents(target, Path(scratch))]


def _wheel(arguments: argparse.Namespace) -> list[Path]:
    return wheel_and_sdist(arguments.output)


_BUILDS: Mapping[str, Callable[[argparse.Namespace], list[Path]]] = {
    "relay.pyz": _relay,
    "deb": _deb,
    "rpm": _rpm,
    "wheel": _wheel,
}


def main() -> int:
    """Build one kind and name the files."""
    parser = argparse.ArgumentParser(prog="python -m deployment.packages")
    parser.add_argument("kind", choices=_BUILDS)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", help="the version of the target's Python, such as 3.12")
    parser.add_argument("--version", default=version(), help="of the packages; the programs tell their own")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        for made in _BUILDS[arguments.kind](arguments):
            print(made)
    except subprocess.CalledProcessError as error:
        print(f"packages: error: {error.cmd[0]} failed with status {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Small packages, and what unmodified rpmsign and rpmkeys make of RPMs."""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, Done, System

__all__ = ["build_packages", "is_signed", "rpmsign", "write_source_package"]

_SPEC = """\
Name: {name}
Version: 1.0
Release: 1
Summary: A package to sign
License: Apache-2.0
BuildArch: noarch

%description
A package to sign.

%files
"""

_CHANGES = """\
Format: 1.8
Date: Thu, 01 Jan 2026 00:00:00 +0000
Source: hello
Architecture: source
Version: 1.0
Distribution: unstable
Urgency: medium
Maintainer: Release <release@example.org>
Changed-By: Release <release@example.org>
Description:
 hello - a package to sign
Changes:
 hello (1.0) unstable; urgency=medium
 .
   * First.
Checksums-Sha1:
 {sha1} {size} hello_1.0.dsc
Checksums-Sha256:
 {sha256} {size} hello_1.0.dsc
Files:
 {md5} {size} misc optional hello_1.0.dsc
"""
_DSC = """\
Format: 3.0 (native)
Source: hello
Binary: hello
Architecture: all
Version: 1.0
Maintainer: Release <release@example.org>
Standards-Version: 4.6.2
"""


def write_source_package(directory: Path) -> tuple[Path, Path]:
    """The .dsc and .changes of a Debian source package, for debsign."""
    source, changes = directory / "hello_1.0.dsc", directory / "hello_1.0_source.changes"
    source.write_text(_DSC)
    sums = {name: hashlib.new(name, _DSC.encode()).hexdigest() for name in ("sha1", "sha256", "md5")}
    changes.write_text(_CHANGES.format(size=len(_DSC), **sums))
    return source, changes


def build_packages(directory: Path, names: Sequence[str]) -> list[Path]:
    """Real packages by rpmbuild."""
    for name in names:
        (directory / f"{name}.spec").write_text(_SPEC.format(name=name))
    specs = [f"{name}.spec" for name in names]
    command = ["rpmbuild", "--quiet", "--define", f"_topdir {directory}/build", "-bb", *specs]
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=SECONDS)
    found = sorted((directory / "build" / "RPMS").rglob("*.rpm"))
    assert len(found) == len(names)
    return found


def rpmsign(system: System, key: str, *packages: Path) -> Done:
    # Debian's rpm looks for /usr/bin/gpg2, which Debian does not ship.
    macros = ("--define", f"_gpg_name {key}@example.org", "--define", "__gpg /usr/bin/gpg")
    return system.run("rpmsign", *macros, "--addsign", *packages)


def is_signed(system: System, offline: Offline, key: str, package: Path, database: Path) -> bool:
    """By a user's rpm that knows nothing but our public key."""
    (database.parent / f"{key}.asc").write_bytes(offline.public(key))
    system.run("rpmkeys", "--dbpath", database, "--import", database.parent / f"{key}.asc")
    done = system.run("rpmkeys", "--dbpath", database, "-K", "-v", package)
    return done.returncode == 0 and "Signature, key ID" in done.stdout and "NOKEY" not in done.stdout

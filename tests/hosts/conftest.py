"""One booted Debian for all tests here, installed by following docs/INSTALL.md word for word."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentproxy.protocol.openpgp import armored
from deployment.packages import deb
from deployment.packages.contents import Target, contents
from tests.admin.exports import PASSPHRASE, make_exports
from tests.end_to_end.packages import build_packages
from tests.hosts.machine import Machine, machine
from tests.hosts.manual import steps
from tests.trees import remove_tree

NEXT_VERSION = "0.1.0+1"  # the same programs, for upgrades


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian packages of this tree, and beside them in `next` the same as an upgrade.

    Whoever works on these tests names a directory in BLIND_ORACLE_TEST_PACKAGES, and builds once.
    """
    kept = os.environ.get("BLIND_ORACLE_TEST_PACKAGES")
    output = Path(kept) if kept else tmp_path_factory.mktemp("packages")
    if (output / "next").is_dir():
        return output
    (output / "next").mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="blind-oracle-deb.") as scratch:
        for package in contents(Target("deb", "3.11", "0.1.0"), Path(scratch)):
            deb.build(package, Path(scratch) / "first", output)
            deb.build(replace(package, version=NEXT_VERSION), Path(scratch) / "second", output / "next")
    return output


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What people bring: an exported subkey with its passphrase, and an RPM that is not signed."""
    output = tmp_path_factory.mktemp("material")
    home = Path(tempfile.mkdtemp(prefix="bo", dir="/tmp"))
    try:
        exports = make_exports(home / "offline")
        shutil.copy(exports.subkeys["locked"], output / "modern.key")
        (output / "modern.pub").write_text(armored(exports.public("locked")).decode("ascii"))
    finally:
        subprocess.run(["gpgconf", "--homedir", home / "offline", "--kill", "gpg-agent"], check=True, timeout=30)
        remove_tree(home)
    (output / "modern.passphrase").write_text(f"{PASSPHRASE}\n")
    (rpm,) = build_packages(output, ["hello"])
    rpm.rename(output / "hello.rpm")
    return output


@pytest.fixture(scope="session")
def fresh(packages: Path, material: Path) -> Iterator[Machine]:
    """A machine with people and their files, and nothing of ours installed."""
    with machine({"/packages": packages, "/material": material}) as made:
        made.boot()
        # The kernel's file for latencies, which a machine of one's own has and nspawn's machines have not.
        number = Path("/dev/cpu_dma_latency").stat().st_rdev
        made.shell(f"mknod -m 600 /dev/cpu_dma_latency c {os.major(number)} {os.minor(number)}")
        made.shell(
            "useradd --create-home --shell /bin/bash builder\n"
            "cp /packages/*.deb /root/\n"
            "install -m 600 /material/modern.* /root/\n"
            "install -o builder /material/hello.rpm /home/builder/\n"
            # Nobody is there to answer.
            "echo 'APT::Get::Assume-Yes \"true\";' > /etc/apt/apt.conf.d/90test\n"
            "rpm --dbpath /var/lib/test-rpm --import /material/modern.pub\n"
        )
        yield made


@pytest.fixture(scope="session")
def host(fresh: Machine) -> Machine:
    """The machine after all of docs/INSTALL.md: oracle and build server in one."""
    for step in steps():
        home = "/root" if step.user == "root" else f"/home/{step.user}"
        fresh.shell(f"cd {home}\n{step.commands}", user=step.user)
    return fresh

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "system-packages.sh"


@pytest.fixture(name="bare")
def bare_path(tmp_path: Path) -> Path:
    """A PATH with a shell, and an apt-get that only says what it was asked."""
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("sh", "id", "env", "cat"):
        found = shutil.which(name)
        assert found is not None
        (bare / name).symlink_to(found)
    (bare / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (bare / "apt-get").chmod(0o755)
    return bare


def run(path: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, **variables}
    return subprocess.run(
        ["/bin/sh", SCRIPT, *words], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_what_is_missing_is_named_with_its_reason_and_installed_once(bare: Path, tmp_path: Path) -> None:
    result = run(str(bare))
    assert result.returncode == 0, result.stderr
    assert "missing: Debian package createrepo-c (createrepo_c: makes the demo's repository)" in result.stderr
    update, install = (tmp_path / "asked").read_text().splitlines()
    assert update.endswith(" update")
    packages = install.split("--no-install-recommends ")[1].split()
    assert {"gnupg", "rpm", "dnf", "createrepo-c"} <= set(packages)
    assert len(packages) == len(set(packages))


def test_where_nothing_is_missing_nothing_happens(bare: Path, tmp_path: Path) -> None:
    for name in [
        "gpg",
        "gpg-agent",
        "rpmsign",
        "rpmbuild",
        "createrepo_c",
        "dnf",
        "git",
        "debsign",
        "sq",
        "openssl",
        "strace",
        "shellcheck",
        "groff",
        "fish",
        "socat",
        "systemd-socket-activate",
        "pg_ctlcluster",
        "ip",
        "nft",
        "ssh",
        "systemd-analyze",
        "faketime",
        "curl",
        "nginx",
        "promtool",
    ]:
        (bare / name).symlink_to("/bin/true")
    result = run(str(bare))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not (tmp_path / "asked").exists()


def test_without_apt_the_packages_are_named_for_somebody_to_install(bare: Path) -> None:
    (bare / "apt-get").unlink()
    result = run(str(bare))
    assert result.returncode == 1
    assert "not a Debian system" in result.stderr


def test_an_old_or_missing_python_is_refused_with_what_to_type() -> None:
    result = run(os.environ["PATH"], "python", PYTHON="/nonexistent/python")
    assert result.returncode == 1
    assert "/nonexistent/python: expected Python 3.11 or newer" in result.stderr
    assert "make setup PYTHON=" in result.stderr


def test_our_shell_scripts_are_clean() -> None:
    root = SCRIPT.parents[1]
    scripts = [*sorted((root / "scripts").glob("*.sh")), root / "ssh-forwarding" / "check.sh"]
    assert SCRIPT in scripts
    subprocess.run(["shellcheck", *scripts, root / ".ci" / "run"], check=True, timeout=60)

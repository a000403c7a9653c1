"""What is built besides the Debian packages: the relay's one file, RPMs, wheel and source archive."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from deployment.packages import rpm
from deployment.packages.contents import Target, contents
from deployment.packages.sources import wheel_and_sdist, wheels_of
from deployment.packages.zipapp import build as build_zipapp

pytestmark = pytest.mark.hosts

UNITS = Path(__file__).parents[2] / "systemd"
OPERATIONS = UNITS.parent / "docs" / "OPERATIONS.md"
SSH_FORWARDING = UNITS.parent / "ssh-forwarding"


@pytest.fixture(name="pyz", scope="module")
def relay_pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pyz") / "relay.pyz"
    build_zipapp(target, "/usr/bin/env python3")
    return target


def _pythons() -> list[str]:
    """Every Python that the relay must run on and that is here, pyenv's among them."""
    found = []
    for version in ("3.11", "3.12", "3.13"):
        programs = [shutil.which(f"python{version}", path="/usr/bin:/usr/local/bin")]
        programs += [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))]
        found += [program for program in programs if program is not None][:1]
    return found


@pytest.mark.parametrize("python", _pythons())
def test_the_relays_one_file_runs_on_every_python_that_is_here(python: str, pyz: Path, tmp_path: Path) -> None:
    assert _run([python, "-I", pyz, "--version"]).startswith("blind-oracle-relay, version ")
    # Far enough to load everything that serving needs, and to say what is wrong.
    done = subprocess.run(
        [python, "-I", pyz, "serve", "--config", tmp_path / "relay.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "blind-oracle-relay enroll FILE writes it" in done.stderr


def _old_pythons() -> list[str]:
    """Pythons that are too old and that are here."""
    found = [shutil.which(f"python3.{minor}", path="/usr/bin:/usr/local/bin") for minor in range(6, 11)]
    return [*filter(None, found), *map(str, sorted(Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python3"))[:1])]


@pytest.mark.parametrize("python", _old_pythons())
def test_a_python_that_is_too_old_is_told_and_no_traceback(python: str, pyz: Path) -> None:
    done = subprocess.run([python, pyz, "status"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        f"blind-oracle-relay: error: {python}: expected Python 3.11 or newer\n"
        f"blind-oracle-relay: hint: python3.11 {pyz}\n"
    )


def test_the_same_sources_give_the_same_file(pyz: Path, tmp_path: Path) -> None:
    build_zipapp(tmp_path / "again.pyz", "/usr/bin/env python3")
    assert (tmp_path / "again.pyz").read_bytes() == pyz.read_bytes()


@pytest.mark.parametrize("python", _pythons())
def test_bytecode_of_one_python_does_not_disturb_another(python: str, tmp_path: Path) -> None:
    build_zipapp(tmp_path / "relay.pyz", "/usr/bin/python3.11 -I", "3.11")
    with zipfile.ZipFile(tmp_path / "relay.pyz") as archive:
        assert {"relay/cli.py", "relay/cli.pyc"} <= set(archive.namelist())
    assert _run([python, "-I", tmp_path / "relay.pyz", "--version"]).startswith("blind-oracle-relay, version ")


@pytest.fixture(name="rpms", scope="module")
def built_rpms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    scratch, output = (tmp_path_factory.mktemp(name) for name in ("rpm-scratch", "rpm"))
    packages = contents(Target("rpm", "3.12", "0.1.0"), scratch)
    return {package.name: rpm.build(package, scratch, output) for package in packages}


def test_every_unit_is_in_one_of_the_packages(rpms: dict[str, Path]) -> None:
    files = "".join(_run(["rpm", "-qp", "--list", file]) for file in rpms.values()).split()
    packed = sorted(Path(file).name for file in files if Path(file).parent == Path("/usr/lib/systemd/system"))
    assert packed == sorted(path.name for path in UNITS.iterdir() if path.is_file())


def test_the_rpms_require_the_python_that_el_has(rpms: dict[str, Path]) -> None:
    for file in rpms.values():
        assert "/usr/bin/python3.12\n" in _run(["rpm", "-qp", "--requires", file])
    assert _run(["rpm", "-qp", "--queryformat", "%{ARCH}", rpms["blind-oracle-relay"]]) == "noarch"


def test_an_rpm_keeps_the_operators_configuration_and_makes_the_users(rpms: dict[str, Path]) -> None:
    oracle = rpms["blind-oracle"]
    assert _run(["rpm", "-qp", "--configfiles", oracle]) == "/etc/blind-oracle/policy.yaml\n"
    scripts = _run(["rpm", "-qp", "--scripts", oracle])
    assert "systemd-sysusers blind-oracle.conf" in scripts
    assert "rm " not in scripts
    files = _run(["rpm", "-qpl", oracle]).splitlines()
    assert "/usr/lib/systemd/system/blind-oracle-signer.service" in files
    assert not any(path.startswith("/var/") for path in files)


def test_what_the_operators_page_takes_from_the_sources_lies_beside_the_examples(rpms: dict[str, Path]) -> None:
    named = set(re.findall(r"`deployment/([\w./-]+?)/?`", OPERATIONS.read_text()))
    files = _run(["rpm", "-qpl", rpms["blind-oracle"]]).splitlines()
    assert named
    assert {name for name in named if f"/usr/share/doc/blind-oracle/examples/{name}" not in files} == set()


def test_oracle_and_relay_bring_what_the_page_about_ssh_takes(rpms: dict[str, Path]) -> None:
    fragments = {f"examples/ssh-forwarding/{path.name}" for path in SSH_FORWARDING.iterdir()}
    for name in ("blind-oracle", "blind-oracle-relay"):
        files = _run(["rpm", "-qpl", rpms[name]]).splitlines()
        assert {each for each in fragments if f"/usr/share/doc/{name}/{each}" not in files} == set()


def test_an_erased_rpm_leaves_no_directory_of_its_own(rpms: dict[str, Path], tmp_path: Path) -> None:
    for name, file in rpms.items():
        root = tmp_path / name
        rpm = ["rpm", "--root", root, "--nodeps", "--noscripts"]
        subprocess.run([*rpm, "--install", "--ignoreos", file], check=True, capture_output=True, timeout=120)
        assert list((root / "usr").rglob("blind-oracle*"))
        subprocess.run([*rpm, "--erase", name], check=True, capture_output=True, timeout=120)
        assert [path for top in ("etc", "usr") for path in (root / top).rglob("*blind-oracle*")] == []


def test_the_scriptlets_of_an_rpm_are_shell(rpms: dict[str, Path]) -> None:
    for name in ("POSTIN", "PREUN", "POSTUN"):
        for package in ("blind-oracle", "blind-oracle-relay"):
            text = _run(["rpm", "-qp", "--queryformat", f"%{{{name}}}", rpms[package]])
            subprocess.run(["sh", "-n"], input=text, text=True, check=True, timeout=30)
            assert "@" not in text.replace("@.service", "")


@pytest.mark.usefixtures("pyz")
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_wheel_and_source_archive_install_into_a_fresh_environment(kind: str, tmp_path: Path) -> None:
    sdist, wheel = wheel_and_sdist(tmp_path)
    pip = [sys.executable, "-m", "pip"]
    if kind == "sdist":
        # With the build backend of our own environment: nothing is fetched.
        made = tmp_path / "made"
        options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, "wheel", *options, "--wheel-dir", made, sdist], check=True, timeout=120)
        (wheel,) = made.iterdir()
    venv.create(tmp_path / "venv", with_pip=False)
    wheels = wheels_of("relay", "3.11")  # what the relay's one file was made of, with the same hashes
    where = ["--python", tmp_path / "venv/bin/python"]
    subprocess.run(
        [*pip, *where, "install", "--quiet", "--no-index", "--find-links", wheels, wheel], check=True, timeout=120
    )
    assert "version" in _run([tmp_path / "venv/bin/blind-oracle-relay", "--version"])


@pytest.mark.usefixtures("pyz")
@pytest.mark.parametrize("tool", ["pipx", "uv"])
def test_the_wheel_is_installed_by_the_tools_that_people_use_for_programs(tool: str, tmp_path: Path) -> None:
    _, wheel = wheel_and_sdist(tmp_path)
    wheels = wheels_of("relay", "3.11")
    program = Path(sys.executable).with_name(tool)
    places = {
        "PIPX_HOME": "home",
        "PIPX_BIN_DIR": "bin",
        "UV_TOOL_DIR": "home",
        "UV_TOOL_BIN_DIR": "bin",
        "HOME": "user",
    }
    environment = {**os.environ, **{name: str(tmp_path / place) for name, place in places.items()}}
    commands = {
        "pipx": ["install", "--python", sys.executable, f"--pip-args=--no-index --find-links {wheels}", wheel],
        "uv": ["tool", "install", "--python", sys.executable, "--no-index", "--find-links", wheels, wheel],
    }
    _run([program, *commands[tool]], environment)
    assert "version" in _run([tmp_path / "bin" / "blind-oracle-relay", "--version"])


def _run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout

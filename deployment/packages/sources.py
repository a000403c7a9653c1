"""What packages are made of: our own sources as they are in the working tree, and the locked wheels.

Wheels are fetched once, checked against the hashes in requirements/, and installed from there without a network.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ROOT", "compile_all", "epoch", "install", "version", "wheel_and_sdist", "wheels_of"]

ROOT = Path(__file__).parents[2]
_WHEELS = ROOT / "build" / "wheels"
_SOURCES = ("agentproxy", "relay", "pyproject.toml", "README.md", "LICENSE")
# What EL8 with its glibc 2.28 can load, and so every later system; pip does not conclude the older names by itself.
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux_2_5", "manylinux1")


def version() -> str:
    """Our own."""
    text = (ROOT / "agentproxy" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise ValueError("agentproxy/__init__.py: expected __version__")
    return found[1]


def epoch() -> int:
    """The time that stands in everything that is built: the last commit's, so that builds can be compared."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given:
        return int(given)
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    return (
        int(done.stdout) if done.returncode == 0 and done.stdout.strip() else 315_532_800
    )  # 1980: zip knows no earlier


def _lock(requirements: str) -> Path:
    return ROOT / "requirements" / f"{requirements}.txt"


def wheels_of(requirements: str, python: str) -> Path:
    """Where `install` keeps what it downloads for requirements/NAME.txt as it is now."""
    return _WHEELS / f"{requirements}-{python}-{hashlib.sha256(_lock(requirements).read_bytes()).hexdigest()[:16]}"


def install(requirements: str, target: Path, python: str) -> None:
    """Put the packages that requirements/NAME.txt locks into `target`, for that version of Python.

    Raises:
        subprocess.CalledProcessError: one cannot be had, or has another hash; pip has said why.
    """
    lock, wheels = _lock(requirements), wheels_of(requirements, python)
    options = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--python-version", python]
    options += [word for name in _PLATFORMS for word in ("--platform", f"{name}_{os.uname().machine}")]
    if not wheels.is_dir():
        _WHEELS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_WHEELS) as fresh:
            _pip("download", *options, "--dest", f"{fresh}/all", "-r", str(lock))
            shutil.move(f"{fresh}/all", wheels)
    _pip("install", *options, "--no-index", "--find-links", str(wheels), "--target", str(target), "-r", str(lock))


def compile_all(tree: Path, version: str, options: Sequence[str] = ()) -> None:
    """Make bytecode for that version of Python, known by the source's hash, so that no clock matters.

    It is quicker to start with, and daemons cannot write any; without such a Python on this machine there is none.
    """
    python = _interpreter(version)
    if python is None:
        print(f"packages: no python{version} here, so programs start without bytecode", file=sys.stderr)
        return
    command = [python, "-I", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*command, *options, str(tree)], check=True)


def _interpreter(version: str) -> str | None:
    """A Python of that version on this machine; names that only say they were one, as pyenv's do, are passed over."""
    for directory in os.get_exec_path():
        program = Path(directory) / f"python{version}"
        if program.exists() and not subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode:
            return str(program)
    return None


def wheel_and_sdist(output: Path) -> list[Path]:
    """Our own wheel and source archive."""
    with tempfile.TemporaryDirectory(prefix="blind-oracle-sources.") as name:
        sources = Path(name)
        for source in _SOURCES:
            path = ROOT / source
            if path.is_dir():
                shutil.copytree(path, sources / source, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            else:
                shutil.copy(path, sources)
        return [output / _built(kind, sources, output) for kind in ("sdist", "wheel")]


def _built(kind: str, sources: Path, output: Path) -> str:
    # The build backend's own hooks (PEP 517), from our virtual environment: nothing is fetched.
    code = f"import sys; from setuptools import build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    done = subprocess.run(
        [sys.executable, "-c", code, str(output.absolute())],
        cwd=sources,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def _pip(*words: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([sys.executable, "-m", "pip", *words, *quiet], check=True)

"""The relay as one file: our code and pure Python libraries in a zip archive that Python runs.

It holds no compiled code, so the same file runs on every machine with Python 3.11 or newer. Built twice from the same
sources it is the same, byte for byte.
"""

import shutil
import stat
import tempfile
import time
import zipfile
from pathlib import Path

from deployment.packages.sources import ROOT, compile_all, epoch, install

__all__ = ["build"]

_OLDEST_PYTHON = "3.11"
# Read by whatever Python a host calls its own, before a newer one's syntax could end it: EL8's is 3.6, EL9's 3.9.
_MAIN = """\
import sys
if sys.version_info < (3, 11):
    sys.stderr.write("blind-oracle-relay: error: %s: expected Python 3.11 or newer\\n" % sys.executable)
    sys.stderr.write("blind-oracle-relay: hint: python3.11 %s\\n" % sys.argv[0])
    sys.exit(1)
from relay.cli import main
sys.exit(main())
"""
_OURS = ("agentproxy/__init__.py", "agentproxy/protocol", "agentproxy/runtime", "relay")
# Tests of libraries, and what pip notes about an installation that this is not.
_LEFT_OUT = ("__pycache__", "_tests", "bin", "RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def build(target: Path, interpreter: str, bytecode: str | None = None) -> None:
    """Write the archive, executable, to be run by `interpreter`.

    Args:
        bytecode: a version of Python that shall find bytecode in it and start in less than half of the time; others
            pass over it and read the sources, which are there all the same.

    Raises:
        subprocess.CalledProcessError: a library cannot be had.
        ValueError: a library needs compiled code.
    """
    with tempfile.TemporaryDirectory(prefix="blind-oracle-relay.") as name:
        tree = Path(name)
        install("relay", tree, _OLDEST_PYTHON)
        _take_out(tree)
        for ours in _OURS:
            source = ROOT / ours
            if source.is_dir():
                shutil.copytree(source, tree / ours, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (tree / ours).parent.mkdir(exist_ok=True)
                shutil.copy(source, tree / ours)
        (tree / "__main__.py").write_text(_MAIN)
        if bytecode is not None:
            # -b: beside the source, where an archive is searched; paths in tracebacks are those inside.
            compile_all(tree, bytecode, ("-b", "-s", str(tree)))
        _pack(tree, target, interpreter)


def _take_out(tree: Path) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):
        if path.name in _LEFT_OUT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.suffix == ".so":
            # PyYAML's faster half: without it the library is the pure one.
            if path.parent.name != "yaml":
                raise ValueError(f"{path.relative_to(tree)}: the relay must not need compiled code")
            path.unlink()


def _pack(tree: Path, target: Path, interpreter: str) -> None:
    moment = time.gmtime(epoch())[:6]
    with target.open("wb") as file:
        file.write(f"#!{interpreter}\n".encode())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(tree.rglob("*")):
                if path.is_file():
                    entry = zipfile.ZipInfo(str(path.relative_to(tree)), moment)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    entry.external_attr = (stat.S_IFREG | 0o644) << 16
                    archive.writestr(entry, path.read_bytes())
    target.chmod(0o755)

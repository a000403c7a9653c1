"""Which packages there are, and which files lie in each; Debian's and RPM's builders make archives of them."""

import gzip
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click

from agentproxy.admin.cli import _COMMANDS as _ORACLE_COMMANDS  # our own command lines, read for their help
from agentproxy.admin.cli import _group as oracle_group
from agentproxy.admin.templates import POLICY
from deployment.packages.manpages import completions, page
from deployment.packages.sources import ROOT, compile_all, epoch, install, wheel_and_sdist
from deployment.packages.zipapp import build as build_zipapp
from relay.commandline import _group as relay_group
from relay.sealed.commandline import _group as client_group

__all__ = ["Package", "Target", "contents"]

SYSTEMD = ROOT / "systemd"
_DAEMONS = ("blind-oracle-signer.service", "blind-oracle.service", "blind-oracle-relay.service")


@dataclass(frozen=True, slots=True)
class Target:
    """What kind of system the packages are for."""

    kind: str  # deb or rpm
    python: str  # such as 3.11: the version that compiled libraries are for
    version: str

    @property
    def interpreter(self) -> str:
        """The Python of the system."""
        return f"/usr/bin/python{self.python}"

    @property
    def completion_directories(self) -> Mapping[str, str]:
        """Where each shell looks for what packages bring."""
        zsh = "vendor-completions" if self.kind == "deb" else "site-functions"
        return {
            "bash": "usr/share/bash-completion/completions/{}",
            "zsh": f"usr/share/zsh/{zsh}/_{{}}",
            "fish": "usr/share/fish/vendor_completions.d/{}.fish",
        }


@dataclass(frozen=True, slots=True)
class Package:
    """One package, its files staged below `tree`."""

    name: str
    version: str
    tree: Path
    summary: str
    description: str
    requires: tuple[str, ...]
    recommends: tuple[str, ...] = ()
    is_portable: bool = False  # the same for every machine
    configuration: tuple[str, ...] = ()  # files that the operator changes and upgrades must not
    start: tuple[str, ...] = ()  # units to start when the package is new
    state: tuple[str, ...] = ()  # what stays when the package goes
    units: tuple[str, ...] = field(default=(), kw_only=True)
    templates: tuple[str, ...] = field(default=(), kw_only=True)  # units of which the operator starts instances

    @property
    def services(self) -> tuple[str, ...]:
        """What must run the new code after an upgrade."""
        return tuple(unit for unit in self.units if unit in _DAEMONS)

    def scriptlet(self, name: str) -> str:
        """A shell fragment for this package."""
        text = (Path(__file__).parent / "scriptlets" / f"{name}.sh").read_text()
        for word, values in {
            "@NAME@": (self.name,),
            "@UNITS@": self.units,
            "@TEMPLATES@": self.templates,
            "@INSTANCES@": tuple(f"'{template.replace('@', '?*')}'" for template in self.templates),
            "@START@": self.start,
            "@SERVICES@": self.services,
            "@STATE@": self.state,
            "@USERS@": tuple(sorted(path.name for path in (self.tree / "usr/lib/sysusers.d").iterdir())),
        }.items():
            text = text.replace(word, " ".join(values))
        return text


def contents(target: Target, scratch: Path) -> list[Package]:
    """Stage everything below `scratch`."""
    return [
        _oracle(target, scratch / "blind-oracle"),
        _relay(target, scratch / "blind-oracle-relay"),
        _client(target, scratch / "blind-oracle-client"),
    ]


def _oracle(target: Target, tree: Path) -> Package:
    name = "blind-oracle"
    venv = f"usr/lib/{name}/venv"
    _virtual_environment(target, tree, venv, "runtime")
    _program(tree, name, venv)
    units = _systemd(
        tree,
        name,
        "blind-oracle",
        "blind-oracle-signer",
        "blind-oracle-check",
        "blind-oracle-http",
        "blind-oracle-http-proxy",
        "blind-oracle-metrics",
    )
    _write(tree / "etc/blind-oracle/policy.yaml", POLICY)
    _documents(target, tree, name, oracle_group(list(_ORACLE_COMMANDS)))
    for example in ("oracle.yaml", "policy.yaml", "signer/signer.yaml", "signer/keys.yaml"):
        _copy(SYSTEMD / "examples" / example, tree / f"usr/share/doc/{name}/examples" / example)
    for pattern in ("nginx/**/*.*", "prometheus/*.yml", "firewall/oracle.nft"):
        for source in sorted((ROOT / "deployment").glob(pattern)):
            place = source.relative_to(ROOT / "deployment")
            _copy(source, tree / f"usr/share/doc/{name}/examples" / place)
    _ssh_forwarding(tree, name)
    python = (f"python{target.python}",) if target.kind == "deb" else (target.interpreter,)
    return Package(
        name=name,
        version=target.version,
        tree=tree,
        summary="signing service for build servers that hold no private key",
        description="The oracle, which decides, the signer, which holds the keys and writes the audit log, and the\n"
        "operator's command line. Runs in a virtual environment of its own.",
        requires=(*python, *(("gpg", "gpg-agent") if target.kind == "deb" else ("gnupg2",)), "systemd"),
        configuration=("/etc/blind-oracle/policy.yaml",),
        units=units,
        start=("blind-oracle-check.timer",),
        state=(
            "/etc/blind-oracle",
            "/var/lib/blind-oracle",
            "/var/lib/blind-oracle-signer",
            "/var/lib/blind-oracle-audit",
        ),
    )


def _relay(target: Target, tree: Path) -> Package:
    name = "blind-oracle-relay"
    program = tree / "usr/bin" / name
    program.parent.mkdir(parents=True)
    interpreter = "/usr/bin/python3" if target.kind == "deb" else target.interpreter
    build_zipapp(program, f"{interpreter} -I", target.python)
    units = _systemd(tree, name, name, "blind-oracle-relay-control", "blind-oracle-keyrings")
    tunnel = "blind-oracle-tunnel"
    _copy(SYSTEMD / f"{tunnel}@.service", tree / f"usr/lib/systemd/system/{tunnel}@.service")
    _copy(SYSTEMD / "sysusers.d" / f"{tunnel}.conf", tree / f"usr/lib/sysusers.d/{tunnel}.conf")
    _copy(ROOT / "relay/sign-package.sh", tree / "usr/bin/blind-oracle-sign-package", 0o755)
    _copy(ROOT / "relay/agent-shim", tree / f"usr/lib/{name}/agent-shim", 0o755)
    _documents(target, tree, name, relay_group)
    _copy(SYSTEMD / "examples/relay.yaml", tree / f"usr/share/doc/{name}/examples/relay.yaml")
    _ssh_forwarding(tree, name)
    is_deb = target.kind == "deb"
    return Package(
        name=name,
        version=target.version,
        tree=tree,
        summary="gpg-agent without keys: signs with those of a Blind Oracle",
        description="Unmodified gpg, rpmsign, debsign and git find the relay where their agent would be; it asks the\n"
        "oracle for each signature. Pure Python in one file.",
        requires=("python3 (>= 3.11)", "gpg", "systemd") if is_deb else (target.interpreter, "gnupg2", "systemd"),
        recommends=("python3-cryptography", "python3-nacl") if is_deb else (),
        is_portable=True,
        units=units,
        templates=(f"{tunnel}@.service",),
        start=(
            "blind-oracle-relay.socket",
            "blind-oracle-relay-control.socket",
            "blind-oracle-keyrings.path",
            "blind-oracle-keyrings.timer",
        ),
        state=("/etc/blind-oracle-relay", "/var/lib/blind-oracle-relay"),
    )


def _client(target: Target, tree: Path) -> Package:
    name, program = "blind-oracle-client", "blind-oracle-sign"
    venv = f"usr/lib/{name}/venv"
    _virtual_environment(target, tree, venv, "client")
    _program(tree, program, venv)
    _documents(target, tree, program, client_group)
    is_deb = target.kind == "deb"
    return Package(
        name=name,
        version=target.version,
        tree=tree,
        summary="signs RPMs and files with the keys of a Blind Oracle, without gpg",
        description="Speaks to the oracle directly and sends it the state of a hash, so that the signer itself writes\n"
        "type and time of each signature. Runs in a virtual environment of its own.",
        requires=(f"python{target.python}" if is_deb else target.interpreter,),
    )


def _virtual_environment(target: Target, tree: Path, venv: str, requirements: str) -> None:
    """What `python -m venv` makes, for the target's Python, which need not be here."""
    directory = tree / venv
    packages = directory / "lib" / f"python{target.python}" / "site-packages"
    packages.mkdir(parents=True)
    install(requirements, packages, target.python)
    wheels = tree.parent / "wheels"
    wheels.mkdir(exist_ok=True)
    ours = wheel_and_sdist(wheels)[1]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(packages), str(ours)], check=True)
    shutil.rmtree(packages / "bin", ignore_errors=True)  # programs with this machine's paths
    (directory / "bin").mkdir()
    (directory / "bin/python3").symlink_to(target.interpreter)
    _write(
        directory / "pyvenv.cfg", f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {target.python}\n"
    )
    for cached in packages.rglob("__pycache__"):
        shutil.rmtree(cached)
    compile_all(packages, target.python, ("-s", str(tree), "-p", "/"))


def _entry(program: str) -> str:
    scripts: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    return scripts[program].removesuffix(":main")


def _program(tree: Path, name: str, venv: str) -> None:
    # -I: whoever runs it cannot lead it to other modules, by a variable or by where they stand.
    text = f"#!/{venv}/bin/python3 -I\nimport sys\nfrom {_entry(name)} import main\n\nsys.exit(main())\n"
    _write(tree / "usr/bin" / name, text, 0o755)


def _systemd(tree: Path, name: str, *units: str) -> tuple[str, ...]:
    found = [path for unit in units for path in sorted(SYSTEMD.glob(f"{unit}.*")) if path.is_file()]
    for path in found:
        _copy(path, tree / "usr/lib/systemd/system" / path.name)
    for kind in ("sysusers.d", "tmpfiles.d"):
        _copy(SYSTEMD / kind / f"{name}.conf", tree / "usr/lib" / kind / f"{name}.conf")
    preset = f"80-{name}.preset"
    _copy(SYSTEMD / "system-preset" / preset, tree / "usr/lib/systemd/system-preset" / preset)
    return tuple(path.name for path in found)


def _documents(target: Target, tree: Path, name: str, command: click.Command) -> None:
    date = datetime.fromtimestamp(epoch(), UTC).strftime("%Y-%m-%d")
    text = page(name, command, target.version, date)
    _write(tree / f"usr/share/man/man1/{name}.1.gz", gzip.compress(text.encode(), mtime=0))
    for shell, script in completions(name).items():
        _write(tree / target.completion_directories[shell].format(name), script)
    documents = tree / f"usr/share/doc/{name}"
    _copy(ROOT / "LICENSE", documents / "copyright")
    _write(documents / "changelog.gz", gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))


def _ssh_forwarding(tree: Path, name: str) -> None:
    for source in sorted((ROOT / "ssh-forwarding").iterdir()):
        mode = 0o755 if source.suffix == ".sh" else 0o644
        _copy(source, tree / f"usr/share/doc/{name}/examples/ssh-forwarding" / source.name, mode)


def _copy(source: Path, target: Path, mode: int = 0o644) -> None:
    _write(target, source.read_bytes(), mode)


def _write(target: Path, content: str | bytes, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content if isinstance(content, bytes) else content.encode())
    target.chmod(mode)

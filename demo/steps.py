"""The steps of the demo, in order. Each is what somebody would do by hand."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from demo.shell import CommandFailedError, Shell

__all__ = ["play"]

_SPEC = """\
Name: hello
Version: 1.0
Release: 1
Summary: A package to sign
License: Apache-2.0
BuildArch: noarch

%description
A package to sign.

%install
mkdir -p %{buildroot}/usr/share/hello
echo "hello, signed world" > %{buildroot}/usr/share/hello/greeting

%files
/usr/share/hello/greeting
"""

_REPOSITORY = """\
[demo]
name=demo
baseurl=file://{directory}/repo
gpgcheck=1
repo_gpgcheck=1
skip_if_unavailable=0
gpgkey=file://{directory}/modern.asc
"""


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    address: str
    algorithm: str


_KEYS = (
    _Key("modern", "modern@demo.invalid", "rsa4096"),
    _Key("legacy", "legacy@demo.invalid", "rsa2048"),
)


def play(shell: Shell) -> None:
    """Show everything.

    Raises:
        CommandFailedError: something did not do what the demo promises.
    """
    _make_keys(shell)
    _start(shell)
    package = _build(shell)
    _sign_package(shell, package)
    _sign_repository(shell, package)
    _install(shell)
    _look_into_the_log(shell)
    _without_the_oracle(shell, package)


def _make_keys(shell: Shell) -> None:
    shell.say("On the offline machine: certify-only primary keys, each with a signing subkey")
    home = shell.directory / "offline"
    home.mkdir(mode=0o700)
    for key in _KEYS:
        gpg = ("gpg", "--homedir", home, "--batch", "--quiet")
        unprotected = (*gpg, "--pinentry-mode", "loopback", "--passphrase", "")
        shell.run(*unprotected, "--quick-gen-key", f"{key.name} <{key.address}>", "rsa3072", "cert", "1y", quiet=True)
        listing = shell.run(*gpg, "--with-colons", "--list-keys", key.address, quiet=True)
        primary = _fingerprints(listing)[0]
        shell.run(*unprotected, "--quick-add-key", primary, key.algorithm, "sign", "1y", quiet=True)
        listing = shell.run(*gpg, "--with-colons", "--list-keys", primary, quiet=True)
        subkey = _fingerprints(listing)[1]
        exported = shell.directory / f"{key.name}.secret"
        shell.run(*unprotected, "--output", exported, "--export-secret-subkeys", f"{subkey}!")
        shell.run(*gpg, "--armor", "--output", shell.directory / f"{key.name}.asc", "--export", primary)
    shell.run("gpgconf", "--homedir", home, "--kill", "gpg-agent")


def _fingerprints(listing: str) -> list[str]:
    return [line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")]


def _start(shell: Shell) -> None:
    shell.say("An oracle, its signer, a relay and one enrolled build server; the oracle gets only the subkeys")
    system = shell.directory / "system"
    options = [f"--key={key.name}={shell.directory / key.name}.secret" for key in _KEYS]
    shell.run("blind-oracle", "dev", "start", system, *options)
    lines = shell.run("blind-oracle", "dev", "env", system)
    shell.add_environment(lines, shown_as='eval "$(blind-oracle dev env system)"')
    shell.say("The build server's GNUPGHOME: public keys, and not one secret")
    shell.run("gpg", "--list-keys")
    if list(Path(shell.environment["GNUPGHOME"]).glob("private-keys-v1.d/*.key")):
        raise CommandFailedError("there is a secret key in the build server's GNUPGHOME")
    shell.run("find", shell.environment["GNUPGHOME"], "-name", "*.key")


def _build(shell: Shell) -> Path:
    shell.say("A real package")
    (shell.directory / "hello.spec").write_text(_SPEC)
    shell.run("rpmbuild", "--quiet", "--define", f"_topdir {shell.directory}/build", "-bb", "hello.spec")
    (package,) = (shell.directory / "build" / "RPMS").rglob("*.rpm")
    return package


def _sign_package(shell: Shell, package: Path) -> None:
    shell.say("Unmodified rpmsign, by each key")
    for key in reversed(_KEYS):  # the modern key last: its signature is what dnf will check
        shell.run(*_rpmsign(key, package))
        database = shell.directory / f"rpmdb-{key.name}"
        shell.run("rpmkeys", "--dbpath", database, "--import", f"{key.name}.asc")
        shell.run("rpmkeys", "--dbpath", database, "-K", package)


def _rpmsign(key: _Key, package: Path) -> tuple[str | Path, ...]:
    # Debian's rpm looks for /usr/bin/gpg2, which Debian does not ship.
    macros = ("--define", f"_gpg_name {key.address}", "--define", "__gpg /usr/bin/gpg")
    return ("rpmsign", *macros, "--addsign", package)


def _sign_repository(shell: Shell, package: Path) -> None:
    shell.say("A repository, and unmodified gpg for its metadata")
    repository = shell.directory / "repo"
    repository.mkdir()
    (repository / package.name).hardlink_to(package)
    shell.run("createrepo_c", "--quiet", repository)
    metadata = repository / "repodata" / "repomd.xml"
    shell.run("gpg", "--local-user", _KEYS[0].address, "--detach-sign", "--armor", metadata)
    shell.run("gpg", "--verify", f"{metadata}.asc", metadata)


def _install(shell: Shell) -> None:
    shell.say("A user installs from it, with gpgcheck=1 and repo_gpgcheck=1, into a throw-away root")
    sources = shell.directory / "repos.d"
    sources.mkdir()
    (sources / "demo.repo").write_text(_REPOSITORY.format(directory=shell.directory))
    shell.run("cat", sources / "demo.repo")
    options = {"reposdir": "repos.d", "cachedir": "cache", "logdir": "log", "varsdir": "vars"}
    for name in options.values():
        (shell.directory / name).mkdir(exist_ok=True)
    settings = [f"--setopt={name}={shell.directory / value}" for name, value in options.items()]
    # Installing means to change owners: whoever is not root becomes root in a user namespace of their own.
    if os.geteuid() != 0:
        shell.say("(dnf wants to be root: unshare makes us root of a user namespace, which the kernel must allow)")
    as_root = () if os.geteuid() == 0 else ("unshare", "--map-root-user")
    root = shell.directory / "root"
    dnf = ("dnf", "--assumeyes", "--quiet", f"--installroot={root}", *settings)
    shell.run(
        *as_root, *dnf, "--setopt=module_platform_id=platform:el9", "--releasever=9", "--noplugins", "install", "hello"
    )
    shell.run("cat", root / "usr/share/hello/greeting")


def _look_into_the_log(shell: Shell) -> None:
    shell.say("Who signed what, when, for whom: and is the log whole?")
    shell.run("blind-oracle", "audit", "tail")
    shell.run("blind-oracle", "audit", "verify")
    shell.run("blind-oracle-relay", "status", "--last")


def _without_the_oracle(shell: Shell, package: Path) -> None:
    shell.say("When the oracle is away: a clear failure within the deadline, and the package as it was")
    before = hashlib.sha256(package.read_bytes()).hexdigest()
    shell.run("blind-oracle", "dev", "stop", shell.directory / "system", "oracle")
    shell.run(*_rpmsign(_KEYS[1], package), expect=None)
    shell.run("blind-oracle-relay", "status", "--last", "1", expect=1)  # its way to say "not connected"
    if hashlib.sha256(package.read_bytes()).hexdigest() != before:
        raise CommandFailedError("the package changed although nothing signed it")
    print("    the package is unchanged: SHA-256", before)
    shell.say("The oracle is back, and so are signatures; nobody touched the relay")
    shell.run("blind-oracle", "dev", "start", shell.directory / "system", "oracle")
    shell.run(*_rpmsign(_KEYS[1], package))

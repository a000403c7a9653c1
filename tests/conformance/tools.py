"""The tools of a build server, each as people use it: given a place to work, it signs something in its own way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from shutil import copy

from tests.conformance.job import Cleartext, Detached, Job, Package, Signed
from tests.conformance.release import RELEASES, TRIXIE, Release
from tests.end_to_end.packages import write_source_package

__all__ = ["TOOLS", "Tool"]

_GPG = ("gpg", "--batch")


@dataclass(frozen=True, slots=True)
class Tool:
    """What a line of the table is about."""

    name: str
    version: tuple[str, ...]  # a command whose output begins with the name and the number
    sign: Callable[[Job], Sequence[Signed]]
    releases: Sequence[Release] = RELEASES


def _gpg_detached(job: Job) -> Sequence[Signed]:
    file = job.file("data")
    job.run(*_GPG, "--local-user", job.key.address, "--detach-sign", file)
    job.run(*_GPG, "--local-user", f"{job.key.subkey}!", "--armor", "--detach-sign", file)
    return [Detached(job.directory / f"data.{ending}", file) for ending in ("sig", "asc")]


def _gpg_cleartext(job: Job) -> Sequence[Signed]:
    job.run(*_GPG, "--local-user", job.key.address, "--clearsign", job.file("text"))
    return [Cleartext(job.directory / "text.asc")]


def _rpmsign(job: Job) -> Sequence[Signed]:
    package = job.directory / "hello.rpm"
    copy(job.shop.package, package)
    # Debian's rpm looks for /usr/bin/gpg2, which Debian does not ship.
    macros = ("--define", f"_gpg_name {job.key.address}", "--define", "__gpg /usr/bin/gpg")
    job.run("rpmsign", *macros, "--addsign", package)
    return [Package(package)]


def _createrepo(job: Job) -> Sequence[Signed]:
    repository = job.directory / "repository"
    repository.mkdir()
    copy(job.shop.package, repository)
    job.run("createrepo_c", "--quiet", repository)
    metadata = repository / "repodata" / "repomd.xml"
    job.run(*_GPG, "--local-user", job.key.address, "--armor", "--detach-sign", metadata)
    return [Detached(metadata.with_name("repomd.xml.asc"), metadata)]


def _git(job: Job) -> Sequence[Signed]:
    who = ("-c", "user.name=a", "-c", f"user.email={job.key.address}", "-c", f"user.signingKey={job.key.address}")
    git = ("git", "-c", "init.defaultBranch=main", *who)
    job.run(*git, "init", "--quiet")
    job.file("file")
    job.run(*git, "add", "file")
    job.run(*git, "commit", "--quiet", "--gpg-sign", "--message", "signed")
    job.run(*git, "tag", "--sign", "v1", "--message", "signed, too")
    before, _, rest = job.look(*git, "cat-file", "commit", "HEAD").partition("gpgsig ")
    signature, _, after = rest.partition("-----END PGP SIGNATURE-----\n")
    tag, mark, tag_signature = job.look(*git, "cat-file", "tag", "v1").partition("-----BEGIN PGP SIGNATURE-----")
    signature = signature.replace("\n ", "\n") + "-----END PGP SIGNATURE-----\n"
    return [
        Detached(job.file("commit.asc", signature), job.file("commit", before + after.removeprefix(" \n"))),
        Detached(job.file("tag.asc", mark + tag_signature), job.file("tag", tag)),
    ]


def _debsign(job: Job) -> Sequence[Signed]:
    source, changes = write_source_package(job.directory)
    job.run("debsign", "--no-conf", f"-k{job.key.address}", changes)
    return [Cleartext(source), Cleartext(changes)]


_GPGME = """\
import sys, gpg
address, data = sys.argv[1:]
with gpg.Context(armor=True) as context:
    context.signers = [key for key in context.keylist(address, secret=True)]
    for mode, name in ((gpg.constants.sig.mode.DETACH, "sig"), (gpg.constants.sig.mode.CLEAR, "clear")):
        signature, _ = context.sign(open(data, "rb").read(), mode=mode)
        open(f"{data}.{name}", "wb").write(signature)
"""
_PYTHON_GNUPG = """\
import sys, gnupg
address, home, data = sys.argv[1:]
tool = gnupg.GPG(gnupghome=home)
assert any(address in key["uids"][0] for key in tool.list_keys(True))
with open(data, "rb") as file:
    done = tool.sign_file(file, keyid=address, detach=True, output=data + ".sig")
clear = tool.sign(open(data, "rb").read(), keyid=address)
open(data + ".clear", "wb").write(clear.data)
sys.exit(0 if done and clear else done.stderr + clear.stderr)
"""


def _gpgme(job: Job) -> Sequence[Signed]:
    file = job.file("data")
    job.run("/usr/bin/python3", "-c", _GPGME, job.key.address, file)
    return [Detached(job.directory / "data.sig", file), Cleartext(job.directory / "data.clear")]


def _python_gnupg(job: Job) -> Sequence[Signed]:
    file = job.file("data")
    job.run("/usr/bin/python3", "-c", _PYTHON_GNUPG, job.key.address, job.home, file)
    return [Detached(job.directory / "data.sig", file), Cleartext(job.directory / "data.clear")]


_DISTRIBUTIONS = "Codename: stable\nArchitectures: amd64\nComponents: main\nSignWith: {key}\n"


def _reprepro(job: Job) -> Sequence[Signed]:
    job.file("conf/distributions", _DISTRIBUTIONS.format(key=job.key.address))
    job.run("reprepro", "--basedir", job.directory, "export")
    place = job.directory / "dists" / "stable"
    return [Detached(place / "Release.gpg", place / "Release"), Cleartext(place / "InRelease")]


def _sq(job: Job) -> Sequence[Signed]:
    file = job.file("data")
    # sq keeps its certificates elsewhere; the secret keys it finds through GNUPGHOME, as gpg does.
    job.run("sq", "cert", "import", job.shop.certificates)
    job.run("sq", "sign", "--signer", job.key.primary, "--signature-file", job.directory / "data.sig", file)
    job.run("sq", "sign", "--signer", job.key.primary, "--cleartext", "--output", job.directory / "data.clear", file)
    return [Detached(job.directory / "data.sig", file), Cleartext(job.directory / "data.clear")]


def _gpg_sq(job: Job) -> Sequence[Signed]:
    file = job.file("data")
    job.run("gpg-sq", "--batch", "--local-user", job.key.address, "--detach-sign", file)
    clear = job.directory / "data.asc"
    job.run("gpg-sq", "--batch", "--local-user", job.key.address, "--output", clear, "--clearsign", file)
    return [Detached(job.directory / "data.sig", file), Cleartext(clear)]


_MODULE_VERSION = ("/usr/bin/python3", "-c")

TOOLS = (
    Tool("gpg --detach-sign", ("gpg", "--version"), _gpg_detached),
    Tool("gpg --clearsign", ("gpg", "--version"), _gpg_cleartext),
    Tool("rpmsign", ("rpmsign", "--version"), _rpmsign),
    Tool("createrepo_c, gpg", ("createrepo_c", "--version"), _createrepo),
    Tool("git commit, tag", ("git", "--version"), _git),
    Tool("debsign", ("debsign", "--version"), _debsign),
    Tool("reprepro", ("reprepro", "--version"), _reprepro),
    Tool("gpgme", (*_MODULE_VERSION, "import gpg; print(gpg.version.versionstr)"), _gpgme),
    Tool("python-gnupg", (*_MODULE_VERSION, "import gnupg; print(gnupg.__version__)"), _python_gnupg),
    # Debian 12 has an sq that signs with key files only, and no gpg-sq.
    Tool("sq sign", ("sq", "version"), _sq, (TRIXIE,)),
    Tool("gpg-sq", ("sh", "-c", "gpg-sq --version | sed -n /Sequoia.gpg/p"), _gpg_sq, (TRIXIE,)),
)

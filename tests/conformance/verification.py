"""Believes nothing that a tool says about its own work: Sequoia looks at signatures, a newer rpm at packages."""

from pathlib import Path

from tests.conformance.job import Cleartext, Detached, Job, NotSignedError, Package, Signed
from tests.conformance.release import TRIXIE, Release

__all__ = ["verify"]


def verify(job: Job, signed: Signed) -> None:
    """Check with tools that know nothing but the public keys.

    Raises:
        NotSignedError: a signature that is none, or not the key's.
    """
    match signed:
        case Detached(signature, file):
            _sqv(job, "--signature-file", signature, file)
        case Cleartext(file):
            _sqv(job, "--output", f"{file}.read", "--cleartext", file)
        case Package(file):
            for release in {job.release, TRIXIE}:
                _rpmkeys(job, release, file)


def _sqv(job: Job, *words: str | Path) -> None:
    command = ("sqv", "--keyring", job.shop.certificates, *words)
    done = TRIXIE.run(*command, home=job.directory, at=job.directory)
    if done.returncode != 0 or done.stdout.split() != [job.key.primary]:
        raise NotSignedError(f"sqv does not believe it: {done.stdout}{done.stderr}")


def _rpmkeys(job: Job, release: Release, package: Path) -> None:
    database = job.directory / f"rpmdb-{release.name}"
    certificate = job.directory / "key.asc"
    certificate.write_bytes(job.shop.offline.public(job.key.name))
    command = ("rpmkeys", "--dbpath", database)
    imported = release.run(*command, "--import", certificate, home=job.directory, at=job.directory)
    done = release.run(*command, "--checksig", "--verbose", package, home=job.directory, at=job.directory)
    is_signed = "ignature, key" in done.stdout and "NOKEY" not in done.stdout
    if imported.returncode != 0 or done.returncode != 0 or not is_signed:
        raise NotSignedError(f"rpm of {release.name}: {imported.stderr}{done.stdout}{done.stderr}")

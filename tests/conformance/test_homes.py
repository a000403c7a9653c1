"""A runner with Sequoia: `setup` fills sq's own store, too, and `keyrings` keeps it in step."""

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conformance.release import BOOKWORM, RELEASES, SECONDS, TRIXIE, Done, Release
from tests.conformance.workshop import RELAY, Workshop

pytestmark = pytest.mark.conformance


def relay_with_sq(shop: Workshop, directory: Path, *words: str | Path) -> Done:
    """Our command on a host whose sq is that of Debian 13."""
    sq = directory / "sq"
    sq.write_text(f'#!/bin/sh\nexec {shlex.join(TRIXIE.command("/usr/bin/sq"))} "$@"\n')
    sq.chmod(0o755)
    environment = {**shop.system.environment, "PATH": f"{directory}:{shop.system.environment['PATH']}"}
    return subprocess.run(
        ["blind-oracle-relay", *map(str, words)],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_sq_signs_with_certificates_from_the_store_that_was_filled_for_it(shop: Workshop) -> None:
    directory = shop.place("sq")
    # sq's usual one: also its key store looks there for what an agent's keys belong to.
    store = directory / ".local" / "share" / "pgp.cert.d"
    store.mkdir(parents=True)
    done = relay_with_sq(shop, directory, "setup", "--home", shop.home(TRIXIE, RELAY), "--cert-store", store)
    assert done.returncode == 0, done.stderr
    (directory / "data").write_text("some text")
    sign = (
        "sq",
        "--cert-store",
        store,
        "sign",
        "--signer",
        shop.key("ed25519").primary,
        "--signature-file=sig",
        "data",
    )
    signed = TRIXIE.run(*sign, home=shop.home(TRIXIE, RELAY), at=directory)
    assert signed.returncode == 0, signed.stderr
    checked = TRIXIE.run("sqv", "--keyring", shop.certificates, "sig", "data", home=directory, at=directory)
    assert checked.stdout.split() == [shop.key("ed25519").primary]

    for file in store.rglob("*"):
        if file.is_file():
            file.unlink()
    kept = relay_with_sq(shop, directory, "keyrings")
    assert f"{store}: in step" in kept.stdout, kept.stderr
    assert TRIXIE.run(*sign, "--overwrite", home=shop.home(TRIXIE, RELAY), at=directory).returncode == 0


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_container_with_the_socket_and_a_shared_home_that_it_cannot_write_signs(
    shop: Workshop, release: Release
) -> None:
    """As docs/RUNNERS.md has it for Docker and Kubernetes: two read-only mounts, and root inside."""
    directory = shop.place("container", release.name.replace(" ", ""))
    home = directory / "home"
    done = shop.system.run("blind-oracle-relay", "setup", "--home", home, "--shared")
    assert done.returncode == 0, done.stderr
    read_only = f'mount --bind {home} {home} && mount -o remount,bind,ro {home} && ! touch {home}/x && exec "$@"'
    sign = "echo some text | gpg --batch --no-permission-warning --local-user ed25519@example.org --armor --detach-sign"
    inside = release.command("sh", "-c", sign)
    signed = BOOKWORM.run("unshare", "--mount", "sh", "-c", read_only, "sh", *inside, home=home, at=directory)
    assert signed.returncode == 0, signed.stderr
    assert signed.stderr == f"touch: cannot touch '{home}/x': Read-only file system\n"
    (directory / "sig").write_text(signed.stdout)
    (directory / "data").write_text("some text\n")
    checked = TRIXIE.run("sqv", "--keyring", shop.certificates, "sig", "data", home=directory, at=directory)
    assert checked.stdout.split() == [shop.key("ed25519").primary], checked.stderr

"""deployment/container/: images from the packages, each process as a user of its own on a read-only root."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentproxy.admin.dev.ports import free_ports
from tests.end_to_end.place import until
from tests.hosts.podman import BASE, Podman, podman
from tests.signer.logs import records_in

pytestmark = pytest.mark.hosts

VERSION = "0.1.0"  # of `packages`
ORACLE, SIGNER, RELAY, SIGN = 20001, 20002, 20003, 20004
BUILDER = 1000
LOCKED_DOWN = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")


@dataclass(frozen=True, slots=True)
class Site:
    """Three containers and their volumes, which are directories here."""

    podman: Podman
    volumes: Path

    def volume(self, *names: str, read_only: bool = False) -> list[str]:
        """Mounts: the volume of a path in the container lies below `volumes` under the same path."""
        return [word for name in names for word in ("--volume", f"{self.volumes}{name}:{name}{':ro' * read_only}")]

    def secrets(self, uid: int, files: Mapping[str, Path]) -> list[str]:
        """A mount at /run/secrets with files that only this user reads."""
        directory = self.volumes / f"secrets-{uid}"
        directory.mkdir()
        for name, source in files.items():
            shutil.copy(source, directory / name)
            (directory / name).chmod(0o400)
            os.chown(directory / name, uid, uid)
        return ["--volume", f"{directory}:/run/secrets:ro"]

    def log(self, name: str) -> str:
        done = self.podman.run("logs", name)
        return done.stdout + done.stderr

    def operator(self, *words: str | Path) -> str:
        """The operator's command line: root, once, in a container that goes away."""
        volumes = self.volume(
            "/etc/blind-oracle",
            "/var/lib/blind-oracle",
            "/var/lib/blind-oracle-signer",
            "/var/lib/blind-oracle-audit",
            "/run/blind-oracle",
            "/run/blind-oracle-signer",
            "/material",
        )
        image = "localhost/blind-oracle-oracle"
        # As on a host, root reads its own files and no credentials.
        options = ("--rm", "--network=none", "--user=0:0", "--unsetenv=CREDENTIALS_DIRECTORY")
        return self.podman("run", *options, *volumes, image, "blind-oracle", *words)


@pytest.fixture(scope="module")
def site(packages: Path, material: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    volumes = tmp_path_factory.mktemp("volumes")
    with podman() as made:
        made.import_base()
        context = tmp_path_factory.mktemp("context")
        # As dist/ is after an upgrade of the tree: make leaves the last version's packages there.
        for package in (*packages.glob("*.deb"), *packages.glob("next/*.deb")):
            shutil.copy(package, context)
        for target in ("oracle", "signer", "relay"):
            made.build(target, context, VERSION)
        site = Site(made, volumes)
        _lay_out(site, material)
        _start(site)
        yield site


def _lay_out(site: Site, material: Path) -> None:
    for path, owner in (
        ("/etc/blind-oracle", 0),
        ("/var/lib/blind-oracle", ORACLE),
        ("/var/lib/blind-oracle-signer", SIGNER),
        ("/var/lib/blind-oracle-audit", SIGNER),
        ("/run/blind-oracle", ORACLE),
        ("/run/blind-oracle-signer", SIGNER),
        ("/etc/blind-oracle-relay", RELAY),
        ("/var/lib/blind-oracle-relay", RELAY),
        ("/run/blind-oracle-relay", RELAY),
        ("/material", 0),
    ):
        directory = site.volumes / path.removeprefix("/")
        directory.mkdir(parents=True)
        directory.chmod(0o755)
        os.chown(directory, owner, owner)
    for name in ("modern.key", "modern.passphrase"):
        copy = site.volumes / "material" / name
        shutil.copy(material / name, copy)
        copy.chmod(0o600)


def _start(site: Site) -> None:
    (port,) = free_ports(1)
    words = ("--system", "--host", "localhost", "--host", "127.0.0.1", "--listen", f"127.0.0.1:{port}", "--node", "box")
    site.operator("init", *words)
    passphrase = ("--passphrase-file", "/material/modern.passphrase")
    site.operator("key", "import", "/material/modern.key", "--name", "modern", "--policy-add", *passphrase)
    etc = site.volumes / "etc/blind-oracle"
    passphrase_file = site.volumes / "material/modern.passphrase"
    signer = {name: etc / "signer" / name for name in ("authority.key", "audit.key")}
    for_signer = site.secrets(SIGNER, {**signer, "passphrase_modern": passphrase_file})
    for_oracle = site.secrets(ORACLE, {"server.key": etc / "tls/server.key"})
    site.podman(
        *("run", "--detach", "--name=signer", "--network=none", *LOCKED_DOWN, *for_signer),
        *site.volume("/etc/blind-oracle", "/var/lib/blind-oracle-signer", read_only=True),
        *site.volume("/var/lib/blind-oracle-audit", "/run/blind-oracle-signer"),
        "localhost/blind-oracle-signer",
    )
    site.podman(
        *("run", "--detach", "--name=oracle", "--network=host", *LOCKED_DOWN, f"--group-add={SIGNER}", *for_oracle),
        *site.volume("/etc/blind-oracle", read_only=True),
        *site.volume("/var/lib/blind-oracle", "/run/blind-oracle", "/run/blind-oracle-signer"),
        "localhost/blind-oracle-oracle",
    )
    until(lambda: "listening" in site.log("oracle"), f"the oracle listens: {site.log('oracle')}{site.log('signer')}")
    added = ("runner", "add", "box-runner", "--key", "modern", "--policy-add", "--output", "/material/box.enrolment")
    site.operator(*added)
    site.podman("kill", "--signal=HUP", "oracle")
    until(lambda: "policy reloaded" in site.log("oracle"), "the oracle knows the runner")
    os.chown(site.volumes / "material/box.enrolment", RELAY, RELAY)
    relay = (*LOCKED_DOWN, "--network=host")
    mounts = site.volume(
        "/etc/blind-oracle-relay", "/var/lib/blind-oracle-relay", "/run/blind-oracle-relay", "/material"
    )
    image = "localhost/blind-oracle-relay"
    site.podman("run", "--rm", *relay, *mounts, image, "blind-oracle-relay", "enroll", "/material/box.enrolment")
    config = site.volumes / "etc/blind-oracle-relay/relay.yaml"
    text = config.read_text()
    # Whoever reaches the socket's directory may connect, and the kernel says who: the builds' user and nobody else.
    config.write_text(text.replace('    mode: "0660"\n', f'    mode: "0666"\n    users: [{BUILDER}]\n'))
    assert config.read_text() != text
    site.podman("run", "--detach", "--name=relay", *relay, *mounts, image)
    until(lambda: "connected" in site.log("relay"), f"the relay is connected: {site.log('relay')}")


def build_job(site: Site, script: str, *options: str) -> str:
    """A job as GitLab's Docker executor runs it: no network of ours, and the socket's directory from the host."""
    done = site.podman.run(
        *("run", "--rm", "--network=none", f"--user={BUILDER}:{BUILDER}", *options),
        *site.volume("/run/blind-oracle-relay", "/material", read_only=True),
        *(BASE, "sh", "-euc", script),
    )
    return done.stdout + done.stderr


SIGN_IN_JOB = """
export GNUPGHOME=$(mktemp -d)
echo no-autostart > $GNUPGHOME/gpg.conf
gpg --batch --quiet --import /material/modern.pub
ln -s /run/blind-oracle-relay/S.gpg-agent $GNUPGHOME/S.gpg-agent
echo text > /tmp/text
gpg --batch --armor --output /tmp/text.asc --detach-sign /tmp/text
gpg --batch --verify /tmp/text.asc /tmp/text 2>&1 && echo verified
"""


def test_a_build_container_signs_and_its_job_stands_in_the_log(site: Site, material: Path) -> None:
    shutil.copy(material / "modern.pub", site.volumes / "material")
    job = "blind-oracle project=packages/hello pipeline=7 job=42 url=https://ci.example/42"
    said = build_job(site, SIGN_IN_JOB, f"--env=PINENTRY_USER_DATA={job}")
    assert "verified" in said, said + site.log("relay")
    records = records_in(site.volumes / "var/lib/blind-oracle-audit")
    signed = next(record for record in reversed(records) if record["outcome"] == "signed")
    asserted = signed["asserted"]
    assert isinstance(asserted, dict)
    assert asserted["runner"] == "box-runner"
    assert asserted["claims"]["uid"] == BUILDER
    assert asserted["claims"]["job"]["project"] == "packages/hello"


def test_another_user_in_a_container_gets_nothing(site: Site) -> None:
    said = build_job(site, SIGN_IN_JOB, "--user=1001:1001")
    assert "verified" not in said


@pytest.mark.parametrize("name", ["signer", "oracle", "relay"])
def test_nothing_in_a_container_can_be_written_and_nobody_is_root(site: Site, name: str) -> None:
    assert site.podman("exec", name, "id", "-u").strip() in {str(ORACLE), str(SIGNER), str(RELAY)}
    done = site.podman.run("exec", name, "sh", "-c", "touch /usr/x /etc/x /root/x")
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr
    status = site.podman("exec", name, "cat", "/proc/self/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_the_signer_has_no_network_and_the_oracle_no_keys(site: Site) -> None:
    routes = site.podman("exec", "signer", "cat", "/proc/net/route").splitlines()
    assert len(routes) == 1
    done = site.podman.run("exec", "oracle", "sh", "-c", "ls /var/lib/blind-oracle-signer /etc/blind-oracle/signer")
    assert done.returncode != 0
    for secret in ("authority.key", "audit.key"):
        assert site.podman.run("exec", "oracle", "cat", f"/run/secrets/{secret}").returncode != 0


def test_a_container_that_is_stopped_ends_in_good_order_and_goes_on(site: Site) -> None:
    for name in ("relay", "oracle", "signer"):
        site.podman("restart", "--time", "20", name)
    until(lambda: "verified" in build_job(site, SIGN_IN_JOB), "a job signs again")
    operations = [record["operation"] for record in records_in(site.volumes / "var/lib/blind-oracle-audit")]
    assert operations.count("signer_stopped") == operations.count("signer_started") - 1

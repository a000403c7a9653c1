"""A socket of the relay's, forwarded to a host that cannot reach the oracle, with the files of ssh-forwarding/."""

import getpass
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, System, forget_home, system_with, until
from tests.ssh.sshd import Sshd, sshd_in

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "SSH.md").read_text()
HOSTS = {"push.ssh_config": "far", "fetch.ssh_config": "relay"}
FILES = Path(__file__).parents[2] / "ssh-forwarding"


class Far:
    """The far host, which is this one by another way: its directory for the socket, and a GnuPG home."""

    def __init__(self, system: System, sshd: Sshd) -> None:
        self.system, self.sshd = system, sshd
        self.near = system.directory / "relay" / "run" / "far.sock"
        self.directory = system.directory / "far"
        self.socket = self.directory / "S.gpg-agent"
        self.home = system.directory / "far-home"
        self.config = system.directory / "ssh_config"
        self.directory.mkdir(mode=0o750)
        self.config.write_text(self._adapted("push.ssh_config"))
        self._tunnel: subprocess.Popen[bytes] | None = None

    def _adapted(self, name: str) -> str:
        """A file of ssh-forwarding/ for this host; every example in it is replaced by what is here."""
        text = (FILES / name).read_text()
        for example, ours in (
            (HOSTS[name] + ".example.org", f"127.0.0.1\n  Port {self.sshd.port}"),
            ("User blind-oracle-tunnel", f"User {self.sshd.user}"),
            ("/etc/blind-oracle-relay/tunnel_ed25519", str(self.sshd.directory / "client")),
            ("/etc/blind-oracle-relay/tunnel_known_hosts", str(self.sshd.directory / "known_hosts")),
            ("/run/blind-oracle-tunnel/S.gpg-agent", str(self.socket)),
            ("/run/blind-oracle-relay/far.sock", str(self.near)),
        ):
            assert example in text, example
            text = text.replace(example, ours)
        return text

    def start(self, name: str = "push.ssh_config") -> None:
        """As blind-oracle-tunnel@.service does."""
        self.config.write_text(self._adapted(name))
        with (self.system.directory / "log" / "tunnel.log").open("ab") as log:
            command = ["ssh", "-F", str(self.config), "-T", HOSTS[name]]
            self._tunnel = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        until(self.answers, "the tunnel is up")

    def answers(self) -> bool:
        return self.check("far", self.socket).returncode == 0

    def cut(self) -> None:
        assert self._tunnel is not None
        self._tunnel.send_signal(signal.SIGKILL)
        self._tunnel.wait(SECONDS)

    def check(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        # A home of its own: gpg-connect-agent wants one, and this user's is none of its business.
        environment = {**os.environ, "GNUPGHOME": str(self.directory), "SSH_CONFIG": str(self.config)}
        return subprocess.run(
            [FILES / "check.sh", *words], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def prepare_home(self) -> None:
        """As on a far host: public keys, and a link where gpg looks for its agent."""
        self.home.mkdir(mode=0o700)
        # Else a gpg that comes while the tunnel is down starts an agent of its own, in the place of the link.
        (self.home / "gpg.conf").write_text("no-autostart\n")
        exported = self.system.directory / "public.pgp"
        assert self.system.gpg("--output", exported, "--export").returncode == 0
        assert self.system.gpg("--homedir", self.home, "--no-autostart", "--import", exported).returncode == 0
        place = self.system.run("gpgconf", "--homedir", self.home, "--list-dirs", "agent-socket").stdout.strip()
        Path(place).symlink_to(self.socket)

    def sign(self, name: str) -> subprocess.CompletedProcess[str]:
        words = ("--homedir", self.home, "--local-user", f"{name}@example.org", "--armor", "--detach-sign")
        return self.system.gpg(*words, text="some text")


def far_socket_by_the_page() -> str:
    """The entry of `sockets:` in docs/SSH.md, for this user and this directory."""
    (entry,) = re.findall(r"^  - path: /run/blind-oracle-relay/far.sock\n(?:    .*\n)+", PAGE, re.MULTILINE)
    ours = entry.replace("/run/blind-oracle-relay/", "run/").replace("blind-oracle-tunnel", getpass.getuser())
    assert ours.count(getpass.getuser()) == 1
    return ours


@contextmanager
def far_host(offline: Offline, extra: str) -> Iterator[Far]:
    exports = {name: offline.exports[name] for name in ("modern", "legacy")}
    with system_with(exports) as system:
        relay = system.directory / "relay" / "relay.yaml"
        text = relay.read_text()
        first = '    mode: "0660"\n'
        changed = text.replace(first, first + far_socket_by_the_page(), 1)
        assert changed != text
        relay.write_text(changed)
        system.stop("relay")
        system.start("relay")
        with sshd_in(system.directory / "sshd", extra) as sshd:
            sshd.authorized.write_text((sshd.directory / "client.pub").read_text())
            far = Far(system, sshd)
            far.prepare_home()
            try:
                yield far
            finally:
                if far._tunnel is not None and far._tunnel.poll() is None:
                    far.cut()
                forget_home(far.home)


def sshd_extra(name: str = "push.sshd_config") -> str:
    """A fragment as it is, for everybody in the place of the tunnel's user."""
    text = (FILES / name).read_text()
    assert "Match User blind-oracle-tunnel\n" in text
    return text.replace("Match User blind-oracle-tunnel\n", "Match all\n")


@pytest.fixture(scope="module")
def far(offline: Offline) -> Iterator[Far]:
    with far_host(offline, sshd_extra()) as made:
        yield made


def test_the_far_host_signs_with_the_socket_s_keys_only_and_the_log_names_the_socket(
    far: Far, offline: Offline
) -> None:
    far.start()
    done = far.sign("modern")
    assert done.returncode == 0, done.stderr
    assert far.system.is_good(done.stdout, offline.fingerprints["modern"])
    asserted = far.system.signed()[-1]["asserted"]
    assert isinstance(asserted, dict)
    assert asserted["channel"] == "relay/far"

    refused = far.sign("legacy")
    assert refused.returncode != 0
    assert "No secret key" in refused.stderr
    far.cut()


@pytest.mark.parametrize("page", ["SSH.md", "CONTAINERS.md"])
def test_a_home_made_by_hand_in_the_page_s_order_leads_to_the_relay_and_starts_no_agent(page: str, far: Far) -> None:
    home = far.system.directory / f"by-hand-{page.partition('.')[0]}"
    home.mkdir(mode=0o700)

    def import_keys() -> None:
        exported = far.system.directory / "public.pgp"
        assert far.system.gpg("--homedir", home, "--import", exported).returncode == 0

    def link() -> None:
        place = far.system.run("gpgconf", "--homedir", home, "--list-dirs", "agent-socket").stdout.strip()
        Path(place).symlink_to(far.socket)

    steps = {
        "`no-autostart`": lambda: (home / "gpg.conf").write_text("no-autostart\n"),
        "public keys": import_keys,
        "a link": link,
    }
    paragraphs = (DOCS / page).read_text().split("\n\n")
    (text,) = (paragraph for paragraph in paragraphs if all(words in paragraph for words in steps))
    far.start()
    try:
        for words in sorted(steps, key=text.index):
            steps[words]()
        signed = far.system.gpg("--homedir", home, "--armor", "--detach-sign", text="some text")
        assert signed.returncode == 0, signed.stderr
    finally:
        forget_home(home)
        far.cut()


def test_a_host_fetches_the_socket_itself_and_again_after_a_cut(offline: Offline) -> None:
    with far_host(offline, sshd_extra("fetch.sshd_config")) as fetching:
        for _ in range(2):
            fetching.start("fetch.ssh_config")
            done = fetching.sign("modern")
            assert done.returncode == 0, done.stderr
            assert fetching.socket.stat().st_mode & 0o777 == 0o660
            fetching.cut()
        assert fetching.sign("modern").returncode != 0


def test_a_tunnel_that_was_cut_is_named_and_the_next_one_takes_its_place(far: Far) -> None:
    far.start()
    assert far.sign("modern").returncode == 0
    far.cut()
    until(lambda: far.socket.is_socket() and not far.answers(), "the stale socket stays")
    checked = far.check("far", far.socket)
    assert checked.returncode == 1
    assert "a tunnel that was cut left it behind" in checked.stdout
    assert far.sign("modern").returncode != 0
    far.start()
    assert far.sign("modern").returncode == 0
    far.cut()


def test_the_far_side_s_command_ends_with_the_tunnel(far: Far) -> None:
    far.start()
    running = set(far.sshd.descendants())
    assert running
    far.cut()
    # A loop's pause is 30 s; then its next sign of life finds nobody.
    until(lambda: not running & set(far.sshd.descendants()), "nothing is left of the session")


def test_a_far_directory_that_others_can_write_is_named(far: Far) -> None:
    far.directory.chmod(0o777)
    try:
        checked = far.check("far", far.socket)
    finally:
        far.directory.chmod(0o750)
    assert checked.returncode == 1
    assert "others can write there" in checked.stdout


def test_an_sshd_that_forbids_forwarding_is_named(offline: Offline) -> None:
    with far_host(offline, "AllowTcpForwarding no\nForceCommand while echo; do sleep 30; done\n") as far:
        checked = far.check("near", "far")
    assert checked.returncode == 1, checked.stdout
    assert "the far host forbids the forwarding" in checked.stdout
    assert 'AllowTcpForwarding must not be "no"' in checked.stdout


def test_each_thing_that_is_wrong_at_the_near_end_is_named(far: Far) -> None:
    assert far.check("near", "far").returncode == 0, far.check("near", "far").stdout
    authorized, known = far.sshd.authorized.read_text(), (far.sshd.directory / "known_hosts").read_text()
    far.sshd.authorized.write_text("")
    assert "does not take our key" in far.check("near", "far").stdout
    far.sshd.authorized.write_text(authorized)
    (far.sshd.directory / "known_hosts").write_text("")
    assert "the host key is unknown" in far.check("near", "far").stdout
    (far.sshd.directory / "known_hosts").write_text(known)
    far.system.stop("relay")
    assert "nobody answers there" in far.check("near", "far").stdout or "no socket" in far.check("near", "far").stdout
    far.system.start("relay")


def test_the_check_logs_in_itself_and_leaves_nothing_that_forwards_where_ssh_shares_connections(far: Far) -> None:
    master = ("ssh", "-F", far.config, "-O", "exit", "far")
    sharing = f"  ControlMaster auto\n  ControlPath {far.system.directory}/master\n  ControlPersist yes\n"
    plain = far._adapted("push.ssh_config")
    far.config.write_text(plain + sharing)
    try:
        assert far.check("near", "far").returncode == 0
        beside = far.socket.with_name(f"{far.socket.name}.check")
        until(lambda: far.check("far", beside).returncode == 1, "nobody answers at the socket of the check any more")
        assert not (far.system.directory / "master").exists()
    finally:
        subprocess.run(master, capture_output=True, timeout=SECONDS, check=False)
        far.config.write_text(plain)


def test_wrong_usage_prints_the_usage(far: Far) -> None:
    checked = far.check("nowhere")
    assert checked.returncode == 2
    assert "check.sh near HOST" in checked.stderr


@pytest.mark.parametrize("name", ["push.sshd_config", "fetch.sshd_config", "attach.sshd_config"])
def test_sshd_takes_every_fragment(name: str, far: Far, tmp_path: Path) -> None:
    config = tmp_path / "sshd_config"
    config.write_text((far.sshd.directory / "sshd_config").read_text().partition("#")[0] + (FILES / name).read_text())
    done = subprocess.run(
        ["/usr/sbin/sshd", "-t", "-f", config], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "host"), [("push.ssh_config", "far"), ("fetch.ssh_config", "relay")])
def test_ssh_takes_every_fragment(name: str, host: str) -> None:
    done = subprocess.run(
        ["ssh", "-G", "-F", FILES / name, host], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "user blind-oracle-tunnel" in done.stdout

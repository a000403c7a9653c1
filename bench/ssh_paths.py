"""What a signature costs over ssh: the relay's socket forwarded, in two ways, and ssh in the place of TLS.

usage: python -m bench.ssh_paths [--count N]

Everything runs on one machine, with an sshd of its own on loopback, so what shows is ssh's own cost and no network's.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.rows import Row, print_table, shown
from bench.sides import ORACLE, RELAY, Ours, ours, reference
from tests.ssh.sshd import Sshd, sshd_in

ROOT = Path(__file__).parent.parent
_WAIT_SECONDS = 30.0
_ROUNDS = range(3)
_FORWARDING = "AllowStreamLocalForwarding yes\nStreamLocalBindUnlink yes\n"


@contextmanager
def _forwarded(sshd: Sshd, far: Path, near: Path, *words: str) -> Iterator[Path]:
    """`far` leads to `near` while the block lasts."""
    command = ["ssh", "-F", str(sshd.client_config), "-o", "ExitOnForwardFailure=yes", "-p", str(sshd.port), "-T"]
    command += ["-R", f"{far}:{near}", *words[:-1], f"{sshd.user}@127.0.0.1", *words[-1:]]
    process = subprocess.Popen([word for word in command if word], stdin=subprocess.DEVNULL)
    try:
        _until(far.exists)
        yield far
    finally:
        process.terminate()
        process.wait()


def _until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError("ssh did not do it")
        time.sleep(0.02)


class _Gpg:
    """An unmodified gpg whose agent's socket is wherever a link says."""

    def __init__(self, mine: Ours, home: Path, count: int) -> None:
        self._fingerprint = mine.keys["ed25519"].fingerprint
        self._home = home
        self._count = count
        home.mkdir(mode=0o700)
        public = self._run(Path(mine.environment["GNUPGHOME"]), "--export").stdout
        self._run(home, "--no-autostart", "--import", data=public)
        asked = ["gpgconf", "--homedir", str(home), "--list-dirs", "agent-socket"]
        self._link = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())

    def p50_ms(self, socket: Path) -> float:
        """Median of whole `gpg --detach-sign` processes that use this socket."""
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(socket)
        times = []
        for _ in range(self._count):
            start = time.perf_counter()
            self._run(self._home, "--local-user", f"{self._fingerprint}!", "--detach-sign", data=b"x")
            times.append((time.perf_counter() - start) * 1e3)
        return median(times)

    def _run(self, home: Path, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", *words]
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return done


@contextmanager
def _relay_over_ssh(mine: Ours, sshd: Sshd) -> Iterator[Path]:
    """Another build server's relay, whose stream goes over ssh in the place of TLS; its socket."""
    with (mine.directory / "oracle.yaml").open("a") as file:
        file.write(f"attach: {{socket: run/attach.sock, users: [{sshd.user}], address: {sshd.address}}}\n")
    for word in ("stop", "start"):
        subprocess.run([ORACLE, "dev", word, mine.directory, "oracle"], check=True, stdout=subprocess.DEVNULL)
    directory, enrolment = mine.directory / "ssh", mine.directory / "ssh.enrolment"
    words = ["--key=ed25519", "--policy-add", "--output", enrolment, "--ssh-key", sshd.directory / "client.pub"]
    added = subprocess.run(
        [ORACLE, "runner", "add", "over-ssh", *words], check=True, env=mine.environment, capture_output=True, text=True
    )
    sshd.authorized.write_text(next(x for x in added.stdout.splitlines(keepends=True) if x.startswith("restrict")))
    for word in ("stop", "start"):  # it takes the policy with the new runner
        subprocess.run([ORACLE, "dev", word, mine.directory, "oracle"], check=True, stdout=subprocess.DEVNULL)
    config = directory / "relay.yaml"
    enrol = [RELAY, "enroll", "--config", config, "--ssh-config", sshd.client_config, enrolment]
    subprocess.run(enrol, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([RELAY, "serve", "--config", config], stderr=subprocess.DEVNULL)
    try:
        socket = directory / "run" / "S.gpg-agent"
        _until((directory / "state" / "keys.json").exists)  # it is connected
        yield socket
    finally:
        process.terminate()
        process.wait()


def rows(mine: Ours, sshd: Sshd, gpg: _Gpg) -> Iterator[Row]:
    """Each way in turn."""
    near = mine.target("ed25519").socket
    direct = [gpg.p50_ms(near) for _ in _ROUNDS]
    yield shown("gpg --detach-sign, ed25519, relay on this host, p50 ms", direct)
    authorized = (sshd.directory / "client.pub").read_text()
    sshd.authorized.write_text(f"restrict,port-forwarding {authorized}")
    for what, words in (("ssh -N -R", ("-N", "")), ("ssh -R and a session", ("", "exec sleep 600"))):
        far = sshd.directory / "far.sock"
        with _forwarded(sshd, far, near, *words):
            times = [gpg.p50_ms(far) for _ in _ROUNDS]
        far.unlink(missing_ok=True)
        yield shown(f"the same over a socket forwarded by {what}, p50 ms", times, direct)
    with _relay_over_ssh(mine, sshd) as socket:
        times = [gpg.p50_ms(socket) for _ in _ROUNDS]
    yield shown("the same by a relay that reaches the oracle over ssh, p50 ms", times, direct)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.ssh_paths")
    parser.add_argument("--count", type=int, default=30)
    arguments = parser.parse_args()
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        directory = Path(name)
        with reference(directory / "gnupg") as theirs, ours(directory / "ours", theirs.keys) as mine:
            with sshd_in(directory / "sshd", _FORWARDING) as sshd:
                print_table(list(rows(mine, sshd, _Gpg(mine, directory / "far", arguments.count))))


if __name__ == "__main__":
    main()

"""A relay whose stream goes over ssh in the place of TLS: real sshd, real ssh, real gpg."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentproxy.admin.dev.processes import find
from tests.admin.shell import Result, blind_oracle
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, System, forget_home, system_with, until
from tests.ssh.sshd import Sshd, make_key, sshd_in

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "SSH.md").read_text()


def by_the_page(beginning: str, ours: Mapping[str, str]) -> list[str]:
    """The words behind the program of the one command of docs/SSH.md that begins so, with examples replaced by ours."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(beginning))
    words = shlex.split(line)[1:]
    assert set(ours) <= set(words), line
    return [ours.get(word, word) for word in words]


def attach_by_the_page() -> str:
    """What docs/SSH.md adds to oracle.yaml."""
    (block,) = re.findall(r"^```yaml\n(attach:\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert isinstance(block, str)
    return block


class SshRunner:
    """A build server `over-ssh` beside the dev system's own."""

    def __init__(self, system: System, sshd: Sshd) -> None:
        self.system, self.sshd = system, sshd
        self.directory = system.directory / "over-ssh"
        self.config = self.directory / "relay.yaml"
        self.home = self.directory / "gnupg"
        self.log = system.directory / "log" / "over-ssh.log"
        self._relay: subprocess.Popen[bytes] | None = None

    def operator(self, *words: str | Path) -> Result:
        return blind_oracle(*words, f"--config={self.system.directory / 'oracle.yaml'}")

    def relay(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self.system.run("blind-oracle-relay", *words, f"--config={self.config}")

    def add(self) -> None:
        file = self.system.directory / "over-ssh.enrolment"
        key = self.sshd.directory / "client.pub"
        words = by_the_page("blind-oracle runner add", {"build-01": "over-ssh", "build-01.pub": str(key)})
        added = self.operator(*words, "--output", file)
        assert added.status == 0, added.errors
        (line,) = (line for line in added.output.splitlines() if line.startswith("restrict,"))
        self.sshd.authorized.write_text(line + "\n")
        reload_policy(self.system)
        ours = {
            "build-01.enrolment": str(file),
            "/etc/blind-oracle-relay/ssh_config": str(self.sshd.client_config),
        }
        done = self.relay(*by_the_page("blind-oracle-relay enroll", ours))
        assert done.returncode == 0, done.stderr
        text = self.config.read_text()
        assert "deadline_seconds: 30" in text
        self.config.write_text(text.replace("deadline_seconds: 30", "deadline_seconds: 8"))

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "relay.cli", "serve", "--config", str(self.config)]
            self._relay = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        until(lambda: "connected, address=ssh:" in self.log.read_text(), "the relay is connected")
        done = self.relay("setup", "--home", self.home)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        if self._relay is not None:
            self._relay.terminate()
            self._relay.wait(SECONDS)
        forget_home(self.home)

    def sign(self) -> subprocess.CompletedProcess[str]:
        words = ("--homedir", self.home, "--local-user", "modern@example.org", "--armor", "--detach-sign")
        return self.system.gpg(*words, text="some text")

    def ssh_pids(self) -> list[int]:
        return [process.pid for process in find("ssh", "-T", at=self.sshd.client_config)]


def reload_policy(system: System) -> None:
    before = system.log("oracle").count("policy reloaded")
    oracle = system.pid("oracle")
    assert oracle is not None
    os.kill(oracle, signal.SIGHUP)
    until(lambda: system.log("oracle").count("policy reloaded") > before, "the oracle has the new policy")


@contextmanager
def attachable(offline: Offline) -> Iterator[tuple[System, Sshd]]:
    """A dev system whose oracle takes streams from sshd."""
    with system_with({"modern": offline.exports["modern"]}) as system:
        with sshd_in(system.directory / "sshd") as sshd:
            with (system.directory / "oracle.yaml").open("a") as file:
                block = attach_by_the_page().replace("ssh://blind-oracle-ssh@oracle.example.org", sshd.address)
                block = block.replace("/run/blind-oracle/", "run/")
                file.write(block.replace("[blind-oracle-ssh]", f"[{sshd.user}]"))
            system.stop("oracle")
            system.start("oracle")
            yield system, sshd


@pytest.fixture(scope="module")
def runner(offline: Offline) -> Iterator[SshRunner]:
    with attachable(offline) as (system, sshd):
        made = SshRunner(system, sshd)
        made.add()
        made.start()
        try:
            yield made
        finally:
            made.stop()


def test_the_page_puts_the_socket_where_a_packaged_oracle_may_make_it_and_sshd_s_user_reaches_it() -> None:
    unit = (ROOT / "systemd" / "blind-oracle.service").read_text()
    assert "\nProtectSystem=strict\n" in unit
    assert "\nRuntimeDirectory=blind-oracle\nRuntimeDirectoryMode=0755\n" in unit
    assert "  socket: /run/blind-oracle/attach.sock\n" in attach_by_the_page()


def test_a_signature_over_ssh_names_runner_channel_and_the_ssh_client(runner: SshRunner, offline: Offline) -> None:
    done = runner.sign()
    assert done.returncode == 0, done.stderr + runner.log.read_text()
    assert runner.system.is_good(done.stdout, offline.fingerprints["modern"])
    asserted = runner.system.signed()[-1]["asserted"]
    assert isinstance(asserted, dict)
    assert (asserted["runner"], asserted["channel"]) == ("over-ssh", "ssh/gpg")
    assert asserted.get("certificate") is None
    assert re.fullmatch(r"127\.0\.0\.1:\d+", asserted["address"])
    runner.system.assert_log_is_whole()


def test_a_cut_tunnel_comes_back_by_itself_for_the_next_signature(runner: SshRunner) -> None:
    assert runner.sign().returncode == 0
    pids = runner.ssh_pids()
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    done = runner.sign()
    assert done.returncode == 0, done.stderr + runner.log.read_text()
    assert set(runner.ssh_pids()).isdisjoint(pids)


def test_without_sshd_gpg_gets_an_error_in_time_and_a_signature_when_it_is_back(runner: SshRunner) -> None:
    assert runner.sign().returncode == 0
    runner.sshd.stop()
    failed = runner.sign()
    assert failed.returncode != 0
    assert "Network error" in failed.stderr or "Timeout" in failed.stderr
    assert "ssh: " in runner.log.read_text()
    runner.sshd.start()
    until(lambda: runner.sign().returncode == 0, "the relay has come back")


def test_a_disabled_runner_s_stream_ends_and_its_ssh_key_opens_nothing(runner: SshRunner) -> None:
    assert runner.sign().returncode == 0
    assert runner.operator("runner", "disable", "over-ssh").status == 0
    try:
        until(lambda: "has this runner disabled" in runner.log.read_text(), "the relay hears it")
        assert runner.sign().returncode != 0
    finally:
        assert runner.operator("runner", "enable", "over-ssh").status == 0
    until(lambda: runner.sign().returncode == 0, "the runner works again")


def test_a_key_that_is_not_authorized_is_named_by_ssh_s_own_words(runner: SshRunner) -> None:
    line = runner.sshd.authorized.read_text()
    runner.sshd.authorized.write_text("")
    try:
        for pid in runner.ssh_pids():
            os.kill(pid, signal.SIGKILL)
        until(lambda: "Permission denied (publickey)" in runner.log.read_text(), "the relay's log says why")
    finally:
        runner.sshd.authorized.write_text(line)
    until(lambda: runner.sign().returncode == 0, "the runner works again")


def test_a_host_key_that_is_another_ends_it(runner: SshRunner) -> None:
    known = runner.sshd.directory / "known_hosts"
    text = known.read_text()
    make_key(runner.sshd.directory / "other")
    known.write_text(f"[127.0.0.1]:{runner.sshd.port} {(runner.sshd.directory / 'other.pub').read_text()}")
    try:
        for pid in runner.ssh_pids():
            os.kill(pid, signal.SIGKILL)
        until(lambda: "Host key verification failed" in runner.log.read_text(), "the relay's log says why")
    finally:
        known.write_text(text)
    until(lambda: runner.sign().returncode == 0, "the runner works again")


def test_a_runner_s_ssh_key_with_another_runner_s_token_is_refused(runner: SshRunner) -> None:
    ours = runner.directory / "state" / "credentials" / "current" / "token"
    text = ours.read_text()
    ours.write_text((runner.system.directory / "relay" / "state" / "credentials" / "current" / "token").read_text())
    try:
        for pid in runner.ssh_pids():
            os.kill(pid, signal.SIGKILL)
        until(lambda: "token and certificate belong to two different" in runner.log.read_text(), "the relay is told")
        assert "ssh key of runner over-ssh with token" in runner.system.log("oracle")
        told = runner.relay("doctor", "--home", runner.home)
        assert "blind-oracle runner enroll over-ssh --ssh-key FILE" in told.stdout
    finally:
        ours.write_text(text)
    until(lambda: runner.sign().returncode == 0, "the runner works again")


def test_the_key_does_nothing_but_attach(runner: SshRunner) -> None:
    command = ["ssh", "-F", runner.sshd.client_config, "-p", str(runner.sshd.port), f"{runner.sshd.user}@127.0.0.1"]
    done = subprocess.run([*command, "id"], capture_output=True, text=True, input="", timeout=SECONDS, check=False)
    assert "uid=" not in done.stdout
    forward = [
        "ssh",
        "-F",
        str(runner.sshd.client_config),
        "-p",
        str(runner.sshd.port),
        "-o",
        "ExitOnForwardFailure=yes",
    ]
    words = ["-R", f"{runner.directory}/forwarded:{runner.directory}/none", f"{runner.sshd.user}@127.0.0.1"]
    done = subprocess.run([*forward, *words], capture_output=True, text=True, input="", timeout=SECONDS, check=False)
    assert done.returncode == 255
    assert "forwarding failed" in done.stderr


def test_people_do_not_start_attach(tmp_path: Path) -> None:
    done = blind_oracle("attach", "--runner", "a", "--socket", tmp_path / "none")
    assert done.status == 1
    assert "SSH_CONNECTION is not set" in done.errors

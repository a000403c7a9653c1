"""The sandboxes from inside: a unit's program is replaced by one that tries what it must not be able to do."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentproxy.runtime.wakefulness import DRIVER
from tests.hosts.machine import Machine

pytestmark = pytest.mark.hosts

_PROBE = Path(__file__).with_name("probe.py")
_PYTHON = "/usr/lib/blind-oracle/venv/bin/python3"
Answers = Mapping[str, str]


def _probed(host: Machine, unit: str) -> Answers:
    """What became of each attempt inside the sandbox of `unit`; "done" where it succeeded."""
    host.write("/usr/local/lib/probe.py", _PROBE.read_text())
    override = f"/run/systemd/system/{unit}.d/probe.conf"
    host.write(override, f"[Service]\nType=oneshot\nExecStart=\nExecStart={_PYTHON} -I /usr/local/lib/probe.py\n")
    host.shell("systemctl daemon-reload; systemctl stop blind-oracle.service blind-oracle-relay.service")
    try:
        host.shell(f"systemctl stop {unit}; systemctl start {unit}; journalctl --sync")
        said = host.journal(f"--unit={unit}", "--output=cat", "--lines=200").splitlines()
        answers: Answers = json.loads([line for line in said if line.startswith('{"')][-1])
        return answers
    finally:
        host.shell(
            f"rm {override}; systemctl daemon-reload; systemctl stop {unit}; systemctl start blind-oracle.service"
        )


@pytest.fixture(name="signer", scope="module")
def probed_signer(host: Machine) -> Answers:
    return _probed(host, "blind-oracle-signer.service")


@pytest.fixture(name="oracle", scope="module")
def probed_oracle(host: Machine) -> Answers:
    return _probed(host, "blind-oracle.service")


@pytest.fixture(name="relay", scope="module")
def probed_relay(host: Machine) -> Answers:
    return _probed(host, "blind-oracle-relay.service")


def _writable(answers: Answers) -> set[str]:
    return {name.removeprefix("write ") for name, answer in answers.items() if (name[:6], answer) == ("write ", "done")}


def test_the_signer_has_no_network(signer: Answers) -> None:
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"):
        assert signer[f"socket {family}"] == "EAFNOSUPPORT"


def test_the_signer_writes_the_audit_log_and_nothing_else(signer: Answers) -> None:
    assert _writable(signer) == {"/var/lib/blind-oracle-audit"}
    assert signer["open own key file for writing"] == "EROFS"


def test_the_signer_reads_keys_and_credentials_but_not_the_files_of_root(signer: Answers) -> None:
    assert signer["credentials"] == "audit.key authority.key passphrase_modern"
    assert signer["read /etc/blind-oracle/signer/authority.key"] == "EACCES"
    assert signer["read /etc/blind-oracle/signer/passphrases/modern"] == "EACCES"
    assert signer["read /etc/blind-oracle/tls/server.key"] == "EACCES"
    assert signer["list /var/lib/blind-oracle-signer/gnupg/private-keys-v1.d"] == "done"


def test_the_oracle_can_connect_to_nothing(oracle: Answers) -> None:
    for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"):
        assert oracle[f"socket {family}"] == "EAFNOSUPPORT"


@pytest.mark.parametrize("who", ["signer", "oracle"])
def test_no_other_program_can_be_executed(who: str, request: pytest.FixtureRequest) -> None:
    answers: Answers = request.getfixturevalue(who)
    assert answers["execute /bin/sh"] == answers["execute /usr/bin/gpg"] == "EACCES"


def test_the_oracle_cannot_read_a_key_or_the_log(oracle: Answers) -> None:
    for path in (
        "/etc/blind-oracle/signer/authority.key",
        "/etc/blind-oracle/signer/passphrases/modern",
        "/etc/blind-oracle/signer/keys.yaml",
        "/etc/blind-oracle/tls/server.key",
    ):
        assert oracle[f"read {path}"] == "EACCES", path
    for path in ("/var/lib/blind-oracle-signer/gnupg/private-keys-v1.d", "/var/lib/blind-oracle-audit"):
        assert oracle[f"list {path}"] == "EACCES", path
    assert oracle["credentials"] == "server.key"


def test_the_oracle_writes_its_registry_and_what_runs_now(oracle: Answers) -> None:
    assert _writable(oracle) == {"/var/lib/blind-oracle", "/run/blind-oracle", "/tmp", "/var/tmp"}


def test_the_relay_writes_its_state_and_nothing_else(relay: Answers) -> None:
    assert _writable(relay) == {"/var/lib/blind-oracle-relay"}


def test_the_relay_sees_the_command_lines_of_others(relay: Answers) -> None:
    assert relay["read /proc/1/cmdline"] == "done"
    assert relay["read /proc/1/environ"] == "EACCES"


@pytest.mark.parametrize(("who", "outcome"), [("signer", "ENOENT"), ("oracle", "done"), ("relay", "done")])
def test_who_waits_for_processors_may_keep_them_awake(who: str, outcome: str, request: pytest.FixtureRequest) -> None:
    answers: Answers = request.getfixturevalue(who)
    assert answers["open /dev/cpu_dma_latency for writing"] == outcome
    assert {answers[f"open {device} for writing"] for device in ("/dev/kmsg", "/dev/mem")} == {"ENOENT"}


@pytest.mark.parametrize("unit", ["blind-oracle.service", "blind-oracle-relay.service"])
def test_the_daemons_keep_the_processors_of_a_guest_awake(unit: str, host: Machine) -> None:
    def says_so() -> bool:
        began = host.shell("date '+%F %T.%N'").strip()
        host.shell(f"systemctl daemon-reload; systemctl restart {unit}; journalctl --sync")
        return "processors stay awake while a signature" in host.journal(f"--unit={unit}", f"--since={began}")

    assert says_so() == (DRIVER.exists() and DRIVER.read_text().strip() == "haltpoll")
    host.write(f"/run/systemd/system/{unit}.d/asleep.conf", "[Service]\nBindPaths=\n")
    try:
        assert not says_so()
    finally:
        host.shell(f"rm /run/systemd/system/{unit}.d/asleep.conf; systemctl daemon-reload; systemctl restart {unit}")


@pytest.mark.parametrize("who", ["signer", "oracle", "relay"])
def test_a_daemon_has_no_privileges_and_leaves_no_core(who: str, request: pytest.FixtureRequest) -> None:
    answers: Answers = request.getfixturevalue(who)
    assert answers["capabilities"] == "0000000000000000"
    assert answers["no new privileges"] == "1"
    assert answers["core limit"] == "0 0"
    assert answers["memory that is writable and executable"] == "EPERM"
    assert answers["new namespaces"] == "EPERM"
    assert answers["trace another process"] == "EPERM"
    assert answers["list /root"] == answers["list /home"] == "EACCES"

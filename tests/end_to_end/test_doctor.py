"""`doctor` names what is wrong on the way of a signature, and what to type: each fault is really made here."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tests.admin.shell import blind_oracle
from tests.end_to_end.fallbackhost import fallback_host
from tests.end_to_end.offline import Offline
from tests.end_to_end.place import SECONDS, Done, System, forget_home, system_with, until

BUILDER = 12_345  # somebody whom this host does not know
(FAKETIME,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
WELL = [
    "gpg", "configuration", "socket", "relay", "control", "network", "tls", "credentials", "clock",
    "keys", "keyring", "choice", "rpm", "signature",
]  # fmt: skip
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away from itself")


@pytest.fixture(name="made", scope="module")
def system_with_a_modern_key(offline: Offline) -> Iterator[System]:
    with system_with({"modern": offline.exports["modern"]}) as system:
        yield system


def doctor(system: System, *words: str | Path, before: tuple[str, ...] = (), **also: str) -> Done:
    return subprocess.run(
        [*before, "blind-oracle-relay", "doctor", *map(str, words)],
        env={**system.environment, **also}, cwd=system.directory, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip


def findings(
    system: System, *words: str | Path, before: tuple[str, ...] = (), **also: str
) -> dict[str, dict[str, str]]:
    """By check; the exit status must fit."""
    done = doctor(system, "--json", *words, before=before, **also)
    plain = json.loads(done.stdout)
    found = {finding["check"]: finding for finding in plain["findings"]}
    assert plain["ok"] == all(finding["verdict"] != "bad" for finding in found.values())
    assert done.returncode == (0 if plain["ok"] else 1)
    return found


def verdicts(found: dict[str, dict[str, str]]) -> dict[str, str]:
    return {check: finding["verdict"] for check, finding in found.items()}


def assert_bad(finding: dict[str, str], words: str, hint: str) -> None:
    assert finding["verdict"] == "bad", finding
    assert words in finding["found"]
    assert hint in finding["hint"]


@contextmanager
def configured(system: System, old: str, new: str, file: str = "relay/relay.yaml") -> Iterator[None]:
    """The relay with another configuration; nobody waits for it to be connected."""
    config = system.directory / file
    before = config.read_text()
    assert old in before
    system.stop("relay")
    config.write_text(before.replace(old, new, 1))
    with relay_alone(system, lambda: config.write_text(before)):
        yield


@contextmanager
def relay_alone(system: System, afterwards: Callable[[], object] = lambda: None, **also: str) -> Iterator[None]:
    control = system.directory / "relay" / "state" / "control.sock"
    process = subprocess.Popen(
        ["blind-oracle-relay", "serve"], env={**system.environment, **also}, stderr=subprocess.DEVNULL
    )
    with process:
        try:
            until(lambda: control.exists() and system.run("blind-oracle-relay", "status").stdout != "", "it serves")
            yield
        finally:
            process.terminate()
            process.wait()
            afterwards()
    system.start("relay")


def wait_for_problem(system: System, words: str) -> None:
    until(lambda: words in system.run("blind-oracle-relay", "status").stdout, words)


def test_where_all_is_well_every_step_says_so_and_one_signature_is_made(system: System) -> None:
    count = len(system.signed())
    found = findings(system)
    assert verdicts(found) == dict.fromkeys(WELL, "ok")
    assert len(system.signed()) == count + 1
    done = doctor(system, "--no-sign")
    assert done.returncode == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", f"{check}:"] for check in WELL[:-1]]
    assert len(system.signed()) == count + 1


def test_without_gpg_it_says_what_to_install(system: System) -> None:
    path = Path(system.environment["PATH"].split(":")[0])
    found = findings(system, PATH=str(path))
    assert_bad(found["gpg"], "gpg is not installed", "apt-get install gnupg")


@pytest.mark.parametrize("program", ["gpg", "rpm"])
def test_a_program_that_cannot_run_is_named_and_ends_no_diagnosis(system: System, tmp_path: Path, program: str) -> None:
    broken = tmp_path / program
    broken.write_text("#!/bin/sh\necho error while loading shared libraries >&2\nexit 127\n")
    broken.chmod(0o755)
    found = findings(system, PATH=f"{tmp_path}:{system.environment['PATH']}")
    assert list(found) == WELL
    finding = found[program]
    assert finding["verdict"] == ("bad" if program == "gpg" else "warning")
    assert f"{program} does not tell its version" in finding["found"]
    assert found["signature"]["verdict"] == ("skipped" if program == "gpg" else "ok")


def test_without_a_configuration_it_says_how_to_enrol(system: System, tmp_path: Path) -> None:
    found = findings(system, "--config", tmp_path / "relay.yaml")
    assert_bad(found["configuration"], "relay.yaml: cannot be read", "blind-oracle-relay enroll FILE")
    assert found["signature"]["verdict"] == "skipped"


@contextmanager
def new_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        home = Path(name) / "home"
        home.mkdir(mode=0o700)
        try:
            yield home
        finally:
            forget_home(home)


def test_a_home_that_nobody_set_up_is_named_with_the_command_for_it(system: System) -> None:
    with new_home() as home:
        found = findings(system, "--home", home)
        assert_bad(found["socket"], "nothing is there", f"blind-oracle-relay setup --home {home}")
        assert system.run("blind-oracle-relay", "setup", "--home", home).returncode == 0
        assert verdicts(findings(system, "--home", home)) == dict.fromkeys(WELL, "ok")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_gpg_would_read_for_ever_in_place_of_its_options_is_named(
    system: System, make: Callable[[Path], None]
) -> None:
    with tempfile.TemporaryDirectory(prefix="bo") as home:
        make(Path(home) / "gpg.conf")
        found = findings(system, "--home", home)
    for check in ("gpg", "keyring", "signature"):
        assert_bad(found[check], "gpg.conf: is no regular file", "move it away")


def test_a_damaged_list_of_homes_is_named_and_ends_no_diagnosis(system: System) -> None:
    file = system.directory / "relay" / "homes.yaml"
    file.write_text("homes: [")
    try:
        with new_home() as home:
            found = findings(system, "--home", home)
    finally:
        file.unlink()
    assert_bad(found["socket"], f"nothing is there: gpg would start an agent of its own; {file}: line", f"mend {file}")
    assert found["signature"]["verdict"] == "skipped"


def test_a_home_whose_agents_socket_gpg_cannot_name_is_named(system: System, tmp_path: Path) -> None:
    stand_in = tmp_path / "gpgconf"  # where there is no /run/user, gpg looks in the home
    stand_in.write_text('#!/bin/sh\necho "$GNUPGHOME/S.gpg-agent"\n')
    stand_in.chmod(0o755)
    with new_home() as short:
        home = short / ("x" * 90)
        home.mkdir(mode=0o700)
        (home / "S.gpg-agent").symlink_to(system.directory / "relay" / "run" / "S.gpg-agent")
        found = findings(system, "--home", home, "--no-sign", PATH=f"{tmp_path}:{system.environment['PATH']}")
    assert_bad(found["socket"], "gpg cannot connect to a name of more than 106 bytes", "setup --home")


def test_a_link_to_itself_in_the_relays_place_is_named(system: System) -> None:
    with new_home() as home:
        assert system.run("blind-oracle-relay", "setup", "--home", home).returncode == 0
        words = ["gpgconf", "--homedir", str(home), "--list-dirs", "agent-socket"]
        place = Path(system.run(*words).stdout.strip())
        place.unlink()
        place.symlink_to(place)
        found = findings(system, "--home", home)
        assert_bad(found["socket"], f"leads to {place}, which is no socket of this relay", "blind-oracle-relay setup")


def test_a_short_way_to_a_socket_with_a_long_name_is_well(system: System) -> None:
    with new_home() as home:
        long = home.parent / ("l" * 100)
        long.mkdir()
        (home.parent / "s").symlink_to(long)
        socket = home.parent / "s" / "S.gpg-agent"
        with configured(system, '"run/S.gpg-agent"', f'"{socket}"'):
            until(system.is_connected, "it is connected")
            assert system.run("blind-oracle-relay", "setup", "--home", home).returncode == 0
            assert verdicts(findings(system, "--home", home)) == dict.fromkeys(WELL, "ok")


def test_an_agent_in_the_relays_place_is_named(system: System) -> None:
    with new_home() as home:
        start = ("gpg-agent", "--homedir", str(home), "--daemon")
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=SECONDS)
        found = findings(system, "--home", home)
        assert_bad(found["socket"], "a gpg-agent of this user answers there", "blind-oracle-relay setup")


def test_a_link_to_somewhere_else_is_named(system: System) -> None:
    with new_home() as home:
        assert system.run("blind-oracle-relay", "setup", "--home", home, "--socket", home / "S.other").returncode == 0
        found = findings(system, "--home", home)
        assert_bad(found["socket"], "is no socket of this relay", "blind-oracle-relay setup")


def test_a_relay_that_does_not_run_or_hangs_is_named(system: System) -> None:
    pid = system.pid("relay")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert_bad(findings(system, "--no-sign")["relay"], "does not answer", "systemctl restart blind-oracle-relay")
    finally:
        os.kill(pid, signal.SIGCONT)
    system.stop("relay")
    assert_bad(findings(system)["relay"], "no relay listens", "systemctl start blind-oracle-relay.socket")


@ROOT_ONLY
def test_a_user_who_may_not_connect_is_told_which_group_to_join(system: System) -> None:
    os.chown(system.socket, BUILDER, 0)
    system.socket.chmod(0o620)
    without_rights = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--regid=1", "--clear-groups")
    try:
        found = findings(system, before=without_rights)
    finally:
        os.chown(system.socket, 0, 0)
        system.socket.chmod(0o660)
    assert_bad(found["relay"], "this user may not connect", "usermod --append --groups root USER")


@ROOT_ONLY
def test_a_user_whom_the_socket_does_not_name_is_told_so(system: System) -> None:
    with configured(system, 'mode: "0660"', f'mode: "0660"\n    users: [{BUILDER}]'):
        found = findings(system)
    assert_bad(found["relay"], "lets this user in to nothing", "users and groups of the socket in")


@ROOT_ONLY
def test_who_may_sign_and_not_ask_is_warned_and_signs(system: System) -> None:
    control = system.directory / "relay" / "state" / "control.sock"
    os.chown(control, BUILDER, BUILDER)
    try:
        found = findings(system, before=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    finally:
        os.chown(control, 0, 0)
    assert found["control"]["verdict"] == "warning"
    assert "Permission denied" in found["control"]["found"]
    assert found["signature"]["verdict"] == "ok"


@ROOT_ONLY
def test_a_home_without_keys_of_somebody_who_may_not_ask_is_named(system: System, offline: Offline) -> None:
    control = system.directory / "relay" / "state" / "control.sock"
    with new_home() as home:
        assert system.run("blind-oracle-relay", "setup", "--home", home).returncode == 0
        system.run("gpg", "--homedir", home, "--batch", "--yes", "--delete-keys", offline.primaries["modern"])
        os.chown(control, BUILDER, BUILDER)
        try:
            found = findings(system, "--home", home, before=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
        finally:
            os.chown(control, 0, 0)
        assert_bad(found["signature"], f"no good key that can sign is in {home}", f"setup --home {home}")


def test_a_key_of_another_name_is_not_passed_over_as_if_it_had_signed(system: System) -> None:
    assert_bad(findings(system, "--key", "modem")["signature"], "there is no key modem here", "one of: modern")


def test_an_oracle_out_of_reach_is_named_with_its_address(system: System) -> None:
    system.stop("oracle")
    until(lambda: not system.is_connected(), "the relay has noticed")
    found = findings(system)
    assert_bad(found["network"], "Connection refused", "is the oracle running")
    assert_bad(found["signature"], "Network error", "no oracle in reach")
    assert "the relay: failed modern: unreachable: " in found["signature"]["found"]


def test_a_certificate_of_another_authority_is_named(system: System) -> None:
    other = system.directory / "relay" / "other.crt"
    trustme.CA().cert_pem.write_to_path(other)
    with configured(system, '"state/credentials/current/authority.crt"', '"other.crt"'):
        wait_for_problem(system, "certificate of the oracle")
        found = findings(system, "--no-sign")
    assert_bad(found["tls"], "the certificate of the oracle is not good", "server_name and authority in relay.yaml")
    assert found["network"]["verdict"] == "ok"


def test_a_runner_that_was_disabled_is_named_with_the_operators_command(system: System) -> None:
    config = f"--config={system.directory / 'oracle.yaml'}"
    assert blind_oracle("runner", "disable", "dev", config).status == 0
    try:
        wait_for_problem(system, "has this runner disabled")
        found = findings(system, "--no-sign")
    finally:
        assert blind_oracle("runner", "enable", "dev", config).status == 0
    assert_bad(found["credentials"], "has this runner disabled", "blind-oracle runner enable dev")
    assert found["tls"]["verdict"] == "ok"
    until(lambda: findings(system, "--no-sign")["credentials"]["verdict"] == "ok", "it is let in again")


def test_a_token_of_nobody_is_named(system: System) -> None:
    token = system.directory / "relay" / "token"
    token.write_text("bo_" + "x" * 43)
    token.chmod(0o600)
    with configured(system, '"state/credentials/current/token"', '"token"'):
        wait_for_problem(system, "does not know this token")
        found = findings(system, "--no-sign")
    assert_bad(found["credentials"], "does not know this token", "blind-oracle-relay enroll --replace FILE")


@pytest.mark.parametrize(("shift", "verdict"), [("+20s", "warning"), ("-300s", "bad")])
def test_a_clock_that_is_wrong_is_named(system: System, shift: str, verdict: str) -> None:
    system.stop("relay")
    with relay_alone(system, LD_PRELOAD=str(FAKETIME), FAKETIME=shift, FAKETIME_DONT_FAKE_MONOTONIC="1"):
        until(system.is_connected, "it is connected")
        found = findings(system, "--no-sign")
    assert found["clock"]["verdict"] == verdict, found["clock"]
    assert ("ahead of" if shift.startswith("+") else "behind") in found["clock"]["found"]
    assert "timedatectl" in found["clock"]["hint"]


def test_a_runner_without_keys_is_named(system: System) -> None:
    policy = system.directory / "policy.yaml"
    before = policy.read_text()
    policy.write_text(before.replace("keys: [modern]", "keys: []"))
    system.reload_policy()
    try:
        until(lambda: "no keys" in system.run("blind-oracle-relay", "status").stdout, "the relay has heard it")
        found = findings(system)
    finally:
        policy.write_text(before)
        system.reload_policy()
    assert_bad(found["keys"], "serves this runner no key", "keys of dev in policy.yaml")
    until(lambda: findings(system, "--no-sign")["keys"]["verdict"] == "ok", "the key is back")


def test_a_public_key_that_is_missing_or_expired_in_the_home_is_named(system: System, offline: Offline) -> None:
    with new_home() as home:
        assert system.run("blind-oracle-relay", "setup", "--home", home).returncode == 0
        expired = findings(system, "--home", home, LD_PRELOAD=str(FAKETIME), FAKETIME="+400d")
        assert_bad(expired["keyring"], "modern is expired on 2", "the key's owner must extend it")
        system.run("gpg", "--homedir", home, "--batch", "--yes", "--delete-keys", offline.primaries["modern"])
        missing = findings(system, "--home", home)
        assert_bad(missing["keyring"], "does not know the public key of modern", "blind-oracle-relay keyrings")
        assert missing["signature"]["verdict"] == "skipped"


def test_a_refusal_is_told_with_the_relays_reason(system: System) -> None:
    policy = system.directory / "policy.yaml"
    before = policy.read_text()
    system.restrict({"modern": "el10-*"})
    try:
        found = findings(system)
    finally:
        policy.write_text(before)
        system.reload_policy()
    assert_bad(found["signature"], "Forbidden", "blind-oracle policy explain")
    assert "the relay: refused modern: distribution_missing: " in found["signature"]["found"]


def test_of_two_subkeys_of_one_certificate_it_names_the_one_that_gpg_takes_and_what_rpm_cannot_verify(
    offline: Offline, tmp_path: Path
) -> None:
    offline.make("twin", "nistp256", "sign")
    second = offline.column("twin@example.org", "fpr")[2]
    export = tmp_path / "second"
    export.write_bytes(offline.gpg("--export-secret-subkeys", f"{second}!"))
    with system_with({"twin": offline.exports["twin"], "second": export}) as system:
        found = findings(system)
        signed = system.signed()[-1]["key"]
        assert found["choice"]["verdict"] == "warning"
        assert (
            f"second: --local-user {offline.primaries['twin']} signs with subkey {second}" in found["choice"]["found"]
        )
        assert found["choice"]["found"].endswith("not chosen: twin")
        assert signed == "second"
        rpm = system.run("rpm", "--version").stdout.split()[-1]
        if tuple(map(int, rpm.split(".")[:2])) < (4, 20):
            assert found["rpm"]["verdict"] == "warning"
            assert "cannot verify signatures by twin (nistp256)" in found["rpm"]["found"]
            assert "RSA" in found["rpm"]["hint"]


def test_a_keyring_without_the_hosts_own_key_is_named_before_and_in_fallback(offline: Offline) -> None:
    with fallback_host(offline) as host:
        system = host.system
        assert findings(system, "--no-sign")["keyring"]["verdict"] == "ok"
        system.gpg("--yes", "--delete-keys", host.own)
        before = findings(system)
        assert before["keyring"]["verdict"] == "warning"
        assert "gpg would not sign in fallback" in before["keyring"]["found"]
        assert before["signature"]["verdict"] == "ok"
        host.on()
        during = findings(system)
        assert_bad(during["keyring"], "does not know the public key of this host's", "blind-oracle-relay keyrings")
        assert during["signature"]["verdict"] == "skipped"
        assert system.run("blind-oracle-relay", "setup", "--home", system.environment["GNUPGHOME"]).returncode == 0
        after = findings(system)
        assert after["control"]["verdict"] == "warning"
        assert {finding["verdict"] for check, finding in after.items() if check != "control"} == {"ok"}

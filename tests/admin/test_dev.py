import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentproxy.admin.dev.processes import find
from tests.admin.exports import Exports
from tests.admin.shell import Result, blind_oracle

SECONDS = 60


class System:
    """A dev system whose directory has a name that a careless shell line would break on."""

    def __init__(self, parent: Path) -> None:
        self.directory = parent / "it's a dir"

    def dev(self, command: str, *words: str) -> Result:
        return blind_oracle("dev", command, self.directory, *words)

    def status(self) -> dict[str, bool]:
        parts: dict[str, dict[str, bool]] = json.loads(self.dev("status", "--json").output)["parts"]
        return {name: part["running"] for name, part in parts.items()}

    def pid(self, part: str) -> int:
        pid: int = json.loads(self.dev("status", "--json").output)["parts"][part]["pid"]
        return pid

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script in bash after `eval` of what `dev env` prints, as its help says."""
        lines = self.dev("env").output
        return subprocess.run(
            ["bash", "-euc", f"{lines}\ncd {shlex.quote(str(self.directory))}\n{script}"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


ALL = {"oracle": True, "signer": True, "relay": True}
NONE = dict.fromkeys(ALL, False)


@pytest.fixture(name="exports_words", scope="module")
def key_options(exports: Exports) -> list[str]:
    return [f"--key={name}={exports.subkeys[name]}" for name in ("modern", "legacy")]


@pytest.fixture(name="parent", scope="module")
def short_parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(name="made", scope="module")
def made_system(parent: Path, exports_words: list[str]) -> Iterator[System]:
    system = System(parent)
    result = system.dev("start", *exports_words)
    assert result.status == 0, result.errors
    yield system
    assert system.dev("stop").status == 0


@pytest.fixture(name="system")
def running_system(made: System) -> System:
    assert made.dev("start").status == 0
    return made


def test_after_start_everything_runs_and_gpg_signs_with_a_home_without_secrets(
    system: System, exports: Exports
) -> None:
    assert system.status() == ALL
    done = system.shell(
        "echo text > file; gpg --batch --yes --local-user modern@example.org --detach-sign file\n"
        "gpg --batch --status-fd 1 --verify file.sig file\nfind relay -name '*.key' -path '*private-keys*'"
    )
    assert done.returncode == 0, done.stderr
    assert f"VALIDSIG {exports.fingerprints['modern']} " in done.stdout
    assert ".key" not in done.stdout


def test_the_environment_names_everything_and_finds_both_programs(system: System) -> None:
    done = system.shell(
        'command -v blind-oracle blind-oracle-relay; test -S "$BLIND_ORACLE_RELAY_SOCKET"; test -d "$GNUPGHOME"\n'
        'test -f "$BLIND_ORACLE_CONFIG"; test -f "$BLIND_ORACLE_RELAY_CONFIG"; test -d "$BLIND_ORACLE_AUDIT_DIR"'
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_part_starts_when_the_logs_were_taken_away(system: System) -> None:
    (system.directory / "log").rename(system.directory / "away")
    try:
        assert system.dev("stop", "relay").status == 0
        started = system.dev("start", "relay")
        assert started.status == 0, started.errors
        assert (system.directory / "log" / "relay.log").exists()
    finally:
        shutil.rmtree(system.directory / "log", ignore_errors=True)
        (system.directory / "away").rename(system.directory / "log")
        system.dev("stop", "relay")
        assert system.dev("start", "relay").status == 0


def test_another_way_to_the_directory_leads_to_the_same_system(system: System, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(system.directory)
    for way in (tmp_path / "link", system.directory / "log" / ".."):
        result = blind_oracle("dev", "status", way)
        assert result.status == 0, result.output


def test_starting_again_changes_nothing(system: System) -> None:
    before = [system.pid(part) for part in ALL]
    assert system.dev("start").status == 0
    assert [system.pid(part) for part in ALL] == before


def test_one_part_stops_and_starts_again_and_the_others_stay(system: System) -> None:
    relay = system.pid("relay")
    assert system.dev("stop", "oracle").status == 0
    assert system.status() == {"oracle": False, "signer": False, "relay": True}
    assert system.dev("status").status == 1
    assert system.dev("start", "oracle").status == 0
    assert system.pid("relay") == relay
    oracle = system.pid("oracle")
    assert system.dev("stop", "relay").status == 0
    assert system.status() == {"oracle": True, "signer": True, "relay": False}
    assert system.dev("start", "relay").status == 0
    assert system.pid("oracle") == oracle
    assert system.dev("status").status == 0


def test_after_the_oracles_violent_death_it_starts_again(system: System) -> None:
    os.kill(system.pid("oracle"), signal.SIGKILL)
    while system.status()["signer"]:  # it ends by itself when its oracle is gone
        pass
    assert system.status() == {"oracle": False, "signer": False, "relay": True}
    assert system.dev("start").status == 0
    assert system.status() == ALL


def test_stop_ends_a_relay_that_a_start_is_waiting_for_in_vain(system: System) -> None:
    config = f"--config={system.directory / 'oracle.yaml'}"
    assert blind_oracle("runner", "disable", "dev", config).status == 0
    command = [sys.executable, "-m", "agentproxy.admin", "dev", "start", str(system.directory)]
    try:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as start:
            while not is_locked(system.directory):
                assert start.poll() is None
            stopped = system.dev("stop")
            _, errors = start.communicate(timeout=SECONDS)
        assert stopped.status == 0, stopped.errors
        assert start.returncode == 1
        assert "the relay does not reach the oracle" not in errors  # for that it would have waited to the end
        assert system.status() == NONE
        assert list(find(at=system.directory)) == []
    finally:
        assert blind_oracle("runner", "enable", "dev", config).status == 0


def is_locked(directory: Path) -> bool:
    return f":{directory.stat().st_ino} " in Path("/proc/locks").read_text()  # a try of our own would be in the way


def test_stop_leaves_nothing_running_and_no_socket(system: System) -> None:
    assert system.dev("stop").status == 0
    assert system.status() == NONE
    assert list(find(at=system.directory)) == []
    assert system.dev("stop").status == 0


def test_stop_removes_what_gpg_needs_outside_in_a_login_session_and_start_brings_it_back(system: System) -> None:
    done = system.shell("gpgconf --list-dirs agent-socket")
    link = Path(done.stdout.strip())
    assert link.is_symlink()
    assert system.dev("stop").status == 0
    if not link.is_relative_to(system.directory):
        assert not link.parent.exists()
    assert system.dev("start").status == 0
    assert link.is_symlink()
    done = system.shell("echo x > f; gpg --batch --yes --local-user modern@example.org --detach-sign f")
    assert done.returncode == 0, done.stderr


def test_an_agent_that_gpg_started_in_the_home_is_stopped_too(system: System) -> None:
    system.dev("stop")
    done = system.shell(
        'rm -f "$(gpgconf --list-dirs agent-socket)" "$GNUPGHOME/gpg-agent.conf"; '
        'gpg-agent --daemon --homedir "$GNUPGHOME" >/dev/null 2>&1'
    )
    assert done.returncode == 0, done.stderr
    assert list(find(at=system.directory)) != []
    assert system.dev("stop").status == 0
    assert list(find(at=system.directory)) == []


def test_the_agent_of_the_hosts_own_key_is_stopped_too_and_no_others(system: System, parent: Path) -> None:
    home = system.directory / "relay" / "state" / "fallback" / "gnupg"
    other = parent / "other"
    other.mkdir(mode=0o700)
    done = system.shell(
        "blind-oracle-relay fallback setup --make rsa2048 >/dev/null; "
        f"gpgconf --homedir {shlex.quote(str(home))} --launch gpg-agent; gpgconf --homedir {other} --launch gpg-agent"
    )
    assert done.returncode == 0, done.stderr
    assert list(find(at=home)) != []
    try:
        assert system.dev("stop").status == 0
        assert list(find(at=system.directory)) == []
        assert list(find(at=other)) != []
    finally:
        subprocess.run(["gpgconf", "--homedir", other, "--kill", "gpg-agent"], check=True, timeout=SECONDS)
        subprocess.run(["gpgconf", "--homedir", other, "--remove-socketdir"], check=True, timeout=SECONDS)


def test_a_broken_configuration_shows_its_reason_and_leaves_nothing_running(system: System) -> None:
    system.dev("stop")
    policy = system.directory / "policy.yaml"
    text = policy.read_text()
    try:
        policy.write_text(text + "runner: {}\n")
        result = system.dev("start")
    finally:
        policy.write_text(text)
    assert result.status == 1
    assert "the oracle does not start" in result.errors
    assert "policy.yaml: runner: unknown key, did you mean runners?" in result.errors
    assert system.status() == NONE


def test_two_systems_run_side_by_side(system: System, exports: Exports) -> None:
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        other = System(Path(name))
        try:
            assert other.dev("start", f"--key=modern={exports.subkeys['legacy']}").status == 0
            for one, key in ((system, "modern"), (other, "legacy")):
                done = one.shell(
                    "echo x > f; gpg --batch --yes --detach-sign f; gpg --batch --status-fd 1 --verify f.sig f"
                )
                assert f"VALIDSIG {exports.fingerprints[key]} " in done.stdout, done.stderr
        finally:
            assert other.dev("stop").status == 0
        assert system.status() == ALL


def test_a_key_without_end_is_refused_and_not_read_to_it(parent: Path, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)  # no machine has memory for that, and it takes no room on the disk
    result = blind_oracle("dev", "start", parent / "new", f"--key=modern={tmp_path / 'huge'}")
    assert result.status == 1
    assert "more than 1048576 bytes" in result.errors
    result = blind_oracle("dev", "start", parent / "new", "--key=modern=/dev/zero")
    assert result.status == 1
    assert "/dev/zero: expected a file" in result.errors


@pytest.mark.parametrize("key", ["modern", "=file", "modern=", ""])
def test_a_key_without_name_or_file_is_wrong_usage(key: str, parent: Path) -> None:
    result = blind_oracle("dev", "start", parent / "new", f"--key={key}")
    assert result.status == 2
    assert "expected NAME=FILE" in result.errors


@pytest.mark.parametrize("name", ["modern", "other"])
def test_an_empty_file_is_no_key_and_no_other_is_made_for_it(name: str, parent: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    result = blind_oracle("dev", "start", parent / "new", f"--key={name}={tmp_path / 'empty'}")
    assert result.status == 1
    assert f"{tmp_path / 'empty'}: is empty" in result.errors
    assert list((parent / "new").iterdir()) == []


def test_a_pipe_that_nobody_writes_to_is_no_key(parent: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = blind_oracle("dev", "start", parent / "new", f"--key=modern={tmp_path / 'pipe'}")
    assert result.status == 1
    assert f"{tmp_path / 'pipe'}: expected a file" in result.errors


def test_a_start_that_fails_leaves_an_empty_directory(parent: Path, exports: Exports) -> None:
    result = blind_oracle("dev", "start", parent / "new", f"--key=a={exports.home / 'pubring.kbx'}")
    assert result.status == 1
    assert f"error: a={exports.home / 'pubring.kbx'}: gpg finds no OpenPGP key in the export" in result.errors
    assert list((parent / "new").iterdir()) == []


def test_what_is_not_a_dev_system_is_left_alone(parent: Path) -> None:
    (parent / "mine").mkdir()
    (parent / "mine" / "file").write_text("kept")
    result = blind_oracle("dev", "start", parent / "mine")
    assert result.status == 1
    assert "expected an empty directory" in result.errors
    assert (parent / "mine" / "file").read_text() == "kept"
    for command in ("env", "status"):
        assert "no dev system here" in blind_oracle("dev", command, parent / "mine").errors
    assert "no such directory" in blind_oracle("dev", "stop", parent / "gone").errors
    (parent / "mine" / "dev").mkdir()  # as `/` has
    assert "expected an empty directory" in blind_oracle("dev", "start", parent / "mine").errors
    assert "no dev system here" in blind_oracle("dev", "status", parent / "mine").errors


def test_a_path_too_long_for_sockets_is_refused_at_once(parent: Path) -> None:
    result = blind_oracle("dev", "start", parent / ("x" * 90))
    assert result.status == 1
    assert "too long for the sockets in it" in result.errors
    assert not (parent / ("x" * 90)).exists()


def test_a_path_that_gpg_would_expand_is_refused_at_once(parent: Path) -> None:
    result = blind_oracle("dev", "start", parent / "$HOME")
    assert result.status == 1
    assert "cannot hold '$' or a newline" in result.errors
    assert not (parent / "$HOME").exists()


def test_a_path_that_is_no_utf8_is_refused_at_once(parent: Path) -> None:
    result = blind_oracle("dev", "start", parent / os.fsdecode(b"caf\xe9"))
    assert result.status == 1
    assert "is not UTF-8" in result.errors
    assert "choose another path" in result.errors
    assert os.fsencode(parent / "caf") + b"\xe9" not in {os.fsencode(path) for path in parent.iterdir()}


def test_keys_are_for_the_first_start(system: System, exports_words: list[str]) -> None:
    result = system.dev("start", *exports_words)
    assert result.status == 1
    assert "--key is for the first start" in result.errors


def test_the_number_of_oracles_is_for_the_first_start(system: System) -> None:
    result = system.dev("start", "--oracles", "2")
    assert result.status == 1
    assert "--oracles is for the first start" in result.errors


def test_a_part_that_is_not_there_is_named_beside_those_that_are(system: System) -> None:
    for command in ("start", "stop"):
        result = system.dev(command, "oracle-2")
        assert result.status == 2
        assert "expected one of oracle," in result.errors
        assert "got 'oracle-2'" in result.errors


def killed_start(directory: Path, seen: Callable[[], bool], *words: str) -> None:
    """A `dev start` that is killed, without time to take anything away, as soon as `seen` is true."""
    start = [sys.executable, "-P", "-m", "agentproxy.admin", "dev", "start", str(directory), *words]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + SECONDS
        while not seen():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()


def test_a_start_that_was_killed_while_it_made_the_system_is_no_hindrance_to_the_next(
    parent: Path, exports_words: list[str]
) -> None:
    system = System(parent / "cut")
    killed_start(system.directory, (system.directory / "policy.yaml").exists, *exports_words)
    assert not (system.directory / "dev").exists()
    try:
        again = system.dev("start", *exports_words)
        assert again.status == 0, again.errors
        assert system.status() == ALL
    finally:
        assert system.dev("stop").status == 0


@pytest.mark.parametrize("part", ["oracle", "relay"])
def test_what_a_killed_start_left_half_started_is_started_anew(
    part: str, parent: Path, exports_words: list[str]
) -> None:
    system = System(parent / f"orphans of {part}")
    pid_file = system.directory / "run" / f"{part}.pid"
    killed_start(system.directory, pid_file.exists, *exports_words)
    left = json.loads(pid_file.read_text())["pid"]
    try:
        again = system.dev("start")
        assert again.status == 0, again.errors
        assert system.status() == ALL
        assert system.pid(part) != left
        assert system.shell("echo hello > file\ngpg --batch --yes --detach-sign file\n").returncode == 0
    finally:
        assert system.dev("stop").status == 0


def test_a_directory_that_is_counted_from_one_that_is_gone_is_told_as_such(tmp_path: Path) -> None:
    for command in ("start", "env", "status", "stop"):
        (tmp_path / "gone").mkdir()
        with contextlib.chdir(tmp_path), contextlib.chdir("gone"):
            (tmp_path / "gone").rmdir()
            result = blind_oracle("dev", command, "d")
            os.chdir(tmp_path)
        assert result.status == 1
        assert "d: the working directory is gone" in result.errors


def test_a_directory_that_a_link_to_itself_names_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    result = blind_oracle("dev", "start", tmp_path / "loop" / "d")
    assert result.status == 1
    assert "a symbolic link in it leads to itself" in result.errors

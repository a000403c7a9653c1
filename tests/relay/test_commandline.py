"""`blind-oracle-relay` as an operator meets it: real processes, real gpg."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.oracle_messages import Rejected
from agentproxy.protocol.relay_messages import Hello
from agentproxy.protocol.times import format_time
from agentproxy.runtime.lockfile import held
from relay.commandline import run_command
from relay.config import load_config
from relay.enrolment import read_enrolment
from tests.relay.conftest import TOKEN, Runner, lasting, run_gpg

ROOT = Path(__file__).parents[2]
START_SECONDS = 20.0
BOOTSTRAP = "bo_" + "b" * 43


def enrolment(runner: Runner, /, **changed: object) -> Path:
    issued = runner.authority.issue_cert("b1")
    token = str(changed.get("token", BOOTSTRAP))
    runner.oracle.bootstraps[token] = lasting(runner, TOKEN if token == BOOTSTRAP else token.replace("u", "v"))
    content = {
        "format": "blind-oracle enrolment 1",
        "runner": "b1",
        "oracles": [{"address": f"127.0.0.1:{runner.oracle.port or 7443}", "server_name": "localhost"}],
        "authority": runner.authority.cert_pem.bytes().decode(),
        "certificate": issued.cert_chain_pems[0].bytes().decode(),
        "private_key": issued.private_key_pem.bytes().decode(),
        "token": BOOTSTRAP,
        "expires": format_time(datetime.now(UTC) + timedelta(days=30)),
        **changed,
    }
    file = runner.directory / "b1.enrolment"
    file.write_text(json.dumps(content))
    return file


def environment(runner: Runner) -> dict[str, str]:
    config = str(runner.directory / "relay" / "relay.yaml")
    return {**os.environ, "PYTHONPATH": str(ROOT), "BLIND_ORACLE_RELAY_CONFIG": config, "LC_ALL": "C"}


def relay_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "relay.cli", *words]


async def command(runner: Runner, *words: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(30):
        return await trio.run_process(
            relay_command(*words), capture_stdout=True, capture_stderr=True, check=False, env=environment(runner)
        )


@asynccontextmanager
async def relay_process(runner: Runner) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run the relay as systemd would, and go on when it says that it is ready."""
    path = str(runner.directory / "notify")
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        await notified.bind(path)
        variables = {**environment(runner), "NOTIFY_SOCKET": path}
        process = await trio.lowlevel.open_process(relay_command("serve"), env=variables, stderr=subprocess.DEVNULL)
        try:
            with trio.fail_after(START_SECONDS):
                assert b"READY=1" in await notified.recv(4096)
            yield process
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                assert await process.wait() == 0
            Path(path).unlink()


def agent_socket(home: Path) -> Path:
    command = ["gpgconf", "--homedir", str(home), "--list-dirs", "agent-socket"]
    return Path(subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip())


async def test_enrol_serve_setup_sign_and_status(runner: Runner) -> None:
    runner.oracle.certificates = {
        str(facts.fingerprint): run_gpg(runner.home, "--export", str(facts.fingerprint)).stdout
        for facts in runner.keys.facts.values()
    }
    home = runner.directory / "relay" / "gnupg"
    async with runner.running_oracle():
        enrolled = await command(runner, "enroll", str(enrolment(runner)))
        assert enrolled.returncode == 0, enrolled.stderr
        async with relay_process(runner):
            made = await command(runner, "setup")
            assert made.returncode == 0, made.stderr
            again = await command(runner, "setup")
            assert again.stdout == made.stdout
            signed = await trio.run_process(
                ["gpg", "--homedir", str(home), "--batch", "-u", "rsa@example.org", "-o", "-", "--detach-sign"],
                stdin=b"package", capture_stdout=True, capture_stderr=True,
            )  # fmt: skip
            assert signed.stderr == b""
            status = await command(runner, "status", "--last")
            plain = await command(runner, "status", "--json", "--last", "1")

    assert await runner.verifies(signed.stdout)
    assert b"%_gpg_path" in made.stdout
    assert status.returncode == 0
    assert b"connected to node-a" in status.stdout
    assert b"signed rsa" in status.stdout
    assert json.loads(plain.stdout)["last"][0]["outcome"] == "signed"


async def test_a_deleted_link_heals_itself_and_a_stopped_relay_fails_at_once(runner: Runner) -> None:
    home = runner.directory / "relay" / "gnupg"
    runner.oracle.certificates = {
        str(facts.fingerprint): run_gpg(runner.home, "--export", str(facts.fingerprint)).stdout
        for facts in runner.keys.facts.values()
    }
    sign = ["gpg", "--homedir", str(home), "--batch", "-u", "rsa@example.org", "-o", "-", "--detach-sign"]
    link = agent_socket(home)
    async with runner.running_oracle():
        await command(runner, "enroll", str(enrolment(runner)))
        async with relay_process(runner):
            await command(runner, "setup")
            link.unlink()
            signed = await trio.run_process(sign, stdin=b"x", capture_stdout=True, capture_stderr=True, check=False)
            assert signed.returncode == 0, signed.stderr
        with trio.fail_after(10):
            stopped = await trio.run_process(sign, stdin=b"x", capture_stdout=True, capture_stderr=True, check=False)

    assert stopped.returncode == 2
    assert stopped.stdout == b""


async def test_a_second_relay_with_the_same_state_is_refused(runner: Runner) -> None:
    async with runner.running_oracle():
        await command(runner, "enroll", str(enrolment(runner)))
        async with relay_process(runner):
            second = await command(runner, "serve")

    assert second.returncode == 1
    assert b"blind-oracle-relay: error: " in second.stderr
    assert b"another relay works here" in second.stderr


def credentials(runner: Runner) -> Path:
    return runner.directory / "relay" / "state" / "credentials"


def token_in_use(runner: Runner) -> str:
    return (credentials(runner) / "current" / "token").read_text().strip()


def hellos(runner: Runner) -> list[str]:
    return [message.token for message in runner.oracle.received if isinstance(message, Hello)]


async def test_an_enrolment_file_is_exchanged_for_lasting_credentials_which_are_used_at_once(runner: Runner) -> None:
    async with runner.running_oracle():
        enrolled = await command(runner, "enroll", str(enrolment(runner)))

    assert enrolled.returncode == 0, enrolled.stderr
    assert hellos(runner) == [BOOTSTRAP, TOKEN]
    assert token_in_use(runner) == TOKEN
    everything = b"".join(file.read_bytes() for file in runner.directory.glob("relay/**/*") if file.is_file())
    assert BOOTSTRAP.encode() not in everything
    assert TOKEN.encode() not in enrolled.stdout + enrolled.stderr


async def test_the_credentials_are_for_the_relay_alone(runner: Runner) -> None:
    async with runner.running_oracle():
        await command(runner, "enroll", str(enrolment(runner)))

    current = credentials(runner) / "current"
    modes = {name: stat.S_IMODE((current / name).stat().st_mode) for name in ("client.key", "token")}
    assert modes == {"client.key": 0o600, "token": 0o600}
    assert stat.S_IMODE(credentials(runner).stat().st_mode) == 0o700
    assert len(list(credentials(runner).iterdir())) == 2
    assert not list(credentials(runner).parent.glob(".enrol*"))


async def test_of_two_enrolments_at_once_one_is_refused_before_it_asks_the_oracle(runner: Runner) -> None:
    state = runner.directory / "relay" / "state"
    state.mkdir(parents=True)
    async with runner.running_oracle():
        file = enrolment(runner)
        with held(state / "enroll.lock", "enrolment"):
            second = await command(runner, "enroll", str(file))
        assert second.returncode == 1
        assert f"another enrolment works here, pid {os.getpid()}".encode() in second.stderr
        assert not credentials(runner).exists()
        assert runner.oracle.connections == 0
        assert (await command(runner, "enroll", str(file))).returncode == 0


async def test_what_a_killed_enrolment_left_goes_with_the_next_one(runner: Runner) -> None:
    left = runner.directory / "relay" / "state" / ".enrolment.0123"
    left.mkdir(parents=True)
    (left / "token").write_text(BOOTSTRAP)
    async with runner.running_oracle():
        assert (await command(runner, "enroll", str(enrolment(runner)))).returncode == 0
    assert not left.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
async def test_what_root_enrols_belongs_to_the_owner_of_the_state_directory(runner: Runner) -> None:
    state = runner.directory / "relay" / "state"
    state.mkdir(parents=True)
    os.chown(state, 12_345, 12_345)
    async with runner.running_oracle():
        assert (await command(runner, "enroll", str(enrolment(runner)))).returncode == 0
    assert {one.lstat().st_uid for one in state.rglob("*") if not one.is_symlink()} == {12_345}
    assert (state / "enroll.lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root follows where somebody else leads")
async def test_a_link_of_the_relay_s_user_leads_root_s_enrolment_nowhere(runner: Runner, tmp_path: Path) -> None:
    state, others = runner.directory / "relay" / "state", tmp_path / "others"
    state.mkdir(parents=True)
    others.mkdir()
    (others / "precious").mkdir()
    credentials(runner).symlink_to(others)
    for path in (state, credentials(runner)):
        os.chown(path, 12_345, 12_345, follow_symlinks=False)
    async with runner.running_oracle():
        refused = await command(runner, "enroll", str(enrolment(runner)))
        assert runner.oracle.connections == 0
    assert refused.returncode == 1
    assert b"credentials: a symbolic link of uid 12345" in refused.stderr
    assert [one.name for one in others.iterdir()] == ["precious"]


async def test_an_enrolment_takes_away_credentials_and_nothing_else(runner: Runner) -> None:
    credentials(runner).mkdir(parents=True)
    (credentials(runner) / "precious").mkdir()
    (credentials(runner) / "0123456789abcdef").mkdir()
    async with runner.running_oracle():
        assert (await command(runner, "enroll", str(enrolment(runner)))).returncode == 0
    assert (credentials(runner) / "precious").exists()
    assert not (credentials(runner) / "0123456789abcdef").exists()


async def test_paths_of_any_characters_can_be_enrolled_and_those_that_are_no_text_are_refused(runner: Runner) -> None:
    async with runner.running_oracle():
        file = enrolment(runner)
        refused = await command(runner, "enroll", str(file), "--state", f"{runner.directory}/\udcff")
        assert refused.returncode == 1
        assert rb"/\xff/credentials/current/authority.crt: is no UTF-8" in refused.stderr
        assert runner.oracle.connections == 0
        state = runner.directory / "\U0001f600 \u00f6" / "state"
        done = await command(runner, "enroll", str(file), "--state", str(state))
        assert done.returncode == 0, done.stderr
    assert load_config(runner.directory / "relay" / "relay.yaml").state == state


async def test_another_enrolment_needs_replace(runner: Runner) -> None:
    async with runner.running_oracle():
        await command(runner, "enroll", str(enrolment(runner)))
        same = await command(runner, "enroll", str(enrolment(runner)))
        other = enrolment(runner, token="bo_" + "u" * 43)
        refused = await command(runner, "enroll", str(other))
        replaced = await command(runner, "enroll", "--replace", str(other))

    assert same.returncode == 0
    assert refused.returncode == 1
    assert b"enrolled already" in refused.stderr
    assert b"hint: add --replace" in refused.stderr
    assert replaced.returncode == 0
    assert token_in_use(runner) == "bo_" + "v" * 43


async def test_what_an_operator_wrote_into_the_configuration_is_kept_beside_the_new_one(runner: Runner) -> None:
    config = runner.directory / "relay" / "relay.yaml"
    async with runner.running_oracle():
        await command(runner, "enroll", str(enrolment(runner)))
        written = config.read_text()
        mine = f"{written}metrics:\n  listen: 127.0.0.1:0\n"
        config.write_text(mine)
        config.chmod(0o640)
        done = await command(runner, "enroll", str(enrolment(runner)))
        again = await command(runner, "enroll", str(enrolment(runner)))

    (kept,) = config.parent.glob("relay.yaml.*")
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == (mine, 0o640)
    assert config.read_text() == written
    assert f"what that was is in {kept}: ".encode() in done.stdout
    assert again.returncode == 0
    assert b"what that was" not in again.stdout


async def test_without_an_oracle_nothing_is_enrolled_and_the_file_stays_good(runner: Runner) -> None:
    async with runner.running_oracle():
        file = enrolment(runner)
    away = await command(runner, "enroll", str(file))
    assert away.returncode == 1
    assert b"no oracle in reach: 127.0.0.1:" in away.stderr
    assert b"hint: " in away.stderr
    assert not (runner.directory / "relay" / "relay.yaml").exists()
    assert not credentials(runner).exists()
    async with runner.running_oracle():
        assert (await command(runner, "enroll", str(file))).returncode == 0


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        (
            RejectionCode.TOKEN_REVOKED,
            b"this token was revoked",
            b"a file works once and for a day; a new one: blind-oracle runner enroll b1",
        ),
        # Another file would be refused as well: the policy was not reloaded yet, or the runner is not enabled.
        (
            RejectionCode.RUNNER_UNKNOWN,
            b"policy does not name this runner",
            b"blind-oracle reload, on the oracle's host",
        ),
        (RejectionCode.RUNNER_DISABLED, b"has this runner disabled", b"blind-oracle runner enable b1, on the oracle's"),
        (RejectionCode.NOT_OPERATIONAL, b"the oracle is not operational", b"its log has the reason; then this file"),
    ],
)
async def test_a_file_that_the_oracle_does_not_take_says_what_to_ask_for(
    runner: Runner, code: RejectionCode, reason: bytes, hint: bytes
) -> None:
    async with runner.running_oracle():
        file = enrolment(runner)
        runner.oracle.bootstraps.clear()
        runner.oracle.rejection = Rejected(code)
        refused = await command(runner, "enroll", str(file))

    assert refused.returncode == 1
    assert b"the oracle does not take this enrolment file: " in refused.stderr
    assert reason in refused.stderr
    assert b"hint: " + hint in refused.stderr
    assert not credentials(runner).exists()


async def test_killed_between_storing_and_using_enrolment_goes_on_where_it_was(runner: Runner) -> None:
    async with runner.running_oracle():
        file = enrolment(runner)
        runner.oracle.rejection = Rejected(RejectionCode.NOT_OPERATIONAL)  # of what the new credentials are used for
        assert (await command(runner, "enroll", str(file))).returncode == 1
        assert token_in_use(runner) == TOKEN
        runner.oracle.bootstraps.clear()  # the oracle took the new ones as used: the file is dead
        said = len(runner.oracle.received)
        still = await command(runner, "enroll", str(file))
        assert b"the credentials are stored, and not used yet: the oracle is not operational" in still.stderr
        hellos = [message for message in runner.oracle.received[said:] if isinstance(message, Hello)]
        assert {message.token for message in hellos} == {TOKEN}  # a dead file that is used would be reported
        runner.oracle.rejection = None
        again = await command(runner, "enroll", str(file))

    assert again.returncode == 0, again.stderr
    assert token_in_use(runner) == TOKEN
    assert (runner.directory / "relay" / "relay.yaml").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": "blind-oracle enrolment 2"}, b"format"),
        ({"expires": "2020-01-01T00:00:00.000000Z"}, b"expired on 2020-01-01"),
        ({"private_key": "nothing"}, b"the enrolment file is damaged"),
        ({"authority": "nothing"}, b"the enrolment file is damaged"),
        ({"oracles": []}, b"oracles: expected at least one"),
        ({"extra": 1}, b"extra"),
        ({"runner": "../b1"}, b"runner"),
    ],
)
async def test_a_bad_enrolment_file_is_refused_and_leaves_nothing(
    runner: Runner, changed: dict[str, object], words: bytes
) -> None:
    refused = await command(runner, "enroll", str(enrolment(runner, **changed)))

    assert refused.returncode == 1
    assert words in refused.stderr
    assert TOKEN.encode() not in refused.stderr
    assert not (runner.directory / "relay" / "relay.yaml").exists()
    assert not credentials(runner).exists()


async def test_without_a_relay_status_says_so(runner: Runner) -> None:
    async with runner.running_oracle():
        await command(runner, "enroll", str(enrolment(runner)))
    status = await command(runner, "status")

    assert status.returncode == 1
    assert b"no relay runs here" in status.stderr
    assert b"hint: blind-oracle-relay serve" in status.stderr


@pytest.mark.parametrize("name", ["token", "client.key", "client.crt", "authority.crt"])
async def test_without_a_part_of_its_credentials_serve_says_how_to_get_others(runner: Runner, name: str) -> None:
    async with runner.running_oracle():
        assert (await command(runner, "enroll", str(enrolment(runner)))).returncode == 0
    (credentials(runner) / "current" / name).unlink()
    served = await command(runner, "serve")
    assert served.returncode == 1
    assert f"{name}: cannot be read".encode() in served.stderr
    assert b"hint: blind-oracle runner enroll b1 on the oracle's host" in served.stderr
    assert b"blind-oracle-relay enroll FILE --replace" in served.stderr


async def test_without_a_configuration_serve_says_what_to_do(runner: Runner) -> None:
    served = await command(runner, "serve")

    assert served.returncode == 1
    assert b"relay.yaml: cannot be read" in served.stderr
    assert b"hint: blind-oracle-relay enroll FILE" in served.stderr


async def test_wrong_usage_has_a_status_of_its_own(runner: Runner) -> None:
    assert (await command(runner, "frobnicate")).returncode == 2
    assert (await command(runner, "serve", "--frobnicate")).returncode == 2


@pytest.mark.parametrize("reason", ["", "  "])
def test_no_switch_is_made_for_no_reason(reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `--reason "$UNSET"` leaves it; records and colleagues would have nothing."""
    words = ("fallback", "on", "--for", "1h", "--reason", reason, "--config", str(tmp_path / "none.yaml"))
    assert run_command(list(words)) == 2
    assert "Invalid value for '--reason': expected why, got an empty text" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["fallback"]])
def test_a_group_without_a_command_prints_its_help_and_calls_nothing_an_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(" ".join(["Usage: blind-oracle-relay", *words]))
    assert "error:" not in shown.err


def test_the_shim_is_clean_posix_shell() -> None:
    subprocess.run(["shellcheck", "-s", "sh", ROOT / "relay" / "agent-shim"], check=True)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("> /dev/full", "blind-oracle-relay: error: standard output: No space left on device\n"),
        ("| true", ""),
    ],
)
def test_output_that_nobody_takes_ends_without_a_traceback(output: str, said: str) -> None:
    program = f"{sys.executable} -m relay.cli"
    script = f"for word in --help 'setup --help' 'enroll --help'; do {program} $word {output}; done"
    done = subprocess.run(["bash", "-c", script], stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.stderr == said * 3


@pytest.mark.parametrize(
    "words", ["--help", "doctor", "setup", "fallback verify", "key-for el10", "enroll b1.enrolment"]
)
def test_a_closed_output_is_one_line_and_nothing_is_done(words: str, tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "BLIND_ORACLE_RELAY_CONFIG": str(tmp_path / "none.yaml")}
    script = f'exec "$0" -m relay.cli {words} >&-'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable],
        stderr=subprocess.PIPE, text=True, check=False, timeout=60, cwd=tmp_path, env=variables,
    )  # fmt: skip
    first, _ = done.stderr.splitlines()
    assert (done.returncode, first) == (1, "blind-oracle-relay: error: standard output is closed")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_locale_cannot_write_is_escaped_and_ends_nothing(tmp_path: Path) -> None:
    words = relay_command("doctor", "--no-sign", "--home", str(tmp_path), "--config", str(tmp_path / "\u6f22.yaml"))
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(words, env=variables, capture_output=True, timeout=START_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"BAD     configuration: " in done.stdout
    assert rb"\u6f22.yaml: cannot be read" in done.stdout


@pytest.mark.parametrize("options", [(), ("--home", "gnupg")])
def test_the_doctor_sees_also_a_user_without_a_home_directory(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)  # a user id of no account, which is usual in a container
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("GNUPGHOME", raising=False)
    status = run_command(["doctor", "--no-sign", "--config", str(tmp_path / "none.yaml"), *options])
    shown = capsys.readouterr()
    assert status == (1 if options else 2), shown
    assert ("--home is needed: there is no home directory" in shown.err) == (not options)


def test_the_relay_may_be_started_with_a_closed_output(tmp_path: Path) -> None:
    script = f'exec "$0" -m relay.cli serve --config {tmp_path}/none.yaml >&-'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable], stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "none.yaml: cannot be read" in done.stderr


def test_a_file_that_is_no_enrolment_file_is_told_with_who_makes_one(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("some text\n")
    with pytest.raises(ConfigError) as caught:
        read_enrolment(tmp_path / "notes")
    assert str(tmp_path / "notes") in str(caught.value)
    assert "no enrolment file: blind-oracle runner add makes one" in caught.value.hint

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from agentproxy.admin.cli import _COMMANDS
from tests.admin.shell import blind_oracle


def test_help_names_every_command_and_imports_none_of_them() -> None:
    script = (
        "import sys\nfrom agentproxy.admin.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code, end\n"
        "heavy = {'trio', 'cryptography', 'sqlalchemy', 'yaml', 'rich', 'gnupg'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    for name in ("init", "key", "runner", "serve", "audit", "dev"):
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize(
    "words", [["init"], ["key"], ["key", "import"], ["runner", "add"], ["serve"], ["audit", "tail"], ["dev", "start"]]
)
def test_every_command_has_help(words: list[str]) -> None:
    result = blind_oracle(*words, "--help")
    assert result.status == 0, result.errors
    assert result.output.startswith(f"Usage: blind-oracle {' '.join(words)}")


def test_an_oracle_that_systemd_ends_while_it_starts_has_not_failed(short: Path) -> None:
    assert blind_oracle("init", short / "s").status == 0
    config = short / "s" / "oracle.yaml"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a database that takes connections and says nothing
        words = f"host=127.0.0.1 port={silent.getsockname()[1]} dbname=none"
        (line,) = (line for line in config.read_text().splitlines() if line.startswith("registry:"))
        config.write_text(config.read_text().replace(line, f'registry_database: "{words}"'))
        command = [sys.executable, "-m", "agentproxy.admin", "serve", "--config", str(config)]
        with subprocess.Popen(command) as oracle:
            try:
                silent.settimeout(60)
                asking, _ = silent.accept()
                oracle.send_signal(signal.SIGTERM)
                with asking:
                    assert oracle.wait(60) == -signal.SIGTERM
            finally:
                oracle.kill()


def test_ctrl_c_before_a_command_has_begun_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    result = blind_oracle("runner", "list")
    assert (result.status, result.output, result.errors) == (130, "", "")


def test_what_is_not_for_us_is_no_traceback(tmp_path: Path) -> None:
    blind_oracle("dev", "status", tmp_path)  # all modules are imported now
    tmp_path.chmod(0)
    uid = os.geteuid()
    if uid == 0:  # who may enter everything
        os.seteuid(65534)
    try:
        result = blind_oracle("dev", "status", tmp_path)
    finally:
        os.seteuid(uid)
        tmp_path.chmod(0o700)
    assert result.status == 1
    assert result.errors.startswith("blind-oracle: error: ")
    assert "Permission denied" in result.errors


@pytest.mark.parametrize("words", [["no-such-command"], ["init"], ["init", "a", "b"], ["init", "--no-such", "a"]])
def test_wrong_usage_has_a_status_of_its_own_and_a_hint(words: list[str]) -> None:
    result = blind_oracle(*words)
    assert result.status == 2
    assert result.output == ""
    assert result.errors.startswith("blind-oracle: error: ")
    assert "blind-oracle: hint: blind-oracle" in result.errors


@pytest.mark.parametrize("words", [[], ["key"], ["audit"], ["dev"]])
def test_a_group_without_a_command_prints_its_help_and_calls_nothing_an_error(words: list[str]) -> None:
    result = blind_oracle(*words)
    assert (result.status, result.output) == (2, "")
    assert result.errors.startswith(" ".join(["Usage: blind-oracle", *words]))
    assert "error:" not in result.errors


def test_an_error_is_words_and_a_hint_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = blind_oracle("init", tmp_path)
    assert result.status == 1
    assert result.errors == (
        f"blind-oracle: error: {tmp_path}: expected an empty directory or nothing\n"
        "blind-oracle: hint: choose another, or empty it first\n"
    )


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    shown = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m agentproxy.admin init --help | true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ,
    )
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete -o nosort"), ("zsh", "#compdef"), ("fish", "complete --")]
)
def test_each_shell_gets_its_script(shell: str, words: str) -> None:
    result = blind_oracle("completion", shell)
    assert result.status == 0, result.errors
    assert words in result.output
    assert "blind-oracle" in result.output
    assert blind_oracle("completion", "tcsh").status == 2


def test_fish_describes_each_command_in_whole(tmp_path: Path) -> None:
    program = tmp_path / "blind-oracle"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentproxy.admin "$@"\n')
    program.chmod(0o755)
    script = blind_oracle("completion", "fish").output + '\ncomplete -C "blind-oracle "\n'
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(["fish", "-c", script], env=env, capture_output=True, text=True, check=True, timeout=60)
    told = dict(line.split("\t") for line in done.stdout.splitlines())
    described = {name: summary for name, (_, summary) in _COMMANDS.items() if "," in summary}
    assert described
    assert {name: told[name] for name in described} == described


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("blind-oracle po", {"policy"}),
        ("blind-oracle key ex", {"export"}),
        ("blind-oracle policy check --js", {"--json"}),
    ],
)
def test_bash_completes_commands_and_options(line: str, expected: set[str]) -> None:
    script = blind_oracle("completion", "bash").output.replace("$1", f"{sys.executable} -m agentproxy.admin")
    place = len(line.split()) - 1
    script += (
        f"\nCOMP_WORDS=({line}); COMP_CWORD={place}; _blind_oracle_completion blind-oracle; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) == expected, done.stderr


def test_the_page_of_exit_statuses_names_real_commands() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "OPERATIONS.md").read_text()
    commands = re.findall(r"^\| `blind-oracle ([a-z ]+)` \|", page, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        assert blind_oracle(*command.split(), "--help").status == 0


def test_no_option_takes_a_secret() -> None:
    options = {
        option
        for module, _ in _COMMANDS.values()
        for each in _commands(importlib.import_module(f"agentproxy.admin.commands.{module}").command)
        for parameter in each.params
        for option in parameter.opts
    }
    secret = {option for option in options if re.search("^-.*(pass|secret|token|private)", option)}
    assert secret <= {"--passphrase-file"}


def _commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _commands(each)


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "agentproxy.admin", "completion", "bash"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "blind-oracle: error: standard output: No space left on device\n")


def with_closed_output(words: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'exec "$0" -m agentproxy.admin {words} >&-', sys.executable]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60, cwd=directory)


@pytest.mark.parametrize("words", ["completion bash", "audit export", "audit query --csv", "audit export --position p"])
def test_a_closed_output_is_one_line_and_nothing_is_done(tmp_path: Path, words: str) -> None:
    done = with_closed_output(words, tmp_path)
    first, _ = done.stderr.splitlines()
    assert (done.returncode, first) == (1, "blind-oracle: error: standard output is closed")
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_may_be_started_with_a_closed_output(tmp_path: Path) -> None:
    done = with_closed_output("serve --config none.yaml", tmp_path)
    assert done.returncode == 1
    assert "none.yaml" in done.stderr

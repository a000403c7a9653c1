import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("words", [["no-such-command"], ["init"], ["init", "a", "b"], ["init", "--no-such", "a"]])
def test_wrong_usage_has_a_status_of_its_own_and_a_hint(words: list[str]) -> None:
    result = blind_oracle(*words)
    assert result.status == 2
    assert result.output == ""
    assert result.errors.startswith("blind-oracle: error: ")
    assert "blind-oracle: hint: blind-oracle" in result.errors


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

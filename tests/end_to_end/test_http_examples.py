"""docs/HTTP-API.md, as somebody with a shell and curl would try it."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.shell import blind_oracle
from tests.end_to_end.place import SECONDS

PAGE = Path(__file__).parents[2] / "docs" / "HTTP-API.md"
_BLOCK = re.compile(r"^```(sh|json|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = "=== the next example ==="


@pytest.fixture(name="answers", scope="module")
def run_examples() -> Iterator[list[str]]:
    """What each shell example prints, all in one shell, as the page reads."""
    examples = [text for kind, text in _BLOCK.findall(PAGE.read_text()) if kind == "sh"]
    with tempfile.TemporaryDirectory(prefix="bo", dir="/tmp", ignore_cleanup_errors=True) as name:
        directory = Path(name) / "dev"
        script = "".join(f"{text}\necho '{MARK}'\n" for text in examples)
        environment = {
            **os.environ,
            "DIR": str(directory),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        command = ["bash", "-eu", "-o", "pipefail", "-c", script]
        try:
            done = subprocess.run(
                command, cwd=name, env=environment, capture_output=True, text=True, timeout=2 * SECONDS, check=False
            )
        finally:
            assert blind_oracle("dev", "stop", directory).status == 0
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr.count("Good signature") == 2
        yield done.stdout.split(f"{MARK}\n")[:-1]


def pairs() -> list[tuple[int, str, str]]:
    """The examples that an answer follows: the example's number, the answer's kind, the answer."""
    found: list[tuple[int, str, str]] = []
    number = -1
    for kind, text in _BLOCK.findall(PAGE.read_text()):
        if kind == "sh":
            number += 1
        else:
            found.append((number, kind, text))
    return found


def shape(value: object) -> object:
    """An answer without what differs from one time to the next: the names of its fields, and the kinds of values."""
    if isinstance(value, dict):
        return {name: shape(field) for name, field in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]] if value and isinstance(value[0], str) else list(map(shape, value))
    return type(value).__name__


FIXED = (
    "signed",
    "key",
    "code",
    "type",
    "title",
    "status",
    "node",
    "checks",
    "api",
    "distributions",
    "key_type",
    "field",
)


def fixed(value: object) -> object:
    """What is always the same in an answer."""
    if isinstance(value, dict):
        return {name: field if name in FIXED else fixed(field) for name, field in value.items()}
    return list(map(fixed, value)) if isinstance(value, list) else None


@pytest.mark.parametrize(("number", "kind", "shown"), pairs())
def test_an_example_answers_what_the_page_shows(answers: list[str], number: int, kind: str, shown: str) -> None:
    got = answers[number]
    if kind == "text":
        assert got.rstrip("\n") == shown.rstrip("\n")
        return
    told, wanted = json.loads(got), json.loads(shown)
    if "keys" in told:  # dev has two keys, the page shows one
        told["keys"] = told["keys"][:1]
    assert shape(told) == shape(wanted)
    assert fixed(told) == fixed(wanted)

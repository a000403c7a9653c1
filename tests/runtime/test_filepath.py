"""Paths on command lines."""

from pathlib import Path

import click
import pytest

from agentproxy.runtime.filepath import FilePath


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert FilePath().convert("a/b", None, None) == Path("a/b")
    assert FilePath(exists=True, file_okay=False).convert(tmp_path, None, None) == tmp_path


def test_an_empty_text_is_not_the_current_directory() -> None:
    with pytest.raises(click.BadParameter, match="expected a path, got an empty text"):
        FilePath().convert("", None, None)


def test_what_is_there_must_be_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="is a directory"):
        FilePath(dir_okay=False).convert(str(tmp_path), None, None)

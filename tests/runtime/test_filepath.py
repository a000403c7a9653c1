"""Paths on command lines."""

from pathlib import Path

import click
import pytest

from agentproxy.runtime.filepath import FilePath


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert FilePath().convert("a/b", None, None) == Path("a/b")
    assert FilePath(exists=True, file_okay=False).convert(tmp_path, None, None) == tmp_path


def test_where_nothing_is_to_be_looked_at_nothing_is(tmp_path: Path) -> None:
    assert FilePath(readable=False).convert(f"{tmp_path}/\0", None, None) == Path(f"{tmp_path}/\0")


def test_an_empty_text_is_not_the_current_directory() -> None:
    with pytest.raises(click.BadParameter, match="expected a path, got an empty text"):
        FilePath().convert("", None, None)


def test_what_is_there_must_be_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="is a directory"):
        FilePath(dir_okay=False).convert(str(tmp_path), None, None)

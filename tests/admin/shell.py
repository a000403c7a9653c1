"""Runs the command line as an operator does, without the second that a new interpreter needs to import everything."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from agentproxy.admin.cli import main

__all__ = ["Result", "blind_oracle"]


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    output: str
    errors: str


def blind_oracle(*words: str | Path, environment: Mapping[str, str] | None = None) -> Result:
    output, errors = io.StringIO(), io.StringIO()
    status: object = None
    with redirect_stdout(output), redirect_stderr(errors), _environment(environment or {}):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
    assert isinstance(status, int)
    return Result(status, output.getvalue(), errors.getvalue())


@contextmanager
def _environment(also: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name.startswith("BLIND_ORACLE_"):
            del os.environ[name]
    os.environ.update(also)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

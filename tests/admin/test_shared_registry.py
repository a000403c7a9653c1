"""A registry in a PostgreSQL server, by the operator's commands alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.shell import blind_oracle
from tests.oracle.postgresql import Server, server


@pytest.fixture(scope="module", name="postgresql")
def running() -> Iterator[Server]:
    with server() as made:
        yield made


def node(directory: Path, name: str, words: str) -> dict[str, str]:
    made = blind_oracle("init", directory, "--node", name, "--registry-database", words)
    assert made.status == 0, made.errors
    assert not (directory / "oracle" / "registry.sqlite").exists()
    return {"BLIND_ORACLE_CONFIG": str(directory / "oracle.yaml")}


def test_a_runner_that_one_node_adds_and_disables_is_so_for_the_other(short: Path, postgresql: Server) -> None:
    words = postgresql.new_database()
    first, second = node(short / "a", "n1", words), node(short / "b", "n2", words)
    added = blind_oracle("runner", "add", "build-01", "--output", short / "enrolment", environment=first)
    assert added.status == 0, added.errors
    assert "build-01" in blind_oracle("runner", "list", environment=second).output
    assert blind_oracle("runner", "disable", "build-01", environment=second).status == 0
    assert "disabled" in blind_oracle("runner", "list", environment=first).output
    for environment in (first, second):
        assert blind_oracle("audit", "verify", environment=environment).status == 0


def test_a_server_out_of_reach_is_said_with_what_to_try(short: Path) -> None:
    made = blind_oracle("init", short / "s", "--registry-database", f"host={short} dbname=none")
    assert made.status == 1
    assert "cannot be reached" in made.errors
    assert "hint: psql with the same words shows more" in made.errors
    assert not (short / "s").exists()


def test_a_password_on_the_command_line_is_refused(short: Path) -> None:
    made = blind_oracle("init", short / "s", "--registry-database", "host=db password=x")
    assert made.status == 1
    assert "without a password" in made.errors


def test_a_registry_moves_into_a_shared_database_by_the_replay_of_its_log(short: Path, postgresql: Server) -> None:
    """As docs/OPERATIONS.md, Several oracles, tells it."""
    assert blind_oracle("init", short / "a", "--node", "n1").status == 0
    first = {"BLIND_ORACLE_CONFIG": str(short / "a" / "oracle.yaml")}
    for name in ("build-01", "build-02"):
        assert blind_oracle("runner", "add", name, "--output", short / name, environment=first).status == 0
    assert blind_oracle("runner", "disable", "build-02", environment=first).status == 0

    words = postgresql.new_database()
    second = node(short / "b", "n2", words)
    config = short / "a" / "oracle.yaml"
    (line,) = (line for line in config.read_text().splitlines() if line.startswith("registry:"))
    config.write_text(config.read_text().replace(line, f'registry_database: "{words}"'))
    assert "build-01" not in blind_oracle("runner", "list", environment=second).output

    assert blind_oracle("runner", "add", "build-03", "--output", short / "3", environment=first).status == 0
    listed = blind_oracle("runner", "list", "--json", environment=second)
    assert [(row["name"], row["state"]) for row in json.loads(listed.output)] == [
        ("build-01", "waiting"), ("build-02", "disabled"), ("build-03", "waiting"),
    ]  # fmt: skip

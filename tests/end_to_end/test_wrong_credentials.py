"""A relay with somebody else's credentials gets nothing, and its log says which of them was wrong."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.enrolment import Enrolment, enrol, places_for, read_enrolment
from tests.admin.shell import blind_oracle
from tests.end_to_end.place import SECONDS, System, until

Files = Mapping[str, str]


def enrolled(directory: Path, name: str, keys: tuple[str, ...]) -> Enrolment:
    """A runner that the operator of the oracle in `directory` adds."""
    config = {"BLIND_ORACLE_CONFIG": str(directory / "oracle.yaml")}
    with tempfile.TemporaryDirectory(prefix="bo") as scratch:
        file = Path(scratch) / "enrolment"
        result = blind_oracle("runner", "add", name, *keys, "--output", file, environment=config)
        assert result.status == 0, result.errors
        return read_enrolment(file)


@pytest.fixture(name="other", scope="module")
def another_runner(made: System, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The lasting credentials of a second runner of the same oracle."""
    places = places_for(tmp_path_factory.mktemp("other") / "relay.yaml")
    enrolment = enrolled(made.directory, "other", ("--key=modern", "--policy-add"))
    made.reload_policy()
    enrol(enrolment, places, replace=False)
    return {file.name: file.read_text() for file in (places.state / "credentials" / "current").iterdir()}


@pytest.fixture(name="stranger", scope="module")
def runner_of_another_oracle(tmp_path_factory: pytest.TempPathFactory) -> Enrolment:
    directory = tmp_path_factory.mktemp("elsewhere") / "state"
    assert blind_oracle("init", directory).status == 0
    return enrolled(directory, "dev", ())


@contextmanager
def relay_with(system: System, files: Files) -> Iterator[Path]:
    """The relay with other credentials and little patience; yields its log."""
    directory = system.directory / "relay"
    credentials = directory / "state" / "credentials" / "current"
    impatient = (directory / "relay.yaml").read_text().replace("seconds: 10", "seconds: 2")
    changed = {directory / "relay.yaml": impatient, **{credentials / name: text for name, text in files.items()}}
    kept = {file: file.read_text() for file in changed}
    system.stop("relay")
    log = system.directory / "log" / "wrong.log"
    try:
        for file, text in changed.items():
            file.write_text(text)
        with log.open("wb") as output, subprocess.Popen(
            [sys.executable, "-m", "relay.cli", "serve"], env=system.environment, stderr=output
        ) as relay:  # fmt: skip
            try:
                until(lambda: "no connection to the oracle" in log.read_text(), "the relay has tried")
                yield log
            finally:
                relay.terminate()
                relay.wait(SECONDS)
    finally:
        for file, text in kept.items():
            file.write_text(text)


def assert_nothing_is_signed(system: System, files: Files, words: str, reason: str) -> None:
    before = len(system.signed())
    with relay_with(system, files) as log:
        done = system.sign()
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stdout == ""
        assert reason in str(system.last()[0]["reason"])
        assert reason in log.read_text()
    assert len(system.signed()) == before
    system.start()
    assert system.sign().returncode == 0


def operator(system: System, *words: str) -> None:
    result = blind_oracle(*words, environment={"BLIND_ORACLE_CONFIG": str(system.directory / "oracle.yaml")})
    assert result.status == 0, result.errors


def test_the_token_of_another_runner(system: System, other: Files) -> None:
    reason = "token and certificate belong to two different runners"
    assert_nothing_is_signed(system, {"token": other["token"]}, "Forbidden", reason)
    assert "token_of_another_runner" in system.log("oracle")


def test_the_certificate_of_another_runner(system: System, other: Files) -> None:
    files = {name: other[name] for name in ("client.crt", "client.key")}
    assert_nothing_is_signed(system, files, "Forbidden", "token and certificate belong to two different runners")


def test_a_token_that_nobody_made(system: System) -> None:
    assert_nothing_is_signed(system, {"token": "bo_" + 43 * "A"}, "Forbidden", "the oracle does not know this token")


def test_the_certificate_of_another_oracle(system: System, stranger: Enrolment) -> None:
    files = {"client.crt": stranger.certificate, "client.key": stranger.private_key}
    assert_nothing_is_signed(system, files, "Network error", "the oracle does not know this certificate")


def test_an_oracle_of_another_authority(system: System, stranger: Enrolment) -> None:
    reason = "the certificate of the oracle is not good"
    assert_nothing_is_signed(system, {"authority.crt": stranger.authority}, "Network error", reason)


def test_a_disabled_runner_is_cut_off_and_comes_back(system: System) -> None:
    operator(system, "runner", "disable", "dev")
    try:
        until(lambda: not system.is_connected(), "the oracle cuts the connection")
        done = system.sign()
        assert done.returncode == 2
        assert "Forbidden" in done.stderr
        assert "the oracle's registry has this runner disabled" in str(system.last()[0]["reason"])
        assert "this runner disabled" in system.log("relay")
    finally:
        operator(system, "runner", "enable", "dev")
    until(lambda: system.sign().returncode == 0, "the runner is back")

"""From a CI job's rpmsign to the operator's question which job signed which package."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.shell import blind_oracle
from tests.end_to_end.offline import Offline
from tests.end_to_end.packages import build_packages
from tests.end_to_end.place import SECONDS, System, system_with

JOB = {
    "CI_PROJECT_PATH": "group/hello",
    "CI_PIPELINE_ID": "77",
    "CI_JOB_ID": "1234",
    "CI_JOB_URL": "https://gitlab.example.org/group/hello/-/jobs/1234",
    "CI_JOB_TOKEN": "glcbt-64_secret",
}


@pytest.fixture(name="made", scope="module")
def made_system(offline: Offline) -> Iterator[System]:
    with system_with({"modern": offline.exports["modern"]}) as system:
        system.wait_for_claims()
        yield system


def rpmsign_in_a_job(system: System, *packages: Path) -> subprocess.CompletedProcess[bytes]:
    macros = ("--define", "_gpg_name modern@example.org", "--define", "__gpg /usr/bin/gpg")
    return subprocess.run(
        ["rpmsign", *macros, "--addsign", *(path.name for path in packages)],
        cwd=packages[0].parent,
        env={**system.environment, **JOB},
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


def query(system: System, *words: str) -> list[dict[str, object]]:
    result = blind_oracle("audit", "query", system.audit, "--json", *words)
    assert result.status == 0, result.errors
    return [json.loads(line)["record"] for line in result.output.splitlines()]


def test_the_operator_finds_a_package_by_its_name_and_by_its_job(system: System, tmp_path: Path) -> None:
    packages = build_packages(tmp_path, ["hello", "world"])
    done = rpmsign_in_a_job(system, *packages)
    assert done.returncode == 0, done.stderr
    by_job = query(system, "--job", "1234")
    assert len(by_job) == 2
    (record,) = query(system, "--package", "hello")
    assert query(system, "--job", "project=group/hello", "--package", "hello-0:1.0-1.noarch") == [record]
    asserted = record["asserted"]
    assert isinstance(asserted, dict)
    assert asserted["channel"] == "relay/gpg"
    assert asserted["claims"]["file"] == str(packages[0])
    assert asserted["claims"]["package"] == "hello-0:1.0-1.noarch"
    assert asserted["claims"]["job"] == {
        "project": "group/hello",
        "pipeline": "77",
        "job": "1234",
        "url": "https://gitlab.example.org/group/hello/-/jobs/1234",
    }
    assert "secret" not in "".join(path.read_text() for path in system.audit.glob("*.jsonl"))
    system.assert_log_is_whole()


def test_status_shows_what_was_claimed(system: System, tmp_path: Path) -> None:
    (package,) = build_packages(tmp_path, ["shown"])
    assert rpmsign_in_a_job(system, package).returncode == 0
    shown = system.run("blind-oracle-relay", "status", "--last", "1").stdout
    assert "claimed package: shown-0:1.0-1.noarch" in shown
    assert f"claimed file: {package}" in shown
    assert "claimed job: project group/hello, pipeline 77, job 1234" in shown
    assert "by socket gpg" in shown
    assert "secret" not in shown

"""What oracle and operator learn of real callers."""

import os
import subprocess
from pathlib import Path

import pytest
import trio

from agentproxy.protocol.fields import Claims
from relay.sighting import Sighting, look_at
from tests.end_to_end.packages import build_packages
from tests.relay.conftest import GPG_SECONDS, Runner

JOB = {
    "CI_PROJECT_PATH": "group/hello",
    "CI_PIPELINE_ID": "77",
    "CI_JOB_ID": "1234",
    "CI_JOB_URL": "https://gitlab.example.org/group/hello/-/jobs/1234",
    "CI_JOB_TOKEN": "glcbt-secret",
}


async def rpmsign(
    runner: Runner, *packages: Path, environment: dict[str, str], directory: Path
) -> subprocess.CompletedProcess[bytes]:
    macros = (f"_gpg_name {runner.keys.facts['rsa'].fingerprint}!", f"_gpg_path {runner.home}", "__gpg /usr/bin/gpg")
    defines = [word for macro in macros for word in ("--define", macro)]
    command = ["rpmsign", *defines, "--addsign", *(path.name for path in packages)]
    variables = {**os.environ, "LC_ALL": "C", "GNUPGHOME": str(runner.home), **environment}
    with trio.fail_after(GPG_SECONDS):
        return await trio.run_process(
            command, cwd=directory, env=variables, capture_stdout=True, capture_stderr=True, check=False
        )


def claims_of(runner: Runner) -> list[Claims]:
    claims = [one.claims for one in runner.oracle.requests]
    return [one for one in claims if one is not None]


async def test_each_package_of_one_rpmsign_is_named_with_its_job(runner: Runner, tmp_path: Path) -> None:
    packages = await trio.to_thread.run_sync(build_packages, tmp_path, ["one", "two", "three"])
    async with runner.both():
        done = await rpmsign(runner, *packages, environment=JOB, directory=packages[0].parent)
    assert done.returncode == 0, done.stderr
    claims = claims_of(runner)
    assert {(one.file, one.package) for one in claims} == {
        (str(path), f"{path.name.partition('-')[0]}-0:1.0-1.noarch") for path in packages
    }
    for one in claims:
        assert one.job == {
            "project": "group/hello",
            "pipeline": "77",
            "job": "1234",
            "url": "https://gitlab.example.org/group/hello/-/jobs/1234",
        }
        assert one.commands[0].startswith("gpg ")
        assert any(command.startswith("rpmsign ") for command in one.commands)
        assert "secret" not in repr(one)


async def test_a_caller_is_looked_at_when_it_asks_for_a_key_and_once_only(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = trio.Event()
    token = trio.lowlevel.current_trio_token()
    pids: list[int] = []

    def look(sighting: Sighting) -> None:
        pids.append(sighting.peer.pid)
        token.run_sync_soon(looked.set)
        look_at(sighting)

    monkeypatch.setattr("relay.caller.look_at", look)
    grip = runner.keys.facts["ed"].keygrip
    async with runner.both():
        with trio.fail_after(GPG_SECONDS):
            stream = await trio.open_unix_socket(str(runner.socket))
            async with stream, trio.open_nursery():
                for command in ("RESET", "HAVEKEY " + "0" * 40, "GETINFO version"):
                    await asked(stream, command)
                assert pids == []
                await asked(stream, f"HAVEKEY {grip}")
                await looked.wait()
                for command in (f"SIGKEY {grip}", f"SETHASH 10 {'5A' * 64}", "PKSIGN"):
                    await asked(stream, command)
    assert pids == [os.getpid()]
    (claims,) = claims_of(runner)
    assert claims.pid == os.getpid()


async def test_a_hash_that_the_relay_refuses_is_logged_with_the_key_and_who_asked(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    grip = runner.keys.facts["ed"].keygrip
    job = "OPTION pinentry-user-data=blind-oracle project=group/hello job=99"
    async with runner.both():
        with trio.fail_after(GPG_SECONDS):
            stream = await trio.open_unix_socket(str(runner.socket))
            async with stream:
                for command in (job, f"SIGKEY {grip}", f"SETHASH 2 {'5A' * 20}", "BYE"):
                    await asked(stream, command)
    (line,) = [message for message in caplog.messages if message.startswith("refused, ")]
    assert f" key=ed keygrip={grip} hash=sha1 code=relay " in line
    assert "SHA1 is not allowed for key ed (allowed: " in line
    assert "job:99" in line


async def asked(stream: trio.SocketStream, command: str) -> None:
    await stream.send_all(command.encode())
    await stream.send_all(b"\n")  # by itself, as gpg writes it
    answer = b""
    while not answer.endswith(b"\n") or answer.startswith(b"OK Pleased"):
        answer = answer.removeprefix(b"OK Pleased to meet you\n") + await stream.receive_some()


async def test_a_container_tells_its_job_by_gpgs_own_variable(runner: Runner) -> None:
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PINENTRY_USER_DATA": "blind-oracle project=group/hello job=99 distribution=el10-x86_64 token=secret",
    }
    command = ["gpg", "--homedir", str(runner.home), "--batch", "-u", str(runner.keys.facts["ed"].fingerprint) + "!"]
    async with runner.both():
        with trio.fail_after(GPG_SECONDS):
            done = await trio.run_process(
                [*command, "--detach-sign", "-o", "-"],
                stdin=b"x",
                env=environment,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    (claims,) = claims_of(runner)
    assert claims.job == {"project": "group/hello", "job": "99"}
    assert claims.distributions == ("el10-x86_64",)


async def test_the_file_of_a_detached_signature_is_named(runner: Runner, tmp_path: Path) -> None:
    metadata = tmp_path / "repomd.xml"
    metadata.write_text("<repomd/>")
    async with runner.both():
        done = await runner.gpg(
            "-u", str(runner.keys.facts["rsa"].fingerprint) + "!", "--armor", "--detach-sign", str(metadata)
        )
    assert done.returncode == 0, done.stderr
    assert [one.file for one in claims_of(runner)] == [str(metadata)]


async def test_the_log_names_package_and_job(runner: Runner, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (package,) = await trio.to_thread.run_sync(build_packages, tmp_path, ["one"])
    with caplog.at_level("INFO"):
        async with runner.both():
            assert (await rpmsign(runner, package, environment=JOB, directory=package.parent)).returncode == 0
    assert "package=one-0:1.0-1.noarch job=project:group/hello,pipeline:77,job:1234," in caplog.text

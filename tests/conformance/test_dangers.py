"""The dangerous commands fail cleanly in each tool: at once, without a crash, and nothing was signed or came out."""

import pytest

from tests.conformance.dangers import COMMANDS, DANGERS
from tests.conformance.job import Job
from tests.conformance.release import RELEASES, Release
from tests.conformance.workshop import ENCRYPTS, RELAY, Workshop
from tests.end_to_end.place import until

pytestmark = pytest.mark.conformance

CASES = [
    pytest.param(release, what, id=f"{release.name}-{what}")
    for what, danger in DANGERS.items()
    for release in danger.releases
]


@pytest.fixture
def job(shop: Workshop, release: Release, request: pytest.FixtureRequest) -> Job:
    directory = shop.place("dangers", f"{abs(hash(request.node.name))}")
    return Job(shop, release, shop.home(release, RELAY), shop.key(ENCRYPTS), directory)


def public_keys(job: Job) -> str:
    return job.look("gpg", "--batch", "--with-colons", "--fixed-list-mode", "--check-sigs")


def assert_it_still_signs(job: Job, pid: int | None) -> None:
    assert job.shop.system.pid("relay") == pid
    job.run("gpg", "--batch", "--yes", "--local-user", job.key.address, "--detach-sign", job.file("afterwards"))


@pytest.mark.parametrize(("release", "what"), CASES)
def test_what_a_relay_must_not_do_fails_cleanly(job: Job, release: Release, what: str) -> None:
    danger, pid = DANGERS[what], job.shop.system.pid("relay")
    keys, signed = public_keys(job), len(job.shop.system.signed())
    done = danger.run(job)
    # 128 and more: it crashed, or a signal ended it.
    assert 0 <= done.returncode < 128, done.stderr
    assert danger.works or done.returncode != 0, done.stdout
    assert "PRIVATE KEY" not in done.stdout
    assert not list(job.home.glob("private-keys-v1.d/*"))
    assert public_keys(job) == keys
    assert len(job.shop.system.signed()) == signed
    assert_it_still_signs(job, pid)


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_no_command_of_an_agent_but_those_for_signing_is_served(job: Job, release: Release) -> None:
    pid, signed = job.shop.system.pid("relay"), len(job.shop.system.signed())
    for command in COMMANDS:
        line = command.replace("GRIP", job.shop.offline.keygrips[job.key.name])
        said = job.look("gpg-connect-agent", "--no-autostart", line, "/bye").splitlines()
        assert said, command
        assert [one.split()[0] for one in said] == ["ERR"], (command, said)
    assert len(job.shop.system.signed()) == signed
    assert_it_still_signs(job, pid)


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_while_the_relay_is_away_no_tool_puts_an_agent_in_its_place(job: Job, release: Release) -> None:
    job.shop.system.stop("relay")
    try:
        for words in (
            ("gpg", "--batch", "--local-user", job.key.address, "--detach-sign", str(job.file("data"))),
            ("gpg-connect-agent", "NOP", "/bye"),
            ("gpgconf", "--launch", "gpg-agent"),
            ("gpg-agent", "--daemon"),
        ):
            done = release.run(*words, home=job.home, at=job.directory)
            assert done.returncode not in {0, None}, words
    finally:
        job.shop.system.start("relay")
    until(job.shop.system.is_connected, "the relay is connected")
    assert_it_still_signs(job, job.shop.system.pid("relay"))

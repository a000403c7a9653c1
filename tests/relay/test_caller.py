import os
import pwd
import re
import threading
from collections.abc import Iterator

import pytest
import trio
from hypothesis import assume, given
from hypothesis import strategies as st

from agentproxy.protocol.fields import Claims
from agentproxy.protocol.frames import MAX_PAYLOAD
from agentproxy.protocol.messages import FROM_RELAY
from agentproxy.protocol.relay_messages import Sign
from agentproxy.runtime.peer import Peer
from relay import procfs, sighting
from relay.caller import Observer
from relay.jobclaims import claims_of_hint
from relay.procfs import Process
from relay.secretwords import without_secrets
from relay.sighting import Sighting
from tests.oracle.samples import sign
from tests.relay.callers import process_like

PATIENCE = 60.0  # far more than it takes; tests of the limit itself have their own


async def claims_of(peer: Peer, hint: str = "", patience: float = PATIENCE) -> Claims:
    claims = await Observer(patience).claims(peer, hint)
    assert claims is not None
    return claims


async def test_the_callers_command_comes_first_and_its_parents_after_it() -> None:
    with process_like("gpg", "some", "words") as peer:
        first, second, *_ = (await claims_of(peer)).commands
    assert first == "gpg - some words"
    assert "pytest" in second or "python" in second


async def test_secrets_on_the_command_line_stay_here() -> None:
    with process_like("gpg", "--passphrase", "hunter2", "--token=hunter3", "--passphrase-fd", "0") as peer:
        first = (await claims_of(peer)).commands[0]
    assert "hunter" not in first
    assert first.endswith("--passphrase [hidden] --token=[hidden] --passphrase-fd 0")
    words = (
        "-sbo",
        "x-PASSWORD=hunter4",
        "--TOKEN",
        "hunter5",
        "--new-passwd=hunter6",
        "--secret",
        "hunter7",
        "passes",
    )
    with process_like("sh", *words) as peer:
        first = (await claims_of(peer)).commands[0]
    assert first.endswith("-sbo x-PASSWORD=[hidden] --TOKEN [hidden] --new-passwd=[hidden] --secret [hidden] passes")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (
            "_gpg_sign_cmd_extra_args --pinentry-mode loopback --passphrase hunter2 --batch",
            "_gpg_sign_cmd_extra_args --pinentry-mode loopback --passphrase [hidden]",
        ),
        ("gpg --passphrase-fd 0 --passphrase 'hunter 2' x", "gpg --passphrase-fd 0 --passphrase [hidden]"),
        ("GPG_PASSPHRASE=hunter2 rpmsign x", "GPG_PASSPHRASE=[hidden]"),
        ("CI_JOB_TOKEN=hunter2", "CI_JOB_TOKEN=[hidden]"),
        ("curl -H 'PRIVATE-TOKEN: hunter2' x", "curl -H 'PRIVATE-TOKEN: [hidden]"),
        ("https://oauth2:hunter2@example.org/x", "https://[hidden]@example.org/x"),
        ("https://oauth2:hunter@2@example.org/x?by=me@example.org", "https://[hidden]@example.org/x?by=me@example.org"),
        ("git clone https://hunter2@example.org/x y", "git clone https://[hidden]@example.org/x y"),
        ("--passphrase-file=/run/secrets/x", "--passphrase-file=/run/secrets/x"),
        ("registry/secret-tools:1.2", "registry/secret-tools:1.2"),
        ("//server/share me@example.org", "//server/share me@example.org"),
    ],
)
def test_secrets_in_the_middle_of_a_word_stay_here(word: str, shown: str) -> None:
    assert list(without_secrets([word])) == [shown]


# Says what is meant, in time that grows with the square of a word's length.
_SECRETS = "(?:passphrase|password|passwd|token|secret)"
_VALUE = re.compile(
    rf"(?<![\w-])([\w-]*{_SECRETS}[\w-]*=|--?[a-z-]*{_SECRETS}\s).*", re.IGNORECASE | re.DOTALL | re.ASCII
)
_PIECES = st.sampled_from(["-", "--", "=", "x", "token", "Secret", "pass", "passwd", "new-", " ", "1", "\n"])


@given(st.lists(_PIECES, max_size=9).map("".join))
def test_a_value_is_hidden_wherever_a_name_in_the_word_is_that_of_a_secret(word: str) -> None:
    assume("passphrase-" not in word)
    (shown,) = without_secrets([word])
    assert shown == _VALUE.sub(r"\1[hidden]", word)


@pytest.mark.parametrize(
    "word", ["-" * 130_000 + "pass", "-token" * 20_000, "-x=" * 40_000 + "token", "-" + "token" * 26_000]
)
async def test_no_word_is_so_long_that_everybody_waits_for_it(word: str) -> None:
    with process_like("gpg", word) as peer:
        assert len((await claims_of(peer)).commands[0]) == 1024
    assert list(without_secrets([word])) == [word]


def test_few_words_are_kept_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("rpmsign",) * 20_000
    monkeypatch.setattr(procfs, "process", lambda pid: Process(pid, words if pid < 1000 else words * 3, 1))
    processes = sighting._Processes()
    for pid in range(2, 50):
        assert processes.get(pid) == Process(pid, words, 1)
        kept = [process for _, process in processes._kept.values() if process is not None]
        assert processes.get(pid) in kept
        assert sum(len(process.words) for process in kept) <= 50_000
    assert len((processes.get(1000) or kept[0]).words) == 60_000
    assert 1000 not in processes._kept


async def test_the_command_line_of_a_mass_rebuild_shows_by_its_beginning() -> None:
    with process_like("rpmsign", *(f"build/package-{number}.rpm" for number in range(1000))) as peer:
        first = (await claims_of(peer)).commands[0]
    assert len(first) == 1024
    assert first.startswith("rpmsign - build/package-0.rpm build/package-1.rpm ")


async def test_of_those_who_are_far_from_gpg_the_beginning_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {pid: ("sh", "-c", f"{pid} " * 1000) for pid in range(1001, 1009)}
    monkeypatch.setattr(procfs, "process", lambda pid: Process(pid, lines[pid], pid - 1 if pid - 1 in lines else 1))
    monkeypatch.setattr(sighting, "_processes", sighting._Processes())
    commands = (await claims_of(Peer(1008, os.getuid(), os.getgid(), ()))).commands
    whole = [" ".join(lines[pid]) for pid in sorted(lines, reverse=True)]
    assert list(commands) == [line[:1024] for line in whole[:4]] + [line[:256] for line in whole[4:]]


async def test_control_characters_cannot_forge_a_line() -> None:
    with process_like("gpg", "a\nb\x1b[31m\u202ec") as peer:
        assert (await claims_of(peer)).commands[0].endswith("a?b?[31m?c")


async def test_command_lines_in_any_script_fit_into_one_frame() -> None:
    with process_like("ü" * 60_000, "ü" * 20_000) as peer:
        claims = await claims_of(peer, f"blind-oracle file={'ü' * 1000} project={'ü' * 1000}")
    assert len(claims.commands[0]) == 1024
    message = Sign(sign().id, sign().keygrip, sign().digest, 1, claims=claims)
    assert len(FROM_RELAY.encode(message)) < MAX_PAYLOAD / 2


def test_of_claims_that_do_not_fit_the_outermost_commands_are_left_out() -> None:
    sighting = Sighting(Peer(1, 1000, 0, ()))
    sighting.user, sighting.commands = "builder", ("gpg", "😀" * 1024, "rpmsign", "sh")
    hint = "%f0%9f%98%80" * 256
    claims = sighting.claims(claims_of_hint(f"blind-oracle file={hint} project={hint} pipeline={hint} job={hint}"))
    assert claims.commands == ("gpg", "😀" * 1024, "rpmsign", "sh")
    hint = f"blind-oracle file={hint * 4} package={hint * 4} project={hint} pipeline={hint} distribution=el10"
    claims = sighting.claims(claims_of_hint(hint))
    assert (claims.file, claims.package) == ("😀" * 1024, "😀" * 1024)
    assert claims.job == {"project": "😀" * 256, "pipeline": "😀" * 256}
    assert (claims.commands, claims.distributions, claims.user) == (("gpg",), ("el10",), "builder")
    message = Sign(sign().id, sign().keygrip, sign().digest, 1, claims=claims)
    assert len(FROM_RELAY.encode(message)) < MAX_PAYLOAD


async def test_a_caller_that_is_gone_costs_only_what_is_known_of_it() -> None:
    child = await trio.lowlevel.open_process(["true"])
    await child.wait()
    claims = await claims_of(Peer(child.pid, 4_000_000_000, 0, ()))
    assert claims == Claims(uid=4_000_000_000, pid=child.pid)


async def test_a_caller_whose_pid_we_cannot_see_is_known_by_its_uid() -> None:
    assert await claims_of(Peer(0, 12345, 0, ())) == Claims(uid=12345)


async def test_the_user_has_a_name() -> None:
    with process_like("gpg") as peer:
        claims = await claims_of(Peer(peer.pid, os.getuid(), 0, ()))
    assert claims.user == pwd.getpwuid(os.getuid()).pw_name


async def test_of_the_environment_only_the_allowed_variables_leave() -> None:
    environment = {
        "CI_PROJECT_PATH": "group/hello",
        "CI_PIPELINE_ID": "77",
        "CI_JOB_ID": "1234",
        "CI_JOB_URL": "https://gitlab-ci-token:glpat-secret@gitlab.example.org/group/hello/-/jobs/1234?private_token=x",
        "CI_JOB_TOKEN": "glcbt-secret",
        "CI_JOB_JWT": "eyJ-secret",
        "GITHUB_TOKEN": "ghp-secret",
        "BLIND_ORACLE_DISTRIBUTION": "el10-x86_64",
        "PASSWORD": "secret",
    }
    with process_like("gpg", environment=environment) as peer:
        claims = await claims_of(peer)
    assert claims.job == {
        "project": "group/hello",
        "pipeline": "77",
        "job": "1234",
        "url": "https://gitlab.example.org/group/hello/-/jobs/1234",
    }
    assert claims.distributions == ("el10-x86_64",)
    assert "secret" not in repr(claims)


async def test_what_the_relay_sees_itself_counts_more_than_what_it_is_told_and_both_narrow() -> None:
    hint = "blind-oracle project=told pipeline=9 file=told.rpm package=told-0:1-1.noarch distribution=el9"
    with process_like("gpg", environment={"CI_PROJECT_PATH": "seen", "BLIND_ORACLE_DISTRIBUTION": "el10"}) as peer:
        claims = await claims_of(peer, hint)
    assert claims.job == {"project": "seen", "pipeline": "9"}
    assert claims.distributions == ("el10", "el9")
    assert (claims.file, claims.package) == ("told.rpm", "told-0:1-1.noarch")


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """Set at the end of the test, so that no thread outlives it."""
    release = threading.Event()
    yield release
    release.set()


async def test_a_caller_that_holds_on_to_its_reader_costs_the_patience_and_what_was_seen_goes_out(
    held: threading.Event,
) -> None:
    def look(sighting: Sighting) -> None:
        sighting.commands = ("gpg --sign",)
        held.wait()
        sighting.commands = ("too late",)

    claims = await Observer(0.005, look).claims(Peer(42, 1000, 1000, ()), "blind-oracle job=7")
    assert claims == Claims(uid=1000, pid=42, commands=("gpg --sign",), job={"job": "7"})


async def test_others_are_looked_at_while_one_users_callers_hold_on_to_their_readers(held: threading.Event) -> None:
    def look(sighting: Sighting) -> None:
        if sighting.peer.uid == 666:
            held.wait()
        sighting.commands = ("seen",)

    before = threading.active_count()
    hanging, patient = Observer(0.005, look), 60.0
    for pid in range(100, 140):
        assert await hanging.claims(Peer(pid, 666, 666, ()), "") == Claims(uid=666, pid=pid)
    assert threading.active_count() - before < 20
    hanging._patience_seconds = patient
    for pid in range(200, 210):
        claims = await hanging.claims(Peer(pid, 1000, 1000, ()), "")
        assert claims is not None
        assert claims.commands == ("seen",)


async def test_readers_that_hang_while_nobody_waits_for_them_hold_up_nobody_else(held: threading.Event) -> None:
    def look(sighting: Sighting) -> None:
        if sighting.peer.uid == 666:
            held.wait()
        sighting.commands = ("seen",)

    observer = Observer(PATIENCE, look)
    for pid in range(100, 104):
        observer.look(Peer(pid, 666, 666, ()))
    with trio.fail_after(PATIENCE / 2):
        claims = await observer.claims(Peer(200, 1000, 1000, ()), "")
    assert claims is not None
    assert claims.commands == ("seen",)


async def test_an_error_of_ours_while_looking_fails_no_signature(caplog: pytest.LogCaptureFixture) -> None:
    def look(sighting: Sighting) -> None:
        raise RuntimeError("a bug")

    observer = Observer(PATIENCE, look)
    for pid in (42, 43, 44, 45):
        with trio.fail_after(PATIENCE / 2):
            assert await observer.claims(Peer(pid, 1000, 1000, ()), "") == Claims(uid=1000, pid=pid)
    assert "a caller could not be looked at" in caplog.text


async def test_nothing_is_looked_at_where_the_operator_does_not_want_it() -> None:
    with process_like("gpg", environment={"CI_JOB_ID": "7"}) as peer:
        assert await claims_of(peer, "", patience=0) == Claims(uid=12345, pid=peer.pid)


async def test_a_crowd_at_the_same_moment_is_looked_at_one_after_another() -> None:
    observer, found = Observer(PATIENCE), []

    async def ask(peer: Peer) -> None:
        claims = await observer.claims(peer, "")
        assert claims is not None
        found.append((claims.pid, len(claims.commands) > 0))

    before = threading.active_count()
    with process_like("gpg") as peer:
        async with trio.open_nursery() as nursery:
            for uid in range(200):
                nursery.start_soon(ask, Peer(peer.pid, uid, uid, ()))
            await trio.lowlevel.checkpoint()
            assert threading.active_count() - before < 10
    assert found == [(peer.pid, True)] * 200

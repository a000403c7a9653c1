import os
import subprocess
import sys
import time

from agentproxy.runtime.unixsocket import Peer
from relay.caller import claims_of

SCRIPT = "import sys; print(flush=True); sys.stdin.read()"


def claims_about(*words: str) -> tuple[str, ...]:
    """What is claimed about a child of ours with these words on its command line."""
    command = [sys.executable, "-c", SCRIPT, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        claims = claims_of(Peer(child.pid, os.getuid(), os.getgid(), ()))
        assert child.stdin is not None
        child.stdin.close()
    assert claims is not None
    assert claims.pid == child.pid
    assert claims.uid == os.getuid()
    return claims.commands


def test_the_callers_command_comes_first_and_its_parents_after_it() -> None:
    first, second, *_ = claims_about("some", "words")

    assert first.endswith("some words")
    assert "pytest" in second or "python" in second


def test_secrets_on_the_command_line_stay_here() -> None:
    first = claims_about("--passphrase", "hunter2", "--token=hunter3", "--passphrase-fd", "0")[0]

    assert "hunter" not in first
    assert first.endswith("--passphrase [hidden] --token=[hidden] --passphrase-fd 0")


def test_control_characters_cannot_forge_a_line() -> None:
    first = claims_about("a\nb\x1b[31m\u202ec")[0]

    assert first.endswith("a?b?[31m?c")


def test_a_long_command_line_is_cut() -> None:
    assert len(claims_about("x" * 100_000)[0]) == 1024


def test_a_caller_that_is_gone_costs_only_what_is_known_of_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    claims = claims_of(Peer(child.pid, 4_000_000_000, 0, ()))

    assert claims is not None
    assert (claims.uid, claims.user, claims.commands) == (4_000_000_000, None, ())


def test_collecting_takes_about_a_millisecond() -> None:
    peer = Peer(os.getpid(), os.getuid(), os.getgid(), ())
    durations = []
    for _ in range(50):
        start = time.thread_time()
        claims_of(peer)
        durations.append(time.thread_time() - start)

    assert sorted(durations)[25] < 0.003

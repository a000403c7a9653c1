"""A short run of the fuzzer, so that a target that no longer runs, or a shallow bug, shows in every test run.

It always takes the same way, so that a red run is the change's own doing; `make fuzz` goes where nobody was yet.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from relay.session import Session, SignNeeded
from tests.fuzz.targets import SESSION_KEY, TARGETS

ROOT = Path(__file__).parent.parent.parent
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python"
)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_reach_the_end_of_their_target(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


def test_a_seed_leads_to_where_a_session_waits_for_signatures() -> None:
    """What gpg may send meanwhile and afterwards is read there only, and no fuzzer guesses a keygrip on its way."""
    seeds = TARGETS["assuan"].seeds
    assert any(isinstance(event, SignNeeded) for seed in seeds for event in Session((SESSION_KEY,)).receive(seed))


@needs_atheris
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_raises_nothing_but_remote_errors(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.child", name, "1", str(tmp_path), "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


@needs_atheris
def test_a_target_that_raises_something_else_fails_the_run(tmp_path: Path) -> None:
    program = (
        "from tests.fuzz import child, targets\n"
        "child.TARGETS = {'broken': targets.Target(lambda untrusted: {}[untrusted], (b'x',))}\n"
        f"child.main('broken', '1', {str(tmp_path)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode != 0
    assert "KeyError" in done.stdout + done.stderr

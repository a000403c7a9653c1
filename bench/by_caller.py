"""The rows about single callers: the first one of all, and what it costs to look at who each of them is."""

import sys
from pathlib import Path
from statistics import median

from bench import claims_cost
from bench.relay_cost import activated_answer_seconds
from bench.rows import Row, at_most, within
from bench.sides import Ours

__all__ = ["activation", "claims"]

ACTIVATION_GOAL = 2.2
CLAIMS_MS_GOAL = 1.0
_BARE = Path(__file__).with_name("bare.py")


def activation(ours: Ours, directory: Path, rounds: int) -> Row:
    """From the first connection to a socket of systemd's to the first signature; a bare program's first answer."""
    relay, target, bare_socket = ours.stop_relay(), ours.target("ed25519"), directory / "bare-activated.sock"
    bare = [sys.executable, "-I", str(_BARE), str(bare_socket)]
    mine, theirs = [], []
    for _ in range(rounds + 1):  # the first round fills the page cache
        mine.append(activated_answer_seconds(relay, target.socket, target, ours.environment))
        theirs.append(activated_answer_seconds(bare, bare_socket, None))
    what = "relay: first signature after socket activation, s, to bare trio's first answer"
    return at_most(what, mine[1:], theirs[1:], ACTIVATION_GOAL)


def claims(ours: Ours, package: Path, rounds: int, count: int) -> Row:
    """What a look at the caller adds to a signature, each asked for by a new process."""
    relay, keygrip = ours.stop_relay(), ours.keys["ed25519"].keygrip
    more, all_of_it = [], []
    for _ in range(rounds):
        seen, unseen = claims_cost.milliseconds(relay, keygrip, package, ours.environment, count)
        more.append(median(one - other for one, other in zip(seen, unseen, strict=True)))
        all_of_it.append(median(unseen))
    what = "claims: ms more for a signature of a new caller, p50, to all of it"
    return within(what, more, all_of_it, CLAIMS_MS_GOAL)

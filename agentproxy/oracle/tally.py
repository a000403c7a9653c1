"""What an oracle counts of its work: numbers that grow, and that somebody may read. No I/O, and no library."""

from collections import Counter
from dataclasses import field

from agentproxy.protocol.keys import Keygrip
from agentproxy.protocol.timings import Timings
from agentproxy.protocol.values import frozen

__all__ = ["Tally"]


@frozen
class Tally:
    """Since the start."""

    signed: Counter[tuple[Keygrip, str]] = field(default_factory=Counter)  # by key and operation
    refused: Counter[str] = field(default_factory=Counter)  # by code, of callers whom we know
    failed: Counter[str] = field(default_factory=Counter)  # by code: allowed, and yet no signature
    rejected: Counter[str] = field(default_factory=Counter)  # by code: nobody whom we let in
    answered: Counter[int] = field(default_factory=Counter)  # HTTP requests by status
    authn: Timings = field(default_factory=Timings)
    policy: Timings = field(default_factory=Timings)
    queue: Timings = field(default_factory=Timings)  # until the turn at the signer
    signer: Timings = field(default_factory=Timings)  # from there until its answer

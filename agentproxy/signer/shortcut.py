"""Which jobs the signer does on its event loop's thread.

Handing a job to a thread and back costs as much as an Ed25519 signature with its check, and a fifth of an RSA-4096
signature. But whoever does a job here uses one processor only, and keeps everybody waiting who comes meanwhile.
"""

from collections.abc import Sequence

__all__ = ["Shortcut"]

QUICK_NS = 1_000_000  # a job below this is better done here than carried to another processor
HERE_NS = 2_000_000  # quick jobs that arrived together are done here up to this sum
LONE_NS = 4_000_000  # a lone job below this is done here, if nobody else came lately
# A request that is there so soon after a lone job has waited for it: the next lone one cannot come back in this time.
WAITED_NS = 300_000
CROWD_NS = 50_000_000  # so long after that, threads do all that is not quick, since both processors are wanted


class Shortcut:
    """Chooses jobs by how long they will probably block; the event loop's thread calls it."""

    def __init__(self) -> None:
        self._lone_ended = 0  # nanoseconds, as the next
        self._crowded_until = 0

    def choose(self, likely_ns: Sequence[int | None], *, is_idle: bool, now: int) -> Sequence[bool]:
        """Whether each of the jobs that arrived together is done here.

        Args:
            likely_ns: how long each will block; None when that is not known.
            is_idle: nothing else is in flight.
            now: nanoseconds, never going back.
        """
        if now - self._lone_ended < WAITED_NS:
            self._crowded_until = now + CROWD_NS
        if len(likely_ns) == 1 and is_idle and now >= self._crowded_until:
            [only] = likely_ns
            return [only is not None and only < LONE_NS]
        chosen, left = [], HERE_NS
        for likely in likely_ns:
            is_chosen = likely is not None and likely < QUICK_NS and likely <= left
            left -= likely if likely is not None and is_chosen else 0
            chosen.append(is_chosen)
        return chosen

    def ended(self, now: int) -> None:
        """What was chosen last is done and answered."""
        self._lone_ended = now

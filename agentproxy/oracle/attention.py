"""How long the event loop is with one runner before everybody else is heard.

Signatures have fair turns at the signer. What is answered before that (pings, questions for keys, refusals, repeats)
takes this one thread's time alone, and a runner with a quarter of all places could keep it for seconds.
"""

from collections.abc import Callable

import trio

from agentproxy.oracle.limits import Bucket

__all__ = ["Attention"]

# In one go, however many connections it has, before others are heard: shorter than most signatures take.
SLICE_SECONDS = 0.001
# Of the thread's time. Whoever takes more waits one round of the event loop for each slice, which is short where nobody
# else has anything.
SHARE = 0.5
_AT_ONCE_SECONDS = 0.005


class Attention:
    """What all connections of one runner take together; used in `with`, one message at a time.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._time = Bucket(_AT_ONCE_SECONDS, self._began)
        self._line = trio.Lock()

    def is_due(self) -> bool:
        """Whether a message may be taken now; if not, `turn` comes first."""
        self._time.fill(self._clock(), SHARE, _AT_ONCE_SECONDS)
        return self._time.level > 0

    async def turn(self) -> None:
        """Wait behind this runner's other connections, and let everybody else be heard."""
        async with self._line:
            await trio.lowlevel.checkpoint()
            self._time.level = max(self._time.level, SLICE_SECONDS)

    def __enter__(self) -> None:
        self._began = self._clock()

    def __exit__(self, *_: object) -> None:
        self._time.level -= self._clock() - self._began

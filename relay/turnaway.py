"""What gpg hears that may not use this socket: an agent that refuses everything.

A greeting that says no, or none, would make gpg take the relay for dead and start an agent of its own.
"""

import trio

from agentproxy.protocol.gpgerror import GpgError, err_line

__all__ = ["turn_away"]

# gpg gives up at its first refused command and comes once or twice more.
SECONDS = 5.0
_MOST_COMMANDS = 16


async def turn_away(stream: trio.abc.Stream) -> None:
    """Answer each line behind the greeting with "Forbidden", for a short while."""
    no, answered = err_line(GpgError.FORBIDDEN), 0
    with trio.move_on_after(SECONDS):
        try:
            while answered < _MOST_COMMANDS and (untrusted := await stream.receive_some(4096)):
                lines = min(untrusted.count(b"\n"), _MOST_COMMANDS - answered)
                answered += lines
                await stream.send_all(no * lines)
        except trio.BrokenResourceError:
            return

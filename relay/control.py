"""The relay's control socket: `status` and `setup` ask here. One line of JSON in, one out, and the end.

The table of commands is all there is; what changes the relay will check who asks, reading does not need to.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping

import trio

from agentproxy.protocol.errors import BlindOracleError, ConfigError
from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.protocol.unstructure import unstructured
from relay.fallbackreport import FallbackReport
from relay.status import MAX_QUESTION, CertificateReport, ControlError, ControlRequest, KeyReport, StatusReport

__all__ = ["Answer", "ControlTable", "serve_control", "turn_away"]

logger = logging.getLogger(__name__)

# Whoever asks is a program on this host that has its question ready.
ASK_SECONDS = 5.0
_MANY = 20  # requests

Answer = StatusReport | CertificateReport | KeyReport | FallbackReport | ControlError
ControlTable = Mapping[str, Callable[[ControlRequest], Awaitable[Answer]]]


async def serve_control(stream: trio.abc.Stream, table: ControlTable) -> None:
    """Answer one question."""
    try:
        with trio.fail_after(ASK_SECONDS):
            question = await _line(stream)
        answer = await _answer(question, table)
        if isinstance(answer, StatusReport) and len(answer.last) > _MANY:
            # The last requests may be megabytes, and gpg waits for the event loop.
            line = await trio.to_thread.run_sync(_encoded, answer)
        else:
            line = _encoded(answer)  # a thread would cost the relay 0.2 MB for as long as it lives
        with trio.fail_after(ASK_SECONDS):
            await stream.send_all(line)
    except (trio.BrokenResourceError, trio.TooSlowError):
        return


async def turn_away(stream: trio.abc.Stream) -> None:
    """Answer one of too many, who may still be asking."""
    hint = "ask again once others of this user have their answers, or have ended"
    try:
        with trio.fail_after(ASK_SECONDS):
            await stream.send_all(_encoded(ControlError("too many questions of one user at once", hint)))
    except (trio.BrokenResourceError, trio.TooSlowError):
        return


def _encoded(answer: Answer) -> bytes:
    plain = unstructured(answer)
    return json.dumps(plain).encode() + b"\n"


async def _line(stream: trio.abc.Stream) -> bytes:
    untrusted = b""
    while b"\n" not in untrusted and len(untrusted) < MAX_QUESTION:
        more = await stream.receive_some(MAX_QUESTION)
        if not more:
            break
        untrusted += more
    return untrusted.partition(b"\n")[0]


async def _answer(untrusted: bytes, table: ControlTable) -> Answer:
    try:
        request = structured(json.loads(untrusted), ControlRequest)
    except UNREADABLE:
        return ControlError("expected one line of JSON with a command")
    command = table.get(request.command)
    if command is None:
        return ControlError("unknown command")
    try:
        return await command(request)
    except BlindOracleError as error:
        return ControlError(str(error), error.hint if isinstance(error, ConfigError) else "")

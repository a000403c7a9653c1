"""Asks the running relay on its control socket; plain blocking sockets, for the command line."""

import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.structure import UNREADABLE, structured
from agentproxy.protocol.unstructure import unstructured
from relay.starting import how_to_start
from relay.status import MAX_QUESTION, ControlError, ControlRequest

__all__ = ["ask"]

# `certificates` goes on to the oracle; this is above the relay's own limit for that.
ANSWER_SECONDS = 40.0
MAX_ANSWER = 16 * 1024 * 1024  # bytes

T = TypeVar("T")


def ask(path: Path, request: ControlRequest, cls: type[T]) -> T:
    """What the relay that listens at `path` answers.

    Raises:
        ConfigError: no relay answers there, or it says why it cannot; or no relay reads that much.
    """
    question = json.dumps(unstructured(request)).encode() + b"\n"
    if len(question) > MAX_QUESTION:
        raise ConfigError(f"the question has {len(question)} bytes, expected at most {MAX_QUESTION}", "say it shorter")
    try:
        untrusted = _exchange(path, question)
    except TimeoutError as error:
        raise ConfigError(f"{path}: the relay does not answer") from error
    except OSError as error:
        raise ConfigError(
            f"no relay runs here: {path}: {error.strerror or error}", how_to_start(path.parent)
        ) from error
    try:
        plain: object = json.loads(untrusted)
        if not (isinstance(plain, dict) and "error" in plain):
            return structured(plain, cls)
        answer = structured(plain, ControlError)
    except UNREADABLE as error:
        raise ConfigError(f"{path}: something else than a relay of this version answers there") from error
    raise ConfigError(f"the relay answers: {answer.error}", answer.hint)


def _exchange(path: Path, question: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(ANSWER_SECONDS)
        stream.connect(str(path))
        with suppress(BrokenPipeError):  # we were turned away; why is there to be read
            stream.sendall(question)
        answer = bytearray()
        # One line. Behind it there may be an error, where what we asked was not read.
        while not answer.endswith(b"\n") and len(answer) < MAX_ANSWER and (more := stream.recv(65536)):
            answer += more
    if not answer:
        raise OSError("it ended without an answer")
    return bytes(answer)

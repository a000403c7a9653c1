"""From a content to the state of its hash: by libcrypto, and where there is none by our own, slow functions."""

import errno
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.hashstates import HashState
from relay.sealed import libcrypto

__all__ = ["finished", "state_of", "state_of_file"]

_CHUNK = 1 << 20  # bytes


def state_of(content: bytes, algorithm: HashAlgorithm) -> HashState:
    """The state behind `content`; `algorithm` is SHA256 or SHA512."""
    library = libcrypto.find(algorithm)
    if library is None:
        return HashState.initial(algorithm).updated(content)
    return library.new().update(content).state


def state_of_file(
    file: BinaryIO, algorithm: HashAlgorithm, is_given_up: Callable[[], bool] = lambda: False
) -> HashState:
    """The state behind all that is left in `file`. It blocks, about a second for each GB.

    Args:
        is_given_up: whether nobody wants it any more; asked between two parts.

    Raises:
        InterruptedError: nobody does.
    """
    library = libcrypto.find(algorithm)
    if library is None:
        state = HashState.initial(algorithm)
        for chunk in _chunks(file, is_given_up):
            state = state.updated(chunk)
        return state
    hashing = library.new()
    for chunk in _chunks(file, is_given_up):
        hashing.update(chunk)
    return hashing.state


def _chunks(file: BinaryIO, is_given_up: Callable[[], bool]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
        if is_given_up():
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))


def finished(state: HashState, trailer: bytes) -> Digest:
    """The digest of the content behind `state` with `trailer` behind it."""
    library = libcrypto.find(state.algorithm)
    if library is None:
        return state.finished(trailer)
    return library.new().go_on(state).update(trailer).finish()

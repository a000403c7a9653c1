"""What a connection leaves behind: nothing that only a garbage collection would find."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from agentproxy.runtime.tlsstream import TlsStream

__all__ = ["tls_streams", "without_collections"]


@contextmanager
def without_collections() -> Iterator[None]:
    logging.disable(logging.CRITICAL)  # pytest keeps each record, and with it what it tells of
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


def tls_streams() -> int:
    return sum(type(one) is TlsStream for one in gc.get_objects())

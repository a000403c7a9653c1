"""How many files a process may have open."""

import logging
import resource

__all__ = ["room_for"]

logger = logging.getLogger(__name__)

OWN_FILES = 64  # descriptors for everything that is no accepted connection: listeners, files, TLS to the oracle, pipes


def room_for(wanted: int, others: int = 0) -> int:
    """Raise our limit of open files, as far as it goes; how many of these there is room for.

    Args:
        wanted: connections, or files.
        others: further ones that have their own limit, and for which room is kept.

    Shells and systemd give 1024 to start with, for the sake of select(2), which nothing here uses. Without some files
    kept back, a crowd of clients could keep a relay from its oracle.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = OWN_FILES + others
    if soft < wanted + kept:
        soft = wanted + kept if hard == resource.RLIM_INFINITY else min(wanted + kept, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted + kept:
        logger.warning("fewer at once than configured, since open files are limited, wanted=%d limit=%d", wanted, soft)
    return min(wanted, max(1, soft - kept))

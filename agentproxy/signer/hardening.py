"""What a process with secret keys asks of the kernel: no core dumps, no debuggers of the same user, no swap.

Sources: prctl(2), setrlimit(2), mlockall(2).
"""

import ctypes
import errno
import logging
import os
import resource

__all__ = ["harden"]

logger = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden() -> None:
    """Close what the kernel lets us close. Called before keys are read.

    Raises:
        OSError: the process can still be dumped or gain privileges; no kernel that we run on does that.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl({option}): {os.strerror(code)}")
    _lock_memory(libc)


def _lock_memory(libc: ctypes.CDLL) -> None:
    # Under a finite limit, MCL_FUTURE would make some later allocation fail: then swap is the lesser evil.
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and os.geteuid() != 0:
        logger.info("memory is not locked, keys may reach the swap: LimitMEMLOCK=infinity changes that")
        return
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        code = ctypes.get_errno()
        logger.info("memory is not locked, keys may reach the swap: %s", errno.errorcode.get(code, str(code)))

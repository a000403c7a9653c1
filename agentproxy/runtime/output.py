"""Standard output that takes no more: its reader has seen enough, or the disk behind it is full."""

import errno
import os
import sys

__all__ = ["give_up_output"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def give_up_output(error: OSError) -> str:
    """Write no more; what there is to say of it: nothing when the reader left, as in `… | head`.

    Whoever writes files says so where it does; an error that comes out of a whole command is of what was printed.

    Raises:
        OSError: it is another error.
    """
    if sys.stdout is None or not (isinstance(error, BrokenPipeError) or error.errno in _FULL):
        raise error
    # Python would complain once more while it closes the output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return "" if isinstance(error, BrokenPipeError) else f"standard output: {error.strerror}"

"""How large an audit log's parts may become, and what is left out when the disk is nearly full."""

import errno
import os
from collections.abc import Sequence

from agentproxy.protocol.signer_requests import Outcome
from agentproxy.protocol.values import frozen
from agentproxy.signer.record import Entry

__all__ = ["LogLimits", "require_room"]


_OPTIONAL = frozenset({Outcome.REFUSED, Outcome.FAILED})
_REPORT = "fallback_"  # how the operations of what a relay reports begin


def require_room(descriptor: int, size: int) -> None:
    """Raise OSError unless `size` bytes can be written to the file's disk, as far as that can be known."""
    space = os.fstatvfs(descriptor)
    if space.f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    if space.f_bavail * space.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@frozen
class LogLimits:
    """How large things may become."""

    reserve_bytes: int = 64 << 20  # the last free bytes of the disk, which refusals and failures may not use
    rotate_bytes: int = 64 << 20  # a segment is closed before it becomes larger than this
    rotate_seconds: int = 30 * 86_400  # … or when its first record is older than this

    def kept(self, entries: Sequence[Entry], descriptor: int) -> list[bool]:
        """Which of these the disk behind a file still has room for."""
        # Anybody with a certificate can cause refusals, or report signatures of its own (a relay keeps those, and
        # reports them again); only our own signature may use the last free bytes. By the operation, not by what is
        # asserted: that is the oracle's word about a signature or a certificate, too.
        optional = [entry.outcome in _OPTIONAL or entry.operation.startswith(_REPORT) for entry in entries]
        if True not in optional:
            return [True] * len(entries)
        space = os.fstatvfs(descriptor)
        enough = space.f_bavail * space.f_frsize > self.reserve_bytes
        return [enough or not may_go for may_go in optional]

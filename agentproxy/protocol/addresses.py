"""`ssh://user@host[:port]`, the other kind of address that an oracle may have beside host:port."""

import re
from typing import Self

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["SshAddress"]

# Neither user nor host may begin with a dash: ssh would take it for an option.
_FORM = re.compile(
    r"ssh://([a-z_][a-z0-9_-]{0,31})@(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252})(?::([0-9]{1,5}))?"
)


@frozen
class SshAddress:
    """Whom to log in as, and where."""

    user: str
    host: str  # without the brackets of an IPv6 address
    port: int | None  # None: what ssh's own configuration says, else 22

    @classmethod
    def parse(cls, untrusted: str) -> Self:
        """Read `ssh://user@host` or `ssh://user@host:port`.

        Raises:
            RemoteProtocolError: another form, or no such port.
        """
        match = _FORM.fullmatch(untrusted)
        if match is None or (match[3] is not None and not 1 <= int(match[3]) <= 65535):
            raise RemoteProtocolError(f"expected ssh://user@host or ssh://user@host:port, got {untrusted!r}")
        return cls(match[1], match[2].strip("[]"), None if match[3] is None else int(match[3]))

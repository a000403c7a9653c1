"""Who may take how many of a door's places, so that nobody takes them all.

Until somebody has shown a certificate that we know, nothing but an address is known of them; from then on it is the
runner that counts, whatever address it shares with others.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Shares", "network_of"]

_PARTS = 4  # one address, or one runner, may have a quarter of the places
_FEW = 8  # but as many as this, however few places there are
_IPV6_PREFIX = 64  # bits; whoever has one address of such a network mostly has all of them


class Shares:
    """How many places each of those who come has taken.

    Args:
        places: that there are for all.
    """

    def __init__(self, places: int) -> None:
        self.most = max(_FEW, places // _PARTS)
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self, who: str) -> Iterator[bool]:
        """A place for a connection of theirs; whether they may have one more."""
        self._taken[who] += 1
        try:
            yield self._taken[who] <= self.most
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]


def network_of(address: str) -> str:
    """Whose place a connection from there takes.

    Args:
        address: host:port; what is no IP address stands for itself.
    """
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, _IPV6_PREFIX), strict=False))

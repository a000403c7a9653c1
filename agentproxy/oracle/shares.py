"""Whose place a connection takes.

Until somebody has shown a certificate that we know, nothing but an address is known of them; from then on it is the
runner that counts, whatever address it shares with others.
"""

import ipaddress

__all__ = ["network_of"]

_IPV6_PREFIX = 64  # bits; whoever has one address of such a network mostly has all of them


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

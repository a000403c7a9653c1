"""Who is on the other side of a connection: its TLS certificate, or what the proxy on this host says of its client.

A header is somebody's word. It is believed on the proxy's own Unix socket alone, whose peer the kernel has named; on
every other connection such a header is refused, so that a proxy in the wrong place shows at once.
"""

import ssl
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.values import frozen

__all__ = ["IDENTITY_HEADERS", "Peer", "Visit", "identify"]

_VERIFY, _CERTIFICATE, _ADDRESS = b"x-ssl-client-verify", b"x-ssl-client-cert", b"x-real-ip"
IDENTITY_HEADERS = frozenset({_VERIFY, _CERTIFICATE, _ADDRESS})
_SUCCESS, _NONE = b"SUCCESS", b"NONE"


@frozen
class Peer:
    """Who sends a request."""

    certificate: bytes | None  # DER; None: it showed none
    address: str  # host:port
    is_proxy: bool = False  # it comes through the proxy's socket: its requests' headers say who it is


@dataclass(slots=True)
class Visit:
    """A connection, as far as its requests have told who is there."""

    is_known: bool = False  # somebody with good credentials has asked something


def identify(peer: Peer, headers: Iterable[tuple[bytes, bytes]]) -> Peer:
    """Who sends a request with these headers (names in lower case) over that connection.

    Raises:
        RemoteProtocolError: headers that claim an identity where none is accepted, or that make no sense.
    """
    claimed = [(name, value) for name, value in headers if name in IDENTITY_HEADERS]
    if peer.is_proxy:
        return _seen_by_proxy(claimed)
    if claimed:
        names = ", ".join(sorted({name.decode("ascii") for name, _ in claimed}))
        raise RemoteProtocolError(f"{names}: a client's identity in headers is accepted on the proxy's socket only")
    return peer


def _seen_by_proxy(claimed: list[tuple[bytes, bytes]]) -> Peer:
    found = dict(claimed)  # nginx leaves a header out that would be empty
    if len(found) != len(claimed) or not found.keys() >= {_VERIFY, _ADDRESS}:
        raise RemoteProtocolError("the proxy must send X-SSL-Client-Verify, X-SSL-Client-Cert and X-Real-IP, each once")
    try:
        address = ip_address(found[_ADDRESS].decode("ascii"))
    except ValueError as error:
        raise RemoteProtocolError("x-real-ip: expected an IP address") from error
    # The port is the proxy's secret; 0 says so in the audit log.
    where = f"[{address}]:0" if address.version == 6 else f"{address}:0"
    return Peer(_certificate(found[_VERIFY], found.get(_CERTIFICATE, b"")), where)


def _certificate(verified: bytes, escaped: bytes) -> bytes | None:
    if verified == _NONE and not escaped:
        return None
    if verified != _SUCCESS:
        # nginx passes a certificate on that it could not verify, too, when it is told to let everybody in.
        raise RemoteProtocolError("x-ssl-client-verify: the proxy could not verify the client's certificate")
    try:
        return ssl.PEM_cert_to_DER_cert(urllib.parse.unquote(escaped.decode("ascii"), errors="strict"))
    except ValueError as error:
        raise RemoteProtocolError("x-ssl-client-cert: expected a certificate in PEM, percent-encoded") from error

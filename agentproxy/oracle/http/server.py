"""The HTTP API as a part of the oracle: its listeners, from opening to draining."""

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

import trio

from agentproxy.oracle.config import HttpConfig, TlsConfig, parse_address
from agentproxy.oracle.http.api import Api
from agentproxy.oracle.http.app import build_app
from agentproxy.oracle.http.door import HttpDoor, uid_of
from agentproxy.oracle.http.guard import Guard
from agentproxy.oracle.http.health import Health
from agentproxy.oracle.ports import HTTP, HTTP_PROXY, Passed, bound, bound_address
from agentproxy.oracle.reception import Reception
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.files import write_atomically
from agentproxy.runtime.secretfiles import read_secret, secret_path
from agentproxy.runtime.tlscontext import server_context
from agentproxy.runtime.unixsocket import bind

__all__ = ["HttpServer"]

logger = logging.getLogger(__name__)


def _context(tls: TlsConfig) -> ssl.SSLContext:
    """As for relays, but a certificate is only wished for: the policy may let a runner come without one."""
    read_secret(tls.key)
    context = server_context(tls.certificate, secret_path(tls.key), tls.authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


class HttpServer:
    """The API of one oracle.

    Raises:
        ConfigError: a file is missing or wrong, or the proxy's user is unknown.
    """

    socket_names = (HTTP, HTTP_PROXY)

    def __init__(
        self, config: HttpConfig, tls: TlsConfig, address_file: Path, reception: Reception, health: Health
    ) -> None:
        self.address = ""  # host:port, once it is bound
        self._config = config
        self._tls = tls
        self._address_file = address_file
        proxy_uid = None if config.proxy is None else uid_of(config.proxy.user)
        self._door = HttpDoor(
            Guard(build_app(Api(reception, health)), reception.service.tally, reception.complaints),
            _context(tls),
            config.max_connections,
            proxy_uid,
            reception.complaints,
        )
        self._ports: Sequence[trio.SocketListener] = ()
        self._sockets: Sequence[trio.SocketListener] = ()

    async def open(self, passed: Passed) -> None:
        """Take systemd's sockets, or bind.

        Raises:
            ConfigError: an address is taken or not ours, or there is none.
        """
        config = self._config
        self._ports = passed.get(HTTP, ())
        self._sockets = passed.get(HTTP_PROXY, ())
        if not self._ports and config.listen is not None:
            self._ports = await bound(parse_address(config.listen), "http.listen")
        if config.proxy is None and self._sockets:
            raise ConfigError(f"http.proxy: missing, but systemd passes a socket {HTTP_PROXY}")
        if config.proxy is not None and not self._sockets:
            self._sockets = [bind(config.proxy.socket, config.proxy.bits)]
        if not self._ports and not self._sockets:
            raise ConfigError(f"http: expected listen, proxy, or a socket {HTTP} from systemd")
        if self._ports:
            await self._announce()

    async def _announce(self) -> None:
        self.address = bound_address(self._ports[0])
        try:
            text = f"{self.address}\n".encode("ascii")
            await trio.to_thread.run_sync(write_atomically, self._address_file, text, 0o644)
        except OSError as error:
            raise ConfigError(f"{self._address_file}: cannot be written: {error.strerror}") from error
        logger.info("listening for HTTP, address=%s", self.address)

    async def serve(self) -> None:
        """Serve until `drain` was called and the last answer is given."""
        try:
            await self._door.serve(self._ports, self._sockets)
        finally:  # also when we were cancelled, and it has closed none
            for listener in (*self._ports, *self._sockets):
                listener.socket.close()

    def drain(self) -> None:
        """Accept nobody any more, and finish what is under way."""
        self._door.drain()

    def reload(self) -> None:
        """Show the TLS certificate as it is now to connections from now on.

        Raises:
            ConfigError: it is missing or wrong, and the old one stays.
        """
        self._door.show(_context(self._tls))

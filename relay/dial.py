"""Opening a stream to an oracle, over TLS or ssh, and what the relay shows of itself there.

Credentials are read again for each connection, so that renewed ones are used without a restart.
"""

import ssl
from collections.abc import Callable

import trio

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.relay_messages import Hello
from agentproxy.runtime.tls import handshake
from agentproxy.runtime.tlsstream import TlsStream
from relay.config import OracleAddress, RelayConfig
from relay.credentials import CredentialSet
from relay.errors import LinkLostError
from relay.introduction import hello, tls_context
from relay.link import oracle_words

__all__ = ["SOFTWARE", "Dialer"]

# Name lookup, TCP and TLS together. Two lost SYNs cost 3 s; an address that drops packets must not cost a deadline.
CONNECT_SECONDS = 8.0

SOFTWARE = "blind-oracle-relay/0.1.0"


class Dialer:
    """Connects as the runner that relay.yaml describes.

    Args:
        config: where certificate, key, authority and token lie.
        heads: gives the ends of audit logs that this relay saw last.
        software: what it tells oracles about itself, for their logs.
    """

    def __init__(
        self,
        config: RelayConfig | CredentialSet,
        heads: Callable[[], tuple[Head, ...]] = tuple,
        software: str = SOFTWARE,
    ) -> None:
        self._config = config
        self._heads = heads
        self._software = software
        self._prepared: ssl.SSLContext | None = None

    def prepare(self) -> None:
        """Read the credentials now, for the first connection, so that what is wrong with them shows before it.

        Raises:
            ConfigError: as in `context` and `hello`.
        """
        self.hello()
        self._prepared = self.context()

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with our certificate.

        Raises:
            ConfigError: a file is missing, readable by others, or not what it should be.
        """
        return tls_context(self._config)

    def hello(self) -> Hello:
        """The first message, with the token.

        Raises:
            ConfigError: the token's file is missing, readable by others, or does not hold a token.
        """
        return hello(self._config, self._software, self._heads())

    async def connect(self, oracle: OracleAddress) -> trio.abc.Stream:
        """Open a stream and shake hands.

        Raises:
            LinkLostError: nobody there, no TLS 1.3, or a certificate that is not the oracle's.
            ConfigError: as in `context`.
        """
        if oracle.ssh is not None:
            # Most relays never come this way, and starting without it is quicker.
            from relay.sshdial import open_ssh  # noqa: PLC0415

            return await open_ssh(oracle.ssh, oracle.ssh_config)
        context, self._prepared = self._prepared or self.context(), None
        try:
            with trio.fail_after(CONNECT_SECONDS):
                tcp = await trio.open_tcp_stream(oracle.host, oracle.port)
                try:
                    stream = TlsStream(tcp, context, server_hostname=oracle.server_name)
                except ValueError:
                    await trio.aclose_forcefully(tcp)
                    raise
                await handshake(stream)
        except trio.TooSlowError:
            raise LinkLostError(f"no connection within {CONNECT_SECONDS:.0f} s") from None
        except (
            OSError,
            RemoteProtocolError,
            ValueError,
        ) as error:  # ValueError: the resolver or TLS takes no such name
            raise LinkLostError(oracle_words(error)) from error
        return stream

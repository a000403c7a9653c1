"""What a runner shows of itself to an oracle: its certificate in TLS, then its token."""

import ssl
from pathlib import Path
from typing import Protocol

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.messages import PROTOCOL_VERSION
from agentproxy.protocol.relay_messages import Hello
from agentproxy.runtime.files import read_private
from agentproxy.runtime.tlscontext import client_context

__all__ = ["Papers", "hello", "tls_context"]

_MAX_TOKEN = 256


class Papers(Protocol):
    """Where the credentials lie: relay.yaml's four files, or those of a set."""

    @property
    def authority(self) -> Path:
        """Who issues the oracles' certificates, PEM."""
        ...

    @property
    def certificate(self) -> Path:
        """Ours, PEM."""
        ...

    @property
    def key(self) -> Path:
        """Its key, PEM, for us alone."""
        ...

    @property
    def token(self) -> Path:
        """One line, for us alone."""
        ...


def tls_context(papers: Papers) -> ssl.SSLContext:
    """TLS 1.3 with our certificate.

    Raises:
        ConfigError: a file is missing, readable by others, or not what it should be.
    """
    read_private(papers.key)  # OpenSSL itself would load a key that everybody can read
    return client_context(papers.authority, papers.certificate, papers.key)


def hello(papers: Papers, software: str, heads: tuple[Head, ...]) -> Hello:
    """The first message, with the token.

    Args:
        software: what we tell oracles about ourselves, for their logs.
        heads: the ends of audit logs that we saw last.

    Raises:
        ConfigError: the token's file is missing, readable by others, or does not hold a token.
    """
    token = read_private(papers.token).decode("ascii", "replace").strip()
    if not 1 <= len(token) <= _MAX_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(f"{papers.token}: expected one token on one line")
    return Hello(PROTOCOL_VERSION, token, software, heads)

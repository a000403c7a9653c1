"""Putting new credentials in the place of the present ones, when no relay does it."""

import contextlib
import logging
import socket
from collections.abc import Iterator

from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.oracle_messages import Credentials
from agentproxy.runtime.lockfile import held
from relay.config import RelayConfig
from relay.credentials import CredentialStore, credentials_directory

__all__ = ["renew", "renewable"]

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def renewable(config: RelayConfig) -> Iterator[CredentialStore | None]:
    """The store of our credentials, when nobody else would renew them: no relay serves, and no other client is here."""
    store = CredentialStore(credentials_directory(config.state))
    if config.token != store.current.token or _relay_serves(config):
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(config.state / "sealed.lock", "blind-oracle-sign"))
        except ConfigError:
            yield None  # the other one will
            return
        yield store


def _relay_serves(config: RelayConfig) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(config.control_socket))
        except OSError:
            return False
        return True


def renew(config: RelayConfig, credentials: Credentials) -> None:
    """Store what the oracle sent, and use it once, which confirms it. It blocks; what fails is logged."""
    with renewable(config) as store:
        if store is None:
            return
        from relay.exchange import confirm  # noqa: PLC0415  it needs the event loop, and credentials last for weeks

        try:
            before = store.renew(credentials)
            logger.info("new credentials stored, expires=%s", credentials.expires)
            if confirm(store.current, config.oracles):
                store.tidy()
            else:
                logger.warning("the oracle does not take the credentials that it sent: the earlier ones are used")
                store.restore(before)
        except ConfigError as error:
            logger.warning("new credentials are not in use yet: %s", error)
        except OSError as error:
            logger.error("the earlier credentials cannot be put back: %s: %s", error.filename, error.strerror)  # noqa: TRY400  no bug

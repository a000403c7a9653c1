"""What expires when, and the daily word about it in the oracle's log: 60, 30 and 7 days before, and after."""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import trio

from agentproxy.oracle.config import TlsConfig
from agentproxy.oracle.credentials import Credentials, TokenKind
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.expiry import expiry_notices
from agentproxy.protocol.fields import KeyFacts
from agentproxy.runtime import certificate

__all__ = ["CertificatesInUse", "Expiries", "credential_expiries", "key_expiries", "tls_expiries", "warn_daily"]

logger = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0

Expiries = dict[str, datetime | None]


def key_expiries(keys: Iterable[KeyFacts]) -> Expiries:
    """The ends of signing keys."""
    return {f"key {key.name}": key.expires for key in keys}


def tls_expiries(tls: TlsConfig) -> Expiries:
    """The ends of the oracle's own certificate and of the CA's; it reads two files.

    Raises:
        ConfigError: one of them cannot be read.
    """
    return {
        "certificate of this oracle": certificate.file_expires(tls.certificate),
        "certificate of the CA": certificate.file_expires(tls.authority),
    }


class CertificatesInUse:
    """The ends of those that the doors show and ask for.

    A renewed file alone helps nobody: until it is loaded the old certificate is shown, and ends. The oracle that was
    renewed and never reloaded is the one to warn of.
    """

    def __init__(self, tls: TlsConfig) -> None:
        self._tls = tls
        self.ends: Expiries = {}
        self.load()

    def load(self) -> None:
        """Take the files as they are now; called together with the doors."""
        try:
            self.ends = tls_expiries(self._tls)
        except ConfigError as error:
            self.ends = {}
            logger.warning("the end of a certificate is not known, reason=%s", error)


def credential_expiries(credentials: Credentials) -> Expiries:
    """When each runner that may come loses its last token and its last certificate.

    Only the last ones count: what was replaced is meant to end. Those of an enrolment file, which end within a day,
    and those that a relay has not used yet do not. A certificate outlives the token that was issued with it: where that
    one leaked and was revoked, the runner goes on with another.
    """
    found: Expiries = {}
    passing = {
        token.id for token in credentials.tokens.values() if token.kind is TokenKind.BOOTSTRAP or token.is_pending
    }
    for token in credentials.tokens.values():
        if token.id not in passing and token.revoked is None:
            _keep_last(found, credentials, f"token of {token.runner}", token.runner, token.expires)
    for entry in credentials.certificates.values():
        if entry.public_key_sha256 not in credentials.revoked_public_keys and entry.token not in passing:
            _keep_last(found, credentials, f"certificate of {entry.runner}", entry.runner, entry.expires)
    return found


def _keep_last(found: Expiries, credentials: Credentials, what: str, runner: str, expires: datetime | None) -> None:
    known = credentials.runners.get(runner)
    if known is None or known.disabled:
        return
    last = found.get(what, expires)
    found[what] = None if last is None or expires is None else max(last, expires)


async def warn_daily(
    certificates: CertificatesInUse, keys: Callable[[], Iterable[KeyFacts]], credentials: Callable[[], Credentials]
) -> None:
    """Warn in the log of everything that ends soon, now and once a day, until cancelled."""
    while True:
        expiries = {**key_expiries(keys()), **credential_expiries(credentials()), **certificates.ends}
        for notice in expiry_notices(expiries, datetime.now(UTC)):
            level = logging.ERROR if notice.has_expired else logging.WARNING
            logger.log(level, "%s", notice)
        await trio.sleep(DAY_SECONDS)

"""Fresh credentials for runners: for a newcomer in exchange for its bootstrap ones, for a relay before its own expire.

What was issued replaces the old credentials at its first use, which is recorded. Until then the old ones stay good, so
either side may die at any point, and the exchange begins anew.
"""

import base64
import hashlib
import logging
import secrets
import ssl
from datetime import UTC, datetime, timedelta

from agentproxy.oracle.caller import Caller
from agentproxy.oracle.changes import CredentialsIssued, Enrolled, Renewed, token_id
from agentproxy.oracle.config import CredentialsConfig
from agentproxy.oracle.credentials import CertificateEntry, Credentials, TokenEntry, TokenKind
from agentproxy.oracle.ledger import Ledger
from agentproxy.oracle.statements import MOST_PENDING
from agentproxy.protocol import oracle_messages
from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import BackendError, RefusedError
from agentproxy.protocol.signer_answers import Issued
from agentproxy.protocol.signer_requests import CertificateKind, Issue
from agentproxy.protocol.values import frozen

__all__ = ["Issuer", "is_due", "issued_change", "new_token"]

logger = logging.getLogger(__name__)

# Of a lifetime, then credentials are renewed: with 365 days there are four months for whatever is in the way.
RENEWAL_POINT = 2 / 3
# Of a lifetime, either way, by the token: a thousand relays that were enrolled together do not come back together.
RENEWAL_JITTER = 0.05
# A relay that got new credentials and does not use them could not store them; so often it gets others.
RETRY = timedelta(hours=1)
_TOKEN_BYTES = 32


def new_token() -> str:
    """A token: 256 random bits."""
    return "bo_" + base64.urlsafe_b64encode(secrets.token_bytes(_TOKEN_BYTES)).rstrip(b"=").decode("ascii")


def is_due(credentials: Credentials, caller: Caller, now: datetime) -> bool:
    """Whether this caller's credentials should be renewed now, and nothing is on its way."""
    token = credentials.tokens.get(caller.token_sha256)
    digest = None if caller.certificate is None else bytes.fromhex(caller.certificate)
    certificate = None if digest is None else credentials.certificates.get(digest)
    if token is None or (certificate is None and caller.attached is None):
        return False  # a runner by token alone has no stream, and nobody who could store anything
    if any(other.created + RETRY > now or not other.is_pending for other in _replacing(credentials, token.id)):
        return False
    jitter = (token.sha256[0] / 255 * 2 - 1) * RENEWAL_JITTER
    shown = (token,) if certificate is None else (token, certificate)
    return any(_is_past(entry, RENEWAL_POINT + jitter, now) for entry in shown)


def _is_past(entry: TokenEntry | CertificateEntry, point: float, now: datetime) -> bool:
    return entry.expires is not None and now >= entry.created + (entry.expires - entry.created) * point


def _replacing(credentials: Credentials, token: str) -> list[TokenEntry]:
    return [entry for entry in credentials.tokens.values() if entry.replaces == token and entry.revoked is None]


@frozen
class Issuer:
    """Issues and confirms, recorded before it counts."""

    ledger: Ledger
    lifetimes: CredentialsConfig

    async def issue(self, caller: Caller, credentials: Credentials) -> oracle_messages.Credentials:
        """Make credentials that replace the caller's own at their first use.

        Raises:
            RefusedError: too many were made and never used, or the caller's own ended while they were made. What was
                made then is registered nowhere, and opens nothing.
            BackendError: the signer did not issue or record.
            RegistryError: they are not registered.
        """
        # By this picture, so that the signer need not issue; the registry asks again, with everybody else kept out.
        if sum(entry.is_pending for entry in _replacing(credentials, caller.token)) >= MOST_PENDING:
            reason = f"{MOST_PENDING} sets of credentials were issued for token {caller.token} and never used"
            raise RefusedError(RejectionCode.TOKEN_REVOKED, reason)
        asserted, days = caller.asserted(), self.lifetimes.certificate_days
        issued = await self.ledger.ask(Issue(0, CertificateKind.CLIENT, caller.runner, (), days, asserted))
        if not isinstance(issued, Issued):
            raise BackendError(f"the signer sent {issued.tag} for a certificate")
        token = new_token()
        change = issued_change(caller.runner, issued, token, self.lifetimes.token_days, replaces=caller.token)
        await self.ledger.change(change, asserted)
        logger.info(
            "credentials issued, runner=%s token=%s replaces=%s expires=%s",
            caller.runner, token_id(change.token_sha256), caller.token, change.token_expires,
        )  # fmt: skip
        expires = min(change.token_expires, change.certificate_expires)
        return oracle_messages.Credentials(
            caller.runner, issued.certificate, issued.private_key, issued.authority, token, expires
        )

    async def confirm(self, caller: Caller, credentials: Credentials) -> None:
        """Record the first use of credentials that replace others, and end those.

        Raises:
            ConfigError: the token was removed just now.
            RefusedError: it was revoked just now.
            BackendError, RegistryError: as `issue`; nothing has ended.
        """
        token = credentials.tokens.get(caller.token_sha256)
        if token is None or token.replaces is None or not token.is_pending:
            return
        old = next((entry for entry in credentials.tokens.values() if entry.id == token.replaces), None)
        if old is not None and old.kind is TokenKind.LASTING:
            ends = datetime.now(UTC) + timedelta(minutes=self.lifetimes.overlap_minutes)
            await self.ledger.change(Renewed(caller.runner, token.id, old.id, ends), caller.asserted())
        else:
            await self.ledger.change(Enrolled(caller.runner, token.id, token.replaces), caller.asserted())
        logger.info("credentials confirmed, runner=%s token=%s replaced=%s", caller.runner, token.id, token.replaces)


def issued_change(
    runner: str, issued: Issued, token: str, token_days: int, *, replaces: str | None = None
) -> CredentialsIssued:
    """What the registry gets to know of a new certificate and a new token."""
    return CredentialsIssued(
        runner=runner,
        token_sha256=hashlib.sha256(token.encode("ascii")).digest(),
        token_expires=datetime.now(UTC) + timedelta(days=token_days),
        certificate_sha256=hashlib.sha256(ssl.PEM_cert_to_DER_cert(issued.certificate)).digest(),
        public_key_sha256=issued.public_key_sha256,
        certificate_expires=issued.expires,
        kind=TokenKind.LASTING if replaces is not None else TokenKind.BOOTSTRAP,
        replaces=replaces,
    )

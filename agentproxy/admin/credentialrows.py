"""Runners and tokens as rows for people and machines. Values in, values out; secrets are not among them."""

from datetime import datetime

from agentproxy.oracle.credentials import Credentials, RunnerEntry, TokenEntry, TokenKind
from agentproxy.protocol.values import frozen

__all__ = ["CertificateRow", "RunnerRow", "TokenRow", "runner_row", "runner_rows", "token_rows"]


@frozen
class TokenRow:
    """One token; its id says nothing about it."""

    id: str
    runner: str
    kind: str
    state: str  # valid, unused (sent, and not used yet), expired or revoked
    created: datetime
    expires: datetime | None
    last_used: datetime | None


@frozen
class CertificateRow:
    """One certificate, by the two names that it has; either of them revokes it."""

    public_key_sha256: str
    sha256: str  # of the certificate itself, as audit records name it
    state: str  # valid, expired or revoked
    created: datetime
    expires: datetime | None


@frozen
class RunnerRow:
    """One runner."""

    name: str
    state: str  # enrolled, waiting (its enrolment file was not used yet), locked out (nothing valid) or disabled
    created: datetime
    expires: datetime | None  # when the last of its valid tokens does
    last_used: datetime | None
    tokens: tuple[TokenRow, ...]
    certificates: tuple[CertificateRow, ...]

    @property
    def good(self) -> tuple[int, int]:
        """How many of its tokens, and of its certificates, are neither expired nor revoked."""
        tokens = sum(one.state in {"valid", "unused"} for one in self.tokens)
        return tokens, sum(one.state == "valid" for one in self.certificates)


def runner_rows(credentials: Credentials, now: datetime) -> list[RunnerRow]:
    """All runners by name."""
    return [_runner(credentials, entry, now) for _, entry in sorted(credentials.runners.items())]


def runner_row(credentials: Credentials, name: str, now: datetime) -> RunnerRow | None:
    """One runner, if there is one of this name."""
    entry = credentials.runners.get(name)
    return None if entry is None else _runner(credentials, entry, now)


def token_rows(credentials: Credentials, now: datetime) -> list[TokenRow]:
    """All tokens, by runner and age."""
    entries = sorted(credentials.tokens.values(), key=lambda entry: (entry.runner, entry.created))
    return [_token(entry, now) for entry in entries]


def _runner(credentials: Credentials, entry: RunnerEntry, now: datetime) -> RunnerRow:
    tokens = tuple(row for row in token_rows(credentials, now) if row.runner == entry.name)
    certificates = tuple(
        CertificateRow(
            certificate.public_key_sha256.hex(),
            certificate.sha256.hex(),
            "revoked"
            if certificate.public_key_sha256 in credentials.revoked_public_keys
            else "expired"
            if certificate.expires is not None and certificate.expires <= now
            else "valid",
            certificate.created,
            certificate.expires,
        )
        for certificate in sorted(credentials.certificates.values(), key=lambda one: one.created)
        if certificate.runner == entry.name
    )
    good = [row for row in tokens if row.state in {"valid", "unused"}]
    ends = [row.expires for row in good]
    used = [row.last_used for row in tokens if row.last_used is not None]
    return RunnerRow(
        entry.name,
        _state(entry, good),
        entry.created,
        None if None in ends else max((end for end in ends if end is not None), default=None),
        max(used, default=None),
        tokens,
        certificates,
    )


def _state(entry: RunnerEntry, good: list[TokenRow]) -> str:
    if entry.disabled:
        return "disabled"
    if any(row.kind == TokenKind.LASTING and row.state == "valid" for row in good):
        return "enrolled"
    return "waiting" if good else "locked out"


def _token(entry: TokenEntry, now: datetime) -> TokenRow:
    if entry.revoked is not None:
        state = "revoked"
    elif entry.expires is not None and entry.expires <= now:
        state = "expired"
    else:
        state = "unused" if entry.is_pending else "valid"
    return TokenRow(entry.id, entry.runner, entry.kind.value, state, entry.created, entry.expires, entry.last_used)

"""What each change of a credential does to the registry's tables, inside a transaction of somebody else.

`check` speaks to the operator before anything is recorded. `apply` never refuses: what it is given has been recorded.
"""

from datetime import datetime

import sqlalchemy as sa

from agentproxy.oracle import schema
from agentproxy.oracle.changes import (
    CertificateRevoked,
    Change,
    CredentialsIssued,
    Enrolled,
    Renewed,
    RunnerAdded,
    RunnerDisabled,
    RunnerEnabled,
    RunnerRemoved,
    TokenIssued,
    TokenRevoked,
    token_id,
)
from agentproxy.oracle.credentials import TokenKind
from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError, RefusedError
from agentproxy.protocol.times import format_time

__all__ = ["MOST_PENDING", "apply", "check"]

MOST_PENDING = 8  # sets for one token that nobody has used yet: each is a way in for whoever has it

_TOKENS, _CERTIFICATES = schema.tokens.c, schema.certificates.c


def check(connection: sa.Connection, change: Change, now: datetime) -> None:
    """Say what is wrong with a change that somebody wants.

    Raises:
        ConfigError: the runner or token does not exist, or exists already.
        RefusedError: credentials that nothing stands behind any more, or too many of them, by a `RejectionCode`.
    """
    match change:
        case RunnerAdded(runner=runner):
            if _has_runner(connection, runner):
                raise ConfigError(f"runner {runner} exists already", "choose another name for another build server")
        case TokenRevoked(token=token):
            _check_token(connection, token)
        case CertificateRevoked():
            pass  # also for keys that we never saw
        case _:
            if not _has_runner(connection, change.runner):
                raise ConfigError(f"no runner {change.runner}", "blind-oracle runner list shows them")
    if isinstance(change, Enrolled | Renewed):
        _check_first_use(connection, change.token)
    if isinstance(change, CredentialsIssued) and change.replaces is not None:
        _check_replaced(connection, change.replaces, now)


def _check_first_use(connection: sa.Connection, token: str) -> None:
    """Whoever uses it was let in by an earlier picture of the registry: the use of another set may have ended it."""
    _check_token(connection, token)
    revoked = (_TOKENS.id == token) & _TOKENS.revoked.is_not(None)
    if connection.execute(sa.select(_TOKENS.id).where(revoked)).first() is not None:
        raise RefusedError(RejectionCode.TOKEN_REVOKED, f"token {token} was revoked meanwhile")


def _check_replaced(connection: sa.Connection, token: str, now: datetime) -> None:
    """Whoever asked was let in by an earlier picture of the registry: others may have asked since, or been first."""
    of_token = sa.select(_TOKENS.revoked, _TOKENS.expires).where(_TOKENS.id == token)
    old = connection.execute(of_token).first()
    if old is None or old.revoked is not None:
        raise RefusedError(RejectionCode.TOKEN_REVOKED, f"token {token} was revoked, or used by another, meanwhile")
    if old.expires is not None and old.expires <= format_time(now):
        raise RefusedError(RejectionCode.TOKEN_EXPIRED, f"token {token} expired meanwhile")
    pending = (_TOKENS.replaces == token) & _TOKENS.revoked.is_(None) & _TOKENS.confirmed.is_(None)
    if len(connection.execute(sa.select(_TOKENS.id).where(pending)).all()) >= MOST_PENDING:
        reason = f"{MOST_PENDING} sets of credentials were issued for token {token} and never used"
        raise RefusedError(RejectionCode.TOKEN_REVOKED, reason)


def apply(connection: sa.Connection, change: Change, when: datetime) -> None:
    """Do what was recorded; `when` is the time of that."""
    match change:
        case RunnerAdded():
            _add_runner(connection, change, when)
        case RunnerDisabled() | RunnerEnabled():
            disabled = isinstance(change, RunnerDisabled)
            of_name = schema.runners.c.name == change.runner
            connection.execute(sa.update(schema.runners).where(of_name).values(disabled=disabled))
        case RunnerRemoved():
            _remove_runner(connection, change.runner, when)
        case CredentialsIssued():
            _issue(connection, change, when)
        case TokenIssued():
            _issue_token(connection, change, when)
        case Enrolled() | Renewed():
            _confirm(connection, change, when)
        # With either end the sets that were given out for it and never used: a thief may have asked for one in advance.
        case TokenRevoked():
            _revoke_tokens(connection, (_TOKENS.id == change.token) | _unused(_TOKENS.replaces == change.token), when)
        case CertificateRevoked():
            key = change.public_key_sha256.hex()
            of_key = sa.select(_CERTIFICATES.token).where(_CERTIFICATES.public_key_sha256 == key)
            _revoke_tokens(connection, _unused(_TOKENS.replaces.in_(of_key)), when)
            _revoke_public_key(connection, key, when)


def _has_runner(connection: sa.Connection, name: str) -> bool:
    return connection.execute(sa.select(schema.runners).where(schema.runners.c.name == name)).first() is not None


def _check_token(connection: sa.Connection, token: str) -> None:
    if connection.execute(sa.select(_TOKENS.id).where(_TOKENS.id == token)).first() is None:
        raise ConfigError(f"no token {token}", "blind-oracle token list shows them")


def _add_runner(connection: sa.Connection, change: RunnerAdded, when: datetime) -> None:
    if not _has_runner(connection, change.runner):
        values = {"name": change.runner, "created": format_time(when), "disabled": False}
        connection.execute(sa.insert(schema.runners).values(values))


def _remove_runner(connection: sa.Connection, name: str, when: datetime) -> None:
    keys = connection.execute(sa.select(_CERTIFICATES.public_key_sha256).where(_CERTIFICATES.runner == name)).scalars()
    for key in set(keys.all()):
        _revoke_public_key(connection, key, when)
    connection.execute(sa.delete(schema.tokens).where(_TOKENS.runner == name))
    connection.execute(sa.delete(schema.certificates).where(_CERTIFICATES.runner == name))
    connection.execute(sa.delete(schema.runners).where(schema.runners.c.name == name))


def _issue(connection: sa.Connection, change: CredentialsIssued, when: datetime) -> None:
    token = TokenIssued(change.runner, change.token_sha256, change.token_expires)
    if not _add_token(connection, token, when, change.kind, change.replaces):
        return
    connection.execute(
        sa.insert(schema.certificates).values(
            sha256=change.certificate_sha256.hex(),
            public_key_sha256=change.public_key_sha256.hex(),
            runner=change.runner,
            created=format_time(when),
            expires=format_time(change.certificate_expires),
            token=token_id(change.token_sha256),
        )
    )


def _issue_token(connection: sa.Connection, change: TokenIssued, when: datetime) -> None:
    if change.ends is not None:
        others = (_TOKENS.runner == change.runner) & (_TOKENS.sha256 != change.token_sha256.hex())
        _end_tokens(connection, others, change.ends)
    _add_token(connection, change, when, TokenKind.LASTING, None)


def _add_token(
    connection: sa.Connection, change: TokenIssued, when: datetime, kind: TokenKind, replaces: str | None
) -> bool:
    """False when the runner has been removed since."""
    if not _has_runner(connection, change.runner):
        return False
    connection.execute(
        sa.insert(schema.tokens).values(
            sha256=change.token_sha256.hex(),
            id=token_id(change.token_sha256),
            runner=change.runner,
            created=format_time(when),
            expires=None if change.token_expires is None else format_time(change.token_expires),
            kind=kind.value,
            replaces=replaces,
        )
    )
    return True


def _confirm(connection: sa.Connection, change: Enrolled | Renewed, when: datetime) -> None:
    of_token = _TOKENS.id == change.token
    connection.execute(sa.update(schema.tokens).where(of_token).values(confirmed=format_time(when)))
    # Sets of credentials that were sent for the same one and never used: a crash lost them, or a thief has them.
    siblings = _unused(_TOKENS.replaces == change.replaces) & (_TOKENS.id != change.token)
    lost = connection.execute(sa.select(_TOKENS.id).where(siblings)).scalars().all()
    _revoke_tokens(connection, siblings, when)
    gone = [*lost, change.replaces] if isinstance(change, Enrolled) else lost
    of_gone = sa.select(_CERTIFICATES.public_key_sha256).where(_CERTIFICATES.token.in_(gone))
    for key in set(connection.execute(of_gone).scalars().all()):
        _revoke_public_key(connection, key, when)
    if isinstance(change, Enrolled):
        _revoke_tokens(connection, _TOKENS.id == change.replaces, when)
    else:
        _end_tokens(connection, _TOKENS.id == change.replaces, change.ends)
        _end_certificates(connection, _CERTIFICATES.token == change.replaces, change.ends)


def _unused(which: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return which & _TOKENS.confirmed.is_(None)


def _revoke_tokens(connection: sa.Connection, which: sa.ColumnElement[bool], when: datetime) -> None:
    unrevoked = which & _TOKENS.revoked.is_(None)
    connection.execute(sa.update(schema.tokens).where(unrevoked).values(revoked=format_time(when)))


def _end_tokens(connection: sa.Connection, which: sa.ColumnElement[bool], ends: datetime) -> None:
    later = _TOKENS.expires.is_(None) | (_TOKENS.expires > format_time(ends))
    connection.execute(sa.update(schema.tokens).where(which & later).values(expires=format_time(ends)))


def _end_certificates(connection: sa.Connection, which: sa.ColumnElement[bool], ends: datetime) -> None:
    later = _CERTIFICATES.expires.is_(None) | (_CERTIFICATES.expires > format_time(ends))
    connection.execute(sa.update(schema.certificates).where(which & later).values(expires=format_time(ends)))


def _revoke_public_key(connection: sa.Connection, sha256: str, when: datetime) -> None:
    known = sa.select(schema.revoked_public_keys.c.sha256).where(schema.revoked_public_keys.c.sha256 == sha256)
    if connection.execute(known).first() is None:
        values = {"sha256": sha256, "revoked": format_time(when)}
        connection.execute(sa.insert(schema.revoked_public_keys).values(values))

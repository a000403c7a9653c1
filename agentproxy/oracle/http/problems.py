"""What a caller is told when it does not get what it asked for: problem documents (RFC 9457), one for each error.

A peer gets a fixed type and words that it may know; who exactly was rejected, and why, is for our log.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

from agentproxy.oracle.authn import Rejection
from agentproxy.oracle.signerlink import SignerError
from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.errors import (
    BackendError,
    BlindOracleError,
    KeyUnavailableError,
    LimitedError,
    RefusedError,
    RemoteProtocolError,
)
from agentproxy.protocol.values import frozen

__all__ = ["ADDRESSES", "MEDIA_TYPE", "NotAsDescribedError", "Problem", "RejectedError", "problem_of", "wrong_fields"]

MEDIA_TYPE = "application/problem+json"
ADDRESSES = "GET /openapi.json says what can be asked, and how"
_AGAIN_SECONDS = 1  # when to come back after something that may be over soon


@frozen
class Problem:
    """One answer that is none."""

    status: int
    kind: str  # fixed words with underscores; the document's type is urn:blind-oracle:problem:KIND
    detail: str
    retry_after: int | None = None  # seconds
    errors: tuple[tuple[str, str], ...] = ()  # of a body: where, what

    @property
    def document(self) -> dict[str, object]:
        """The fields of RFC 9457, 3.1; `code` repeats the type's last word, `errors` names fields."""
        fields: dict[str, object] = {
            "type": f"urn:blind-oracle:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.kind,
        }
        if self.errors:
            fields["errors"] = [{"field": where, "message": what} for where, what in self.errors]
        return fields

    @property
    def body(self) -> bytes:
        """The document as JSON."""
        return json.dumps(self.document).encode("ascii")

    @property
    def headers(self) -> dict[str, str]:
        """What goes along with the document, apart from its type and length."""
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


class RejectedError(BlindOracleError):
    """Whoever asked is not let in."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.reason)
        self.rejection = rejection


class NotAsDescribedError(RemoteProtocolError):
    """A body, or one item of it, is not what OpenAPI says; `errors` says where, and what."""

    def __init__(self, errors: tuple[tuple[str, str], ...]) -> None:
        super().__init__("the request is not as described")
        self.errors = errors


def wrong_fields(found: Iterable[tuple[Sequence[object], str]]) -> tuple[tuple[str, str], ...]:
    """What pydantic found: where, and what; never the value, which may be a token."""
    return tuple((".".join(map(str, place)), what) for place, what in found)


_REFUSALS: Mapping[RefusalCode, HTTPStatus] = {
    RefusalCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    RefusalCode.KEY_UNKNOWN: HTTPStatus.FORBIDDEN,
    RefusalCode.HASH_FORBIDDEN: HTTPStatus.FORBIDDEN,
    RefusalCode.DISTRIBUTION_FORBIDDEN: HTTPStatus.FORBIDDEN,
    RefusalCode.DISTRIBUTION_MISSING: HTTPStatus.FORBIDDEN,
    RefusalCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    RefusalCode.QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
    RefusalCode.DEADLINE_PASSED: HTTPStatus.SERVICE_UNAVAILABLE,
    RefusalCode.ID_REUSED: HTTPStatus.CONFLICT,
}

_REUSED = "this Idempotency-Key already stands for a request with another content: choose another key"

# Known, and not allowed in: other credentials would not help. For all others they might.
_KNOWN = frozenset(
    {
        RejectionCode.TOKEN_OF_ANOTHER_RUNNER,
        RejectionCode.RUNNER_DISABLED,
        RejectionCode.RUNNER_UNKNOWN,
        RejectionCode.ADDRESS_FORBIDDEN,
    }
)
_REJECTIONS: Mapping[RejectionCode, str] = {
    RejectionCode.CERTIFICATE_UNKNOWN: "a client certificate that this oracle knows is needed",
    RejectionCode.CERTIFICATE_EXPIRED: "the client certificate has expired",
    RejectionCode.CERTIFICATE_REVOKED: "the client certificate is revoked",
    RejectionCode.TOKEN_UNKNOWN: "a token of this oracle is needed, in Authorization: Bearer or in the field token",
    RejectionCode.TOKEN_EXPIRED: "the token has expired",
    RejectionCode.TOKEN_REVOKED: "the token is revoked",
    RejectionCode.TOKEN_OF_ANOTHER_RUNNER: "certificate and token belong to different runners",
    RejectionCode.RUNNER_DISABLED: "the runner is disabled",
    RejectionCode.RUNNER_UNKNOWN: "the policy does not know this runner",
    RejectionCode.ADDRESS_FORBIDDEN: "the runner may not come from this address",
    RejectionCode.NOT_OPERATIONAL: "the registry of credentials is out of reach",
    RejectionCode.VERSION: "another version is spoken here",
}

_FAILURES: Mapping[FailureCode, str] = {
    FailureCode.BACKEND: "allowed, but no signature was made",
    FailureCode.KEY_UNAVAILABLE: "allowed, but the key cannot be used",
    FailureCode.BAD_SIGNATURE: "allowed, but the signature that was made was wrong and is not given out",
    FailureCode.NOT_OPERATIONAL: "the signer is out of reach, or cannot write its audit log",
    FailureCode.INTERNAL: "something went wrong here; the oracle's log says what",
}


def problem_of(error: BlindOracleError) -> Problem:
    """The answer to whoever caused this error, or met it."""
    match error:
        case RejectedError():
            return _rejected(error.rejection)
        case RefusedError():
            return _refused(error)
        case RemoteProtocolError():
            fields = error.errors if isinstance(error, NotAsDescribedError) else ()
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", str(error), errors=fields)
        case SignerError():
            return _failed(error.code, retryable=error.retryable)
        case BackendError():
            unavailable = isinstance(error, KeyUnavailableError)
            return _failed(
                FailureCode.KEY_UNAVAILABLE if unavailable else FailureCode.BACKEND, retryable=not unavailable
            )
        case _:
            return _failed(FailureCode.INTERNAL, retryable=False)


def _refused(error: RefusedError) -> Problem:
    status = _REFUSALS[RefusalCode(error.code)]
    again = _AGAIN_SECONDS if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    if isinstance(error, LimitedError):
        again = max(1, math.ceil(error.retry_after_ms / 1000))
    # The reason names the request's id, which is made of the key and which no caller knows.
    detail = _REUSED if error.code == RefusalCode.ID_REUSED else str(error)
    return Problem(status, error.code, detail, again)


def _failed(code: FailureCode, *, retryable: bool) -> Problem:
    internal = code is FailureCode.INTERNAL
    status = HTTPStatus.INTERNAL_SERVER_ERROR if internal else HTTPStatus.SERVICE_UNAVAILABLE
    return Problem(status, code, _FAILURES[code], _AGAIN_SECONDS if retryable else None)


def _rejected(rejection: Rejection) -> Problem:
    detail = _REJECTIONS[rejection.code]
    if rejection.code is RejectionCode.NOT_OPERATIONAL:
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, rejection.code, detail, _AGAIN_SECONDS)
    status = HTTPStatus.FORBIDDEN if rejection.code in _KNOWN else HTTPStatus.UNAUTHORIZED
    return Problem(status, rejection.code, detail)

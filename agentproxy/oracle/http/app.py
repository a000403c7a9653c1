"""The ASGI application: addresses, their documents in OpenAPI, and problem documents for everything that goes wrong."""

import functools
from collections.abc import Callable, Mapping
from http import HTTPStatus

import trio
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from agentproxy.oracle.http.api import Api, KeyNotFoundError
from agentproxy.oracle.http.models import HealthReport, ProblemDocument
from agentproxy.oracle.http.problems import (
    ADDRESSES,
    MEDIA_TYPE,
    NotAsDescribedError,
    Problem,
    problem_of,
    wrong_fields,
)
from agentproxy.protocol.errors import BlindOracleError

__all__ = ["build_app"]

_DESCRIPTION = """Signatures for builds that hold no key: send a hash, get an OpenPGP signature.

Every error is a problem document (RFC 9457). A request carries its token in `Authorization: Bearer` or, with a body, in
the field `token`, and comes over TLS with a client certificate unless the policy lets its runner come without."""

# In what a status is explained, so that the document says when to expect it.
_WORDS: Mapping[int, str] = {
    400: "No HTTP request of ours: a query string, no JSON, a field or header twice, identity headers",
    401: "No token, or one that is not good any more; or no client certificate",
    403: "Known, and not allowed",
    404: "No such key for this runner",
    405: "The address takes another method",
    408: "The body did not come in time",
    409: "The idempotency key stands for another request",
    413: "The body is too large",
    415: "The body is not application/json, or encoded",
    422: "The body is not as described: unknown or missing fields, or a state that cannot be",
    429: "Too many signatures, or too many waiting; Retry-After says when to come again",
    500: "A bug; the oracle's log says more",
    503: "No signature just now: the signer, its log or the registry is out of reach",
}
_SIGNING = (400, 401, 403, 405, 408, 409, 413, 415, 422, 429, 500, 503)
_READING = (400, 401, 403, 405, 408, 413, 415, 500, 503)
_ANYBODY = (400, 405, 408, 413, 415, 500)
_MOST_ERRORS = 32  # told of one body; who has more of them has not read the description


def build_app(api: Api) -> FastAPI:
    """Everything behind the guard."""
    # No redirects: they would go to whatever host and scheme a request or its proxy names, with the token in the body.
    app = FastAPI(
        title="Blind Oracle",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    bearer = [Depends(HTTPBearer(auto_error=False, description="the runner's token"))]
    for path, handler in (
        ("/sign/rpm", api.sign_rpm),
        ("/sign/repodata", api.sign_repodata),
        ("/sign/batch", api.sign_batch),
    ):
        app.add_api_route(path, handler, methods=["POST"], dependencies=bearer, responses=_problems(*_SIGNING))
    app.add_api_route("/keys", api.keys, methods=["GET"], dependencies=bearer, responses=_problems(*_READING))
    certificate: dict[int | str, dict[str, object]] = {
        200: {"content": {"application/pgp-keys": {"schema": {"type": "string"}}}}
    }
    app.add_api_route(
        "/keys/{file}",
        api.certificate,
        methods=["GET"],
        dependencies=bearer,
        response_class=Response,
        responses={**certificate, **_problems(*_READING, 404, 422)},
    )
    unavailable: dict[int | str, dict[str, object]] = {503: {"model": HealthReport, "description": "It cannot"}}
    app.add_api_route("/health", api.health, methods=["GET"], responses={**_problems(*_ANYBODY), **unavailable})
    app.add_api_route("/version", api.version, methods=["GET"], responses=_problems(*_ANYBODY))
    for kind, answer in (
        (BlindOracleError, _for_error),
        (RequestValidationError, _for_body),
        (HTTPException, _for_status),
    ):
        app.add_exception_handler(kind, functools.partial(_told, answer))
    return app


def _problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    schema = {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}
    return {status: {"description": _WORDS[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses}


def _answer(problem: Problem) -> Response:
    return Response(problem.body, problem.status, problem.headers, MEDIA_TYPE)


async def _told(answer: Callable[[Request, Exception], Response], request: Request, error: Exception) -> Response:
    await trio.lowlevel.checkpoint()  # starlette runs what is not async in a thread
    return answer(request, error)


def _for_error(_: Request, error: Exception) -> Response:
    if isinstance(error, KeyNotFoundError):
        return _answer(Problem(HTTPStatus.NOT_FOUND, "key_not_found", str(error)))
    if isinstance(error, BlindOracleError):
        return _answer(problem_of(error))
    raise error


def _for_body(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = wrong_fields((each["loc"], str(each["msg"])) for each in error.errors()[:_MOST_ERRORS])
    return _answer(problem_of(NotAsDescribedError(found)))


def _for_status(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # The framework decodes a body once more, deeper in the stack: a few depths are too much for it and not for us.
        return _answer(Problem(HTTPStatus.BAD_REQUEST, "not_json", "not JSON: nested too deeply"))
    problem = Problem(error.status_code, "no_such_address", ADDRESSES)
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # the guard makes the one of the other
    return Response(problem.body, problem.status, {**headers, **problem.headers}, MEDIA_TYPE)

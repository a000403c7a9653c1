"""What stands before the API: limits of size and time, no query strings, one line in the log for each request.

A body is read whole before anybody parses it, so that nothing behind this waits for a client.
"""

import logging
from dataclasses import dataclass
from http import HTTPStatus

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentproxy.oracle.complaints import Complaints
from agentproxy.oracle.http.identity import Peer, identify
from agentproxy.oracle.http.models import MAX_ITEMS
from agentproxy.oracle.http.problems import ADDRESSES, MEDIA_TYPE, Problem
from agentproxy.oracle.http.weight import has_more_values
from agentproxy.oracle.shares import network_of
from agentproxy.oracle.tally import Tally
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.jsonobject import decode_object

__all__ = ["MAX_BATCH_BODY", "MAX_BATCH_VALUES", "MAX_BODY", "MAX_VALUES", "Guard"]

logger = logging.getLogger(__name__)

MAX_BODY = 32 * 1024  # bytes; a request has 400, and 20 000 with all its claims filled to the brim
MAX_BATCH_BODY = 1024 * 1024  # 256 requests with the claims that people really send
# Names in any object of a body; the largest that there is, a job's claims, has 16. Each unknown name costs 8 us to find
# fault with, before anybody knows who asks: a body full of them stopped relays and all for a second.
MAX_NAMES = 32
# Values at all depths. A request has 24 with a job of 16 texts; an item of a batch as many, and itself.
MAX_VALUES = 32
MAX_BATCH_VALUES = 25 * MAX_ITEMS + MAX_VALUES
BODY_SECONDS = 10.0  # for all of it, which fits into a few packets
_BATCH = "/sign/batch"
_QUIET = frozenset({"/health", "/version"})  # asked every few seconds by monitoring
# Which of two counts would depend on who reads them: a proxy, the framework or us. Authorization is looked at where the
# token is.
_ONCE = (b"content-type", b"content-encoding", b"idempotency-key")
_CLOSE = (b"connection", b"close")
_CODES = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"})


class Guard:
    """An ASGI application around the API's."""

    def __init__(self, app: ASGIApp, tally: Tally, complaints: Complaints) -> None:
        self._app = app
        self._tally = tally
        self._complaints = complaints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens behind."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        method = scope["method"]
        if method == "HEAD":
            # RFC 9110, 9.3.2: answered as GET is. It is hypercorn that leaves the body out, by the scope that it keeps.
            scope = {**scope, "method": "GET"}
        answer = _Answer(send, is_last=bool(_header(scope, b"transfer-encoding")))
        started = trio.current_time()
        try:
            await self._pass_on(scope, receive, answer)
        except Exception:
            # The one place around a whole request: a bug behind it must not end the connection without an answer.
            logger.exception("a request ended by a bug")
            if not answer.status:
                detail = "something went wrong here; the oracle's log says what"
                await answer.tell(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail))
        finally:
            # Also when its client left at once: what was answered is counted and told; status 0 is nothing.
            self._tally.answered[answer.status] += 1
            _log(self._level(scope), scope, method, answer.status, (trio.current_time() - started) * 1000)

    def _level(self, scope: Scope) -> int:
        if _route(scope) in _QUIET:
            return logging.DEBUG
        # Whoever is let in by nothing shall not fill the log by asking again and again, on one connection even.
        return logging.INFO if "runner" in scope["state"] or self._may_tell(scope) else logging.DEBUG

    def _may_tell(self, scope: Scope) -> bool:
        return self._complaints.may_tell(network_of(scope["state"]["peer"].address))

    def _objection(self, scope: Scope) -> Problem | None:
        """What is wrong with a request's head; its state learns who sent it."""
        if scope["path"].endswith("\n"):
            # In the framework's patterns `$` lets a newline follow: a proxy that keeps an address for some would not
            # see that this is the same one.
            return Problem(HTTPStatus.NOT_FOUND, "no_such_address", ADDRESSES)
        if scope["query_string"]:
            # Whoever sends a token there has shown it to every log between us and him already.
            detail = "no parameters are taken from the address; a token belongs in Authorization: Bearer or in the body"
            return Problem(HTTPStatus.BAD_REQUEST, "query_string", detail)
        if _header(scope, b"content-length") and _header(scope, b"transfer-encoding"):
            # RFC 9112, 6.1: an attempt at smuggling, or a broken client.
            return Problem(HTTPStatus.BAD_REQUEST, "framing", "Content-Length and Transfer-Encoding exclude each other")
        for name in _ONCE:
            if sum(known == name for known, _ in scope["headers"]) > 1:
                return Problem(HTTPStatus.BAD_REQUEST, "header_twice", f"{name.decode()} stands twice: one is right")
        peer: Peer = scope["state"]["peer"]
        try:
            scope["state"]["peer"] = identify(peer, scope["headers"])
        except RemoteProtocolError as error:
            if self._may_tell(scope):
                logger.warning("a client's identity was not accepted, address=%s reason=%s", peer.address, error)
            return Problem(HTTPStatus.BAD_REQUEST, "identity_headers", str(error))
        return None

    async def _pass_on(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        body = self._objection(scope) or await _read(scope, receive)
        if isinstance(body, bytes):
            body = _check_json(scope, body) or body
        if isinstance(body, Problem):
            await answer.tell(body)
            return

        async def whole() -> Message:
            await trio.lowlevel.checkpoint()
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, whole, answer.send)


@dataclass(slots=True)
class _Answer:
    raw_send: Send
    # So is that to a request in chunks: in what follows the last of them h11 takes a bare LF for a line's end, and who
    # does not would see the next request begin at another place.
    is_last: bool
    status: int = 0  # 0: none so far

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.is_last:
                message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
        await self.raw_send(message)

    async def tell(self, problem: Problem) -> None:
        body = problem.body
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        # There may be more of a body to come than anybody wants to read.
        self.is_last = True
        await self.send({"type": "http.response.start", "status": int(problem.status), "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for known, value in scope["headers"] if known == name), b"")


async def _read(scope: Scope, receive: Receive) -> bytes | Problem:
    limit = MAX_BATCH_BODY if scope["path"] == _BATCH else MAX_BODY
    declared = _header(scope, b"content-length")
    if declared and int(declared) > limit:  # h11 has checked that it is a number, and one only
        return _too_large(limit)
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS):
        while len(body) <= limit:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body", False):  # the end, or nobody is left to be answered
                break
        return _too_large(limit) if len(body) > limit else bytes(body)
    return Problem(HTTPStatus.REQUEST_TIMEOUT, "slow_body", f"the body did not come within {BODY_SECONDS:.0f} s")


def _too_large(limit: int) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", f"at most {limit} bytes: send hashes, no files"
    )


def _check_json(scope: Scope, body: bytes) -> Problem | None:
    if not body:
        return None
    unreadable = _check_media(scope)
    if unreadable is not None:
        return unreadable
    most = MAX_BATCH_VALUES if scope["path"] == _BATCH else MAX_VALUES
    if has_more_values(body, most):
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"more than {most} values: no request has as many")
    try:
        decoded = decode_object(body)  # a field that stands twice would mean one thing to a proxy and another to us
    except RemoteProtocolError as error:
        return Problem(HTTPStatus.BAD_REQUEST, "not_json", str(error))
    if _is_crowded(decoded):
        detail = f"an object with more than {MAX_NAMES} names: no request has one"
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", detail)
    return None


def _check_media(scope: Scope) -> Problem | None:
    kind = _header(scope, b"content-type").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media_type", "expected Content-Type: application/json")
    if _header(scope, b"content-encoding").strip().lower() not in {b"", b"identity"}:
        # Whoever decodes it on the way, to look at it, would see another request than we.
        return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media_type", "expected a body without Content-Encoding")
    return None


def _is_crowded(decoded: object) -> bool:
    left = [decoded]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if len(value) > MAX_NAMES:
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False


def _route(scope: Scope) -> str:
    # Neither path nor query as they came: somebody may have put a token there.
    path: str = getattr(scope.get("route"), "path", "-")
    return path


def _log(level: int, scope: Scope, method: str, status: int, milliseconds: float) -> None:
    runner, address = scope["state"].get("runner", "nobody"), scope["state"]["peer"].address
    logger.log(
        level,
        "request, method=%s path=%s status=%d runner=%s address=%s ms=%.1f",
        method if method in _CODES else "-",
        _route(scope),
        status,
        runner,
        address,
        milliseconds,
    )

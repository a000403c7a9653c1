"""The requests of the API, one method each. Who may ask, and what is signed, others decide.

A token is looked at anew with each request: whoever was revoked a moment ago gets nothing any more, on an open
connection as on a new one.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

import trio
from fastapi import Header, Path, Request, Response

from agentproxy.oracle.authn import Newcomer, Rejection
from agentproxy.oracle.caller import Caller
from agentproxy.oracle.http.asking import Asked, item_of, reported, request_id, seal_for, the_hash
from agentproxy.oracle.http.health import Health
from agentproxy.oracle.http.identity import Peer
from agentproxy.oracle.http.models import (
    BatchAnswer,
    BatchRequest,
    HealthReport,
    ItemAnswer,
    KeyList,
    KeyReport,
    ProblemDocument,
    ProblemField,
    RepodataRequest,
    RpmRequest,
    SignatureReport,
    Version,
)
from agentproxy.oracle.http.problems import Problem, RejectedError, problem_of
from agentproxy.oracle.policy import Deny, header_mismatch
from agentproxy.oracle.reception import SOFTWARE, Reception
from agentproxy.oracle.selection import select_key
from agentproxy.oracle.shares import network_of
from agentproxy.protocol.armor import armored
from agentproxy.protocol.codes import RefusalCode, RejectionCode
from agentproxy.protocol.errors import BackendError, BlindOracleError, RefusedError, RemoteProtocolError
from agentproxy.protocol.key_messages import ServedKey
from agentproxy.protocol.times import format_time

__all__ = ["Api", "KeyNotFoundError"]

logger = logging.getLogger(__name__)

API_VERSION = 1
_BEARER = re.compile(r"(?i:bearer) +([^\s]{1,256})")
_KEY_FILE = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\.asc$"

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="Requests of one runner with the same key and the same content are one request, for ten minutes.",
    ),
]


class KeyNotFoundError(BlindOracleError):
    """The address names no key that this runner may use."""


class Api:
    """Everything that can be asked over HTTP.

    Args:
        reception: who is let in, and with which keys.
        health: how the oracle is.
    """

    def __init__(self, reception: Reception, health: Health) -> None:
        self._reception = reception
        self._health = health

    async def sign_rpm(
        self, body: RpmRequest, request: Request, idempotency_key: IdempotencyKey = None
    ) -> SignatureReport:
        """Sign the header of an RPM."""
        caller = await self._caller(request, body.token)
        asked = Asked(body.package_hash, body.distribution, body.key_type, body.claims, is_package=True)
        return await self._sign(caller, asked, request_id(idempotency_key))

    async def sign_repodata(
        self, body: RepodataRequest, request: Request, idempotency_key: IdempotencyKey = None
    ) -> SignatureReport:
        """Sign repomd.xml, or another file."""
        caller = await self._caller(request, body.token)
        asked = Asked(body.repodata_hash, body.distribution, body.key_type, body.claims)
        return await self._sign(caller, asked, request_id(idempotency_key))

    async def sign_batch(
        self, body: BatchRequest, request: Request, idempotency_key: IdempotencyKey = None
    ) -> BatchAnswer:
        """Sign many at once; each item has a result of its own, in the order of the items."""
        caller = await self._caller(request, body.token)
        answers: list[ItemAnswer | None] = [None] * len(body.items)

        async def answer(index: int, untrusted: dict[str, object]) -> None:
            name = request_id(idempotency_key, index)
            answers[index] = await _result(lambda: self._sign_item(caller, untrusted, index, name))

        async with trio.open_nursery() as nursery:
            for index, untrusted in enumerate(body.items):
                nursery.start_soon(answer, index, untrusted)
        return BatchAnswer([one for one in answers if one is not None])

    async def _sign_item(self, caller: Caller, untrusted: dict[str, object], index: int, name: str) -> SignatureReport:
        item = item_of(untrusted, index)
        wanted = the_hash(item.package_hash, item.repodata_hash)
        is_package = item.package_hash is not None
        if is_package and item.distribution is None:
            raise RemoteProtocolError("package_hash: expected distribution beside it")
        asked = Asked(wanted, item.distribution, item.key_type, item.claims, is_package=is_package)
        return await self._sign(caller, asked, name)

    async def _sign(self, caller: Caller, asked: Asked, name: str) -> SignatureReport:
        service = self._reception.service
        chosen = select_key(
            service.policy, asked.distribution, asked.key_type, runner=caller.runner, served=service.keys.values()
        )
        if isinstance(chosen, Deny):
            raise self._refused(caller, asked, name, chosen)
        fingerprint = service.policy.keys[chosen].fingerprint
        (facts,) = (key for key in service.keys.values() if key.fingerprint == fingerprint)
        reason = header_mismatch(facts.public_key)
        if reason and asked.is_package and not asked.is_statement:
            raise self._refused(caller, asked, name, Deny(RefusalCode.FORBIDDEN, f"keys.{chosen}: {reason}"))
        sealed = await service.seal(caller, seal_for(asked, facts, service.policy, name))
        return reported(asked, chosen, sealed)

    def _refused(self, caller: Caller, asked: Asked, name: str, denied: Deny) -> RefusedError:
        """Record what no key was asked for; the error to raise."""
        service, refusal = self._reception.service, RefusedError(denied.code, denied.reason)
        asserted = caller.asserted(asked.distribution, asked.protocol_claims)
        service.refusals.record_keyless(caller, name, asserted, refusal)
        service.tally.refused[refusal.code] += 1
        return refusal

    async def keys(self, request: Request) -> KeyList:
        """The keys that this runner may use."""
        caller = await self._caller(request, None)
        return KeyList([self._report(key) for key in self._reception.keys_of(caller)])

    async def certificate(self, request: Request, file: Annotated[str, Path(pattern=_KEY_FILE)]) -> Response:
        """The OpenPGP certificate of a key, NAME.asc, for those who verify."""
        caller = await self._caller(request, None)
        name = file.removesuffix(".asc")
        found = [key for key in self._reception.keys_of(caller) if self._name(key) == name]
        if not found:
            raise KeyNotFoundError(f"no key {name} for this runner")
        try:
            parts = await self._reception.certificate_parts(caller, found[0].facts.fingerprint)
        except BackendError as error:
            if self._reception.complaints.may_tell(f"runner {caller.runner}"):  # nothing limits how often it asks
                logger.warning("certificate not sent, runner=%s reason=%s", caller.runner, error)
            raise
        return Response(armored(b"".join(parts)), media_type="application/pgp-keys")

    async def health(self, response: Response) -> HealthReport:
        """Whether this oracle can sign: 200 or 503, with the reason."""
        report = await self._health.report()
        response.status_code = HTTPStatus.OK if report.status == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return report

    async def version(self) -> Version:
        """What runs here."""
        return Version(SOFTWARE, API_VERSION)

    async def _caller(self, request: Request, token: str | None) -> Caller:
        """Who asks.

        Raises:
            RejectedError: nobody whom we know.
        """
        peer: Peer = request.state.peer
        found = _token(request, token)
        if isinstance(found, Rejection):
            raise self._rejected(peer, self._reception.turned_away(found))
        verdict = await self._reception.admit(peer.certificate, found, peer.address, "http")
        if isinstance(verdict, Newcomer):
            reason = "a token that is for enrolment only"
            verdict = self._reception.turned_away(Rejection(RejectionCode.TOKEN_UNKNOWN, reason))
        if isinstance(verdict, Rejection):
            raise self._rejected(peer, verdict)
        request.state.runner = verdict.runner
        request.state.visit.is_known = True
        return verdict

    def _rejected(self, peer: Peer, rejection: Rejection) -> RejectedError:
        """Tell the log of somebody who is not let in, unless it has heard of them often; the error to raise."""
        if self._reception.complaints.may_tell(network_of(peer.address)):
            logger.warning("rejected, address=%s code=%s reason=%s", peer.address, rejection.code, rejection.reason)
        return RejectedError(rejection)

    def _name(self, key: ServedKey) -> str:
        return self._reception.service.policy.name_of(key.facts.fingerprint) or key.facts.name

    def _report(self, key: ServedKey) -> KeyReport:
        facts = key.facts
        return KeyReport(
            name=self._name(key),
            key_type=key.key_type,
            fingerprint=str(facts.fingerprint),
            primary=str(facts.primary),
            key_id=facts.fingerprint.key_id,
            algorithm=facts.public_key.algorithm,
            hash_algorithms=[algorithm.name.lower() for algorithm in facts.hash_algorithms],
            distributions=list(key.distributions),
            created=format_time(facts.created),
            expires=None if facts.expires is None else format_time(facts.expires),
            user_id=facts.user_id,
            seal_only=facts.seal_only,
        )


def _token(request: Request, in_body: str | None) -> str | Rejection:
    """The one token of a request; a rejection when there is none, or when there are two."""
    headers = request.headers.getlist("authorization")
    found = _BEARER.fullmatch(headers[0]) if len(headers) == 1 else None
    in_header = None if found is None else found.group(1)
    if (headers and in_header is None) or (in_header and in_body and in_header != in_body):
        return Rejection(RejectionCode.TOKEN_UNKNOWN, "no bearer token, or two different ones")
    return in_header or in_body or Rejection(RejectionCode.TOKEN_UNKNOWN, "no token")


async def _result(sign: Callable[[], Awaitable[SignatureReport]]) -> ItemAnswer:
    try:
        return ItemAnswer(HTTPStatus.OK, await sign())
    except BlindOracleError as error:
        problem = problem_of(error)
        return ItemAnswer(int(problem.status), problem=_document(problem))


def _document(problem: Problem) -> ProblemDocument:
    errors = [ProblemField(where, what) for where, what in problem.errors]
    fields = problem.document
    return ProblemDocument(
        str(fields["type"]),
        str(fields["title"]),
        int(problem.status),
        problem.detail,
        problem.kind,
        errors,
        problem.retry_after,
    )

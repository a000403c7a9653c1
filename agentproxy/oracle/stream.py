"""One relay's connection: hello, then many requests in flight; answers leave together as they become ready."""

import functools
import logging
import secrets
from datetime import UTC, datetime

import trio

from agentproxy.oracle.answers import failure_of
from agentproxy.oracle.authn import Newcomer, Rejection
from agentproxy.oracle.caller import Caller
from agentproxy.oracle.reception import SOFTWARE, Reception
from agentproxy.oracle.registry import RegistryError
from agentproxy.oracle.shares import network_of
from agentproxy.protocol.codes import RefusalCode, RejectionCode
from agentproxy.protocol.errors import (
    BackendError,
    BlindOracleError,
    ConfigError,
    LocalProtocolError,
    ProtocolError,
    RefusedError,
    RemoteProtocolError,
)
from agentproxy.protocol.journal import Report, Reported
from agentproxy.protocol.key_messages import SelectKey, ServedKey
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION, FromOracle, FromRelay
from agentproxy.protocol.oracle_messages import Certificate, Drain, KeysChanged, Refused, Rejected, Signed, Welcome
from agentproxy.protocol.relay_messages import FetchCertificate, Hello, Ping, Pong, Sign
from agentproxy.protocol.seal_messages import Seal, Sealed
from agentproxy.runtime.streams import EndOfStream, FramedStream

__all__ = ["RelayStream"]

logger = logging.getLogger(__name__)

HELLO_SECONDS = 10.0  # a relay speaks at once; who does not, holds a connection for nothing
PING_SECONDS = 30.0  # of silence, then we ask: shorter than most firewalls' idle limits
DEAD_SECONDS = 75.0  # of silence, with a ping in it that nobody answered
LAST_WORDS_SECONDS = 5.0  # so long we try to tell a relay why it must go; it is cut off then
_FULL_RETRY_MS = 100  # what a relay hears that has too many requests in flight


class RelayStream:
    """One connection, from `hello` to its end.

    Args:
        reception: what all connections of this oracle share.
        stream: after the TLS handshake; it stays the caller's to close.
        certificate: the client certificate, DER.
        address: host:port of the peer.
        attached: the runner that sshd has let in by its key, when the stream comes that way.
    """

    def __init__(
        self,
        reception: Reception,
        stream: FramedStream,
        certificate: bytes | None,
        address: str,
        attached: str | None = None,
    ) -> None:
        self._reception = reception
        self._stream = stream
        self._certificate = certificate
        self._address = address
        self._attached = attached
        self._caller: Caller | None = None
        self._keys: tuple[ServedKey, ...] = ()
        self._fallback = False  # what the relay was told of it
        self._in_flight = 0
        self._ending = False
        self._draining = False
        self._asked = False
        self._renewing = False
        self._tasks: trio.Nursery | None = None
        self._heard = trio.current_time()
        self._scope = trio.CancelScope()

    def __str__(self) -> str:
        who = "nobody" if self._caller is None else self._caller.runner
        return f"runner={who} address={self._address}"

    def _may_tell(self) -> bool:
        """Whether the log takes one more line about who is there."""
        who = network_of(self._address) if self._caller is None else f"runner {self._caller.runner}"
        return self._reception.complaints.may_tell(who)

    async def serve(self) -> None:
        """Serve until the relay leaves, breaks the rules, or may no longer be here."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._tasks = nursery
                    nursery.start_soon(self._converse, nursery)
                    await self._stream.run_sender()  # until our last word is written
                    nursery.cancel_scope.cancel()
        except* EndOfStream:
            if self._caller is not None or self._may_tell():
                logger.info("relay left, %s", self)
        except* RemoteProtocolError as errors:
            if self._may_tell():
                logger.warning("connection ended, %s reason=%s", self, "; ".join(map(str, errors.exceptions)))
        finally:
            self._ending = True  # what is still in flight has nobody to go to

    async def _converse(self, nursery: trio.Nursery) -> None:
        with trio.move_on_after(HELLO_SECONDS) as patience:
            first, *others = await self._stream.receive()
        if patience.cancelled_caught:
            raise RemoteProtocolError(f"no hello within {HELLO_SECONDS:.0f} s")
        await self._greet(FROM_RELAY.decode(first))
        while not self._ending:
            attention = self._reception.attention[self._here().runner]
            for payload in others:
                if self._stream.is_behind:
                    await self._stream.catch_up()  # an answer may be a hundred times as long as its question
                if not attention.is_due():
                    await attention.turn()
                with attention:
                    self._take(nursery, FROM_RELAY.decode(payload))
            others = await self._stream.receive()
            self._heard, self._asked = trio.current_time(), False

    async def _greet(self, hello: FromRelay) -> None:
        if not isinstance(hello, Hello):
            raise RemoteProtocolError(f"expected hello, got {hello.tag}")
        if hello.protocol != PROTOCOL_VERSION:
            self._reject(Rejection(RejectionCode.VERSION, f"it speaks version {hello.protocol} of the protocol"))
            return
        channel = "relay" if self._attached is None else "ssh"
        verdict = await self._reception.admit(self._certificate, hello.token, self._address, channel, self._attached)
        if isinstance(verdict, Newcomer):
            await self._enrol(verdict)
            return
        if isinstance(verdict, Rejection):
            self._reject(verdict)
            return
        self._caller = verdict
        self._keys = self._reception.keys_of(verdict)
        self._fallback = self._reception.fallback.may_fall_back(verdict)
        logger.info("relay came, %s token=%s software=%s", self, verdict.token, hello.software)
        self._send(
            Welcome(
                protocol=PROTOCOL_VERSION,
                node=self._reception.node,
                runner=verdict.runner,
                software=SOFTWARE,
                time=datetime.now(UTC),
                keys=self._keys,
                max_in_flight=self._reception.max_in_flight,
                head=self._reception.head,
                fallback=self._fallback,
            )
        )
        self._reception.heads.compare(verdict, hello.heads)

    async def _enrol(self, newcomer: Newcomer) -> None:
        """Answer an enrolment file's credentials with lasting ones, and end: those are for another connection."""
        answer = await self._reception.enrol(newcomer)
        if isinstance(answer, Rejection):
            self._reject(answer)
            return
        self._send(answer)
        self._end()

    async def _renew(self, caller: Caller) -> None:
        try:
            self._send(await self._reception.renew(caller))
        except (RefusedError, BackendError, RegistryError, ConfigError) as error:
            logger.warning("credentials not renewed, %s reason=%s", self, error)
        finally:
            self._renewing = False

    def _take(self, nursery: trio.Nursery, message: FromRelay) -> None:
        if self._ending:
            return  # it may have been revoked while it did not read: nothing of it counts any more
        # A relay counts the same kinds, each until its whole answer is there.
        most = self._reception.max_in_flight
        if self._in_flight >= most and isinstance(message, Sign | Seal | FetchCertificate | Report):
            reason = f"more than {most} requests in flight"
            self._send(Refused(message.id, RefusalCode.QUEUE_FULL, reason, _FULL_RETRY_MS))
            return
        match message:
            case Sign() | Seal():
                self._in_flight += 1
                answer = functools.partial(self._answer_sign, message.id)
                self._reception.service.submit(self._here(), message, answer)
            case FetchCertificate():
                self._in_flight += 1
                nursery.start_soon(self._answer_fetch, message)
            case SelectKey():
                self._send(self._reception.select_key(self._here(), message))
            case Report():
                self._in_flight += 1
                answer = functools.partial(self._answer_sign, message.id)
                self._reception.fallback.take(self._here(), message, answer)
            case Ping():
                self._send(Pong(message.id))
            case Pong():
                pass  # that it came is all it says
            case Hello():
                raise RemoteProtocolError("a second hello")

    def _answer_sign(self, request_id: str, outcome: Signed | Sealed | Reported | BlindOracleError) -> None:
        """The end of one request; called among those of other connections, so nothing may leave it."""
        self._send(failure_of(request_id, outcome) if isinstance(outcome, BlindOracleError) else outcome)
        self._done()

    async def _answer_fetch(self, request: FetchCertificate) -> None:
        try:
            parts = await self._reception.certificate_parts(self._here(), request.fingerprint)
            for number, data in enumerate(parts, 1):
                self._send(Certificate(request.id, number, len(parts), data))
        except (RefusedError, BackendError) as error:
            if self._may_tell():  # a relay can ask for what it may not have as fast as it can write
                logger.warning("certificate not sent, %s reason=%s", self, error)
            self._send(failure_of(request.id, error))
        self._done()

    def _here(self) -> Caller:
        if self._caller is None:
            raise RemoteProtocolError("a request before hello")
        return self._caller

    def _done(self) -> None:
        self._in_flight -= 1
        if self._draining and not self._in_flight:
            self._end()

    def _send(self, message: FromOracle) -> None:
        """Send, or end this connection: others' answers and what is told to all call this, and must not end with it."""
        if self._ending:
            return
        try:
            self._stream.send_soon(FROM_ORACLE.encode(message))
        except ProtocolError as error:
            if self._may_tell():
                is_bug = isinstance(error, LocalProtocolError)
                logger.warning("connection ended, %s reason=%s", self, error, exc_info=is_bug)
            self._ending = True
            self._scope.cancel()

    def _end(self) -> None:
        """Close once everything is written, or when the relay does not read it in time."""
        self._ending = True
        self._stream.end_soon()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + LAST_WORDS_SECONDS)

    def _reject(self, rejection: Rejection) -> None:
        if self._may_tell():
            logger.warning("rejected, %s code=%s reason=%s", self, rejection.code, rejection.reason)
        self._send(Rejected(rejection.code))
        self._end()

    def follow(self) -> None:
        """Credentials, policy or keys have changed, or time has passed: may it stay, and with which keys."""
        if self._caller is None or self._ending:
            return
        verdict = self._reception.still(self._caller)
        if isinstance(verdict, Rejection):
            self._reject(verdict)
            return
        keys, fallback = self._reception.keys_of(verdict), self._reception.fallback.may_fall_back(verdict)
        if (keys, fallback) != (self._keys, self._fallback):
            self._keys, self._fallback = keys, fallback
            self._send(KeysChanged(keys, fallback))

    def keep_alive(self) -> None:
        """Ask a silent relay whether it lives, end one that does not answer; called every few seconds."""
        silent = trio.current_time() - self._heard
        if silent > DEAD_SECONDS:
            if self._may_tell():
                logger.warning("connection ended, %s reason=silent for %.0f s", self, silent)
            self._scope.cancel()
        elif silent > PING_SECONDS and not self._asked and self._caller is not None:
            self._asked = True
            self._send(Ping(secrets.token_hex(16)))

    def renew_if_due(self) -> None:
        """Send new credentials when the present ones are old; called every few seconds."""
        if self._caller is None or self._tasks is None or self._renewing or self._ending or self._draining:
            return
        if self._reception.is_renewal_due(self._caller):
            self._renewing = True
            self._tasks.start_soon(self._renew, self._caller)

    def drain(self) -> None:
        """Tell the relay to go elsewhere, and end when nothing is in flight any more."""
        self._draining = True
        self._send(Drain())
        if not self._in_flight and not self._ending:
            self._end()

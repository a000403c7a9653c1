"""The relay's client: keeps a connection to an oracle up, and asks over it.

All gpg processes share one connection. When it dies, requests wait for the next one within their deadlines.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn, Protocol

import trio

from agentproxy.protocol.digests import Digest
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.fields import Claims, Head
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.messages import (
    Credentials,
    Drain,
    Failed,
    FetchCertificate,
    FromOracle,
    Hello,
    KeysChanged,
    Ping,
    Pong,
    Refused,
    Rejected,
    RejectionCode,
    ServedKey,
    Sign,
    Signed,
    Welcome,
)
from relay.config import OracleAddress
from relay.connectionstate import ConnectionState
from relay.credentials import CredentialStore
from relay.link import Link, LinkLostError, RejectedError
from relay.pending import DeadlineError, PendingRequests, UnreachableError, new_request_id

__all__ = ["Client", "DeadlineError", "Dial", "SignRequest", "UnreachableError"]

logger = logging.getLogger(__name__)

# The first retry is quick, since most ends are restarts; then twice as long each time.
FIRST_RETRY_SECONDS = 0.1
# With nobody waiting, a thousand relays that lost their oracle must not hammer it when it comes back.
IDLE_RETRY_SECONDS = 15.0
# With a gpg waiting, several tries must fit into its deadline.
BUSY_RETRY_SECONDS = 2.0
# A connection that lives shorter does not end the back-off: an oracle that greets and dies is not well.
STABLE_SECONDS = 5.0
# While the signer behind the oracle restarts, on a busy host with keys to unlock for some seconds, no build shall
# fail. Later tries are the caller's own business.
FAILURE_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0)
# More wrong than this, and certificates and tokens begin to fail for reasons that nobody understands.
MAX_CLOCK_DIFFERENCE_SECONDS = 120
CERTIFICATE_SECONDS = 10.0
# Renewed credentials: how long the oracle may take to welcome them, which it records first; how often it is tried at
# once (later, the next connection uses them anyway); and how long answers may still come over the old connection.
SUCCESSION_SECONDS = 20.0
SUCCESSION_RETRY_SECONDS = (1.0, 5.0, 30.0, 60.0)
LEAVING_SECONDS = 60.0


class Dial(Protocol):
    """How to reach an oracle; `relay.dial.Dialer` does it over TLS."""

    def hello(self) -> Hello:
        """The first message."""
        ...

    async def connect(self, oracle: OracleAddress) -> trio.abc.Stream:
        """A stream that is ready for frames."""
        ...


@dataclass(frozen=True, slots=True)
class SignRequest:
    """What gpg wants signed, and what the relay knows about it."""

    id: str
    keygrip: Keygrip
    digest: Digest
    distribution: str | None = None
    claims: Claims | None = None


class _Line:
    """A connection and its end."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.settled = trio.Event()  # it was welcome, or has ended
        self.ended = trio.Event()
        self.error: LinkLostError | RejectedError = LinkLostError("the connection ended")


class Client:
    """Asks oracles to sign.

    Args:
        oracles: tried in turn; the first that answers is kept.
        dial: opens connections.
        keys_arrived: gets the keys of each `welcome` and `keys_changed`.
        head_arrived: gets each end of an oracle's audit log.
        store: where `dial` finds its credentials, when they can be replaced.
    """

    def __init__(
        self,
        oracles: Sequence[OracleAddress],
        dial: Dial,
        keys_arrived: Callable[[tuple[ServedKey, ...]], Awaitable[None]],
        head_arrived: Callable[[Head], None],
        store: CredentialStore | None = None,
    ) -> None:
        self._oracles = oracles
        self._dial = dial
        self._keys_arrived = keys_arrived
        self._head_arrived = head_arrived
        self._pending = PendingRequests()
        self._oracle = oracles[0]
        self._was_welcome = False
        self._store = store
        self._line: _Line | None = None  # the connection in use
        self._successor: _Line | None = None  # another, which is not welcome yet
        self._tasks: trio.Nursery | None = None
        self.state = ConnectionState(connected=False, address=oracles[0].address, since=_now(), problem="not tried yet")

    async def sign(self, request: SignRequest, deadline_seconds: float) -> Signed | Refused | Failed:
        """Ask for a signature, also across connections and restarts, until `deadline_seconds` have passed.

        Raises:
            UnreachableError: no oracle was there in time.
            DeadlineError: an oracle was, and did not answer in time.
            RejectedError: the oracle does not take this relay at all.
        """
        expires = trio.current_time() + deadline_seconds

        def make() -> Sign:
            left_ms = max(0, int((expires - trio.current_time()) * 1000))
            return Sign(request.id, request.keygrip, request.digest, left_ms, request.distribution, request.claims)

        for pause in (*FAILURE_RETRY_SECONDS, None):
            answer = await self._pending.ask(request.id, expires, make)
            if not isinstance(answer, Signed | Refused | Failed):
                raise UnreachableError("the oracle answers another question than it was asked")
            if not isinstance(answer, Failed) or not answer.retryable:
                return answer
            if pause is None or trio.current_time() + pause >= expires:
                return answer
            await trio.sleep(pause)
        raise AssertionError("the last try returns")

    async def certificate(self, fingerprint: Fingerprint) -> bytes:
        """The OpenPGP certificate, binary, that the key with this fingerprint stands in.

        Raises:
            UnreachableError: no oracle was there in time, or it has no such certificate.
            DeadlineError, RejectedError: as in `sign`.
        """
        request_id = new_request_id()
        expires = trio.current_time() + CERTIFICATE_SECONDS
        answer = await self._pending.ask(request_id, expires, lambda: FetchCertificate(request_id, fingerprint))
        if not isinstance(answer, tuple):
            raise UnreachableError(f"the oracle gives no certificate for {fingerprint}")
        return b"".join(part.data for part in answer)

    async def run(self) -> NoReturn:
        """Keep a connection up until cancelled."""
        tries = 0
        while True:
            for oracle in self._oracles:
                started = trio.current_time()
                try:
                    await self._use(oracle)
                except (LinkLostError, RejectedError, ConfigError) as error:
                    self._lost(oracle, error)
                if trio.current_time() - started >= STABLE_SECONDS and self._was_welcome:
                    tries = 0
            await self._pause(tries)
            tries += 1

    async def _use(self, oracle: OracleAddress) -> NoReturn:
        """Use one oracle until its last connection ends: a renewal puts another in the place of the first."""
        self._was_welcome = False
        stream = await self._dial.connect(oracle)
        self._oracle = oracle
        async with trio.open_nursery() as nursery:
            line = self._line = _Line(Link(stream, self._dial.hello(), self))
            self._tasks = nursery
            nursery.start_soon(self._run_line, line)
            await line.ended.wait()
            while line is not self._line:
                line = self._line
                await line.ended.wait()
            nursery.cancel_scope.cancel()  # a renewal on its way, and a replaced connection that has not ended yet
        raise line.error

    async def _run_line(self, line: "_Line") -> None:
        try:
            await line.link.run()
        except (LinkLostError, RejectedError) as error:
            line.error = error
        finally:
            self._pending.detach(line.link)
            line.settled.set()
            line.ended.set()

    async def _renew(self, credentials: Credentials) -> None:
        """Store new credentials and connect with them, before the connection with the old ones ends."""
        if self._store is None:
            logger.warning("the oracle sent new credentials, and relay.yaml names none that it could replace")
            return
        try:
            before = await trio.to_thread.run_sync(self._store.replace, credentials)
        except ConfigError as error:
            logger.error("new credentials are not stored, the old ones stay: %s", error)  # noqa: TRY400  no bug
            return
        logger.info("new credentials stored, expires=%s", credentials.expires)
        for pause in SUCCESSION_RETRY_SECONDS:
            problem = await self._succeed()
            if problem is None:
                await trio.to_thread.run_sync(self._store.tidy)
                return
            logger.warning("no connection with the new credentials yet, reason=%s", problem)
            if isinstance(problem, RejectedError) and problem.code is not RejectionCode.NOT_OPERATIONAL:
                await trio.to_thread.run_sync(self._store.restore, before)
                return
            await trio.sleep(pause)
        # The next connection, whenever that is made, uses them.

    async def _succeed(self) -> LinkLostError | RejectedError | ConfigError | None:
        """Put a new connection in the place of the present one; None when that worked."""
        old = self._line
        try:
            stream = await self._dial.connect(self._oracle)
            line = _Line(Link(stream, self._dial.hello(), self))
        except (LinkLostError, ConfigError) as error:
            return error
        if old is None or self._tasks is None or old.ended.is_set():
            await trio.aclose_forcefully(stream)
            return LinkLostError("the present connection ended meanwhile")
        self._successor = line
        self._tasks.start_soon(self._run_line, line)
        with trio.move_on_after(SUCCESSION_SECONDS):
            await line.settled.wait()
        if self._line is not line:
            line.link.end("no welcome in time")
            await line.ended.wait()
            return line.error
        with trio.move_on_after(LEAVING_SECONDS):
            await old.ended.wait()
        old.link.end("it was replaced, and its last answers did not come")
        return None

    def _lost(self, oracle: OracleAddress, error: LinkLostError | RejectedError | ConfigError) -> None:
        problem = str(error)
        self._pending.lost(problem)
        # The same problem once: an oracle that is away for a night must not fill the log.
        level = logging.DEBUG if problem == self.state.problem else logging.WARNING
        logger.log(level, "no connection to the oracle, address=%s reason=%s", oracle.address, problem)
        if self.state.connected or problem != self.state.problem:
            self.state = ConnectionState(connected=False, address=oracle.address, since=_now(), problem=problem)
        if isinstance(error, RejectedError):
            self._pending.reject(error)

    async def _pause(self, tries: int) -> None:
        # Jitter, so that many relays that lost one oracle together do not come back together.
        factor = random.uniform(0.5, 1.0)  # noqa: S311  no secret
        idle = min(FIRST_RETRY_SECONDS * 2.0 ** min(tries, 16), IDLE_RETRY_SECONDS) * factor
        busy = min(idle, BUSY_RETRY_SECONDS * factor)
        await trio.sleep(busy)
        with trio.move_on_after(idle - busy):
            await self._pending.wanted()

    @property
    def waiting(self) -> int:
        """How many requests wait for an answer."""
        return len(self._pending)

    async def idle(self) -> None:
        """Return as soon as no request waits for an answer."""
        await self._pending.idle()

    def is_busy(self) -> bool:
        """Whether somebody waits for an answer (for the link)."""
        return len(self._pending) > 0

    async def welcomed(self, link: Link, welcome: Welcome) -> None:
        """Send what waits (for the link)."""
        self._was_welcome = True
        if self._successor is not None and self._successor.link is link:
            self._line, self._successor = self._successor, None
            self._line.settled.set()
        address = self._oracle.address
        self.state = ConnectionState(connected=True, address=address, since=_now(), node=welcome.node)
        logger.info("connected, address=%s node=%s runner=%s", address, welcome.node, welcome.runner)
        if welcome.head is not None:
            self._head_arrived(welcome.head)
        difference = abs((welcome.time - _now()).total_seconds())
        if difference > MAX_CLOCK_DIFFERENCE_SECONDS:
            logger.warning("this clock and the oracle's differ, seconds=%.0f", difference)
        self._pending.attach(link, welcome.max_in_flight)
        await self._keys_arrived(welcome.keys)

    async def received(self, message: FromOracle) -> None:
        """Handle what the oracle says (for the link)."""
        match message:
            case KeysChanged():
                await self._keys_arrived(message.keys)
            case Credentials():
                if self._tasks is not None:
                    self._tasks.start_soon(self._renew, message)
            case Drain():
                self._pending.drain()
            case Signed():
                self._head_arrived(message.head)
                self._pending.settle(message)
            case Welcome() | Rejected() | Ping() | Pong():
                raise RemoteProtocolError("the link handles these")
            case _:
                self._pending.settle(message)


def _now() -> datetime:
    return datetime.now(UTC)

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
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Fingerprint, Keygrip
from agentproxy.protocol.messages import (
    Credentials,
    Drain,
    Failed,
    FetchCertificate,
    FromOracle,
    KeysChanged,
    Ping,
    Pong,
    Refused,
    Rejected,
    Seal,
    Sealed,
    ServedKey,
    Sign,
    Signed,
    Welcome,
)
from relay.config import OracleAddress
from relay.connectionstate import ConnectionState
from relay.credentials import CredentialStore
from relay.lines import Dial, Lines
from relay.link import Link, LinkLostError, RejectedError
from relay.pending import Answer, DeadlineError, PendingRequests, Question, UnreachableError, new_request_id

__all__ = ["Client", "DeadlineError", "SealRequest", "SignRequest", "UnreachableError"]

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
_ANOTHER = "the oracle answers another question than it was asked"


@dataclass(frozen=True, slots=True)
class SignRequest:
    """What gpg wants signed, and what the relay knows about it."""

    id: str
    keygrip: Keygrip
    digest: Digest
    distribution: str | None = None
    claims: Claims | None = None
    socket: str | None = None  # the name of the one that gpg came by


@dataclass(frozen=True, slots=True)
class SealRequest:
    """A document to be signed, by the state of its hash."""

    id: str
    keygrip: Keygrip
    state: HashState
    distribution: str | None = None
    claims: Claims | None = None


class HeadKeeper(Protocol):
    """Who remembers the ends of audit logs; `relay.heads.Heads` does."""

    def note(self, head: Head) -> None:
        """An answer's head; answers may overtake each other."""

    def welcomed(self, head: Head) -> None:
        """A new connection's first head."""


class Client:
    """Asks oracles to sign.

    Args:
        oracles: tried in turn; the first that answers is kept.
        dial: opens connections.
        keys_arrived: gets the keys of each `welcome` and `keys_changed`.
        heads: gets each end of an oracle's audit log.
        store: where `dial` finds its credentials, when they can be replaced.
    """

    def __init__(
        self,
        oracles: Sequence[OracleAddress],
        dial: Dial,
        keys_arrived: Callable[[tuple[ServedKey, ...]], Awaitable[None]],
        heads: HeadKeeper,
        store: CredentialStore | None = None,
    ) -> None:
        self._oracles = oracles
        self._keys_arrived = keys_arrived
        self._heads = heads
        self._pending = PendingRequests()
        self._was_welcome = False
        self._unreachable_since: float | None = trio.current_time()
        self._lines = Lines(dial, store, self, self._pending.detach)
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
            return Sign(
                request.id,
                request.keygrip,
                request.digest,
                left_ms,
                request.distribution,
                request.claims,
                request.socket,
            )

        answer = await self._ask(request.id, expires, make)
        if not isinstance(answer, Signed | Refused | Failed):
            raise UnreachableError(_ANOTHER)
        return answer

    async def seal(self, request: SealRequest, deadline_seconds: float) -> Sealed | Refused | Failed:
        """Ask for an OpenPGP signature over a document; as `sign`."""
        expires = trio.current_time() + deadline_seconds

        def make() -> Seal:
            left_ms = max(0, int((expires - trio.current_time()) * 1000))
            return Seal(request.id, request.keygrip, request.state, left_ms, request.distribution, request.claims)

        answer = await self._ask(request.id, expires, make)
        if not isinstance(answer, Sealed | Refused | Failed):
            raise UnreachableError(_ANOTHER)
        return answer

    async def _ask(self, request_id: str, expires: float, make: Callable[[], Question]) -> Answer:
        """The last answer, after some more tries when the oracle failed and says that they may help."""
        for pause in FAILURE_RETRY_SECONDS:
            answer = await self._pending.ask(request_id, expires, make)
            if not isinstance(answer, Failed) or not answer.retryable or trio.current_time() + pause >= expires:
                return answer
            await trio.sleep(pause)
        return await self._pending.ask(request_id, expires, make)

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
                started, self._was_welcome = trio.current_time(), False
                try:
                    await self._lines.use(oracle)
                except (LinkLostError, RejectedError, ConfigError) as error:
                    self._lost(oracle, error)
                if trio.current_time() - started >= STABLE_SECONDS and self._was_welcome:
                    tries = 0
            await self._pause(tries)
            tries += 1

    def _lost(self, oracle: OracleAddress, error: LinkLostError | RejectedError | ConfigError) -> None:
        problem = str(error)
        self._pending.lost(problem)
        # The same problem once: an oracle that is away for a night must not fill the log.
        level = logging.DEBUG if problem == self.state.problem else logging.WARNING
        logger.log(level, "no connection to the oracle, address=%s reason=%s", oracle.address, problem)
        if self._unreachable_since is None:
            self._unreachable_since = trio.current_time()
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

    @property
    def unreachable_since(self) -> float | None:
        """Since when, on trio's clock, no oracle has had us welcome; None: one has, whatever it answers."""
        return self._unreachable_since

    async def idle(self) -> None:
        """Return as soon as no request waits for an answer."""
        await self._pending.idle()

    def is_busy(self) -> bool:
        """Whether somebody waits for an answer (for the link)."""
        return len(self._pending) > 0

    async def welcomed(self, link: Link, welcome: Welcome) -> None:
        """Send what waits (for the link)."""
        self._was_welcome, self._unreachable_since = True, None
        address = self._lines.welcomed(link).address
        self.state = ConnectionState(connected=True, address=address, since=_now(), node=welcome.node)
        logger.info("connected, address=%s node=%s runner=%s", address, welcome.node, welcome.runner)
        if welcome.head is not None:
            self._heads.welcomed(welcome.head)
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
                self._lines.renew_soon(message)
            case Drain():
                self._pending.drain()
            case Signed() | Sealed():
                self._heads.note(message.head)
                self._pending.settle(message)
            case Welcome() | Rejected() | Ping() | Pong():
                raise RemoteProtocolError("the link handles these")
            case _:
                self._pending.settle(message)


def _now() -> datetime:
    return datetime.now(UTC)

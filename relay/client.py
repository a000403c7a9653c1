"""The relay's client: asks the best oracle, over connections that all gpg processes share.

When a connection dies or an oracle fails, its requests go to another, within their deadlines.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.journal import JournalRecord, Report, Reported
from agentproxy.protocol.key_messages import SelectedKey, SelectKey, ServedKey
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.oracle_messages import Failed, Refused, Signed
from agentproxy.protocol.relay_messages import FetchCertificate, Sign
from agentproxy.protocol.seal_messages import Seal, Sealed
from relay.carrier import Answer
from relay.config import OracleAddress
from relay.connectionstate import ConnectionState, OracleState
from relay.credentials import CredentialStore
from relay.errors import UnreachableError
from relay.lines import Dial
from relay.pending import Question, unheard
from relay.signrequests import SealRequest, SignRequest, new_request_id
from relay.way import HeadKeeper, PermissionKeeper
from relay.ways import Ways

__all__ = ["Client"]

# While the signer behind the oracle restarts, on a busy host with keys to unlock for some seconds, no build shall
# fail. Later tries are the caller's own business.
FAILURE_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0)
CERTIFICATE_SECONDS = 10.0
# For records that wait for one fdatasync together; what is late is reported again.
REPORT_SECONDS = 20.0
_ANOTHER = "the oracle answers another question than it was asked"


class Client:
    """Asks oracles to sign.

    Args:
        oracles, dial, keys_arrived, heads, store, permission: as `relay.ways.Ways` has them.
    """

    def __init__(  # noqa: PLR0913, PLR0917  whom to ask, and who keeps what is told
        self,
        oracles: Sequence[OracleAddress],
        dial: Dial,
        keys_arrived: Callable[[tuple[ServedKey, ...]], Awaitable[None]],
        heads: HeadKeeper,
        store: CredentialStore | None = None,
        permission: PermissionKeeper | None = None,
    ) -> None:
        self._ways = Ways(oracles, dial, keys_arrived, heads, store, permission)
        self._pending = self._ways.pending

    async def run(self) -> None:
        """Keep connections up until cancelled."""
        await self._ways.run()

    async def met(self) -> None:
        """Return once an oracle has had us welcome.

        Raises:
            RejectedError: no oracle takes this relay.
        """
        await self._ways.met()

    async def reached(self) -> None:
        """Return once an oracle has us welcome, at once if one has."""
        await self._ways.reached()

    async def sign(
        self, request: SignRequest, deadline_seconds: float, hear: Callable[[Answer], None] = unheard
    ) -> Signed | Refused | Failed:
        """Ask for a signature, also across oracles, connections and restarts, until `deadline_seconds` have passed.

        Args:
            hear: called with each answer in the moment that it arrives; what it raises comes out here.

        Raises:
            UnreachableError: no oracle was there in time.
            DeadlineError: an oracle was, and did not answer in time.
            RejectedError: no oracle takes this relay at all.
        """
        answer = await self._ask(_question(request, deadline_seconds, hear))
        if not isinstance(answer, Signed | Refused | Failed):
            raise UnreachableError(_ANOTHER)
        return answer

    async def seal(self, request: SealRequest, deadline_seconds: float) -> Sealed | Refused | Failed:
        """Ask for an OpenPGP signature over a document; as `sign`."""
        answer = await self._ask(_question(request, deadline_seconds))
        if not isinstance(answer, Sealed | Refused | Failed):
            raise UnreachableError(_ANOTHER)
        return answer

    async def _ask(self, question: Question) -> Answer:
        """The last answer, after more tries when an oracle failed: at others, and later where that may help."""
        pauses = iter(FAILURE_RETRY_SECONDS)
        while True:
            answer = await self._pending.ask(question)
            if not isinstance(answer, Failed) or not await self._may_retry(question, answer, pauses):
                return answer

    async def _may_retry(self, question: Question, failure: Failed, pauses: Iterator[float]) -> bool:
        """After a failure: whether to ask again, at once another oracle that has not failed it, else after a pause."""
        if question.answered_by is not None:
            question.avoid.add(question.answered_by.oracle)
            if failure.code is FailureCode.NOT_OPERATIONAL and self._ways.has_other(question):
                self._ways.ail(question.answered_by, "the oracle is not operational")
        question.may_pass = question.may_pass or failure.retryable
        if self._ways.has_other(question):
            return True
        pause = next(pauses, None)
        if not question.may_pass or pause is None or trio.current_time() + pause >= question.expires:
            return False
        question.avoid.clear()
        question.may_pass = False
        await trio.sleep(pause)
        return True

    async def select_key(self, distribution: str, key_type: str | None, deadline_seconds: float) -> ServedKey | Refused:
        """Which of this runner's keys is for a distribution; errors as in `sign`."""
        request_id = new_request_id()
        expires = trio.current_time() + deadline_seconds
        answer = await self._ask(Question(request_id, expires, lambda: SelectKey(request_id, distribution, key_type)))
        if not isinstance(answer, SelectedKey | Refused):
            raise UnreachableError(_ANOTHER)
        return answer.key if isinstance(answer, SelectedKey) else answer

    async def report(self, records: tuple[JournalRecord, ...]) -> Reported | Refused | Failed:
        """Bring records of our own signatures into an oracle's audit log.

        Raises:
            UnreachableError, DeadlineError, RejectedError: as in `sign`.
        """
        request_id = new_request_id()
        expires = trio.current_time() + REPORT_SECONDS
        answer = await self._pending.ask(Question(request_id, expires, lambda: Report(request_id, records)))
        if not isinstance(answer, Reported | Refused | Failed):
            raise UnreachableError(_ANOTHER)
        return answer

    async def certificate(self, fingerprint: Fingerprint) -> bytes:
        """The OpenPGP certificate, binary, that the key with this fingerprint stands in.

        Raises:
            UnreachableError: no oracle was there in time, or it has no such certificate.
            DeadlineError, RejectedError: as in `sign`.
        """
        request_id = new_request_id()
        expires = trio.current_time() + CERTIFICATE_SECONDS
        question = Question(request_id, expires, lambda: FetchCertificate(request_id, fingerprint))
        answer = await self._ask(question)
        if not isinstance(answer, tuple):
            raise UnreachableError(f"the oracle gives no certificate for {fingerprint}")
        return b"".join(part.data for part in answer)

    @property
    def state(self) -> ConnectionState:
        """Whether requests can be sent, and where they go."""
        return self._ways.state

    @property
    def oracles(self) -> tuple[OracleState, ...]:
        """How each oracle is, in the configuration's order."""
        return self._ways.oracles

    @property
    def unreachable_since(self) -> float | None:
        """Since when, on trio's clock, no oracle has had us welcome; None: one has, whatever it answers."""
        return self._ways.unreachable_since

    @property
    def moved(self) -> int:
        """How many requests were sent to another node after the first."""
        return self._pending.moved

    @property
    def waiting(self) -> int:
        """How many requests wait for an answer."""
        return len(self._pending)

    async def idle(self) -> None:
        """Return as soon as no request waits for an answer."""
        await self._pending.idle()


def _question(
    request: SignRequest | SealRequest, deadline_seconds: float, hear: Callable[[Answer], None] = unheard
) -> Question:
    expires = trio.current_time() + deadline_seconds

    def make() -> Sign | Seal:
        return request.message(max(0, int((expires - trio.current_time()) * 1000)))

    return Question(request.id, expires, make, request.sent_to, hear)

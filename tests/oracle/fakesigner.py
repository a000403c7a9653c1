"""A signer in this process, for tests in virtual time: it answers when told, or after a time per signature."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import trio

from agentproxy.protocol.errors import BackendError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.seal_messages import SealState, StateSealed
from agentproxy.protocol.signatures import RsaSignature
from agentproxy.protocol.signer_answers import DigestSigned
from agentproxy.protocol.signer_requests import Record, SignDigest

Asked = SignDigest | SealState
Answer = Callable[[DigestSigned | StateSealed | BackendError], None]


class FakeSource:
    """Keeps what it is asked until `answer_next`; what it got to see is in `asked` and `records`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.records: list[Record] = []
        self.waiting: deque[tuple[Asked, Answer]] = deque()
        self.error: BackendError | None = None
        self._id = 0

    def next_id(self) -> int:
        self._id += 1
        return self._id

    def sign(self, request: Asked, answer: Answer) -> None:
        self.asked.append(request)
        if self.error is not None:
            answer(self.error)
            return
        self.waiting.append((request, answer))

    def record(self, request: Record) -> None:
        self.records.append(request)

    def answer_next(self) -> None:
        request, answer = self.waiting.popleft()
        digest = request.digest if isinstance(request, SignDigest) else request.state.finished()
        head = Head("node", len(self.asked), digest.value[:32].ljust(32, b"\x00"))
        signature = RsaSignature(b"\x01" + digest.value)
        if isinstance(request, SignDigest):
            answer(DigestSigned(request.id, signature, head))
        else:
            seal = DocumentSignature(Fingerprint(bytes(20)), datetime(2026, 11, 22, tzinfo=UTC), digest, signature)
            answer(StateSealed(request.id, seal, head))

    def answer_all(self) -> None:
        while self.waiting:
            self.answer_next()

    async def work(self, seconds: float) -> None:
        """Answer one after another, each after `seconds`."""
        while True:
            await trio.sleep(seconds)
            if self.waiting:
                self.answer_next()

"""The way to the signer: its Unix socket, many requests in flight, reconnected for as long as we live."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.errors import BackendError, LocalProtocolError, RemoteProtocolError
from agentproxy.protocol.fields import Head
from agentproxy.protocol.seal_messages import SealState, StateSealed
from agentproxy.protocol.signer_answers import DigestSigned, Keys, NotDone, Recorded
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER, FromSigner, ToSigner
from agentproxy.protocol.signer_requests import ListKeys, Record, SignDigest
from agentproxy.runtime.streams import EndOfStream, FramedStream

__all__ = ["SignerError", "SignerLink", "connect"]

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.05  # a signer that we start needs about 0.3 s
LAST_RETRY_SECONDS = 1.0
# A signer that starts, or starts again, on a busy host with keys to unlock: nobody needs to act yet.
QUIET_SECONDS = 10.0
# How often we ask for the list of keys: it also tells that the signer is alive and brings new keys without a restart.
ASK_SECONDS = 2.0
# Its event loop answers in milliseconds, also while its threads sign; only a dead or stopped one takes so long.
SILENT_SECONDS = 10.0


class SignerError(BackendError):
    """The signer did not do it."""

    def __init__(self, code: FailureCode, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.code = code
        self.retryable = retryable


def _away(reason: str) -> SignerError:
    return SignerError(FailureCode.NOT_OPERATIONAL, reason, retryable=True)


Answer = Callable[[FromSigner | SignerError], None]
_WITH_HEAD = DigestSigned | StateSealed | Recorded | Keys


class SignerLink:
    """One connection at a time; what is in flight when it ends fails at once and may be tried again.

    Args:
        path: the signer's socket.
        keys_changed: called with the list of keys at each connection, and whenever it is another one; with it comes the
            log's end by all that this connection has told.
    """

    def __init__(self, path: Path, keys_changed: Callable[[Keys], None] = lambda _: None) -> None:
        self._path = path
        self._keys_changed = keys_changed
        self._stream: FramedStream | None = None
        self._head: Head | None = None  # the furthest one that this connection told
        self._waiting: dict[int, Answer] = {}
        self._loose: set[int] = set()  # of these the requests for records that the disk may not have when they are told
        self._last_id = 0
        self._keys: Keys | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a request would leave just now."""
        return self._stream is not None

    def next_id(self) -> int:
        """An id for the next request."""
        self._last_id += 1
        return self._last_id

    def send(self, request: ToSigner, answer: Answer) -> None:
        """Ask; `answer` is called exactly once, perhaps before this returns."""
        if self._stream is None:
            answer(_away(f"{self._path}: no connection to the signer"))
            return
        self._waiting[request.id] = answer
        if isinstance(request, Record) and not request.durable:
            self._loose.add(request.id)
        try:
            self._stream.send_soon(TO_SIGNER.encode(request))
        except RemoteProtocolError as error:
            self._forget(request.id)
            answer(_away(f"{self._path}: {error}"))
        except LocalProtocolError as error:
            # A bug, and this one request's: whoever asks stands among the answers of others, and must not end them.
            logger.exception("not sent to the signer, message=%s", request.tag)
            self._forget(request.id)
            answer(SignerError(FailureCode.INTERNAL, f"not sent to the signer: {error}", retryable=False))

    def _forget(self, request_id: int) -> None:
        del self._waiting[request_id]
        self._loose.discard(request_id)

    def sign(
        self, request: SignDigest | SealState, answer: Callable[[DigestSigned | StateSealed | BackendError], None]
    ) -> None:
        """Ask for a signature; `answer` is called exactly once, perhaps before this returns."""
        wanted = DigestSigned if isinstance(request, SignDigest) else StateSealed

        def take(got: FromSigner | SignerError) -> None:
            if isinstance(got, wanted | SignerError):
                answer(got)
            else:
                answer(SignerError(FailureCode.INTERNAL, f"the signer sent {got.tag}", retryable=False))

        self.send(request, take)

    def record(self, request: Record) -> None:
        """Ask for a record, without waiting for it."""

        def take(got: FromSigner | SignerError) -> None:
            if isinstance(got, SignerError):
                logger.error("not recorded, operation=%s wanted=%s reason=%s", request.operation, request.reason, got)

        self.send(request, take)

    async def request(self, request: ToSigner) -> FromSigner:
        """Ask and wait; the caller sets the deadline.

        Raises:
            SignerError: it did not do it.
        """
        answers: list[FromSigner | SignerError] = []
        answered = trio.Event()

        def take(got: FromSigner | SignerError) -> None:
            answers.append(got)
            answered.set()

        self.send(request, take)
        await answered.wait()
        (answer,) = answers
        if isinstance(answer, SignerError):
            raise answer
        return answer

    async def run(self) -> None:
        """Stay connected until cancelled."""
        delay, told = FIRST_RETRY_SECONDS, False
        gone = trio.current_time()
        while True:
            try:
                stream = await trio.open_unix_socket(self._path)
            except OSError as error:
                # One line for each absence, not one for each attempt.
                is_due = not told and trio.current_time() - gone >= QUIET_SECONDS
                log = logger.error if is_due else logger.debug
                log("signer out of reach, socket=%s reason=%s", self._path, error.strerror)
                told = told or is_due
            else:
                reason = await self.serve(stream)
                logger.warning("connection to the signer ended, socket=%s reason=%s", self._path, reason)
                delay, told, gone = FIRST_RETRY_SECONDS, False, trio.current_time()
            await trio.sleep(delay)
            delay = min(delay * 2, LAST_RETRY_SECONDS)

    async def serve(
        self, stream: trio.abc.Stream, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> str:
        """Use this connection until it ends; returns why it did."""
        framed = FramedStream(stream)
        self._stream = framed
        self._head = None  # whatever was told before: its log may be another one, or cut
        task_status.started()
        reasons = ["the signer closed it"]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(framed.run_sender)
                nursery.start_soon(self._follow_keys)
                await self._receive(framed)
        except* EndOfStream:
            pass
        except* (RemoteProtocolError, SignerError) as errors:
            reasons = [str(error) for error in errors.exceptions]
        finally:
            self._stream = None
            self._fail_all(_away(f"{self._path}: the connection to the signer ended"))
            with trio.CancelScope(shield=True):  # bounded by the stream itself
                await framed.aclose()
        return ", ".join(reasons)

    async def _receive(self, framed: FramedStream) -> None:
        while True:
            for payload in await framed.receive():
                message = FROM_SIGNER.decode(payload)
                if message.id in self._loose:
                    self._loose.remove(message.id)  # a power loss could take it back, and relays keep what they hear
                elif isinstance(message, _WITH_HEAD) and message.head is not None:
                    self._head = message.head.or_later(self._head)
                answer = self._waiting.pop(message.id, None)
                if answer is None:
                    raise RemoteProtocolError(f"the signer answered request {message.id}, which does not wait")
                if isinstance(message, NotDone):
                    answer(SignerError(message.code, message.reason, retryable=message.retryable))
                else:
                    answer(message)

    async def _follow_keys(self) -> None:
        while True:
            with trio.move_on_after(SILENT_SECONDS) as patience:
                keys = await self.request(ListKeys(self.next_id()))
                self._take_keys(keys)
            if patience.cancelled_caught:
                raise RemoteProtocolError(f"the signer did not answer for {SILENT_SECONDS:.0f} s")
            await trio.sleep(ASK_SECONDS)

    def _take_keys(self, message: FromSigner) -> None:
        if not isinstance(message, Keys):
            raise RemoteProtocolError(f"the signer sent {message.tag} for keys")
        if self._keys is None or message.keys != self._keys.keys:
            self._keys = message
            # A signature that was made behind it may have been told before it.
            self._keys_changed(replace(message, head=self._head))

    def _fail_all(self, error: SignerError) -> None:
        waiting, self._waiting = self._waiting, {}
        self._loose.clear()
        self._keys = None
        for answer in waiting.values():
            answer(error)


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[SignerLink]:
    """One connection for a few requests, such as the command line's; it is not made again when it ends.

    Raises:
        SignerError: nobody listens there.
    """
    link = SignerLink(path)
    try:
        stream = await trio.open_unix_socket(path)
    except OSError as error:
        raise _away(f"{path}: cannot reach the signer: {error.strerror}") from error
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(link.serve, stream)
        try:
            yield link
        except Exception as error:  # noqa: BLE001  carried past the nursery, which would wrap it into a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure

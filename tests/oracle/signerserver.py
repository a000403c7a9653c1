"""A signer behind a Unix socket in this process: real signatures, no disk; tests/oracle/signer_contract.py holds."""

import hashlib
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.keys import Curve, EccPublicKey
from agentproxy.protocol.messages import FailureCode
from agentproxy.protocol.signatures import EddsaSignature
from agentproxy.protocol.signer_messages import (
    FROM_SIGNER,
    TO_SIGNER,
    DigestSigned,
    FromSigner,
    Issue,
    Keys,
    ListKeys,
    NotDone,
    Record,
    Recorded,
    SignDigest,
    Status,
    StatusReport,
    ToSigner,
)
from agentproxy.runtime.streams import EndOfStream, FramedStream
from tests.oracle.samples import facts

_PRIVATE = Ed25519PrivateKey.generate()
ED25519 = facts("ed", EccPublicKey(Curve.ED25519, _PRIVATE.public_key().public_bytes_raw()))


class FakeSigner:
    """Signs with one Ed25519 key; `hold` keeps answers back until it is set again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self.signed: list[SignDigest] = []
        self.keys: tuple[KeyFacts, ...] = (ED25519,)
        self.held = trio.Event()
        self.held.set()
        self.waiting = 0  # requests that `held` keeps back
        self._sequence = 0
        self._scope = trio.CancelScope()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._scope = trio.CancelScope()
        listening = trio.socket.socket(trio.socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        await listening.bind(str(self.path))
        listening.listen(16)
        task_status.started()
        with self._scope:
            await trio.serve_listeners(self._serve, [trio.SocketListener(listening)])

    def die(self) -> None:
        """End at once, with all connections, as kill -9 would."""
        self._scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        framed = FramedStream(stream)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(framed.run_sender)
                while True:
                    for payload in await framed.receive():
                        message = TO_SIGNER.decode(payload)
                        if isinstance(message, SignDigest):
                            self.waiting += 1
                            await self.held.wait()
                            self.waiting -= 1
                        framed.send_soon(FROM_SIGNER.encode(self._answer(message)))
        except* (EndOfStream, RemoteProtocolError):
            pass
        finally:
            await framed.aclose()

    def _answer(self, message: ToSigner) -> FromSigner:
        match message:
            case ListKeys():
                return Keys(message.id, "node", self.keys)
            case Status():
                return StatusReport(message.id, operational=True, reason="", keys=1, signatures=len(self.signed))
            case Record():
                self.records.append(message)
                return Recorded(message.id, self._head())
            case Issue():
                return NotDone(message.id, FailureCode.NOT_OPERATIONAL, "no authority", retryable=False)
            case SignDigest():
                return self._sign(message)

    def _sign(self, message: SignDigest) -> FromSigner:
        if message.keygrip != ED25519.keygrip:
            return NotDone(message.id, FailureCode.KEY_UNAVAILABLE, "no such key", retryable=False)
        self.signed.append(message)
        raw = _PRIVATE.sign(message.digest.value)
        return DigestSigned(message.id, EddsaSignature(raw[:32], raw[32:]), self._head())

    def _head(self) -> Head:
        self._sequence += 1
        return Head("node", self._sequence, hashlib.sha256(str(self._sequence).encode()).digest())

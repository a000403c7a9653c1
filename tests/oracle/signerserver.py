"""A signer behind a Unix socket in this process: real signatures, no disk; tests/oracle/signer_contract.py holds."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.keys import Curve, EccPublicKey
from agentproxy.protocol.openpgp import DocumentSignature, algorithm_of, trailer
from agentproxy.protocol.seal_messages import SealState, StateSealed
from agentproxy.protocol.signatures import EddsaSignature
from agentproxy.protocol.signer_answers import (
    CREDENTIAL_OPERATIONS,
    CredentialRecord,
    CredentialRecords,
    DigestSigned,
    HeadCompared,
    Issued,
    Keys,
    NotDone,
    Recorded,
    StatusReport,
)
from agentproxy.protocol.signer_messages import FROM_SIGNER, TO_SIGNER, FromSigner, ToSigner
from agentproxy.protocol.signer_requests import (
    CompareHead,
    Issue,
    ListCredentialRecords,
    ListKeys,
    Record,
    SignDigest,
    Status,
)
from agentproxy.runtime.streams import EndOfStream, FramedStream
from tests.oracle.samples import facts

AUTHORITY = trustme.CA()

_PRIVATE = Ed25519PrivateKey.generate()
ED25519 = facts("ed", EccPublicKey(Curve.ED25519, _PRIVATE.public_key().public_bytes_raw()))


class FakeSigner:
    """Signs with one Ed25519 key; `hold` keeps answers back until it is set again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self.log: list[CredentialRecord] = []  # what an oracle may ask for
        self.log_trouble = ""
        self.status_trouble = ""
        self.signed: list[SignDigest] = []
        self.sealed: list[SealState] = []
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
                        if isinstance(message, SignDigest | SealState):
                            self.waiting += 1
                            await self.held.wait()
                            self.waiting -= 1
                        framed.send_soon(FROM_SIGNER.encode(self._answer(message)))
        except* (EndOfStream, RemoteProtocolError):
            pass
        finally:
            await framed.aclose()

    def _answer(self, message: ToSigner) -> FromSigner:  # noqa: PLR0911  a table
        match message:
            case ListKeys():
                return Keys(message.id, "node", self.keys)
            case Status():
                trouble = self.status_trouble
                return StatusReport(message.id, not trouble, trouble, keys=1, signatures=len(self.signed))
            case Record():
                if self.log_trouble:
                    return NotDone(message.id, FailureCode.NOT_OPERATIONAL, self.log_trouble, retryable=True)
                self.records.append(message)
                head = self._head()
                if message.operation in CREDENTIAL_OPERATIONS:
                    record = CredentialRecord(head.sequence, datetime.now(UTC), message.operation, message.details)
                    self.log.append(record)
                return Recorded(message.id, head)
            case Issue():
                return issue(message)
            case ListCredentialRecords():
                return self._list(message)
            case CompareHead():
                return self._compare(message)
            case SignDigest():
                return self._sign(message)
            case SealState():
                return self._seal(message)

    def _list(self, message: ListCredentialRecords) -> FromSigner:
        if message.after > self._sequence:
            reason = f"the log ends with record {self._sequence}, before record {message.after}"
            return NotDone(message.id, FailureCode.NOT_OPERATIONAL, reason, retryable=False)
        records = tuple(record for record in self.log if record.sequence > message.after)[:2]
        through = records[-1].sequence if len(records) == 2 else self._sequence
        return CredentialRecords(message.id, "node", records, through, self._sequence)

    def _sign(self, message: SignDigest) -> FromSigner:
        if message.keygrip != ED25519.keygrip:
            return NotDone(message.id, FailureCode.KEY_UNAVAILABLE, "no such key", retryable=False)
        self.signed.append(message)
        raw = _PRIVATE.sign(message.digest.value)
        return DigestSigned(message.id, EddsaSignature(raw[:32], raw[32:]), self._head())

    def _seal(self, message: SealState) -> FromSigner:
        """Finished for good, so that whoever takes the answer can check it."""
        if message.keygrip != ED25519.keygrip:
            return NotDone(message.id, FailureCode.KEY_UNAVAILABLE, "no such key", retryable=False)
        self.sealed.append(message)
        now = datetime.now(UTC).replace(microsecond=0)
        algorithm = algorithm_of(ED25519.public_key, ED25519.fingerprint)
        end = trailer(algorithm, message.state.algorithm, ED25519.fingerprint, now)
        digest = message.state.finished(end)
        raw = _PRIVATE.sign(digest.value)
        seal = DocumentSignature(ED25519.fingerprint, now, digest, EddsaSignature(raw[:32], raw[32:]))
        return StateSealed(message.id, seal, self._head())

    def _compare(self, message: CompareHead) -> FromSigner:
        wanted = message.head
        if wanted.node != "node":
            return HeadCompared(message.id, fits=False, reason=f"this log is not of node {wanted.node}")
        if wanted.sequence > self._sequence:
            reason = (
                f"the log ends with record {self._sequence}: {wanted.sequence - self._sequence} records were cut off"
            )
            return HeadCompared(message.id, fits=False, reason=reason)
        fits = wanted == self._head_at(wanted.sequence)
        reason = "" if fits else f"record {wanted.sequence} is not the one that was there: the log was rewritten"
        return HeadCompared(message.id, fits, reason)

    def _head(self) -> Head:
        self._sequence += 1
        return self._head_at(self._sequence)

    def _head_at(self, sequence: int) -> Head:
        return Head("node", sequence, hashlib.sha256(str(sequence).encode()).digest())


def issue(message: Issue) -> Issued:
    leaf = AUTHORITY.issue_cert(message.common_name, not_after=datetime.now(UTC) + timedelta(days=message.days))
    certificate = leaf.cert_chain_pems[0].bytes()
    return Issued(
        message.id,
        certificate.decode(),
        leaf.private_key_pem.bytes().decode(),
        AUTHORITY.cert_pem.bytes().decode(),
        public_key_sha256(certificate),
        x509.load_pem_x509_certificate(certificate).not_valid_after_utc,
    )


def public_key_sha256(certificate: bytes) -> bytes:
    """SHA-256 of a PEM certificate's SubjectPublicKeyInfo."""
    key = x509.load_pem_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()

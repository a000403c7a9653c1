"""What every signer does for an oracle: the fake one of these tests, and the real one.

A test module imports the functions below and gives a fixture `signer_socket` (the path of a running signer that
serves at least one key for SHA-256) and a fixture `is_good` (checks a signature with a public key).
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from agentproxy.oracle.signerlink import SignerError, connect
from agentproxy.protocol.codes import FailureCode
from agentproxy.protocol.digests import Digest, HashAlgorithm
from agentproxy.protocol.fields import Asserted, Head
from agentproxy.protocol.frames import encode_frame
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.keys import Keygrip, PublicKey
from agentproxy.protocol.seal_messages import SealState, StateSealed
from agentproxy.protocol.signatures import Signature
from agentproxy.protocol.signer_answers import (
    CredentialRecords,
    DigestSigned,
    HeadCompared,
    Keys,
    Recorded,
    StatusReport,
)
from agentproxy.protocol.signer_requests import (
    CompareHead,
    ListCredentialRecords,
    ListKeys,
    Outcome,
    Record,
    SignDigest,
    Status,
)
from tests.oracle.samples import digest

SECONDS = 10.0
Check = Callable[[PublicKey, Digest, Signature], None]
ASSERTED = Asserted(runner="build-01", token="a" * 12, address="10.1.2.3:40000")


async def test_it_tells_its_keys(signer_socket: Path) -> None:
    with trio.fail_after(SECONDS):
        async with connect(signer_socket) as link:
            keys = await link.request(ListKeys(link.next_id()))
            report = await link.request(Status(link.next_id()))
    assert isinstance(keys, Keys)
    assert keys.keys
    assert isinstance(report, StatusReport)
    assert report.operational
    assert report.keys == len(keys.keys)


async def test_each_of_many_requests_in_flight_gets_its_own_good_signature(signer_socket: Path, is_good: Check) -> None:
    answers: dict[int, object] = {}
    with trio.fail_after(SECONDS):
        async with connect(signer_socket) as link:
            keys = await link.request(ListKeys(link.next_id()))
            assert isinstance(keys, Keys)
            asked = {
                number: SignDigest(
                    link.next_id(), f"{number:032x}", keys.keys[0].keygrip, digest(str(number)), ASSERTED
                )
                for number in range(50)
            }

            async def ask(number: int) -> None:
                answers[number] = await link.request(asked[number])

            async with trio.open_nursery() as nursery:
                for number in asked:
                    nursery.start_soon(ask, number)
    sequences = set()
    for number, answer in answers.items():
        assert isinstance(answer, DigestSigned)
        is_good(keys.keys[0].public_key, digest(str(number)), answer.signature)
        sequences.add(answer.head.sequence)
    assert len(sequences) == 50


@pytest.mark.parametrize("content", [b"", b"<repomd/>\n" * 100])
async def test_a_hash_state_becomes_a_signature_over_the_document_made_now(
    signer_socket: Path, is_good: Check, content: bytes
) -> None:
    hashed = HashState.initial(HashAlgorithm.SHA512).updated(content)
    before = datetime.now(UTC).replace(microsecond=0)
    with trio.fail_after(SECONDS):
        async with connect(signer_socket) as link:
            keys = await link.request(ListKeys(link.next_id()))
            assert isinstance(keys, Keys)
            facts = keys.keys[0]
            answer = await link.request(SealState(link.next_id(), f"{1:032x}", facts.keygrip, hashed, ASSERTED))
    assert isinstance(answer, StateSealed)
    seal = answer.seal
    assert seal.fingerprint == facts.fingerprint
    assert before <= seal.created <= datetime.now(UTC)
    assert seal.digest.value == hashlib.sha512(content + seal.trailer).digest()
    is_good(facts.public_key, seal.digest, seal.signature)


async def test_a_key_that_it_does_not_have_is_unavailable_for_good(signer_socket: Path) -> None:
    with trio.fail_after(SECONDS):
        async with connect(signer_socket) as link:
            with pytest.raises(SignerError) as failed:
                await link.request(SignDigest(link.next_id(), f"{1:032x}", Keygrip(bytes(20)), digest(), ASSERTED))
    assert failed.value.code is FailureCode.KEY_UNAVAILABLE
    assert not failed.value.retryable


@pytest.mark.parametrize("durable", [True, False])
async def test_records_move_the_head(signer_socket: Path, durable: bool) -> None:
    with trio.fail_after(SECONDS):
        async with connect(signer_socket) as link:
            heads = []
            for _ in range(2):
                request = Record(link.next_id(), "hello", Outcome.REFUSED, "a test", ASSERTED, durable=durable)
                answer = await link.request(request)
                assert isinstance(answer, Recorded)
                heads.append(answer.head)
    assert heads[1].sequence == heads[0].sequence + 1


@pytest.mark.parametrize("payload", [b"{}", b"\x00", b'{"type":"digest_signed","id":1}', b'{"type":"decrypt","id":1}'])
async def test_what_is_not_in_its_table_ends_the_connection(signer_socket: Path, payload: bytes) -> None:
    with trio.fail_after(SECONDS):
        async with await trio.open_unix_socket(str(signer_socket)) as stream:
            await stream.send_all(encode_frame(payload))
            assert await stream.receive_some() == b""


async def test_it_tells_later_what_it_recorded_of_credentials(signer_socket: Path) -> None:
    with trio.fail_after(SECONDS):
        async with connect(signer_socket) as link:
            before = await link.request(
                Record(link.next_id(), "token_revoked", Outcome.DONE, "", ASSERTED, details={"token": "a" * 12})
            )
            assert isinstance(before, Recorded)
            after = before.head.sequence - 1
            told = await link.request(ListCredentialRecords(link.next_id(), after))
            assert isinstance(told, CredentialRecords)
            (record,) = told.records
            assert (record.sequence, record.details) == (before.head.sequence, {"token": "a" * 12})
            assert told.through == told.last == before.head.sequence
            with pytest.raises(SignerError):
                await link.request(ListCredentialRecords(link.next_id(), before.head.sequence + 1))


async def test_it_says_whether_a_kept_head_is_of_its_log(signer_socket: Path) -> None:
    with trio.fail_after(SECONDS):
        async with connect(signer_socket) as link:
            places = []
            for _ in range(3):
                request = Record(link.next_id(), "hello", Outcome.REFUSED, "", ASSERTED)
                answer = await link.request(request)
                assert isinstance(answer, Recorded)
                places.append(answer.head)
            first, last = places[0], places[-1]
            wrong = {
                "cut off": Head(first.node, last.sequence + 7, b"h" * 32),
                "rewritten": Head(first.node, first.sequence, b"h" * 32),
                "not of node": Head("another", first.sequence, first.hash),
            }
            for head in places:
                told = await link.request(CompareHead(link.next_id(), head))
                assert told == HeadCompared(told.id, fits=True, reason="")
            for word, head in wrong.items():
                told = await link.request(CompareHead(link.next_id(), head))
                assert isinstance(told, HeadCompared)
                assert not told.fits
                assert word in told.reason

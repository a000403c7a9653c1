import gc
import os
from datetime import UTC, datetime

import pytest
import trio
import trio.testing

from agentproxy.oracle import signing
from agentproxy.oracle.policy import Policy, RunnerRule
from agentproxy.oracle.refusals import MOST_A_MINUTE
from agentproxy.oracle.requests import KEPT_SECONDS, MOST_KEPT, Requests
from agentproxy.oracle.signerlink import SignerError
from agentproxy.oracle.signing import SigningService
from agentproxy.protocol.codes import FailureCode, RefusalCode
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import BackendError, LimitedError, RefusedError
from agentproxy.protocol.openpgp import DocumentSignature
from agentproxy.protocol.oracle_messages import Signed
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.seal_messages import Sealed, SealState
from tests.oracle.fakesigner import FakeSource
from tests.oracle.samples import LEGACY, MODERN, SEALED, SERVED, SMALL, caller, head, policy, seal, sign, signature


def service(rules: Policy | None = None) -> tuple[SigningService, FakeSource]:
    signer = FakeSource()
    made = SigningService(rules or policy(), signer, trio.current_time)
    made.serve_keys(SERVED)
    return made, signer


async def answered(made: SigningService, signer: FakeSource, request: Sign) -> Signed:
    results: list[Signed] = []

    async def ask() -> None:
        results.append(await made.sign(caller(), request))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        signer.answer_all()
    return results[0]


async def test_an_answer_that_was_overtaken_takes_nothing_back_from_the_log_s_end() -> None:
    made, signer = service()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.sign, caller(), sign(1))
        await trio.testing.wait_all_tasks_blocked()
        first = signer.waiting.popleft()
        nursery.start_soon(made.sign, caller(), sign(2))
        await trio.testing.wait_all_tasks_blocked()
        signer.answer_next()
        end = made.head
        signer.asked.pop()
        signer.waiting.append(first)
        signer.answer_next()
    assert end is not None
    assert (end.sequence, made.head) == (2, end)


async def test_an_allowed_request_reaches_the_signer_with_who_asked() -> None:
    made, signer = service()
    signed = await answered(made, signer, sign(7, LEGACY, distribution="el7-x86_64"))
    assert signed.id == f"{7:032x}"
    (asked,) = signer.asked
    assert (asked.keygrip, asked.digest, asked.request) == (LEGACY.keygrip, sign(7).digest, signed.id)
    assert (asked.asserted.runner, asked.asserted.distribution) == ("build-01", "el7-x86_64")
    assert signer.records == []


async def test_processors_stay_awake_for_what_the_signer_is_asked_and_not_for_refusals() -> None:
    signer, calls = FakeSource(), list[int]()
    made = SigningService(policy(), signer, trio.current_time, stay_awake=lambda: calls.append(len(signer.asked)))
    made.serve_keys(SERVED)
    with pytest.raises(RefusedError):
        await made.sign(caller(), sign(key=LEGACY))
    assert calls == []
    await answered(made, signer, sign(7))
    assert calls == [0]  # before the signer has it


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (sign(key=LEGACY), "distribution_missing"),
        (sign(key=LEGACY, distribution="el10-x"), "distribution_forbidden"),
        (sign(key=SMALL, distribution="el9-x"), "distribution_forbidden"),
    ],
)
async def test_a_refusal_is_recorded_and_touches_no_key(request_: Sign, code: str) -> None:
    made, signer = service()
    with pytest.raises(RefusedError) as refused:
        await made.sign(caller(), request_)
    assert refused.value.code == code
    assert signer.asked == []
    (record,) = signer.records
    assert record.reason.startswith(code)
    assert (record.request, record.keygrip, record.durable) == (request_.id, request_.keygrip, False)
    assert record.asserted.runner == "build-01"


async def test_a_seal_goes_the_same_way_and_a_seal_only_key_takes_nothing_else() -> None:
    made, signer = service()
    results: list[Sealed] = []

    async def ask() -> None:
        results.append(await made.seal(caller(), seal(7, SEALED)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        signer.answer_all()
    (asked,) = signer.asked
    assert isinstance(asked, SealState)
    assert (asked.state, asked.request, asked.asserted.runner) == (seal(7).state, f"{7:032x}", "build-01")
    assert results[0].seal.digest == seal(7).state.finished()
    with pytest.raises(RefusedError) as refused:
        await made.sign(caller(), sign(8, SEALED))
    assert refused.value.code == "forbidden"
    assert signer.asked == [asked]


async def test_seals_stand_under_the_same_policy_limits_and_records() -> None:
    made, signer = service(policy(**{"build-01": RunnerRule(("modern", "small"), rate=1, burst=1)}))
    for request, code in [
        (seal(1, SEALED), "forbidden"),
        (seal(2, SMALL, algorithm=HashAlgorithm.SHA512, distribution="el10-x"), "hash_forbidden"),
        (seal(3, SMALL), "distribution_missing"),
    ]:
        with pytest.raises(RefusedError) as refused:
            await made.seal(caller(), request)
        assert refused.value.code == code
    assert [(record.operation, record.digest) for record in signer.records] == [("seal", None)] * 3
    answers: list[object] = []
    made.submit(caller(), seal(4), answers.append)
    with pytest.raises(LimitedError):
        await made.sign(caller(), sign(5))
    assert len(signer.asked) == 1


async def test_an_id_of_a_seal_stands_for_its_state_alone() -> None:
    made, signer = service()
    answers: list[object] = []
    made.submit(caller(), seal(1), answers.append)
    made.submit(caller(), seal(1), answers.append)  # a repeat joins
    assert len(signer.asked) == 1
    others = (seal(1, text="another"), seal(1, LEGACY, distribution="el7-x"), seal(1, distribution="el9-x"), sign(1))
    for other in others:
        refused: list[object] = []
        made.submit(caller(), other, refused.append)
        assert isinstance(refused[0], RefusedError)
        assert refused[0].code == "id_reused"
    signer.answer_all()
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert await made.seal(caller(), seal(1)) == answers[0]
    assert len(signer.asked) == 1


async def test_a_key_that_the_signer_no_longer_serves_is_unknown() -> None:
    made, signer = service()
    made.serve_keys([LEGACY])
    with pytest.raises(RefusedError) as refused:
        await made.sign(caller(), sign(key=MODERN))
    assert refused.value.code == "key_unknown"
    assert signer.asked == []


async def test_a_repeat_gets_the_kept_answer_and_no_second_signature(autojump_clock: trio.testing.MockClock) -> None:
    made, signer = service()
    first = await answered(made, signer, sign(1))
    assert await made.sign(caller(), sign(1)) == first
    assert len(signer.asked) == 1
    await trio.sleep(KEPT_SECONDS + 1)
    await answered(made, signer, sign(1))
    assert len(signer.asked) == 2


async def test_a_repeat_joins_the_running_job_also_when_its_first_connection_died() -> None:
    made, signer = service()
    async with trio.open_nursery() as first:
        first.start_soon(made.sign, caller(), sign(1))
        await trio.testing.wait_all_tasks_blocked()
        first.cancel_scope.cancel()
    signed = await answered(made, signer, sign(1))
    assert signed.id == sign(1).id
    assert len(signer.asked) == 1


async def test_a_repeat_is_authorized_anew() -> None:
    made, signer = service()
    await answered(made, signer, sign(1))
    made.policy = policy(**{"build-01": RunnerRule(("legacy",))})
    with pytest.raises(RefusedError) as refused:
        await made.sign(caller(), sign(1))
    assert refused.value.code == "forbidden"


@pytest.mark.parametrize(
    "other", [sign(1, text="another"), sign(1, LEGACY, distribution="el7-x"), sign(1, distribution="el9-x")]
)
async def test_an_id_stands_for_one_request_only(other: Sign) -> None:
    made, signer = service()
    await answered(made, signer, sign(1))
    with pytest.raises(RefusedError) as refused:
        await made.sign(caller(), other)
    assert refused.value.code == "id_reused"
    assert len(signer.asked) == 1


async def test_the_same_id_of_another_runner_is_another_request() -> None:
    made, signer = service(policy(a=RunnerRule(("modern",)), b=RunnerRule(("modern",))))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.sign, caller("a"), sign(1, text="one"))
        nursery.start_soon(made.sign, caller("b"), sign(1, text="two"))
        await trio.testing.wait_all_tasks_blocked()
        signer.answer_all()
    assert len(signer.asked) == 2


async def test_after_a_failure_the_same_id_may_try_again() -> None:
    made, signer = service()
    signer.error = BackendError("the signer is away")
    with pytest.raises(BackendError, match="away"):
        await made.sign(caller(), sign(1))
    signer.error = None
    await answered(made, signer, sign(1))


async def test_too_many_signatures_are_refused_with_the_time_to_wait(autojump_clock: trio.testing.MockClock) -> None:
    made, signer = service(policy(**{"build-01": RunnerRule(("modern",), rate=10, burst=2)}))
    await answered(made, signer, sign(1))
    await answered(made, signer, sign(2))
    with pytest.raises(LimitedError) as limited:
        await made.sign(caller(), sign(3))
    assert limited.value.code == "rate_limited"
    assert signer.records[0].reason.startswith("rate_limited")
    await trio.sleep(limited.value.retry_after_ms / 1000)
    await answered(made, signer, sign(3))


async def test_a_repeat_is_not_counted_again(autojump_clock: trio.testing.MockClock) -> None:
    made, signer = service(policy(**{"build-01": RunnerRule(("modern",), rate=1, burst=2)}))
    first = await answered(made, signer, sign(1))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(made.sign, caller(), sign(2))
        await trio.testing.wait_all_tasks_blocked()
        signer.answer_all()
    for _ in range(5):
        assert await made.sign(caller(), sign(1)) == first
    with pytest.raises(LimitedError):
        await made.sign(caller(), sign(3))
    await trio.sleep(1)
    await answered(made, signer, sign(3))  # and what was refused may come again


async def test_nobody_signs_what_nobody_waits_for_any_more(autojump_clock: trio.testing.MockClock) -> None:
    made, signer = service()
    outcomes: list[str] = []

    async def ask(number: int, remaining_ms: int) -> None:
        try:
            await made.sign(caller(), sign(number, remaining_ms=remaining_ms))
            outcomes.append("signed")
        except RefusedError as refused:
            outcomes.append(refused.code)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(ask, number, 1000)
        await trio.testing.wait_all_tasks_blocked()
        at_signer = len(signer.asked)
        assert at_signer < 40
        await trio.sleep(2)
        made.sweep()
        signer.answer_all()
    assert len(signer.asked) == at_signer
    assert sorted(set(outcomes)) == ["deadline_passed", "signed"]
    assert outcomes.count("signed") == at_signer


async def test_a_single_signature_waits_for_a_few_of_another_runner_s_flood_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    made, signer = service(policy(flood=RunnerRule(("modern",)), single=RunnerRule(("modern",))))
    async with trio.open_nursery() as nursery:
        for _ in range(os.cpu_count() or 1):  # as the real one, for which the window is made
            nursery.start_soon(signer.work, 0.006)
        for number in range(2000):
            nursery.start_soon(made.sign, caller("flood"), sign(number))
        await trio.sleep(1)
        before = trio.current_time()
        await made.sign(caller("single"), sign(1))
        assert trio.current_time() - before < 0.006 * 8
        nursery.cancel_scope.cancel()


async def test_what_is_dropped_since_its_caller_was_revoked_is_recorded_and_counted() -> None:
    made, signer = service()
    outcomes: list[object] = []
    for number in range(100 * (os.cpu_count() or 1)):
        made.submit(caller(), sign(number), outcomes.append)
    at_signer = len(signer.asked)
    made.drop_revoked(lambda _: False)
    await trio.testing.wait_all_tasks_blocked()
    assert {type(outcome) for outcome in outcomes} == {SignerError}
    assert made.tally.failed == {FailureCode.BACKEND: len(outcomes)}
    assert at_signer + len(outcomes) == 100 * (os.cpu_count() or 1)
    assert len(signer.records) == min(len(outcomes), MOST_A_MINUTE)


async def test_a_queue_that_is_full_does_not_eat_the_rate(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("_MOST_WAITING", 0), ("_ALWAYS_WAITING", 0), ("_WINDOW", 1)):
        monkeypatch.setattr(signing, name, most)
    made, signer = service(policy(**{"build-01": RunnerRule(("modern",), rate=1, burst=2)}))
    outcomes: list[object] = []
    for number in range(6):
        made.submit(caller(), sign(number), outcomes.append)
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == [RefusalCode.QUEUE_FULL] * 5
    signer.answer_all()
    await trio.testing.wait_all_tasks_blocked()
    made.submit(caller(), sign(6), outcomes.append)
    signer.answer_all()
    await trio.testing.wait_all_tasks_blocked()
    assert [type(outcome) for outcome in outcomes[5:]] == [Signed, Signed]
    made.submit(caller(), sign(7), outcomes.append)
    assert getattr(outcomes[-1], "code", None) is RefusalCode.RATE_LIMITED


async def test_a_flood_of_refusals_becomes_one_summary_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    made, signer = service()
    for number in range(1000):
        with pytest.raises(RefusedError):
            await made.sign(caller(), sign(number, LEGACY))
    assert len(signer.records) == MOST_A_MINUTE
    await trio.sleep(61)
    made.sweep()
    made.sweep()
    assert len(signer.records) == MOST_A_MINUTE + 1
    assert signer.records[-1].details == {"count": str(1000 - MOST_A_MINUTE)}


def sealed_answer() -> Sealed:
    made = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return Sealed(f"{1:032x}", DocumentSignature(MODERN.fingerprint, made, sign(1).digest, signature()), head())


@pytest.mark.parametrize("made", [Signed(f"{1:032x}", signature(), head()), sealed_answer()])
def test_an_answer_that_was_put_away_is_the_same_and_for_the_same_request_only(made: Signed | Sealed) -> None:
    requests = Requests(lambda: 0.0)
    first, other = (sign(1), sign(1, SMALL)) if isinstance(made, Signed) else (seal(1), seal(1, text="another"))
    job, _ = requests.open(caller(), first)
    requests.put_away(job)  # before its time: nothing
    assert requests.open(caller(), first) == (job, False)
    requests.finish(job, made)
    requests.put_away(job)
    again, is_new = requests.open(caller(), first)
    assert (again.outcome, is_new) == (made, False)
    with pytest.raises(RefusedError, match="stands for another"):
        requests.open(caller(), other)
    assert requests.open(caller("b"), first)[1]


def test_what_was_put_away_is_nothing_for_collections() -> None:
    requests = Requests(lambda: 0.0)
    signed = Signed(f"{1:032x}", signature(), head())
    gc.collect()
    before = len(gc.get_objects())
    for number in range(2000):
        job, _ = requests.open(caller(), sign(number))
        requests.finish(job, signed)
        requests.put_away(job)
    del job
    for _ in range(3):  # tuples are let go when what is in them has been
        gc.collect()
    assert len(gc.get_objects()) - before < 200


def test_one_runner_s_answers_do_not_drive_out_another_s() -> None:
    now = 0.0
    requests = Requests(lambda: now)
    signed = Signed(f"{1:032x}", signature(), head())
    for number in range(100):
        requests.finish(requests.open(caller("quiet"), sign(number))[0], signed)
    for number in range(MOST_KEPT + 200):
        requests.finish(requests.open(caller("busy"), sign(number))[0], signed)
    assert not any(requests.open(caller("quiet"), sign(number))[1] for number in range(100))
    assert not requests.open(caller("busy"), sign(MOST_KEPT + 199))[1]
    assert requests.open(caller("busy"), sign(0))[1]
    now = KEPT_SECONDS
    requests.forget_old()
    assert len(requests._jobs) == 1  # the last one, which is new
    assert not requests._finished


def test_kept_answers_are_bounded() -> None:
    requests = Requests(lambda: 0.0)
    signed = Signed(f"{1:032x}", signature(), head())
    for number in range(MOST_KEPT + 100):
        job, is_new = requests.open(caller(), sign(number))
        assert is_new
        requests.finish(job, signed)
    assert len(requests._jobs) <= MOST_KEPT + 1

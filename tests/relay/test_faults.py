"""What gpg says, and what the relay does, when the oracle or the caller misbehaves."""

import logging
from dataclasses import replace

import pytest
import trio

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.messages import FromOracle
from agentproxy.protocol.oracle_messages import Drain, Failed, KeysChanged, Refused, Rejected, Signed
from agentproxy.protocol.relay_messages import Sign
from agentproxy.protocol.signatures import RsaSignature
from tests.relay.activation import until
from tests.relay.conftest import Runner, write_credentials
from tests.relay.fakeoracle import HEAD


async def learn_the_keys(runner: Runner) -> None:
    """Let the relay run once, so that it has a key list on disk."""
    async with runner.both():
        assert (await runner.sign()).returncode == 0


async def test_a_relay_that_starts_before_its_oracle_says_network_error_and_recovers(runner: Runner) -> None:
    await learn_the_keys(runner)
    runner.with_deadline(1)
    async with runner.relay():
        listed = await runner.gpg("-K", "--with-colons")
        failed = await runner.sign()
        async with trio.open_nursery() as nursery:
            await nursery.start(runner.oracle.serve)
            await runner.oracle.connections_reach(2)
            signed = await runner.sign()
            nursery.cancel_scope.cancel()

    assert b"sec:" in listed.stdout
    assert failed.returncode == 2
    assert b"Network error" in failed.stderr
    assert failed.stdout == b""
    assert signed.returncode == 0, signed.stderr


async def test_a_request_outlives_the_connection_and_keeps_its_id(runner: Runner) -> None:
    deaths = 0

    async def die_once(request: Sign) -> FromOracle | bytes | None:
        nonlocal deaths
        if deaths == 0:
            deaths += 1
            raise RuntimeError("the fake's connection ends here")
        return await runner.oracle.sign(request)

    runner.oracle.answer = die_once
    async with runner.both():
        signed = await runner.sign()

    assert signed.returncode == 0, signed.stderr
    assert runner.oracle.connections == 2
    first, second = runner.oracle.requests
    assert first.id == second.id
    assert second.remaining_ms < first.remaining_ms <= 30_000


async def test_an_oracle_that_answers_garbage_leads_to_network_error_and_is_tried_again(runner: Runner) -> None:
    async def garbage(_: Sign) -> FromOracle | bytes | None:
        await trio.lowlevel.checkpoint()
        return b"\xff\xfe garbage"

    runner.oracle.answer = garbage
    runner.with_deadline(1)
    async with runner.both():
        failed = await runner.sign()
        runner.oracle.answer = runner.oracle.sign
        with trio.fail_after(20):
            while (await runner.sign()).returncode:
                pass

    assert failed.returncode == 2
    assert b"Network error" in failed.stderr


async def test_a_late_answer_leads_to_timeout(runner: Runner) -> None:
    async def never(_: Sign) -> FromOracle | bytes | None:
        await trio.sleep_forever()

    await learn_the_keys(runner)
    runner.oracle.answer = never
    runner.with_deadline(1)
    async with runner.both():
        failed = await runner.sign()

    assert failed.returncode == 2
    assert b"Timeout" in failed.stderr


async def test_a_wrong_signature_never_reaches_gpg(runner: Runner) -> None:
    async def wrong(request: Sign) -> FromOracle | bytes | None:
        await trio.lowlevel.checkpoint()
        return Signed(request.id, RsaSignature(b"\x01" * 256), HEAD)

    runner.oracle.answer = wrong
    async with runner.both():
        failed = await runner.sign()

    assert failed.returncode == 2
    assert failed.stdout == b""
    assert b"Bad signature" in failed.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (RefusalCode.FORBIDDEN, b"Forbidden"),
        (RefusalCode.KEY_UNKNOWN, b"No secret key"),
        (RefusalCode.HASH_FORBIDDEN, b"Invalid digest algorithm"),
        (RefusalCode.RATE_LIMITED, b"Limit reached"),
        (RefusalCode.DEADLINE_PASSED, b"Timeout"),
    ],
)
async def test_gpg_shows_the_words_of_a_refusal_and_the_log_its_reason(
    runner: Runner, code: RefusalCode, words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(request: Sign) -> FromOracle | bytes | None:
        await trio.lowlevel.checkpoint()
        return Refused(request.id, code, "because of rule 7")

    runner.oracle.answer = refuse
    async with runner.both():
        failed = await runner.sign()

    assert failed.returncode == 2
    assert words in failed.stderr
    line = next(line for line in caplog.messages if "because of rule 7" in line)
    assert runner.oracle.requests[0].id in line
    assert str(runner.keys.facts["rsa"].keygrip) in line


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (FailureCode.NOT_OPERATIONAL, b"Not operational"),
        (FailureCode.KEY_UNAVAILABLE, b"Unusable secret key"),
        (FailureCode.INTERNAL, b"Internal error"),
    ],
)
async def test_gpg_shows_the_words_of_a_failure(runner: Runner, code: FailureCode, words: bytes) -> None:
    async def fail(request: Sign) -> FromOracle | bytes | None:
        await trio.lowlevel.checkpoint()
        return Failed(request.id, code, retryable=False)

    runner.oracle.answer = fail
    async with runner.both():
        failed = await runner.sign()

    assert words in failed.stderr


async def test_a_failure_that_may_pass_is_tried_again_with_the_same_id(runner: Runner) -> None:
    async def fail_first(request: Sign) -> FromOracle | bytes | None:
        if len(runner.oracle.requests) == 1:
            return Failed(request.id, FailureCode.BACKEND, retryable=True)
        return await runner.oracle.sign(request)

    runner.oracle.answer = fail_first
    async with runner.both():
        signed = await runner.sign()

    assert signed.returncode == 0, signed.stderr
    assert len({request.id for request in runner.oracle.requests}) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (RejectionCode.CERTIFICATE_UNKNOWN, "does not know this certificate"),
        (RejectionCode.TOKEN_UNKNOWN, "does not know this token"),
        (RejectionCode.TOKEN_OF_ANOTHER_RUNNER, "belong to two different runners"),
        (RejectionCode.TOKEN_EXPIRED, "token has expired"),
    ],
)
async def test_the_log_says_which_credential_was_wrong(
    runner: Runner, code: RejectionCode, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    await learn_the_keys(runner)
    runner.oracle.rejection = Rejected(code)
    async with runner.both():
        failed = await runner.sign()

    assert b"Forbidden" in failed.stderr
    assert any(words in line for line in caplog.messages)


async def test_a_certificate_of_another_authority_is_named_in_the_log(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    import trustme  # noqa: PLC0415

    await learn_the_keys(runner)
    mine = (runner.directory / "authority.crt").read_bytes()
    write_credentials(runner.directory, trustme.CA())
    (runner.directory / "authority.crt").write_bytes(mine)
    runner.with_deadline(1)
    async with runner.both():
        failed = await runner.sign()

    assert b"Network error" in failed.stderr
    assert any("does not know this certificate" in line for line in caplog.messages)


async def test_gpg_that_goes_away_ends_its_wait_alone(runner: Runner) -> None:
    started = trio.Event()
    release = trio.Event()

    async def slowly(request: Sign) -> FromOracle | bytes | None:
        started.set()
        await release.wait()
        return await runner.oracle.sign(request)

    runner.oracle.answer = slowly
    async with runner.both():
        with trio.move_on_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runner.sign)
                await started.wait()
                nursery.cancel_scope.cancel()  # kills gpg
        release.set()
        runner.oracle.answer = runner.oracle.sign
        signed = await runner.sign()

    assert signed.returncode == 0, signed.stderr
    assert runner.oracle.connections == 1


class Ear(logging.Handler):
    """Hears one line."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words
        self.heard = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.words in record.getMessage():
            self.heard.set()


async def test_gpg_that_goes_away_is_noticed_while_the_oracle_still_thinks(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    started = trio.Event()

    async def think(request: Sign) -> FromOracle | bytes | None:
        started.set()
        await trio.sleep_forever()
        raise AssertionError("nobody wakes it")

    runner.oracle.answer = think
    ear = Ear("abandoned, ")
    log = logging.getLogger("relay.requestlog")
    log.addHandler(ear)
    try:
        with caplog.at_level("INFO"):
            async with runner.both():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(runner.sign)
                    await started.wait()
                    nursery.cancel_scope.cancel()  # kills gpg
                with trio.fail_after(20):  # the deadline of a request is longer
                    await ear.heard.wait()
    finally:
        log.removeHandler(ear)


async def test_a_client_that_sends_ahead_and_floods_while_it_waits_gets_its_answers_in_order(runner: Runner) -> None:
    grip = str(runner.keys.facts["ed"].keygrip)
    ahead = 50_000  # commands: more than we would keep for it
    async with runner.both():
        stream = await trio.open_unix_socket(runner.socket)
        async with stream, trio.open_nursery() as nursery:
            wanted = f"SIGKEY {grip}\nSETHASH 8 {'5A' * 32}\nPKSIGN\n".encode()
            nursery.start_soon(stream.send_all, wanted + b"NOP\n" * ahead)
            received = b""
            with trio.fail_after(30):
                while received.count(b"OK\n") < ahead + 3:
                    received += await stream.receive_some()
    _, signature, rest = received.partition(b"D (7:sig-val")
    assert signature
    assert rest.endswith(b"OK\n" * (ahead + 1))


async def test_ten_thousand_resets_are_answered(runner: Runner) -> None:
    async with runner.both():
        stream = await trio.open_unix_socket(runner.socket)
        async with stream:
            with trio.fail_after(30):
                assert (await stream.receive_some()).startswith(b"OK")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_all, b"RESET\n" * 10_000)
                    received = 0
                    while received < 10_000 * len(b"OK\n"):
                        received += len(await stream.receive_some())
    assert received == 10_000 * len(b"OK\n")


async def test_a_slow_and_a_silent_client_hold_only_themselves(runner: Runner) -> None:
    async with runner.both():
        silent = await trio.open_unix_socket(runner.socket)
        slow = await trio.open_unix_socket(runner.socket)
        async with silent, slow:
            for byte in b"RES":
                await slow.send_all(bytes([byte]))
            signed = await runner.sign()
            await slow.send_all(b"ET\n")
            with trio.fail_after(5):
                answers = b""
                while answers.count(b"\n") < 2:
                    answers += await slow.receive_some()

    assert signed.returncode == 0
    assert answers.endswith(b"OK\n")


async def test_killing_the_agent_leaves_the_relay_alive(runner: Runner) -> None:
    async with runner.both():
        await trio.run_process(["gpgconf", "--homedir", str(runner.home), "--kill", "gpg-agent"], capture_stderr=True)
        signed = await runner.sign()

    assert signed.returncode == 0


async def test_sha1_is_refused_by_the_relay_itself_with_its_reason(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async with runner.both():
        fingerprint = str(runner.keys.facts["rsa"].fingerprint)
        failed = await runner.gpg(
            "-u", fingerprint + "!", "--digest-algo", "SHA1", "--detach-sign", "-o", "-", stdin=b"x"
        )

    assert failed.returncode == 2
    assert runner.oracle.requests == []
    assert any("SHA1 is not allowed" in line for line in caplog.messages)


async def test_keys_that_the_oracle_takes_away_are_gone_at_once(runner: Runner) -> None:
    async with runner.both():
        assert (await runner.sign("ed")).returncode == 0
        only_rsa = tuple(key for key in runner.oracle.keys if key.facts.name == "rsa")
        runner.oracle.tell(KeysChanged(only_rsa))
        with trio.fail_after(10):
            while (await runner.sign("ed")).returncode == 0:
                pass
        failed = await runner.sign("ed")

    assert b"No secret key" in failed.stderr


async def test_a_draining_oracle_finishes_its_work_and_is_left(runner: Runner) -> None:
    release = trio.Event()
    started = trio.Event()

    async def slowly(request: Sign) -> FromOracle | bytes | None:
        started.set()
        await release.wait()
        return await runner.oracle.sign(request)

    runner.oracle.answer = slowly
    statuses: list[int] = []

    async def sign() -> None:
        statuses.append((await runner.sign()).returncode)

    async with runner.both(), trio.open_nursery() as nursery:
        nursery.start_soon(sign)
        await started.wait()
        runner.oracle.tell(Drain())
        release.set()
        await runner.oracle.connections_reach(2)

    assert statuses == [0]
    assert len(runner.oracle.requests) == 1


async def test_the_window_of_the_oracle_is_kept(runner: Runner) -> None:
    runner.oracle.max_in_flight = 2
    all_have_asked = trio.Event()

    async def hold(request: Sign) -> FromOracle | bytes | None:
        await all_have_asked.wait()
        return await runner.oracle.sign(request)

    runner.oracle.answer = hold
    async with runner.both() as relay, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(runner.sign)
        await until(lambda: relay.client.waiting == 8)
        all_have_asked.set()

    assert len(runner.oracle.requests) == 8
    assert runner.oracle.most_in_flight == 2


async def test_connections_beyond_the_bound_wait_their_turn(runner: Runner) -> None:
    runner.config = replace(runner.config, max_connections=4)
    statuses: list[int] = []

    async def sign() -> None:
        statuses.append((await runner.sign()).returncode)

    async with runner.both(), trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(sign)

    assert statuses == [0] * 20


async def test_a_full_disk_for_the_key_list_is_no_reason_not_to_sign(
    runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (runner.config.state / "keys.json").mkdir()  # nothing can be renamed over a directory
    async with runner.both():
        signed = await runner.sign()

    assert signed.returncode == 0
    assert any("key list not kept" in line for line in caplog.messages)

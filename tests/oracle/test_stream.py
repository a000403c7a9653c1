import ssl
from dataclasses import replace

import pytest
import trio
import trio.testing
import trustme

from agentproxy.oracle import stream as stream_module
from agentproxy.oracle.changes import CertificateRevoked, RunnerDisabled, RunnerRemoved, TokenRevoked
from agentproxy.oracle.stream import RelayStream
from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.fields import Claims
from agentproxy.protocol.journal import FIRST_PREV, JournalOperation, JournalRecord, Report, Reported
from agentproxy.protocol.key_messages import SelectedKey, SelectKey
from agentproxy.protocol.messages import FROM_RELAY, PROTOCOL_VERSION, FromOracle
from agentproxy.protocol.oracle_messages import (
    Certificate,
    Drain,
    Failed,
    KeysChanged,
    Refused,
    Rejected,
    Signed,
    Welcome,
)
from agentproxy.protocol.relay_messages import FetchCertificate, Hello, Ping, Pong, Sign
from agentproxy.runtime import streams as streams_module
from agentproxy.runtime.streams import EndOfStream, FramedStream
from agentproxy.signer import verify
from tests.oracle.conftest import Running
from tests.oracle.samples import NOW, sign
from tests.oracle.signerserver import ED25519
from tests.oracle.world import AUTHORITY, POLICY, SECONDS, STRANGERS, Client, Enrolled, connected, context, put, until

RECORD = JournalRecord("c" * 32, 1, NOW, JournalOperation.SWITCH, "1" * 32, FIRST_PREV, "forced", "a drill")
TOKEN = "bo_" + "x" * 43


def el10(number: int, **changes: int | str) -> Sign:
    return sign(number, ED25519, distribution="el10-x86_64", **changes)  # type: ignore[arg-type]


async def ended(client: Client) -> list[FromOracle]:
    """Whatever still comes until the oracle closes the connection."""
    got = []
    try:
        while True:
            got.append(await client.receive())
    except (EndOfStream, RemoteProtocolError):
        return got


async def eventually(client: Client, cls: type[FromOracle]) -> FromOracle:
    """Ask until the answer is of this class."""
    with trio.fail_after(SECONDS):
        while True:
            answer = await client.ask(el10(1))
            if isinstance(answer, cls):
                return answer
            await trio.sleep(0.05)


async def test_hello_is_answered_with_the_keys_of_the_runner(running: Running) -> None:
    async with running.connect(running.a) as client:
        welcome = await client.hello(running.a.token)
    assert isinstance(welcome, Welcome)
    assert (welcome.node, welcome.runner, welcome.max_in_flight) == ("node", "a", 8)
    assert [key.facts for key in welcome.keys] == [ED25519]


async def test_a_signature_comes_back_and_is_good(running: Running) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        signed = await client.ask(el10(1))
    assert isinstance(signed, Signed)
    verify.check(ED25519.public_key, el10(1).digest, signed.signature)
    assert signed.id == el10(1).id
    (asked,) = running.signer.signed
    assert (asked.asserted.runner, asked.asserted.token, asked.asserted.channel) == ("a", running.a.token_id, "relay")


async def test_the_record_names_the_relays_socket_and_a_refusal_too(running: Running) -> None:
    by_ssh = replace(el10(1), socket="ssh", claims=Claims(distributions=("el10",)))
    for_another = replace(el10(2), socket="ssh", claims=Claims(distributions=("el9",)))
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        assert isinstance(await client.ask(by_ssh), Signed)
        refused = await client.ask(for_another)
    assert isinstance(refused, Refused)
    assert (refused.code, "el9" in refused.reason) == (RefusalCode.DISTRIBUTION_FORBIDDEN, True)
    assert [one.asserted.channel for one in running.signer.signed] == ["relay/ssh"]
    sign_records = lambda: [one.asserted.channel for one in running.signer.records if one.operation == "sign"]  # noqa: E731
    await until(sign_records)
    assert sign_records() == ["relay/ssh"]


async def test_an_id_cannot_come_back_without_what_its_package_says_of_itself(running: Running) -> None:
    claimed = replace(el10(1), claims=Claims(distributions=("el10",)))
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        assert isinstance(await client.ask(claimed), Signed)
        refused = await client.ask(replace(claimed, claims=None))
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.ID_REUSED


async def test_many_requests_in_flight_each_get_their_own_answer(running: Running) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        for number in range(8):
            client.send(el10(number))
        answers = [await client.receive() for _ in range(8)]
    for answer in answers:
        assert isinstance(answer, Signed)
        verify.check(ED25519.public_key, el10(int(answer.id, 16)).digest, answer.signature)
    assert len({answer.id for answer in answers if isinstance(answer, Signed)}) == 8


async def test_the_key_for_a_distribution_is_named(running: Running) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        selected = await client.ask(SelectKey(el10(1).id, "el10-x86_64"))
        assert isinstance(selected, SelectedKey)
        assert (selected.id, selected.key.facts) == (el10(1).id, ED25519)
        codes = []
        for distribution, key_type in (("el10-x86_64", "legacy"), ("fedora-41", None)):
            refused = await client.ask(SelectKey(el10(2).id, distribution, key_type))
            assert isinstance(refused, Refused)
            codes.append(refused.code)
    assert codes == [RefusalCode.KEY_UNKNOWN, RefusalCode.DISTRIBUTION_FORBIDDEN]


async def test_a_key_is_named_after_hello_only(running: Running) -> None:
    async with running.connect(running.a) as client:
        client.send(SelectKey(el10(1).id, "el10-x86_64"))
        with pytest.raises(EndOfStream):
            await client.receive()


async def test_more_requests_in_flight_than_agreed_are_refused(running: Running) -> None:
    running.signer.held = trio.Event()
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        for number in range(9):
            client.send(el10(number))
        refused = await client.receive()
        assert isinstance(refused, Refused)
        assert (refused.id, refused.code) == (el10(8).id, RefusalCode.QUEUE_FULL)
        assert refused.retry_after_ms is not None
        running.signer.held.set()
        assert all([isinstance(await client.receive(), Signed) for _ in range(8)])


async def test_fetches_and_reports_count_as_in_flight_too(running: Running) -> None:
    (running.world.directory / "certificates" / "ed.pgp").write_bytes(b"x")
    readers = running.oracle._reception.readers
    for place in range(4):
        readers.acquire_on_behalf_of_nowait(place)  # all of them are busy
    async with running.connect(running.a) as client, running.connect(running.b) as other:
        await client.hello(running.a.token)
        for number in range(8):
            client.send(FetchCertificate(f"{number:032x}", ED25519.fingerprint))
        for message in (FetchCertificate(f"{8:032x}", ED25519.fingerprint), Report(f"{9:032x}", (RECORD,)), el10(10)):
            refused = await client.ask(message)
            assert isinstance(refused, Refused)
            assert (refused.id, refused.code) == (message.id, RefusalCode.QUEUE_FULL)
            assert refused.retry_after_ms is not None
        # Who fetches nothing is let in, also with credentials that are new to this oracle.
        c = running.world.enrol("disabled")
        assert isinstance(await other.hello(running.b.token), Welcome)
        async with running.connect(c) as newcomer:
            assert isinstance(await newcomer.hello(c.token), Welcome)
        for place in range(4):
            readers.release_on_behalf_of(place)
        assert all([isinstance(await client.receive(), Certificate) for _ in range(8)])
        assert isinstance(await client.ask(Report(f"{11:032x}", (RECORD,))), Reported)


async def test_of_a_relay_that_does_not_read_no_more_is_read(running: Running, nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    certificate = ssl.PEM_cert_to_DER_cert(running.a.certificate.cert_chain_pems[0].bytes().decode())
    stream = FramedStream(theirs)
    nursery.start_soon(RelayStream(running.oracle._reception, stream, certificate, "192.0.2.1:1").serve)
    client = Client(FramedStream(ours))
    nursery.start_soon(client.stream.run_sender)
    assert isinstance(await client.hello(running.a.token), Welcome)
    for number in range(3000):
        client.send(SelectKey(f"{number:032x}", "el10-x86_64"))
    await until(lambda: stream.is_behind)
    await trio.testing.wait_all_tasks_blocked()
    assert len(stream._unsent) + stream._writing < 2 * streams_module.SLOW_UNSENT
    answers = [await client.receive() for _ in range(3000)]
    assert all(isinstance(answer, SelectedKey) for answer in answers)
    assert isinstance(await client.ask(el10(1)), Signed)


async def test_a_runner_with_much_to_say_keeps_nobody_else_waiting(running: Running, nursery: trio.Nursery) -> None:
    async def connect(who: Enrolled) -> Client:
        ours, theirs = trio.testing.memory_stream_pair()
        certificate = ssl.PEM_cert_to_DER_cert(who.certificate.cert_chain_pems[0].bytes().decode())
        relay = RelayStream(running.oracle._reception, FramedStream(theirs), certificate, "192.0.2.1:1")
        nursery.start_soon(relay.serve)
        client = Client(FramedStream(ours))
        nursery.start_soon(client.stream.run_sender)
        assert isinstance(await client.hello(who.token), Welcome)
        return client

    crowd = [await connect(running.a) for _ in range(20)]
    other = await connect(running.b)
    refused = running.oracle._service.tally.refused
    for client in crowd:
        for number in range(300):
            client.send(SelectKey(f"{number:032x}", "el7-x86_64"))
    assert await other.ask(Ping(f"{1:032x}")) == Pong(f"{1:032x}")
    assert refused[RefusalCode.DISTRIBUTION_FORBIDDEN] < 3000
    await until(lambda: refused[RefusalCode.DISTRIBUTION_FORBIDDEN] == 6000)


async def test_what_is_told_to_all_ends_no_more_than_who_cannot_be_told(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running.connect(running.a) as client, running.connect(running.b) as other:
        await client.hello(running.a.token)
        await other.hello(running.b.token)
        (behind,) = (one for one in running.oracle._doors._streams if "runner=a " in str(one))
        monkeypatch.setattr(behind._stream, "_unsent", bytearray(streams_module.MAX_UNSENT))
        file = running.world.directory / "policy.yaml"
        file.write_text(POLICY.replace("keys: [ed]", "keys: []"))
        await running.oracle.reload()
        assert await other.receive() == KeysChanged(())
        await until(lambda: behind not in running.oracle._doors._streams)
        monkeypatch.setattr(streams_module, "MAX_UNSENT", 0)
        running.oracle._doors.drain()
        await until(lambda: not running.oracle._doors._streams)


async def test_where_no_key_may_be_selected_is_recorded_and_counted(running: Running) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        refused = await client.ask(SelectKey(f"{1:032x}", "el7-x86_64"))
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.DISTRIBUTION_FORBIDDEN
    await until(lambda: running.signer.records)
    (record,) = running.signer.records
    assert (record.operation, record.request, record.asserted.runner) == ("select_key", f"{1:032x}", "a")
    assert (record.asserted.distribution, record.reason) == ("el7-x86_64", f"{refused.code}: {refused.reason}")
    assert running.oracle._service.tally.refused[RefusalCode.DISTRIBUTION_FORBIDDEN] == 1


async def test_a_refusal_names_its_line_and_is_recorded(running: Running) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        refused = await client.ask(sign(1, ED25519, distribution="el7-x86_64"))
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.DISTRIBUTION_FORBIDDEN
    assert refused.reason.startswith("runners.a.distributions")
    assert running.signer.signed == []
    assert [record.reason.split(":")[0] for record in running.signer.records] == ["distribution_forbidden"]


@pytest.mark.parametrize(
    ("certificate_of", "token_of", "code", "reason"),
    [
        ("a", "b", RejectionCode.TOKEN_OF_ANOTHER_RUNNER, "certificate of runner a with token"),
        ("a", "nobody", RejectionCode.TOKEN_UNKNOWN, "no token"),
        ("unrecorded", "a", RejectionCode.CERTIFICATE_UNKNOWN, "no certificate"),
        ("a", "expired", RejectionCode.TOKEN_EXPIRED, "expired token"),
        ("disabled", "disabled", RejectionCode.RUNNER_DISABLED, "runner disabled is disabled"),
    ],
)
async def test_a_bad_hello_is_rejected_and_only_the_log_says_more(  # noqa: PLR0917
    running: Running,
    caplog: pytest.LogCaptureFixture,
    certificate_of: str,
    token_of: str,
    code: RejectionCode,
    reason: str,
) -> None:
    expired = running.world.enrol("expired", expires_in=-1)
    disabled = running.world.enrol("disabled")
    put(running.world.registry, RunnerDisabled("disabled"))
    known = {"a": running.a, "b": running.b, "disabled": disabled}
    unrecorded = Enrolled(AUTHORITY.issue_cert("a.example"), TOKEN)
    tokens = {"a": running.a.token, "b": running.b.token, "expired": expired.token, "disabled": disabled.token}
    await running.registry_is_seen()
    async with running.connect(known.get(certificate_of, unrecorded)) as client:
        rejected = await client.hello(tokens.get(token_of, TOKEN))
        assert rejected == Rejected(code)
        assert await ended(client) == []
    assert reason in caplog.text
    assert running.signer.signed == []
    assert all(token not in caplog.text for token in tokens.values())


async def test_another_version_of_the_protocol_is_rejected(running: Running) -> None:
    async with running.connect(running.a) as client:
        assert await client.ask(Hello(PROTOCOL_VERSION + 1, running.a.token, "test")) == Rejected(RejectionCode.VERSION)


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (None, "the other side wants a client certificate and got none"),
        (STRANGERS.issue_cert("a.example"), "the other side does not know this certificate: another authority issued"),
    ],
    ids=["no certificate", "another authority"],
)
async def test_without_a_certificate_of_ours_there_is_no_hello_and_the_relay_learns_why(
    running: Running, leaf: trustme.LeafCert | None, reason: str
) -> None:
    async with connected(running.address, context(leaf)) as client:
        with pytest.raises(RemoteProtocolError, match=reason):
            await client.hello(running.a.token)


async def test_tls_1_2_is_refused(running: Running) -> None:
    old = context(running.a.certificate)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with connected(running.address, old) as client:
        with pytest.raises(RemoteProtocolError):
            await client.hello(running.a.token)


@pytest.mark.parametrize(
    "untrusted",
    [
        b"\x00\x00\x00\x02{}",
        b"\xff\xff\xff\xff",
        b"\x00\x01\x00\x01" + bytes(65537),
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(64),
    ],
    ids=["no message", "4 GiB", "one byte too long", "HTTP", "zeros"],
)
@pytest.mark.parametrize("greeted", [False, True])
async def test_garbage_ends_the_connection_and_nothing_else(running: Running, untrusted: bytes, greeted: bool) -> None:
    async with running.connect(running.a) as client, running.connect(running.b) as other:
        await other.hello(running.b.token)
        if greeted:
            await client.hello(running.a.token)
        client.stream._unsent += untrusted
        client.stream._wake.set()
        assert await ended(client) == []
        assert isinstance(await other.ask(sign(1, ED25519)), Signed)


async def test_claims_that_grow_on_their_way_end_their_connection_and_nothing_else(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.oracle._service._turns, "_free", 1)
    running.signer.held = trio.Event()
    raw = FROM_RELAY.encode(replace(el10(1), claims=Claims(job={"x": "PLACE"})))
    grown = ",".join(f'"{number}":"{"😀" * 1000}"' for number in range(15))
    async with running.connect(running.b) as other:
        await other.hello(running.b.token)
        other.send(el10(1))
        await until(lambda: running.signer.waiting == 1)
        async with running.connect(running.a) as client:
            await client.hello(running.a.token)
            client.stream.send_soon(raw.replace(b'"x":"PLACE"', grown.encode()))
            assert await ended(client) == []
        running.signer.held.set()  # and the next one's turn comes among the answers to this
        assert isinstance(await other.receive(), Signed)
        assert isinstance(await other.ask(el10(2)), Signed)
    assert len(running.signer.signed) == 2


async def test_a_second_hello_and_a_request_before_hello_end_the_connection(running: Running) -> None:
    async with running.connect(running.a) as client:
        client.send(el10(1))
        assert await ended(client) == []
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        client.send(Hello(PROTOCOL_VERSION, running.a.token, "test"))
        assert await ended(client) == []
    assert running.signer.signed == []


@pytest.mark.parametrize("ahead", [0, 5])
async def test_a_relay_that_saw_more_of_the_log_is_a_warning_and_a_record(
    running: Running, caplog: pytest.LogCaptureFixture, ahead: int
) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        signed = await client.ask(el10(1))
    assert isinstance(signed, Signed)
    kept = replace(signed.head, sequence=signed.head.sequence + ahead)
    async with running.connect(running.a) as client:
        assert isinstance(await client.ask(Hello(PROTOCOL_VERSION, running.a.token, "test", (kept,))), Welcome)
        assert isinstance(await client.ask(el10(2)), Signed)  # the signer has answered the comparison before
    recorded = [record.details["sequence"] for record in running.signer.records if record.operation == "head_misfit"]
    assert recorded == ([str(kept.sequence)] if ahead else [])
    assert ("records were cut off" in caplog.text) == bool(ahead)


async def test_a_slow_hello_is_not_waited_for(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HELLO_SECONDS", 0.2)
    async with running.connect(running.a) as client:
        assert await ended(client) == []


@pytest.mark.parametrize("how", ["token", "certificate", "disabled", "removed"])
async def test_revocation_ends_an_open_connection_within_a_second(running: Running, how: str) -> None:
    registry = running.world.registry
    async with running.connect(running.a) as client, running.connect(running.b) as other:
        await client.hello(running.a.token)
        await other.hello(running.b.token)
        began = trio.current_time()
        match how:
            case "token":
                put(registry, TokenRevoked(running.a.token_id))
            case "certificate":
                put(registry, CertificateRevoked(running.a.public_key_sha256))
            case "disabled":
                put(registry, RunnerDisabled("a"))
            case _:
                put(registry, RunnerRemoved("a"))
        (rejected,) = await ended(client)
        assert trio.current_time() - began < 1
        assert isinstance(rejected, Rejected)
        assert isinstance(await other.ask(sign(1, ED25519)), Signed)
    async with running.connect(running.a) as client:
        assert isinstance(await client.hello(running.a.token), Rejected)


async def test_a_request_is_joined_after_a_reconnect_and_signed_once(running: Running) -> None:
    running.signer.held = trio.Event()
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        client.send(el10(1))
        await until(lambda: running.signer.waiting == 1)
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        client.send(el10(1))
        assert await client.ask(Ping(f"{7:032x}")) == Pong(f"{7:032x}")  # the oracle has read the request before it
        running.signer.held.set()
        signed = await client.receive()
        assert isinstance(signed, Signed)
        assert await client.ask(el10(1)) == signed
        refused = await client.ask(el10(1, text="another"))
        assert isinstance(refused, Refused)
        assert refused.code is RefusalCode.ID_REUSED
    assert len(running.signer.signed) == 1


async def test_a_dead_signer_is_not_operational_and_its_return_is_enough(
    running: Running, nursery: trio.Nursery
) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        running.signer.die()
        await until(lambda: not running.oracle._link.is_connected)
        assert await client.ask(el10(1)) == Failed(el10(1).id, FailureCode.NOT_OPERATIONAL, retryable=True)
        await nursery.start(running.signer.serve)
        assert isinstance(await eventually(client, Signed), Signed)


async def test_pings_are_answered(running: Running) -> None:
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        assert await client.ask(Ping(f"{7:032x}")) == Pong(f"{7:032x}")


async def test_a_certificate_comes_in_parts(running: Running) -> None:
    data = bytes(range(256)) * 150
    (running.world.directory / "certificates" / "ed.pgp").write_bytes(data)
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        client.send(FetchCertificate(f"{1:032x}", ED25519.fingerprint))
        parts = [await client.receive() for _ in range(3)]
        missing = await client.ask(FetchCertificate(f"{2:032x}", type(ED25519.fingerprint)(bytes(20))))
    assert b"".join(part.data for part in parts if isinstance(part, Certificate)) == data
    assert isinstance(missing, Refused)


async def test_a_new_policy_is_followed_by_open_connections(running: Running) -> None:
    file = running.world.directory / "policy.yaml"
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        file.write_text(POLICY.replace("a: {keys: [ed]", "a: {keys: []"))
        await running.oracle.reload()
        assert await client.receive() == KeysChanged(())
        refused = await client.ask(el10(1))
        assert isinstance(refused, Refused)
        assert refused.code is RefusalCode.FORBIDDEN


async def test_what_waits_for_its_turn_is_not_signed_against_a_new_policy(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = running.oracle._service._turns
    monkeypatch.setattr(turns, "_free", 1)
    running.signer.held = trio.Event()
    async with running.connect(running.a) as client, running.connect(running.b) as other:
        await client.hello(running.a.token)
        await other.hello(running.b.token)
        client.send(el10(0))
        await until(lambda: running.signer.waiting == 1)
        for number in range(1, 4):
            client.send(el10(number))
        other.send(sign(9, ED25519))
        await until(lambda: turns.waiting == 4)
        file = running.world.directory / "policy.yaml"
        file.write_text(POLICY.replace("distributions: [el10-*]", "distributions: [el9-*]"))
        await running.oracle.reload()
        running.signer.held.set()
        answers = [await client.receive() for _ in range(4)]
        assert isinstance(await other.receive(), Signed)
    codes = [answer.code for answer in answers if isinstance(answer, Refused)]
    assert codes == [RefusalCode.DISTRIBUTION_FORBIDDEN] * 3
    assert [asked.asserted.runner for asked in running.signer.signed] == ["a", "b"]
    await until(lambda: len(running.signer.records) == 3)
    assert {record.reason.split(":")[0] for record in running.signer.records} == {"distribution_forbidden"}


@pytest.mark.parametrize(
    "text", ["keys: {}\nkeys: {}\n", "\tkeys: {}", POLICY + "  no: {keys: [ed]}\n", POLICY + "  c: {keys: [x]}"]
)
async def test_a_bad_policy_changes_nothing(running: Running, caplog: pytest.LogCaptureFixture, text: str) -> None:
    (running.world.directory / "policy.yaml").write_text(text)
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        await running.oracle.reload()
        assert isinstance(await client.ask(el10(1)), Signed)
    assert "policy.yaml" in caplog.text


async def test_draining_finishes_what_is_in_flight(running: Running) -> None:
    running.signer.held = trio.Event()
    async with running.connect(running.a) as client, running.connect(running.b) as idle:
        await client.hello(running.a.token)
        await idle.hello(running.b.token)
        client.send(el10(1))
        await until(lambda: running.signer.waiting == 1)
        running.oracle.stop()
        assert await ended(idle) == [Drain()]
        assert await client.receive() == Drain()
        running.signer.held.set()
        assert isinstance(await client.receive(), Signed)
        assert await ended(client) == []


async def test_who_shakes_hands_while_the_oracle_drains_is_sent_elsewhere_too(running: Running) -> None:
    async with running.connect(running.a) as client:  # it shakes hands at its first word
        await until(lambda: running.oracle._doors._connections == 1)
        running.oracle.stop()
        client.send(Hello(PROTOCOL_VERSION, running.a.token, "test"))
        assert Drain() in await ended(client)


async def test_the_registry_out_of_reach_closes_the_doors(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentproxy.oracle.registryview.OUT_OF_REACH_SECONDS", 0.6)
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        (running.world.directory / "registry.sqlite").rename(running.world.directory / "gone")
        answer = await eventually(client, Failed)
        assert isinstance(answer, Failed)
        assert answer.code is FailureCode.NOT_OPERATIONAL
        async with running.connect(running.b) as other:
            assert await other.hello(running.b.token) == Rejected(RejectionCode.NOT_OPERATIONAL)
        (running.world.directory / "gone").rename(running.world.directory / "registry.sqlite")
        assert isinstance(await eventually(client, Signed), Signed)
    assert "registry out of reach" in caplog.text

"""Enrolment, renewal and replay, as a relay and an operator meet them."""

import logging
import os
import shutil
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agentproxy.oracle import doors, issuing, schema, statements
from agentproxy.oracle.changes import CertificateRevoked, Change, RunnerDisabled, TokenRevoked, details_of
from agentproxy.oracle.changes import Enrolled as EnrolledChange
from agentproxy.oracle.config import CredentialsConfig
from agentproxy.oracle.credentials import TokenKind
from agentproxy.oracle.daemon import Oracle
from agentproxy.oracle.stream import RelayStream
from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.expiry import THRESHOLD_DAYS
from agentproxy.protocol.fields import Asserted
from agentproxy.protocol.oracle_messages import Credentials, Rejected, Signed, Welcome
from agentproxy.protocol.signer_answers import CredentialRecord
from agentproxy.protocol.signer_messages import FromSigner, ToSigner
from agentproxy.protocol.signer_requests import Issue
from agentproxy.runtime.streams import EndOfStream
from tests.oracle.conftest import Running
from tests.oracle.samples import sign
from tests.oracle.signerserver import AUTHORITY, ED25519, FakeSigner
from tests.oracle.world import SECONDS, STRANGERS, Enrolled, World, connected, context, put, until


@dataclass(frozen=True, slots=True)
class Given:
    """What an oracle gave."""

    credentials: Credentials
    directory: Path

    def context(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        AUTHORITY.configure_trust(made)
        file = self.directory / "given.pem"
        file.write_text(self.credentials.certificate + self.credentials.private_key)
        made.load_cert_chain(file)
        return made


class Looks:
    """The oracle's looks at how old a relay's credentials are, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        renew_if_due = RelayStream.renew_if_due

        def counted(relay: RelayStream) -> None:
            renew_if_due(relay)
            self._count += 1

        monkeypatch.setattr(RelayStream, "renew_if_due", counted)
        monkeypatch.setattr(doors, "KEEP_ALIVE_SECONDS", 0.01)

    async def several(self) -> None:
        enough = self._count + 4
        await until(lambda: self._count >= enough)


def newcomer(running: Running) -> Enrolled:
    return running.world.enrol("a", kind=TokenKind.BOOTSTRAP)


async def hello(running: Running, who: Enrolled) -> object:
    async with running.connect(who) as client:
        return await client.hello(who.token)


async def given(running: Running, who: Enrolled) -> Given:
    await running.registry_is_seen()
    answer = await hello(running, who)
    assert isinstance(answer, Credentials)
    return Given(answer, running.world.directory)


async def use(running: Running, what: Given) -> object:
    async with connected(running.address, what.context()) as client:
        return await client.hello(what.credentials.token)


def operations(running: Running) -> list[str]:
    return [record.operation for record in running.signer.records]


async def test_an_enrolment_file_gives_credentials_once_used_and_is_dead_then(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    who = newcomer(running)
    got = await given(running, who)
    assert got.credentials.runner == "a"
    async with connected(running.address, got.context()) as client:
        assert isinstance(await client.hello(got.credentials.token), Welcome)
        assert isinstance(await client.ask(sign(1, ED25519, distribution="el10-x")), Signed)
    assert operations(running) == ["credentials_issued", "enrolled"]
    for _ in range(2):
        assert await hello(running, who) == Rejected(RejectionCode.CERTIFICATE_REVOKED)
    assert caplog.text.count("an enrolment file was used again after its end") == 2
    await until(lambda: operations(running)[2:] == ["hello"])  # one record a minute
    assert running.signer.records[-1].asserted.token == who.token_id
    assert not any(secret in caplog.text for secret in (who.token, got.credentials.token, "PRIVATE KEY"))


async def test_a_file_works_again_as_long_as_nothing_it_gave_was_used(running: Running) -> None:
    who = newcomer(running)
    lost = await given(running, who)  # the relay was killed between receiving and storing
    got = await given(running, who)
    assert isinstance(await use(running, got), Welcome)
    assert isinstance(await use(running, lost), Rejected)
    assert isinstance(await use(running, got), Welcome)


async def test_a_file_gives_nothing_but_credentials(running: Running) -> None:
    who = newcomer(running)
    await running.registry_is_seen()
    async with running.connect(who) as client:
        client.send(sign(1, ED25519))
        client.send(sign(2, ED25519))
        with trio.fail_after(SECONDS):
            with suppress(EndOfStream, RemoteProtocolError):
                while True:
                    assert not isinstance(await client.receive(), Signed)
    assert running.signer.signed == []


async def test_a_file_cannot_be_asked_for_ever(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuing, "MOST_PENDING", 2)
    who = newcomer(running)
    for _ in range(2):
        await given(running, who)
    assert await hello(running, who) == Rejected(RejectionCode.TOKEN_REVOKED)


async def test_a_file_cannot_be_used_by_many_at_once(running: Running) -> None:
    who = newcomer(running)
    await running.registry_is_seen()
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await hello(running, who))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    given_out = [answer for answer in answers if isinstance(answer, Credentials)]
    assert len(given_out) == statements.MOST_PENDING
    assert answers.count(Rejected(RejectionCode.TOKEN_REVOKED)) == 20 - len(given_out)
    registered = running.world.registry.snapshot().tokens.values()
    assert sum(entry.is_pending for entry in registered) == len(given_out)


async def test_a_set_that_was_on_its_way_when_the_host_came_first_is_not_given_out(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = newcomer(running)
    got = await given(running, who)
    ledger, issued, gone = running.oracle._ledger, trio.Event(), trio.Event()
    ask = ledger.ask

    async def slowly(request: ToSigner) -> FromSigner:
        answer = await ask(request)
        if isinstance(request, Issue):
            issued.set()
            await gone.wait()
        return answer

    monkeypatch.setattr(ledger, "ask", slowly)
    answers: list[object] = []

    async def steal() -> None:
        answers.append(await hello(running, who))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(steal)
        await issued.wait()
        assert isinstance(await use(running, got), Welcome)
        gone.set()
    assert answers == [Rejected(RejectionCode.TOKEN_REVOKED)]
    assert operations(running) == ["credentials_issued", "enrolled"]


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_what_is_revoked_while_its_first_use_is_recorded_opens_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch, *, is_recorded: bool
) -> None:
    """Just before the record, as the first use of its sibling does, or just after."""
    got = await given(running, newcomer(running))
    ledger = running.oracle._ledger
    change = ledger.change

    async def meanwhile(wanted: Change, asserted: Asserted) -> None:
        assert isinstance(wanted, EnrolledChange)
        if is_recorded:
            await change(wanted, asserted)
        put(running.world.registry, TokenRevoked(wanted.token))
        if not is_recorded:
            await change(wanted, asserted)
        await running.registry_is_seen()

    monkeypatch.setattr(ledger, "change", meanwhile)
    assert await use(running, got) == Rejected(RejectionCode.TOKEN_REVOKED)
    assert operations(running) == ["credentials_issued", "enrolled"][: 1 + is_recorded]


async def test_without_the_record_there_are_no_credentials_and_no_end_of_the_old(running: Running) -> None:
    who = newcomer(running)
    await running.registry_is_seen()
    running.signer.log_trouble = "the disk is full"
    assert await hello(running, who) == Rejected(RejectionCode.NOT_OPERATIONAL)
    running.signer.log_trouble = ""
    got = await given(running, who)
    running.signer.log_trouble = "the disk is full"
    assert await use(running, got) == Rejected(RejectionCode.NOT_OPERATIONAL)
    running.signer.log_trouble = ""
    assert isinstance(await use(running, got), Welcome)


def age(running: Running, who: Enrolled, days: float) -> None:
    """Let credentials be so old, of three days in all."""
    created = datetime.now(UTC) - timedelta(days=days)
    with running.world.registry._transaction() as connection:
        for table in (schema.tokens, schema.certificates):
            values = {
                "created": schema_time(created),
                "expires": schema_time(created + timedelta(days=3)),
            }
            connection.execute(sa.update(table).where(table.c.runner == "a").values(values))
        connection.execute(sa.update(schema.generation).values(value=schema.generation.c.value + 1))


def schema_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def test_credentials_are_renewed_over_the_stream_and_the_old_ones_end_after_the_overlap(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    async with running.connect(running.a) as client:
        assert isinstance(await client.hello(running.a.token), Welcome)
        await looks.several()  # at credentials that are young
        age(running, running.a, 1.8)
        await running.registry_is_seen()
        await looks.several()  # … and at some of three fifths of their time
        age(running, running.a, 2.2)
        got = await client.receive()
        assert isinstance(got, Credentials)
        fresh = Given(got, running.world.directory)
        assert isinstance(await client.ask(sign(1, ED25519, distribution="el10-x")), Signed)
        assert isinstance(await use(running, fresh), Welcome)
        assert operations(running) == ["credentials_issued", "renewed"]
        assert isinstance(await client.ask(sign(2, ED25519, distribution="el10-x")), Signed)
        old = running.world.registry.snapshot()
        (entry,) = [entry for entry in old.tokens.values() if entry.id == running.a.token_id]
        assert entry.expires is not None
        assert timedelta(minutes=55) < entry.expires - datetime.now(UTC) < timedelta(minutes=65)
        await looks.several()
    assert operations(running) == ["credentials_issued", "renewed"]  # once, though the old ones are still old


async def test_a_renewal_that_does_not_succeed_disturbs_nobody(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doors, "KEEP_ALIVE_SECONDS", 0.05)
    running.signer.log_trouble = "the disk is full"
    async with running.connect(running.a) as client:
        await client.hello(running.a.token)
        age(running, running.a, 2.5)
        await until(lambda: "credentials not renewed" in caplog.text)
        running.signer.log_trouble = ""
        assert isinstance(await client.receive(), Credentials)


@pytest.mark.parametrize(
    "revoke",
    [
        lambda a: TokenRevoked(a.token_id),
        lambda a: CertificateRevoked(a.public_key_sha256),
        lambda _: RunnerDisabled("a"),
    ],
    ids=["token", "certificate", "runner"],
)
async def test_yesterday_s_backup_of_the_registry_brings_nothing_revoked_back(
    world: World, signer: FakeSigner, nursery: trio.Nursery, revoke: Callable[[Enrolled], object]
) -> None:
    who = world.enrol("a")
    world.registry.close()
    shutil.copy(world.directory / "registry.sqlite", world.directory / "yesterday")
    change = revoke(who)
    assert isinstance(change, TokenRevoked | CertificateRevoked | RunnerDisabled)
    signer.log.append(CredentialRecord(3, datetime.now(UTC), change.operation, details_of(change)))
    signer._sequence = 5
    shutil.copy(world.directory / "yesterday", world.directory / "registry.sqlite")
    oracle = Oracle(world.config)
    nursery.start_soon(oracle.run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
    async with connected(oracle.address, context(who.certificate)) as client:
        assert isinstance(await client.hello(who.token), Rejected)


async def test_a_log_that_ends_before_the_registry_stops_the_start(world: World, signer: FakeSigner) -> None:
    with world.registry._transaction() as connection:
        connection.execute(sa.insert(schema.applied).values(node="node", sequence=1000))
    with trio.fail_after(SECONDS):
        with pytest.raises(ConfigError, match="cannot be replayed into the registry: the log ends with record"):
            await Oracle(world.config).run()


async def test_without_a_signer_nobody_is_let_in_before_the_replay(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentproxy.oracle.daemon.SIGNER_START_SECONDS", 0.1)
    who = world.enrol("a")
    oracle = Oracle(world.config)
    nursery.start_soon(oracle.run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
    async with connected(oracle.address, context(who.certificate)) as client:
        assert await client.hello(who.token) == Rejected(RejectionCode.NOT_OPERATIONAL)
    signer = FakeSigner(world.directory / "signer.sock")
    await nursery.start(signer.serve)
    await until(lambda: oracle._view.is_replayed)
    async with connected(oracle.address, context(who.certificate)) as client:
        assert isinstance(await client.hello(who.token), Welcome)


@pytest.mark.parametrize("quiet_seconds", [60.0, 0.0])
async def test_a_signer_that_takes_its_time_to_start_is_an_error_only_when_it_lasts_and_then_once(
    world: World,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    quiet_seconds: float,
) -> None:
    monkeypatch.setattr("agentproxy.oracle.daemon.SIGNER_START_SECONDS", 0.1)
    for module in ("ledger", "signerlink"):
        monkeypatch.setattr(f"agentproxy.oracle.{module}.QUIET_SECONDS", quiet_seconds)
    caplog.set_level(logging.DEBUG, "agentproxy")
    oracle = Oracle(world.config)
    nursery.start_soon(oracle.run)
    await until(lambda: min(caplog.text.count("was not replayed"), caplog.text.count("out of reach")) >= 2)
    await nursery.start(FakeSigner(world.directory / "signer.sock").serve)
    await until(lambda: oracle._view.is_replayed)
    complaints = sum(record.levelno >= logging.WARNING for record in caplog.records)
    assert complaints == (0 if quiet_seconds else 2)  # the link's and the ledger's


def test_credentials_are_renewed_before_the_first_warning_of_their_end() -> None:
    lifetimes = CredentialsConfig()
    for days in (lifetimes.certificate_days, lifetimes.token_days):
        left = days * (1 - issuing.RENEWAL_POINT - issuing.RENEWAL_JITTER)
        assert left > max(THRESHOLD_DAYS)


async def test_what_another_process_recorded_and_did_not_make_is_made_while_we_serve(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = TokenRevoked(running.a.token_id)
    running.signer.log.append(CredentialRecord(1, datetime.now(UTC), change.operation, details_of(change)))
    running.signer._sequence += 1
    await running.oracle._ledger.catch_up()
    assert isinstance(await hello(running, running.a), Rejected)


async def test_what_waits_for_its_turn_is_not_signed_after_a_revocation(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = running.oracle._service._turns
    monkeypatch.setattr(turns, "_free", 1)
    running.signer.held = trio.Event()
    async with running.connect(running.a) as client, running.connect(running.b) as other:
        await client.hello(running.a.token)
        await other.hello(running.b.token)
        for number in range(4):
            client.send(sign(number, ED25519, distribution="el10-x"))
        await until(lambda: turns.waiting == 3)
        put(running.world.registry, TokenRevoked(running.a.token_id))
        await until(lambda: turns.waiting == 0)
        running.signer.held.set()
        assert isinstance(await other.ask(sign(9, ED25519)), Signed)
    assert [asked.asserted.runner for asked in running.signer.signed] == ["a", "b"]
    refused = running.signer.records
    await until(lambda: len(refused) == 3)
    assert [record.reason.split(":")[0] for record in refused] == ["forbidden"] * 3


async def test_a_second_oracle_on_one_state_directory_is_refused(running: Running) -> None:
    with trio.fail_after(SECONDS):
        with pytest.raises(ConfigError, match=f"another oracle works here, pid {os.getpid()}"):
            await Oracle(running.world.config).run()
    assert isinstance(await hello(running, running.a), Welcome)


async def test_a_revoked_client_has_no_session_to_come_back_with(running: Running) -> None:
    made = context(running.a.certificate)
    async with connected(running.address, made) as client:
        assert isinstance(await client.hello(running.a.token), Welcome)
        tls = client.stream._stream
        assert isinstance(tls, trio.SSLStream)
        session = tls.session
    assert session is None or not session.has_ticket
    put(running.world.registry, CertificateRevoked(running.a.public_key_sha256))
    await running.registry_is_seen()
    assert await hello(running, running.a) == Rejected(RejectionCode.CERTIFICATE_REVOKED)


@pytest.mark.parametrize("change", [lambda token: token[:-1], lambda token: token + "x", lambda token: token.upper()])
async def test_a_token_that_was_cut_or_changed_is_unknown(running: Running, change: Callable[[str], str]) -> None:
    async with running.connect(running.a) as client:
        assert await client.hello(change(running.a.token)) == Rejected(RejectionCode.TOKEN_UNKNOWN)


def rogue(common_name: str, authority: trustme.CA) -> tuple[bytes, bytes]:
    """A certificate that names somebody else as well as it can."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer_key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer_key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("x.example")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(signer_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


@pytest.mark.parametrize("name", ["a", "a.example", "a\x00.evil.example"])
async def test_a_certificate_is_known_by_its_bytes_and_never_by_a_name_in_it(running: Running, name: str) -> None:
    certificate, private = rogue(name, AUTHORITY)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(made)
    file = running.world.directory / "rogue.pem"
    file.write_bytes(certificate + private)
    made.load_cert_chain(file)
    async with connected(running.address, made) as client:
        assert await client.hello(running.a.token) == Rejected(RejectionCode.CERTIFICATE_UNKNOWN)


async def test_the_same_name_from_another_authority_gets_no_tls(running: Running) -> None:
    certificate, private = rogue("a", STRANGERS)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(made)
    file = running.world.directory / "rogue.pem"
    file.write_bytes(certificate + private)
    made.load_cert_chain(file)
    async with connected(running.address, made) as client:
        with pytest.raises(RemoteProtocolError):
            await client.hello(running.a.token)

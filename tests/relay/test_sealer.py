"""The sealer with an oracle that answers as each test wants: whatever it says, no wrong signature comes out."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.fields import Head, KeyFacts
from agentproxy.protocol.hashstates import HashState
from agentproxy.protocol.key_messages import SelectedKey, SelectKey, ServedKey
from agentproxy.protocol.keys import Curve, EccPublicKey, Fingerprint
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION, FromOracle
from agentproxy.protocol.openpgp import DocumentSignature, trailer
from agentproxy.protocol.oracle_messages import Failed, Refused, Rejected, Welcome
from agentproxy.protocol.seal_messages import Seal, Sealed
from agentproxy.protocol.signatures import EddsaSignature
from agentproxy.runtime.streams import EndOfStream, FramedStream
from relay.config import OracleAddress, RelayConfig, SocketConfig
from relay.credentials import CredentialStore, credentials_directory
from relay.errors import RejectedError, UnreachableError
from relay.headkeeping import TendedHeads
from relay.sealed.errors import NotSealedError
from relay.sealed.keychoice import KeyWanted, check_for_rpm
from relay.sealed.renewing import renewable
from relay.sealed.sealer import Sealer
from tests.relay.test_client import Oracles

PRIVATE = Ed25519PrivateKey.generate()
PUBLIC = EccPublicKey(Curve.ED25519, PRIVATE.public_key().public_bytes_raw())
NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
HEAD = Head("node-a", 7, bytes(32))
NOWHERE = Path("/nowhere")
STATE = HashState.initial(HashAlgorithm.SHA256).updated(b"content")


def served(name: str, *distributions: str, key_type: str = "modern") -> ServedKey:
    fingerprint = Fingerprint(name.encode().ljust(20, b"\0"))
    algorithms = (HashAlgorithm.SHA256,)
    facts = KeyFacts(name, fingerprint, fingerprint, PUBLIC.keygrip, PUBLIC, algorithms, False, NOW)
    return ServedKey(facts, key_type, distributions)


KEY = served("modern")
Answer = Callable[[Seal], FromOracle]


def seal_of(state: HashState, fingerprint: Fingerprint = KEY.facts.fingerprint) -> DocumentSignature:
    digest = state.finished(trailer(22, state.algorithm, fingerprint, NOW))
    octets = PRIVATE.sign(digest.value)
    return DocumentSignature(fingerprint, NOW, digest, EddsaSignature(octets[:32], octets[32:]))


def honest(request: Seal) -> FromOracle:
    return Sealed(request.id, seal_of(request.state), HEAD)


@asynccontextmanager
async def sealer_with(
    answer: Answer = honest, keys: tuple[ServedKey, ...] = (KEY,), greeting: FromOracle | None = None
) -> AsyncIterator[Sealer]:
    async def oracle(stream: FramedStream) -> None:
        await stream.receive()
        welcome = Welcome(PROTOCOL_VERSION, "node-a", "b1", "test", datetime.now(UTC), keys, 8)
        stream.send_soon(FROM_ORACLE.encode(greeting or welcome))
        with contextlib.suppress(EndOfStream):
            while True:
                for payload in await stream.receive():
                    message = FROM_RELAY.decode(payload)
                    if isinstance(message, SelectKey):
                        stream.send_soon(FROM_ORACLE.encode(SelectedKey(message.id, keys[-1])))
                    elif isinstance(message, Seal):
                        stream.send_soon(FROM_ORACLE.encode(answer(message)))

    address = OracleAddress("127.0.0.1:1", "127.0.0.1")
    config = RelayConfig("b1", (address,), *[NOWHERE] * 5, sockets=(SocketConfig(NOWHERE),))
    async with trio.open_nursery() as nursery:
        sealer = Sealer(config, Oracles(nursery, oracle), TendedHeads(NOWHERE), None)
        nursery.start_soon(sealer.run)
        try:
            yield sealer
        finally:
            nursery.cancel_scope.cancel()


async def sealed(answer: Answer) -> Sealed:
    """What one request for KEY comes to; errors come out bare."""
    outcome: list[Sealed | Exception] = []
    async with sealer_with(answer) as sealer:
        await sealer.welcome()
        try:
            outcome.append(await sealer.seal(KEY, STATE))
        except Exception as error:  # noqa: BLE001  carried past the nursery
            outcome.append(error)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


async def test_an_honest_answer_comes_out() -> None:
    assert (await sealed(honest)).seal == seal_of(STATE)


def with_another_keys_name(request: Seal) -> FromOracle:
    return Sealed(request.id, seal_of(request.state, Fingerprint(bytes(20))), HEAD)


def over_another_content(request: Seal) -> FromOracle:
    return Sealed(request.id, seal_of(request.state.updated(b"and more")), HEAD)


def with_another_time_than_was_signed(request: Seal) -> FromOracle:
    return Sealed(request.id, replace(seal_of(request.state), created=datetime(2020, 1, 1, tzinfo=UTC)), HEAD)


def with_another_digest_than_was_signed(request: Seal) -> FromOracle:
    wrong = seal_of(request.state.updated(b"and more")).signature
    return Sealed(request.id, replace(seal_of(request.state), signature=wrong), HEAD)


@pytest.mark.parametrize(
    "lie",
    [
        with_another_keys_name,
        over_another_content,
        with_another_time_than_was_signed,
        with_another_digest_than_was_signed,
    ],
)
async def test_whatever_a_dishonest_oracle_answers_no_wrong_signature_comes_out(lie: Answer) -> None:
    with pytest.raises(NotSealedError, match="oracle"):
        await sealed(lie)


async def test_a_refusal_comes_out_with_its_code_and_its_reason() -> None:
    with pytest.raises(NotSealedError, match="no pattern for el9") as refused:
        await sealed(lambda request: Refused(request.id, RefusalCode.DISTRIBUTION_FORBIDDEN, "no pattern for el9"))
    assert refused.value.code == "distribution_forbidden"


async def test_a_failure_comes_out_with_its_code() -> None:
    with pytest.raises(NotSealedError) as failed:
        await sealed(lambda request: Failed(request.id, FailureCode.KEY_UNAVAILABLE, retryable=False))
    assert failed.value.code == "key_unavailable"


async def test_a_limit_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    asked: list[float] = []

    def limited(request: Seal) -> FromOracle:
        asked.append(trio.current_time())
        if len(asked) < 3:
            return Refused(request.id, RefusalCode.RATE_LIMITED, "10 a minute", 4000)
        return honest(request)

    assert (await sealed(limited)).seal == seal_of(STATE)
    assert [round(moment - asked[0]) for moment in asked] == [0, 4, 8]


async def test_a_limit_beyond_the_deadline_is_not(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(NotSealedError, match="10 a minute"):
        await sealed(lambda request: Refused(request.id, RefusalCode.RATE_LIMITED, "10 a minute", 40_000))
    assert trio.current_time() - began < 1


async def test_many_wait_for_a_limit_as_long_as_one_after_the_other_gets_through(
    autojump_clock: trio.testing.MockClock,
) -> None:
    given: list[float] = []
    came: list[Sealed] = []

    def limited(request: Seal) -> FromOracle:
        now = trio.current_time()
        if given and now - given[-1] < 10:
            return Refused(request.id, RefusalCode.RATE_LIMITED, "6 a minute", 1000)
        given.append(now)
        return honest(request)

    async with sealer_with(limited) as sealer:
        await sealer.welcome()

        async def ask() -> None:
            came.append(await sealer.seal(KEY, STATE))

        async with trio.open_nursery() as files:
            for _ in range(8):  # the last one's turn comes in 70 s, and a deadline has 30
                files.start_soon(ask)
    assert len(came) == len(given) == 8


async def test_a_limit_under_which_nobody_gets_through_is_waited_for_until_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began = trio.current_time()
    with pytest.raises(NotSealedError, match="60 a minute"):
        await sealed(lambda request: Refused(request.id, RefusalCode.RATE_LIMITED, "60 a minute", 1000))
    assert 28 < trio.current_time() - began < 31


async def test_who_is_rejected_learns_why_at_once(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    async with sealer_with(greeting=Rejected(RejectionCode.TOKEN_EXPIRED)) as sealer:
        with pytest.raises(RejectedError, match="token has expired"):
            await sealer.welcome()
    assert trio.current_time() - began < 1


async def test_an_oracle_that_says_nothing_is_waited_for_until_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began = trio.current_time()
    config = RelayConfig("b1", (OracleAddress("127.0.0.1:1", "x"),), *[NOWHERE] * 5, sockets=(SocketConfig(NOWHERE),))
    async with trio.open_nursery() as nursery:
        sealer = Sealer(config, Oracles(nursery, None), TendedHeads(NOWHERE), None)
        nursery.start_soon(sealer.run)
        with pytest.raises(UnreachableError, match="no oracle in reach"):
            await sealer.welcome()
        nursery.cancel_scope.cancel()
    assert 29 < trio.current_time() - began < 31


def test_an_ed448_key_signs_no_packages() -> None:
    """rpm cannot verify them; that of Debian 13 crashes on them."""
    check_for_rpm(KEY)
    public = EccPublicKey(Curve.ED448, bytes(57))
    ed448 = replace(KEY, facts=replace(KEY.facts, public_key=public, keygrip=public.keygrip))
    with pytest.raises(ConfigError, match="no rpm verifies"):
        check_for_rpm(ed448)


EL9, EL10, OLD = served("nine", "el9-*"), served("ten", "el10-*", "el*"), served("old", "el7-*", key_type="legacy")


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (KeyWanted(name="nine"), "nine"),
        (KeyWanted(name=str(EL10.facts.fingerprint)), "ten"),
        (KeyWanted(name=str(EL10.facts.fingerprint).lower()), "ten"),
        (KeyWanted(key_type="legacy"), "old"),
        (KeyWanted(key_type="legacy", distribution="el7-x86_64"), "old"),
        (KeyWanted(distribution="el10-x86_64"), "ten"),
        (KeyWanted(distribution="el7-x86_64"), "old"),  # two would do: the oracle says which
    ],
)
async def test_a_key_is_chosen_by_what_is_known_about_it(wanted: KeyWanted, name: str) -> None:
    async with sealer_with(keys=(EL9, EL10, OLD)) as sealer:
        await sealer.welcome()
        assert (await sealer.choose(wanted)).facts.name == name


async def test_of_two_subkeys_of_one_certificate_the_newer_one_is_chosen() -> None:
    facts = replace(EL9.facts, name="next", created=EL9.facts.created + timedelta(days=1))
    following = replace(EL9, facts=replace(facts, fingerprint=Fingerprint(b"\x77" * 20)))
    elsewhere = replace(following, facts=replace(following.facts, primary=Fingerprint(b"\x78" * 20)))
    async with sealer_with(keys=(following, EL9, OLD)) as sealer:
        await sealer.welcome()
        assert (await sealer.choose(KeyWanted(key_type="modern"))).facts.name == "next"
        assert (await sealer.choose(KeyWanted(name="nine"))).facts.name == "nine"
        assert (await sealer.choose(KeyWanted(name=str(EL9.facts.primary)))).facts.name == "next"
    async with sealer_with(keys=(elsewhere, EL9, OLD)) as sealer:
        await sealer.welcome()
        with pytest.raises(ConfigError, match="several keys would do: next, nine"):
            await sealer.choose(KeyWanted(key_type="modern"))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (KeyWanted(), "several keys would do: nine, ten, old"),
        (KeyWanted(name="eight"), "no key fits --key eight"),
        (KeyWanted(name="nine", distribution="el10-x"), "no key fits --key nine --distribution el10-x"),
        (KeyWanted(key_type="modern"), "several"),
    ],
)
async def test_a_key_that_is_not_clear_is_not_chosen(wanted: KeyWanted, words: str) -> None:
    async with sealer_with(keys=(EL9, EL10, OLD)) as sealer:
        await sealer.welcome()
        with pytest.raises(ConfigError, match=words):
            await sealer.choose(wanted)


def config_in(state: Path, token: Path) -> RelayConfig:
    address = OracleAddress("127.0.0.1:1", "127.0.0.1")
    return RelayConfig("b1", (address,), *[NOWHERE] * 3, token, state, (SocketConfig(NOWHERE),))


def test_credentials_are_renewed_by_one_at_a_time_and_by_a_relay_first(tmp_path: Path) -> None:
    ours = config_in(tmp_path, CredentialStore(credentials_directory(tmp_path)).current.token)
    with renewable(config_in(tmp_path, tmp_path / "elsewhere")) as store:
        assert store is None, "somebody else's credentials"
    with renewable(ours) as first, renewable(ours) as second:
        assert first is not None
        assert second is None, "the first would be revoked by the second's"
    with socket.socket(socket.AF_UNIX) as relay:
        relay.bind(str(ours.control_socket))
        relay.listen()
        with renewable(ours) as beside_a_relay:
            assert beside_a_relay is None
    with renewable(ours) as behind_a_dead_relay:
        assert behind_a_dead_relay is not None

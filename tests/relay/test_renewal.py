"""Credentials are replaced while the relay works: nobody's hand, and no signature is lost."""

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trustme

from agentproxy.protocol.codes import RejectionCode
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.messages import FromOracle
from agentproxy.protocol.oracle_messages import Credentials, Rejected
from agentproxy.protocol.relay_messages import Hello, Sign
from relay.credentials import CredentialSet, CredentialStore
from tests.oracle.world import until
from tests.relay.conftest import TOKEN, Runner, lasting

FRESH = "bo_" + "f" * 43


def tokens(runner: Runner) -> list[str]:
    return [message.token for message in runner.oracle.received if isinstance(message, Hello)]


async def until_connections(runner: Runner, number: int) -> None:
    await until(lambda: len(runner.oracle.open) == number and len(tokens(runner)) >= runner.oracle.connections)


async def until_token(runner: Runner, token: str) -> None:
    await until(lambda: token in tokens(runner))


async def test_new_credentials_are_used_and_the_old_connection_ends(runner: Runner, store: CredentialStore) -> None:
    async with runner.both():
        assert (await runner.sign()).returncode == 0
        runner.oracle.tell(lasting(runner, FRESH))
        await until_token(runner, FRESH)
        await until_connections(runner, 1)
        assert (await runner.sign()).returncode == 0

    assert tokens(runner) == [TOKEN, FRESH]
    assert store.current.token.read_text().strip() == FRESH


async def test_an_oracle_does_not_say_whom_the_relay_trusts_from_now_on(
    runner: Runner, store: CredentialStore, caplog: pytest.LogCaptureFixture
) -> None:
    known = store.current.authority.read_text()
    other = trustme.CA().cert_pem.bytes().decode()
    async with runner.both():
        assert (await runner.sign()).returncode == 0
        runner.oracle.tell(replace(lasting(runner, FRESH), authority=known + other))
        await until_token(runner, FRESH)
        await until_connections(runner, 1)

    assert store.current.authority.read_text() == known
    assert store.current.token.read_text().strip() == FRESH
    assert caplog.text.count("another authority, which is not taken") == 1


async def test_a_signature_in_flight_comes_over_the_old_connection(runner: Runner, store: CredentialStore) -> None:
    began, gate = trio.Event(), trio.Event()

    async def slow(request: Sign) -> FromOracle | bytes | None:
        began.set()
        await gate.wait()
        return await runner.oracle.sign(request)

    runner.oracle.answer = slow
    signatures: list[bytes] = []

    async def sign() -> None:
        signatures.append((await runner.sign()).stdout)

    async with runner.both(), trio.open_nursery() as nursery:
        nursery.start_soon(sign)
        await began.wait()
        runner.oracle.tell(lasting(runner, FRESH))
        await until_token(runner, FRESH)
        nursery.start_soon(sign)
        await until(lambda: not (len(runner.oracle.requests) < 2))
        assert len(runner.oracle.open) == 2
        gate.set()
        await until_connections(runner, 1)

    assert [await runner.verifies(signature) for signature in signatures] == [True, True]
    assert len(runner.oracle.requests) == 2  # each was sent once


async def test_an_old_connection_that_breaks_gives_its_requests_to_the_new_one(
    runner: Runner, store: CredentialStore
) -> None:
    began, gate = trio.Event(), trio.Event()

    async def never(request: Sign) -> FromOracle | bytes | None:
        began.set()
        await gate.wait()
        return await runner.oracle.sign(request)

    runner.oracle.answer = never
    signatures: list[bytes] = []

    async def sign() -> None:
        signatures.append((await runner.sign()).stdout)

    async with runner.both(), trio.open_nursery() as nursery:
        nursery.start_soon(sign)
        await began.wait()
        runner.oracle.tell(lasting(runner, FRESH))
        await until_token(runner, FRESH)
        await until_connections(runner, 2)
        runner.oracle.answer = runner.oracle.sign
        await trio.aclose_forcefully(runner.oracle.open[0]._stream)

    assert await runner.verifies(signatures[0])


async def test_credentials_that_the_oracle_then_rejects_are_given_up_for_the_old_ones(
    runner: Runner, store: CredentialStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with runner.both():
        assert (await runner.sign()).returncode == 0
        runner.oracle.rejection = Rejected(RejectionCode.TOKEN_UNKNOWN)
        runner.oracle.tell(lasting(runner, FRESH))
        await until_token(runner, FRESH)
        await until(lambda: store.current.token.read_text().strip() == TOKEN)
        assert (await runner.sign()).returncode == 0

    assert "no connection with the new credentials yet" in caplog.text


async def test_earlier_credentials_that_cannot_be_put_back_end_nothing(
    runner: Runner, store: CredentialStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: CredentialStore, __: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "current")

    monkeypatch.setattr(CredentialStore, "restore", full)
    async with runner.both():
        assert (await runner.sign()).returncode == 0
        runner.oracle.rejection = Rejected(RejectionCode.TOKEN_UNKNOWN)
        runner.oracle.tell(lasting(runner, FRESH))
        await until(lambda: "the earlier credentials cannot be put back: current: No space left" in caplog.text)
        assert (await runner.sign()).returncode == 0

    assert store.current.token.read_text().strip() == FRESH


def test_what_a_kill_left_beside_the_sets_does_not_stand_in_the_way(runner: Runner, tmp_path: Path) -> None:
    store = CredentialStore(tmp_path / "c")
    store.replace(lasting(runner, TOKEN))
    earlier = store.replace(lasting(runner, FRESH))
    (tmp_path / "c" / f".{earlier}").symlink_to(earlier)
    store.restore(earlier)
    assert store.current.token.read_text().strip() == TOKEN


async def test_damaged_credentials_are_not_stored(
    runner: Runner, store: CredentialStore, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = lasting(runner, FRESH), lasting(runner, FRESH)
    async with runner.both():
        assert (await runner.sign()).returncode == 0
        runner.oracle.tell(replace(good, private_key=other.private_key))
        await until(lambda: not ("new credentials are not stored" not in caplog.text))
        assert (await runner.sign()).returncode == 0

    assert store.current.token.read_text().strip() == TOKEN
    assert FRESH not in caplog.text


def test_secrets_stay_out_of_a_repr(runner: Runner) -> None:
    made = lasting(runner, FRESH)
    assert FRESH not in repr(made)
    assert "PRIVATE KEY" not in repr(made)


def test_killed_at_any_step_of_storing_a_whole_set_is_in_use(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Killed(BaseException):
        pass

    old, new = lasting(runner, TOKEN), lasting(runner, FRESH)
    replaced = Path.replace
    for step in range(20):
        store = CredentialStore(tmp_path / str(step))
        store.replace(old)
        left = step

        def dying(path: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return replaced(path, target)

        monkeypatch.setattr(Path, "replace", dying)
        try:
            store.replace(new)
        except Killed:
            ended = False
        else:
            ended = True
        monkeypatch.setattr(Path, "replace", replaced)
        wanted = new if ended else old
        assert store.current.token.read_text().strip() == wanted.token
        assert store.current.key.read_text() == wanted.private_key
        assert store.current.certificate.read_text() == wanted.certificate
        store.tidy()
        assert len(list((tmp_path / str(step)).iterdir())) == 2
        if ended:
            break
    assert step == 6  # five files, and the link


def test_a_directory_that_cannot_be_written_keeps_the_old_set(runner: Runner, tmp_path: Path) -> None:
    store = CredentialStore(tmp_path / "c")
    store.replace(lasting(runner, TOKEN))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        CredentialStore(tmp_path / "file").replace(lasting(runner, FRESH))
    assert store.current.token.read_text().strip() == TOKEN


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_directory_whose_new_link_does_not_reach_the_disk_keeps_the_old_set(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = CredentialStore(tmp_path / "c")
    store.replace(lasting(runner, TOKEN))
    before = set((tmp_path / "c").iterdir())
    original, ours = getattr(os, call), tmp_path / "c"

    def failing(file: Path | int, *words: object, **names: object) -> object:
        if Path(f"/proc/self/fd/{file}").resolve() == ours if isinstance(file, int) else file == ours:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(file, *words, **names)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(ConfigError, match="cannot be written: Input/output error"):
        store.replace(lasting(runner, FRESH))
    monkeypatch.undo()
    assert store.current.token.read_text().strip() == TOKEN
    assert set((tmp_path / "c").iterdir()) == before


def test_what_one_process_stores_is_not_tidied_away_by_another(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = CredentialStore(tmp_path / "c"), CredentialStore(tmp_path / "c")
    one.replace(lasting(runner, TOKEN))
    write, tidying = CredentialSet.write, threading.Thread(target=other.tidy)

    def written(files: CredentialSet, credentials: Credentials, origin: str = "") -> None:
        write(files, credentials, origin)
        tidying.start()
        tidying.join(0.5)

    monkeypatch.setattr(CredentialSet, "write", written)
    one.replace(lasting(runner, FRESH))
    tidying.join()
    assert one.current.token.read_text().strip() == FRESH
    assert len(list((tmp_path / "c").iterdir())) == 2

"""The end of an oracle that serves HTTP: nobody new, every answer that is under way, and soon."""

import ssl

import pytest
import trio
import trio.testing

from agentproxy.oracle.complaints import Complaints
from agentproxy.oracle.http.door import HttpDoor
from tests.oracle.http.conftest import Api, bearer
from tests.oracle.http.test_signing import RPM
from tests.oracle.world import SECONDS, until

SOON_SECONDS = 5.0  # half of what the daemon gives it before it cuts everybody off


async def test_while_the_last_answers_are_made_nobody_new_is_let_in(api: Api) -> None:
    api.signer.held = trio.Event()
    async with api.connect(api.a) as client, api.connect(api.a) as idle, trio.open_nursery() as nursery:
        assert (await idle.get("/version")).status == 200

        async def ask() -> None:
            reply = await client.post("/sign/rpm", RPM, bearer(api.a))
            assert reply.status == 200
            assert reply.headers["connection"] == "close"

        nursery.start_soon(ask)
        await until(lambda: api.signer.waiting)
        api.oracle.stop()
        with trio.fail_after(SOON_SECONDS):
            assert await idle.stream.receive_some() == b""
        with pytest.raises(OSError, match=r"refused|connect"):
            await silent(api)
        with pytest.raises(OSError, match="refused"):
            await trio.open_unix_socket(api.proxy_socket)
        api.signer.held.set()
    with trio.fail_after(SOON_SECONDS):
        await api.ended.wait()


async def test_a_request_that_was_on_its_way_is_answered(api: Api) -> None:
    async with api.connect(api.a) as kept, api.connect(api.a) as fresh:
        assert (await kept.get("/version")).status == 200
        api.oracle.stop()
        for client in (kept, fresh):
            reply = await client.get("/keys", bearer(api.a))
            assert reply.status == 200
            assert reply.headers["connection"] == "close"
            with trio.fail_after(SECONDS):
                assert await client.stream.receive_some() == b""


async def test_a_crowd_that_goes_on_asking_gets_whole_answers_and_does_not_keep_it_from_ending(
    api: Api,
) -> None:
    answered: list[int] = []
    turned_away: list[Exception] = []

    async def ask_for_ever() -> None:
        try:
            while True:
                async with api.connect(api.a) as client:
                    answered.append((await client.get("/version")).status)
        except (OSError, trio.BrokenResourceError) as error:
            turned_away.append(error)

    api.signer.held = trio.Event()
    async with await silent(api) as nobody, api.connect(api.a) as slow, trio.open_nursery() as crowd:
        crowd.start_soon(slow.post, "/sign/rpm", RPM, bearer(api.a))
        await until(lambda: api.signer.waiting)
        for _ in range(8):
            crowd.start_soon(ask_for_ever)
        await until(lambda: len(answered) > 20)
        api.oracle.stop()
        with trio.fail_after(SOON_SECONDS):
            assert await nobody.receive_some() == b""
            await until(lambda: len(turned_away) == 8)
            api.signer.held.set()
            await api.ended.wait()
    assert set(answered) == {200}


async def silent(api: Api) -> trio.SocketStream:
    """A connection that says nothing."""
    return await trio.open_tcp_stream("127.0.0.1", int(api.address.rpartition(":")[2]))


async def test_who_waits_at_systemd_s_socket_waits_for_the_next_oracle() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    kept_by_systemd = listener.socket.dup()
    door = HttpDoor(nobodys_app, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), 4, None, Complaints(trio.current_time))
    with kept_by_systemd, trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.serve, [listener], [])
            await trio.testing.wait_all_tasks_blocked()
            door.drain()
        async with await trio.open_tcp_stream(*kept_by_systemd.getsockname()) as waiting:
            accepted, _ = await kept_by_systemd.accept()
            with accepted:
                await accepted.send(b"next")
                assert await waiting.receive_some() == b"next"


async def nobodys_app(scope: object, receive: object, send: object) -> None:
    await trio.lowlevel.checkpoint()
    raise AssertionError("nobody comes")

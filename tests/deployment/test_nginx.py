"""nginx before the oracle: who the client is comes through, nothing else does."""

import contextlib
import json
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import h11
import pytest
import trio

from agentproxy.oracle.http.guard import MAX_BATCH_BODY
from agentproxy.protocol.oracle_messages import Signed, Welcome
from tests.deployment.nginx import FILES, Nginx, nginx
from tests.oracle.conftest import short, signer, world  # noqa: F401  fixtures
from tests.oracle.http.client import HttpClient, Reply, http_connected
from tests.oracle.http.conftest import Api, api, bearer, no_long_goodbyes  # noqa: F401  fixtures
from tests.oracle.http.test_admission import proxied
from tests.oracle.http.test_faults import ILLEGAL, SECOND
from tests.oracle.http.test_signing import RPM
from tests.oracle.samples import sign
from tests.oracle.signerserver import ED25519
from tests.oracle.world import SECONDS, STRANGERS, Enrolled, connected, context, until

BEGUN = b"POST /sign/rpm HTTP/1.1\r\nHost: o\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@dataclass(frozen=True, slots=True)
class Front:
    """An oracle with nginx before it."""

    api: Api
    nginx: Nginx

    def connect(self, who: Enrolled | None) -> AbstractAsyncContextManager[HttpClient]:
        return http_connected(self.nginx.api, context(None if who is None else who.certificate))


@pytest.fixture
async def front(api: Api) -> AsyncIterator[Front]:  # noqa: F811  the fixture
    root = api.world.directory / "nginx"
    root.mkdir()
    async with nginx(root, api.world.directory, api.proxy_socket, api.oracle.address) as running:
        yield Front(api, running)


async def test_certificate_and_address_of_the_client_come_through(front: Front) -> None:
    async with front.connect(front.api.a) as client:
        assert (await client.post("/sign/rpm", {**RPM, "token": front.api.a.token})).status == 200
        assert (await client.get("/keys", bearer(front.api.a))).status == 200
    async with front.connect(None) as client:
        assert (await client.get("/keys", bearer(front.api.t))).status == 200
        assert (await client.get("/keys", bearer(front.api.a))).problem == (401, "certificate_unknown")
        assert (await client.get("/health")).status == 200
    (asked,) = front.api.signer.sealed
    assert (asked.asserted.runner, asked.asserted.address) == ("a", "127.0.0.1:0")


async def test_nobody_becomes_another_by_headers_of_its_own(front: Front) -> None:
    async with front.connect(None) as client:
        forged = {**bearer(front.api.a), **proxied(front.api.a)}
        assert (await client.get("/keys", forged)).problem == (401, "certificate_unknown")
        underscored = {name.replace("-", "_"): value for name, value in proxied(front.api.a).items()}
        assert (await client.get("/keys", {**bearer(front.api.a), **underscored})).status == 401
    async with http_connected(front.nginx.api, context(STRANGERS.issue_cert("a.example"))) as client:
        reply = await client.get("/keys", bearer(front.api.a))
    assert reply.problem == (401, "certificate_unknown")
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_nginx_speaks_no_older_tls_than_the_oracle(front: Front) -> None:
    older = context(front.api.a.certificate)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    async with http_connected(front.nginx.api, older) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.get("/version")


async def test_nginx_takes_no_earlier_session_for_a_certificate(front: Front) -> None:
    host, _, port = front.nginx.api.rpartition(":")
    tls = context(front.api.a.certificate)

    def connect(earlier: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        with (
            socket.create_connection((host, int(port)), timeout=SECONDS) as plain,
            tls.wrap_socket(plain, server_hostname=host, session=earlier) as stream,
        ):
            stream.sendall(b"GET /version HTTP/1.1\r\nHost: o\r\n\r\n")
            assert stream.recv(4096).startswith(b"HTTP/1.1 200")  # with TLS 1.3 a ticket comes before the answer
            return stream.session, stream.session_reused

    first, _ = await trio.to_thread.run_sync(connect, None)
    _, is_same_session = await trio.to_thread.run_sync(connect, first)
    assert not is_same_session


async def test_a_token_in_the_address_reaches_no_log_of_either(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = front.api.a.token
    for path in (f"/keys?token={token}", f"/{token}", f"/sign/rpm?{token}", f"https://{token}/none"):
        async with front.connect(front.api.a) as client:
            assert (await client.get(path, bearer(front.api.a))).status in {400, 404}
    async with front.connect(front.api.a) as client:
        assert (await client.get(f"/keys?token={token}")).problem == (400, "query_string")
    await until(lambda: len(front.nginx.requests()) == 5)
    assert token not in front.nginx.log()
    assert token not in caplog.text


async def test_a_target_with_scheme_and_host_is_the_same_address_behind_nginx(front: Front) -> None:
    async with front.connect(front.api.a) as client:
        plain = await client.get("/version")
        assert (await client.get("https://oracle/version")).json == plain.json
        assert (await client.get("https://oracle/version?token=a")).problem == (400, "query_string")


async def test_a_gigabyte_ends_at_nginx(front: Front) -> None:
    async with front.connect(front.api.a) as client:
        with trio.fail_after(SECONDS):
            headers = [("Host", "localhost"), ("Content-Type", "application/json"), ("Content-Length", str(1 << 30))]
            await client.send(h11.Request(method="POST", target="/sign/rpm", headers=headers))
            reply = await client.reply()
    assert reply.problem == (413, "body_too_large")


async def test_an_oracle_that_is_away_is_a_problem_document_too(front: Front) -> None:
    front.api.oracle.stop()
    await until(lambda: not front.api.oracle._side_doors._doors[0]._sockets[0].socket.fileno() >= 0)
    async with front.connect(front.api.a) as client:
        reply = await client.get("/health")
    assert reply.problem == (503, "not_operational")
    assert reply.headers["retry-after"] == "1"


async def test_a_token_in_a_path_reaches_no_log_while_the_oracle_is_away(front: Front) -> None:
    front.api.oracle.stop()
    await until(lambda: not front.api.oracle._side_doors._doors[0]._sockets[0].socket.fileno() >= 0)
    token = front.api.a.token
    for path in (f"/{token}", f"/sign/rpm/{token}", f"/keys/{token}", f"/{token}/../health"):
        async with front.connect(front.api.a) as client:
            assert (await client.get(path)).problem == (404, "no_such_address")
    async with front.connect(front.api.a) as client:
        assert (await client.get("/keys/modern.asc")).problem == (503, "not_operational")
    assert "modern.asc" in front.nginx.log()
    assert token not in front.nginx.log()


async def test_a_token_in_the_path_of_a_body_that_is_too_large_reaches_no_log(front: Front) -> None:
    token = front.api.a.token
    for path in (f"/{token}", f"/keys/{token}"):
        async with front.connect(front.api.a) as client:
            with trio.fail_after(SECONDS):
                headers = [("Host", "localhost"), ("Content-Length", str(1 << 30))]
                await client.send(h11.Request(method="POST", target=path, headers=headers))
                assert (await client.reply()).problem == (404, "no_such_address")
    await until(lambda: len(front.nginx.requests()) == 2)
    assert token not in front.nginx.log()


@pytest.mark.parametrize("length", [64, 8192, 65536])
async def test_a_whole_batch_in_chunks_reaches_no_file(front: Front, length: int) -> None:
    body = json.dumps({"items": [RPM], "token": front.api.a.token}).encode().ljust(MAX_BATCH_BODY)
    async with front.connect(front.api.a) as client:
        with trio.fail_after(SECONDS):
            headers = [("Host", "o"), ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
            await client.send(h11.Request(method="POST", target="/sign/batch", headers=headers))
            chunks = (body[start : start + length] for start in range(0, len(body), length))
            await client.stream.send_all(
                b"".join(client.connection.send(h11.Data(data=chunk)) or b"" for chunk in chunks)
            )
            await client.send(h11.EndOfMessage())
            assert (await client.reply()).status == 200
    assert "temporary file" not in front.nginx.log()


async def test_more_requests_at_once_than_one_address_may_have_come_again_later(front: Front) -> None:
    held: list[HttpClient] = []
    async with contextlib.AsyncExitStack() as stack:
        while len(held) < 64:
            client = await stack.enter_async_context(front.connect(front.api.a))
            await client.stream.send_all(BEGUN)
            held.append(client)
            if len(held) % 8 == 0:
                for one in held:  # nginx waits ten seconds for more of a body
                    await one.stream.send_all(b" ")
        async with front.connect(front.api.a) as client:
            reply = await client.get("/health")
    assert reply.problem == (429, "rate_limited")
    assert reply.headers["retry-after"] == "1"


async def test_a_proxy_without_a_connection_to_the_oracle_left_is_a_problem_document_too(api: Api) -> None:  # noqa: F811
    root = api.world.directory / "nginx"
    root.mkdir()
    place = api.world.directory, api.proxy_socket, api.oracle.address
    async with nginx(root, *place, connections=16) as running, contextlib.AsyncExitStack() as stack:
        front = Front(api, running)
        held: list[HttpClient] = []
        with trio.fail_after(SECONDS), contextlib.suppress(OSError, trio.BrokenResourceError):
            while True:
                client = await stack.enter_async_context(front.connect(api.a))
                await client.stream.send_all(BEGUN)
                held.append(client)
        await trio.aclose_forcefully(held.pop().stream)  # the place of one client, and none behind it
        reply = await _answered(front)
    assert reply.problem == (503, "not_operational")
    assert reply.headers["retry-after"] == "1"


async def _answered(front: Front) -> Reply:
    with trio.fail_after(SECONDS):
        while True:
            with contextlib.suppress(OSError, trio.BrokenResourceError):
                async with front.connect(front.api.a) as client:
                    return await client.get("/health")


@pytest.mark.parametrize(
    ("method", "path", "headers", "problem"),
    [
        ("GET", "/health", {"X-Long": "x" * 9000}, (400, "framing")),
        ("GET", f"/{'x' * 9000}", {}, (400, "framing")),
        ("GET", "/../health", {}, (400, "framing")),
        ("GET", "/%zz", {}, (400, "framing")),
        ("GET", "/.malformed", {}, (400, "framing")),
        ("TRACE", "/health", {}, (405, "no_such_address")),
    ],
)
async def test_what_nginx_refuses_by_itself_is_a_problem_document(
    front: Front, method: str, path: str, headers: dict[str, str], problem: tuple[int, str]
) -> None:
    async with front.connect(front.api.a) as client:
        assert (await client.request(method, path, headers, b"")).problem == problem


@pytest.mark.parametrize("what", ["an unknown encoding", "an unknown version"])
async def test_what_nginx_does_not_know_is_a_problem_document_too(front: Front, what: str) -> None:
    unknown = {**ILLEGAL, "an unknown version": SECOND.replace(b"HTTP/1.1", b"HTTP/3.0")}[what]
    async with front.connect(front.api.a) as client:
        with trio.fail_after(SECONDS):
            client.connection.send(h11.Request(method="POST", target="/", headers=[("Host", "o")]))
            await client.stream.send_all(unknown)
            assert (await client.reply()).problem == (400, "framing")


@pytest.mark.parametrize("what", sorted(ILLEGAL))
async def test_nginx_and_the_oracle_see_the_same_requests(
    front: Front, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "agentproxy.oracle.http.guard")
    sent = ILLEGAL[what] + SECOND + SECOND.replace(b"Host: o\r\n", b"Host: o\r\nConnection: close\r\n")
    async with front.connect(front.api.a) as client:
        with trio.fail_after(SECONDS), contextlib.suppress(trio.BrokenResourceError):
            await client.stream.send_all(sent)
            got = bytearray()
            while data := await client.stream.receive_some():
                got += data
    answers = re.findall(rb"HTTP/1\.1 (\d+)", bytes(got))
    passed_on = caplog.text.count("request, method=")
    # What nginx turned down itself is no request for the oracle; each other one is one for both.
    assert 1 <= len(answers) <= 3
    assert passed_on <= len(answers)
    good = sum(status == b"200" for status in answers)
    await until(lambda: caplog.text.count("path=/version status=200") >= good)
    assert caplog.text.count("path=/version status=200") == good
    assert front.api.signer.sealed == []


async def test_relays_pass_through_with_their_own_certificate(front: Front) -> None:
    who = front.api.world.enrol("b")
    async with connected(front.nginx.relay, context(who.certificate)) as client:
        assert isinstance(await client.hello(who.token), Welcome)
        assert isinstance(await client.ask(sign(1, ED25519)), Signed)
    (asked,) = front.api.signer.signed
    assert asked.asserted.runner == "b"
    assert asked.asserted.certificate is not None
    assert str(asked.asserted.address).startswith("127.0.0.1:")  # nginx's own


def test_relays_port_at_nginx_is_none_that_an_oracle_on_the_same_host_has() -> None:
    units = "".join(unit.read_text() for unit in (FILES.parents[1] / "systemd").glob("*.socket"))
    taken = set(re.findall(r"^ListenStream=(?:.*:)?(\d+)$", units, re.MULTILINE))
    site = (FILES / "blind-oracle" / "relay-site.conf").read_text()
    listened = set(re.findall(r"^listen (?:.*:)?(\d+);$", site, re.MULTILINE))
    assert {"7443", "7444"} <= taken
    assert listened
    assert not listened & taken


async def test_a_stranger_gets_the_connections_that_relay_conf_proposes_and_no_more(front: Front) -> None:
    host, _, port = front.nginx.relay.rpartition(":")
    who = front.api.world.enrol("b")
    async with contextlib.AsyncExitStack() as stack:
        with trio.fail_after(SECONDS):
            crowd = [
                await stack.enter_async_context(await trio.open_tcp_stream(host, int(port), local_address="127.0.0.2"))
                for _ in range(101)
            ]
            assert await crowd[-1].receive_some() == b""
        assert front.nginx.log().count("limiting connections by zone") == 1
        async with connected(front.nginx.relay, context(who.certificate)) as client:
            assert isinstance(await client.hello(who.token), Welcome)

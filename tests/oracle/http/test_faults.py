"""Requests that are too large, too slow, or not what HTTP allows: an early answer, and the next one is served."""

import contextlib
import gzip
import json
import logging
import ssl

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from agentproxy.oracle import daemon
from agentproxy.oracle.config import TlsConfig
from agentproxy.oracle.http import connection as connection_module
from agentproxy.oracle.http import guard
from agentproxy.oracle.http.guard import MAX_NAMES
from agentproxy.oracle.http.models import MAX_ITEMS
from agentproxy.oracle.http.weight import has_more_values
from agentproxy.protocol.jsonobject import decode_object
from tests.oracle.garbage import tls_streams, without_collections
from tests.oracle.http.client import HttpClient
from tests.oracle.http.conftest import Api, bearer
from tests.oracle.http.test_signing import RPM
from tests.oracle.signerserver import AUTHORITY
from tests.oracle.world import SECONDS, SERVER, connected, context, until

GIGABYTE = 1 << 30
JSON = ("Content-Type", "application/json")


async def test_a_certificate_that_is_half_written_leaves_every_door_its_old_one(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leaf = AUTHORITY.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(str(api.world.config.tls.key))
    leaf.cert_chain_pems[0].write_to_path(str(api.world.config.tls.certificate))
    load_context = daemon._context

    def and_half_is_written(tls: TlsConfig) -> ssl.SSLContext:
        made = load_context(tls)
        tls.certificate.write_text("half")
        return made

    monkeypatch.setattr(daemon, "_context", and_half_is_written)
    await api.oracle.reload()
    assert "certificate not reloaded, the old one stays" in caplog.text
    old = ssl.PEM_cert_to_DER_cert(SERVER.cert_chain_pems[0].bytes().decode())
    for address in (api.oracle.address, api.address):
        async with connected(address, context(api.a.certificate)) as client:
            transport = client.stream._stream
            assert isinstance(transport, trio.SSLStream)
            with trio.fail_after(SECONDS):
                await transport.do_handshake()
            assert transport.getpeercert(binary_form=True) == old
    await still_serves(api)


@pytest.mark.parametrize("length", [("Content-Length", str(GIGABYTE)), ("Transfer-Encoding", "chunked")])
async def test_a_gigabyte_is_refused_long_before_it_is_there(api: Api, length: tuple[str, str]) -> None:
    async with api.connect(api.a) as client:
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                await client.send(h11.Request(method="POST", target="/sign/rpm", headers=[("Host", "o"), JSON, length]))
                nursery.start_soon(send_forever, client)
                reply = await client.reply()
                nursery.cancel_scope.cancel()
    assert reply.problem == (413, "body_too_large")
    assert reply.headers["connection"] == "close"
    await still_serves(api)


@pytest.mark.parametrize(
    ("path", "most"), [("/sign/rpm", 32 << 10), ("/sign/repodata", 32 << 10), ("/sign/batch", 1 << 20)]
)
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_has_as_many_bytes_as_the_page_says_and_not_one_more(
    api: Api, path: str, most: int, is_chunked: bool
) -> None:
    name = "package_hash" if path == "/sign/rpm" else "repodata_hash"
    item = {name: f"sha256:{'0' * 64}", "distribution": "el10-x86_64"}
    body = json.dumps({"items": [item]} if path == "/sign/batch" else item).encode()
    answers = []
    for length in (most, most + 1):
        framing = ("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(length))
        headers = [("Host", "o"), JSON, *bearer(api.a).items(), framing]
        async with api.connect(api.a) as client:
            with trio.fail_after(SECONDS):
                await client.send(h11.Request(method="POST", target=path, headers=headers))
                await client.send(h11.Data(data=body.ljust(length)))
                await client.send(h11.EndOfMessage())
                answers.append((await client.reply()).status)
    assert answers == [200, 413]
    assert len(api.signer.sealed) == 1


async def send_forever(client: HttpClient) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await client.send(h11.Data(data=bytes(65536)))


async def test_a_slow_body_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    async with api.connect(api.a) as client:
        with trio.fail_after(SECONDS):
            await client.send(
                h11.Request(method="POST", target="/sign/rpm", headers=[("Host", "o"), JSON, ("Content-Length", "400")])
            )
            await client.send(h11.Data(data=b"{"))
            reply = await client.reply()
    assert reply.problem == (408, "slow_body")
    await still_serves(api)


async def test_a_stranger_keeps_no_place_for_long_and_one_that_is_known_does(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "STRANGER_SECONDS", 0.05)
    async with api.connect(api.a) as stranger, api.connect(api.a) as known:
        assert (await stranger.get("/version")).status == 200
        assert (await known.get("/version")).status == 200
        assert (await known.get("/keys", bearer(api.a))).status == 200
        with trio.fail_after(SECONDS):
            assert await stranger.stream.receive_some() == b""
        assert (await known.get("/version")).status == 200


async def test_one_address_gets_a_quarter_of_the_places_only(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_module, "STRANGER_SECONDS", 600)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(64):
            client = await stack.enter_async_context(api.connect(api.a))
            assert (await client.get("/version")).status == 200
        with pytest.raises((OSError, trio.BrokenResourceError)):
            async with api.connect(api.a) as one_more:
                await one_more.get("/version")
    assert "64 from there already" in caplog.text
    await still_serves(api)


async def test_who_connects_and_says_nothing_is_sent_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "FIRST_REQUEST_SECONDS", 0.05)
    async with api.connect(api.a) as client:
        with trio.fail_after(SECONDS):
            await client.stream.send_all(b"GET /version HTTP/1.1\r\nHost:")
            assert await client.stream.receive_some() == b""


HEAD = b"POST /sign/rpm HTTP/1.1\r\nHost: o\r\nContent-Type: application/json\r\n"
# What a front end and a back end may read as one request, or as two.
ILLEGAL = {
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}    ",
    "a list of lengths": HEAD + b"Content-Length: 5, 6\r\n\r\n{}    ",
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two media types": HEAD + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    "two idempotency keys": HEAD + b"Idempotency-Key: a\r\nidempotency-key: b\r\nContent-Length: 2\r\n\r\n{}",
    "an unknown encoding": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n{}",
    "space before the colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "a folded header": HEAD + b"X-A: b\r\n  Content-Length: 2\r\n\r\n",
    "bare LF in a header": HEAD + b"X-A: b\nContent-Length: 2\r\n\r\n{}",
    "bare LF everywhere": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "a bare CR": HEAD + b"X-A: b\rContent-Length: 2\r\n\r\n{}",
    "bare LF behind a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
    "bare LF in a trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: a\n\n",
    "bare LF in the trailers' place": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\n",
    "bare LF in a trailer of no body": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\n",
    "a trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: a\r\n\r\n",
    "a chunk that is longer than it says": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}GET /\r\n0\r\n\r\n",
    "NUL in a header": HEAD + b"X-A: \x00\r\n\r\n",
    "no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
}
SECOND = b"GET /version HTTP/1.1\r\nHost: o\r\n\r\n"


@pytest.mark.parametrize("what", sorted(ILLEGAL))
async def test_what_could_be_read_in_two_ways_gets_one_answer_and_the_end(api: Api, what: str) -> None:
    got = await all_answers(api, ILLEGAL[what] + SECOND)
    assert got.count(b"HTTP/1.1 ") == 1, got
    assert got[:13] in {b"HTTP/1.1 400 ", b"HTTP/1.1 405 ", b"HTTP/1.1 422 ", b"HTTP/1.1 501 "}, got
    assert api.signer.sealed == []
    await still_serves(api)


@pytest.mark.parametrize("encoding", [b"gzip", b"gzip, chunked", b"chunked, identity", b"identity"])
async def test_an_encoding_but_chunked_is_a_bare_501(api: Api, encoding: bytes) -> None:
    got = await all_answers(api, HEAD + b"Transfer-Encoding: %s\r\n\r\n{}" % encoding)
    assert got.startswith(b"HTTP/1.1 501 ")
    assert got.endswith(b"\r\n\r\n")


async def test_a_head_that_is_too_long_is_a_bare_431(api: Api) -> None:
    got = await all_answers(api, HEAD + b"X-A: " + b"a" * 2 * connection_module.MAX_HEADERS)
    assert got.startswith(b"HTTP/1.1 431 ")
    assert got.endswith(b"\r\n\r\n")


async def test_a_head_that_comes_whole_has_the_same_limit(api: Api) -> None:
    body = b"{}"  # behind the head, and no part of it
    before = HEAD + b"Connection: close\r\nContent-Length: %d\r\nX-A: " % len(body)
    room = connection_module.MAX_HEADERS - len(before) - len(b"\r\n\r\n")
    for length, is_long in ((room, False), (room + 1, True), (room + 14_000, True)):
        got = await all_answers(api, before + b"a" * length + b"\r\n\r\n" + body)
        assert got.startswith(b"HTTP/1.1 431 ") == is_long, got[:200]
        assert got.startswith(b"HTTP/1.1 422 ") or is_long


async def test_a_request_in_chunks_is_answered_and_is_its_connections_last(api: Api) -> None:
    body = json.dumps({**RPM, "token": api.a.token}).encode()
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    got = await all_answers(api, chunked + SECOND)
    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in got


@pytest.mark.parametrize("protocol", ["h2c", "H2C, websocket", "TLS/1.3", "websocket"])
async def test_an_upgrade_that_nobody_here_speaks_is_ignored(api: Api, protocol: str) -> None:
    async with api.connect(api.a) as client:
        for _ in range(2):
            offer = {
                "Connection": "Upgrade, HTTP2-Settings",
                "Upgrade": protocol,
                "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA",
            }
            assert (await client.get("/keys", {**bearer(api.a), **offer})).status == 200


@pytest.mark.parametrize("version", ["12", "13"])
async def test_a_stranger_keeps_no_place_by_asking_for_a_websocket(
    api: Api, version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection_module, "STRANGER_SECONDS", 0.1)
    offer = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    head = f"GET /version HTTP/1.1\r\nHost: o\r\n{offer}Sec-WebSocket-Version: {version}\r\n\r\n".encode()
    for behind in (b"", b"no HTTP"):
        got = await all_answers(api, head + behind)
        assert got.startswith(b"HTTP/1.1 200 ")
    assert "Traceback" not in caplog.text
    await still_serves(api)


async def all_answers(api: Api, sent: bytes) -> bytes:
    """Everything that comes back until the connection ends."""
    got = bytearray()
    async with api.connect(api.a) as client:
        with trio.fail_after(SECONDS):
            await client.stream.send_all(sent)
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await client.stream.receive_some():
                    got += data
    return bytes(got)


async def test_bare_lf_in_a_request_sent_ahead_is_refused_as_well(api: Api) -> None:
    first = b"GET /version HTTP/1.1\r\nHost: o\r\n\r\n"
    got = await all_answers(api, first + SECOND.replace(b"Host: o\r\n", b"X: y\nHost: o\r\n"))
    assert got.count(b"HTTP/1.1 200 ") == 1
    assert b"api" in got


@pytest.mark.parametrize("behind", [b"\r\n", SECOND, bytes(200_000)])
async def test_what_follows_a_request_that_says_close_does_not_take_its_answer(api: Api, behind: bytes) -> None:
    body = json.dumps({**RPM, "token": api.a.token}).encode()
    for close in (b"Connection: close\r\n", b"Connection: CLOSE, x\r\n"):
        got = await all_answers(api, HEAD + close + b"Content-Length: %d\r\n\r\n" % len(body) + body + behind)
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.count(b"HTTP/1.1 ") == 1
        assert json.loads(got.partition(b"\r\n\r\n")[2])["signed"] == "content"
    assert len(api.signer.sealed) == 2


@pytest.mark.parametrize("method", ["head", "Head", "get", "post"])
async def test_a_method_in_small_letters_is_another_one(
    api: Api, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with api.connect(None) as stranger:
        for path in ("/health", "/sign/rpm"):
            reply = await stranger.request(method, path, {}, b"")
            assert reply.problem == (405, "no_such_address")
    assert "Traceback" not in caplog.text
    await still_serves(api)


async def test_a_body_of_many_names_is_refused_before_each_of_them_is_looked_at(api: Api) -> None:
    item = {f"{number:x}": 0 for number in range(MAX_NAMES + 1)}
    for body in (item, {"items": [item]}, {"items": [RPM, {"claims": {"job": item}}]}):
        async with api.connect(api.a) as client:
            reply = await client.post("/sign/batch", body, bearer(api.a))
        assert reply.problem == (422, "invalid")
        assert "errors" not in reply.json
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/batch", {"items": [0] * 256}, bearer(api.a))
    assert reply.problem == (422, "invalid")
    assert len(reply.items("errors")) == 32


async def test_of_one_item_a_few_errors_are_told(api: Api) -> None:
    item = {f"{number:x}": 0 for number in range(20)}
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/batch", {"items": [item] * MAX_ITEMS}, bearer(api.a))
    problems = [result["problem"] for result in reply.items("results")]
    assert len(problems) == MAX_ITEMS
    assert {len(problem["errors"]) for problem in problems if isinstance(problem, dict)} == {8}


FULL_CLAIMS = {"file": "a, [b], {c}", "package": "p", "job": {f"k{number}": r"\",[{\\" for number in range(16)}}
FULL_ITEM = {
    "package_hash": RPM["package_hash"],
    "repodata_hash": None,
    "distribution": "el10-x86_64",
    "key_type": "modern",
    "claims": FULL_CLAIMS,
}


@pytest.mark.parametrize("filler", [b"[]", b"{}", b"0", b'""', b"[[]]", b'{"":[]}', b'"\\\\"', b'"\\"", ""'])
async def test_a_body_of_many_values_is_never_decoded(api: Api, monkeypatch: pytest.MonkeyPatch, filler: bytes) -> None:
    """What a stranger can have decoded is no more than the largest batch that there is."""
    decoded: list[bytes] = []
    monkeypatch.setattr(guard, "decode_object", lambda body: decoded.append(body) or decode_object(body))
    many = b'{"items":[' + b",".join([filler] * (guard.MAX_BATCH_BODY // (len(filler) + 1) - 20)) + b"]}"
    headers = {"Content-Type": "application/json"}
    async with api.connect(None) as client:
        assert (await client.request("POST", "/sign/batch", headers, many)).problem == (422, "invalid")
    assert decoded == []


async def test_a_body_that_is_nested_too_deeply_is_told_so_at_every_depth(api: Api) -> None:
    async with api.connect(api.a) as client:
        found = set()
        for depth in range(900, 980, 4):
            body = b'{"items": [{"x": %s%s}]}' % (b"[" * depth, b"]" * depth)
            reply = await client.request("POST", "/sign/batch", {**bearer(api.a), "Content-Type": JSON[1]}, body)
            found.add(reply.problem if reply.status == 400 else (reply.status, ""))
            if reply.headers.get("connection") == "close":
                break
    assert found == {(200, ""), (400, "not_json")}


async def test_a_batch_that_is_full_to_the_brim_is_none_too_many(api: Api) -> None:
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/batch", {"items": [FULL_ITEM] * MAX_ITEMS, "token": api.a.token})
    assert reply.status == 200
    assert len(reply.items("results")) == MAX_ITEMS


TEXTS = st.text(alphabet='\\",[{}]: a\n\u20ac', max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def separated(value: object) -> int:
    """Values in it at all depths, and its empty containers once more."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return 0
    return max(1, len(value) + sum(map(separated, value)))


@given(st.dictionaries(TEXTS, VALUES, max_size=4), st.sampled_from([None, 1]), st.booleans())
def test_values_are_counted_as_they_are_whatever_stands_in_texts(
    fields: dict[str, object], indent: int | None, is_ascii: bool
) -> None:
    body = json.dumps(fields, indent=indent, ensure_ascii=is_ascii).encode()
    count = separated(fields)
    assert not has_more_values(body, count)
    assert has_more_values(body, count - 1)


@pytest.mark.parametrize("target", ["http://oracle/version", "HTTPS://evil.example:1/version"])
async def test_a_target_with_scheme_and_host_is_the_same_address(api: Api, target: str) -> None:
    """RFC 9112, 3.2.2: a server takes it, though only clients of proxies send it."""
    async with api.connect(api.a) as client:
        assert (await client.get(target)).json == (await client.get("/version")).json


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("http://oracle", (404, "no_such_address")),
        ("http://oracle?token=a", (400, "query_string")),
        ("http://oracle/version?token=a", (400, "query_string")),
        ("ftp://oracle/version", (404, "no_such_address")),
        ("//oracle/version", (404, "no_such_address")),
        ("/http://oracle/version", (404, "no_such_address")),
        ("*", (404, "no_such_address")),
    ],
)
async def test_a_target_with_scheme_and_host_leads_nowhere_else(
    api: Api, target: str, problem: tuple[int, str]
) -> None:
    async with api.connect(api.a) as client:
        assert (await client.get(target)).problem == problem


@pytest.mark.parametrize("path", ["/sign/rpm/", "/keys/", "/version/"])
async def test_an_address_that_is_nearly_right_leads_nowhere_else(api: Api, path: str) -> None:
    """A redirect would take a token in the body along, to whatever host and scheme the request names."""
    async with api.connect(api.a) as client:
        reply = await client.post(path, {**RPM, "token": api.a.token}, {"Host": "evil.example"})
    assert reply.status in {404, 405}
    assert "location" not in reply.headers


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("text/plain", b"{}", (415, "media_type")),
        ("application/json", b"{", (400, "not_json")),
        ("application/json", b"[]", (400, "not_json")),
        ("application/json", b'{"token": "a", "token": "b"}', (400, "not_json")),
        ("application/json", b"\xff", (400, "not_json")),
        ("application/json", b"[" * 20_000, (422, "invalid")),
        ("application/json", b"[" * 20, (400, "not_json")),
        ("application/json", b'{"package_hash": NaN}', (400, "not_json")),
    ],
)
async def test_a_body_that_is_no_object_is_told_so(api: Api, kind: str, body: bytes, problem: tuple[int, str]) -> None:
    async with api.connect(api.a) as client:
        reply = await client.request("POST", "/sign/rpm", {**bearer(api.a), "Content-Type": kind}, body)
    assert reply.problem == problem


@pytest.mark.parametrize("encoding", ["gzip", "identity, br", "Deflate"])
async def test_a_body_that_says_it_is_encoded_is_not_read_as_it_stands(api: Api, encoding: str) -> None:
    plain = json.dumps(RPM).encode()
    for body in (plain, gzip.compress(plain)):
        async with api.connect(api.a) as client:
            headers = {**bearer(api.a), "Content-Type": "application/json", "Content-Encoding": encoding}
            reply = await client.request("POST", "/sign/rpm", headers, body)
        assert reply.problem == (415, "media_type")
        assert "Content-Encoding" in str(reply.json["detail"])
    assert api.signer.sealed == []
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/rpm", RPM, {**bearer(api.a), "Content-Encoding": "Identity"})
    assert reply.status == 200


async def test_what_is_wrong_with_a_body_is_named_without_repeating_it(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with api.connect(api.a) as client:
        reply = await client.post("/sign/rpm", {"token": "bo_secret" * 100, "distribution": 3})
    assert reply.problem == (422, "invalid")
    assert {error["field"] for error in reply.items("errors")} == {
        "body.token", "body.distribution", "body.package_hash"
    }  # fmt: skip
    assert b"bo_secret" not in reply.body
    assert "bo_secret" not in caplog.text


async def test_an_open_connection_does_not_keep_the_oracle_from_ending(api: Api) -> None:
    async with api.connect(api.a) as client:
        assert (await client.get("/version")).status == 200
        api.oracle.stop()
        with trio.fail_after(SECONDS):
            assert await client.stream.receive_some() == b""


async def test_a_request_under_way_is_answered_before_the_oracle_ends(api: Api) -> None:
    api.signer.held = trio.Event()
    async with api.connect(api.a) as client:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await until(lambda: api.signer.waiting)
                api.oracle.stop()
                api.signer.held.set()

            nursery.start_soon(stop)
            assert (await client.post("/sign/rpm", RPM, bearer(api.a))).status == 200
        with trio.fail_after(SECONDS):
            assert await client.stream.receive_some() == b""


async def still_serves(api: Api) -> None:
    async with api.connect(api.a) as client:
        assert (await client.post("/sign/rpm", RPM, bearer(api.a))).status == 200


async def test_a_connection_that_is_over_leaves_nothing_for_a_collection(api: Api) -> None:
    """As with relays' connections: with its buffers each holds a third of a megabyte."""
    with without_collections():
        before = tls_streams()
        for _ in range(5):
            async with api.connect(api.a) as client:
                assert (await client.get("/health")).status == 200
        await until(lambda: tls_streams() <= before)

"""An HTTP client on h11, and the little that tests need around it."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio

from tests.oracle.world import SECONDS


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        fields = json.loads(self.body)
        assert isinstance(fields, dict)
        return fields

    def items(self, name: str) -> list[dict[str, object]]:
        """A field that is a list of objects."""
        found = self.json[name]
        assert isinstance(found, list)
        return found

    @property
    def problem(self) -> tuple[int, str]:
        """Status and code of a problem document, which it must be."""
        assert self.headers["content-type"] == "application/problem+json"
        fields = self.json
        assert fields["status"] == self.status
        assert fields["type"] == f"urn:blind-oracle:problem:{fields['code']}"
        assert fields["title"]
        assert fields["detail"]
        return self.status, str(fields["code"])


@dataclass(slots=True)
class HttpClient:
    """One connection."""

    stream: trio.abc.Stream
    connection: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return await self.request("GET", path, headers or {}, b"")

    async def head(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return await self.request("HEAD", path, headers or {}, b"")

    async def post(self, path: str, fields: object, headers: Mapping[str, str] | None = None) -> Reply:
        body = json.dumps(fields).encode()
        return await self.request("POST", path, {"Content-Type": "application/json", **(headers or {})}, body)

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        given = {"Host": "oracle", **headers}
        if body:
            given.setdefault("Content-Length", str(len(body)))
        with trio.fail_after(SECONDS):
            await self.send(h11.Request(method=method, target=path, headers=list(given.items())))
            if body:
                await self.send(h11.Data(data=body))
            await self.send(h11.EndOfMessage())
            return await self.reply()

    async def send(self, event: h11.Event) -> None:
        await self.stream.send_all(self.connection.send(event) or b"")

    async def reply(self) -> Reply:
        """The next answer, whole."""
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = self.connection.next_event()
            if event is h11.NEED_DATA:
                self.connection.receive_data(bytes(await self.stream.receive_some()))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                assert isinstance(event, h11.InformationalResponse), event
        assert head is not None
        if self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
        headers = {name.decode().lower(): value.decode() for name, value in head.headers}
        return Reply(head.status_code, headers, bytes(body))


@asynccontextmanager
async def http_connected(address: str, context: ssl.SSLContext) -> AsyncIterator[HttpClient]:
    host, _, port = address.rpartition(":")
    raw = await trio.open_tcp_stream(host, int(port))
    stream = trio.SSLStream(raw, context, server_hostname=host, https_compatible=True)
    try:
        yield HttpClient(stream)
    finally:
        await trio.aclose_forcefully(stream)

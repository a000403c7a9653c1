"""An oracle on a real TLS port with real files, and relays' clients for it."""

import contextlib
import hashlib
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio
import trustme

from agentproxy.oracle import registry as registry_module
from agentproxy.oracle import statements
from agentproxy.oracle.changes import Change, CredentialsIssued, RunnerAdded
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.credentials import TokenKind
from agentproxy.oracle.database import SqliteFile
from agentproxy.oracle.registry import Registry
from agentproxy.protocol.errors import RemoteProtocolError
from agentproxy.protocol.messages import FROM_ORACLE, FROM_RELAY, PROTOCOL_VERSION, FromOracle, FromRelay
from agentproxy.protocol.relay_messages import Hello
from agentproxy.runtime.config import load
from agentproxy.runtime.streams import FramedStream
from tests.oracle import signerserver
from tests.oracle.signerserver import AUTHORITY, ED25519

SECONDS = 10.0
STRANGERS = trustme.CA()
SERVER = AUTHORITY.issue_cert("127.0.0.1")

POLICY = f"""
keys:
  ed: {{fingerprint: {ED25519.fingerprint}, type: modern, hash_algorithms: [sha256, sha512]}}
runners:
  a: {{keys: [ed], distributions: [el10-*]}}
  b: {{keys: [ed]}}
  disabled: {{keys: [ed]}}
"""
ORACLE = """
node: node
listen: 127.0.0.1:0
tls: {certificate: server.crt, key: server.key, authority: authority.crt}
policy: policy.yaml
registry: registry.sqlite
certificates: certificates
signer: {socket: signer.sock}
max_in_flight: 8
"""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A runner's credentials."""

    certificate: trustme.LeafCert
    token: str

    @property
    def token_id(self) -> str:
        return hashlib.sha256(self.token.encode()).hexdigest()[:12]

    @property
    def public_key_sha256(self) -> bytes:
        return public_key_sha256(self.certificate)


def public_key_sha256(leaf: trustme.LeafCert) -> bytes:
    return signerserver.public_key_sha256(leaf.cert_chain_pems[0].bytes())


def certificate_sha256(leaf: trustme.LeafCert) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())).digest()


def put(registry: Registry, change: Change) -> None:
    """Make a change that no log knows: what the world was like before the test began."""
    with registry._transaction() as connection:
        statements.apply(connection, change, datetime.now(UTC))
        registry_module._next_generation(connection)


class World:
    """The files of one oracle in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        AUTHORITY.cert_pem.write_to_path(str(directory / "authority.crt"))
        SERVER.private_key_pem.write_to_path(str(directory / "server.key"))
        (directory / "server.key").chmod(0o600)
        SERVER.cert_chain_pems[0].write_to_path(str(directory / "server.crt"))
        (directory / "policy.yaml").write_text(POLICY)
        (directory / "oracle.yaml").write_text(ORACLE)
        (directory / "certificates").mkdir()
        self.registry = Registry.create(SqliteFile(directory / "registry.sqlite"))
        self.config = load(directory / "oracle.yaml", OracleConfig)

    def enrol(self, runner: str, *, expires_in: float = 3600.0, kind: TokenKind = TokenKind.LASTING) -> Enrolled:
        """Add a runner with a certificate and a token that expires after some seconds."""
        leaf = AUTHORITY.issue_cert(f"{runner}.example")
        token = "bo_" + secrets.token_urlsafe(32)
        expires = datetime.now(UTC) + timedelta(seconds=expires_in)
        issued = CredentialsIssued(
            runner,
            hashlib.sha256(token.encode()).digest(),
            expires,
            certificate_sha256(leaf),
            public_key_sha256(leaf),
            datetime.now(UTC) + timedelta(days=1),
            kind,
        )
        put(self.registry, RunnerAdded(runner))
        put(self.registry, issued)
        return Enrolled(leaf, token)


class Client:
    """A relay's end of one connection."""

    def __init__(self, stream: FramedStream) -> None:
        self.stream = stream
        self.got: list[FromOracle] = []

    def send(self, message: FromRelay) -> None:
        self.stream.send_soon(FROM_RELAY.encode(message))

    async def receive(self) -> FromOracle:
        with trio.fail_after(SECONDS):
            while not self.got:
                self.got += map(FROM_ORACLE.decode, await self.stream.receive())
        return self.got.pop(0)

    async def hello(self, token: str) -> FromOracle:
        self.send(Hello(PROTOCOL_VERSION, token, "test"))
        return await self.receive()

    async def ask(self, message: FromRelay) -> FromOracle:
        self.send(message)
        return await self.receive()


def context(leaf: trustme.LeafCert | None, authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(made)
    if leaf is not None:
        leaf.configure_cert(made)
    return made


@asynccontextmanager
async def connected(address: str, made: ssl.SSLContext, source: str | None = None) -> AsyncIterator[Client]:
    """A connection with the given TLS, before `hello`, from an address of this host's."""
    host, _, port = address.rpartition(":")
    raw = await trio.open_tcp_stream(host, int(port), local_address=source)
    stream = FramedStream(trio.SSLStream(raw, made, server_hostname=host))
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream)
            try:
                yield Client(stream)
            except Exception as error:  # noqa: BLE001  carried past the nursery, which would wrap it into a group
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(raw)
    if failure is not None:
        raise failure


async def _send(stream: FramedStream) -> None:
    with contextlib.suppress(RemoteProtocolError):  # the reading side sees it too, and says it
        await stream.run_sender()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true, for SECONDS at most."""
    with trio.fail_after(SECONDS):
        while True:
            if condition():
                return
            await trio.sleep(0.01)

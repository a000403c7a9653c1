import os
import pwd
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.daemon import Oracle
from agentproxy.oracle.http import connection
from agentproxy.runtime.config import load
from tests.oracle.http.client import HttpClient, http_connected
from tests.oracle.signerserver import FakeSigner
from tests.oracle.world import POLICY, SECONDS, Enrolled, World, context, until

HTTP = """
http:
  listen: 127.0.0.1:0
  proxy: {{socket: proxy.sock, user: {user}}}
"""


@dataclass(frozen=True, slots=True)
class Api:
    """An oracle that serves HTTP; runner `a` needs a certificate, `t` comes with a token only."""

    world: World
    signer: FakeSigner
    oracle: Oracle
    a: Enrolled
    t: Enrolled
    ended: trio.Event  # the oracle has left in good order

    @property
    def address(self) -> str:
        return (self.world.directory / "http.address").read_text().strip()

    @property
    def proxy_socket(self) -> Path:
        return self.world.directory / "proxy.sock"

    async def registry_is_seen(self) -> None:
        """Wait until the oracle has polled the latest change of credentials."""
        generation = self.world.registry.generation()
        await until(lambda: self.oracle._view.credentials.generation == generation)

    def connect(self, who: Enrolled | None) -> AbstractAsyncContextManager[HttpClient]:
        return http_connected(self.address, context(None if who is None else who.certificate))


def bearer(who: Enrolled) -> dict[str, str]:
    return {"Authorization": f"Bearer {who.token}"}


@pytest.fixture(autouse=True)
def no_long_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients that send nonsense and wait for the end not wait for long."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)


@pytest.fixture
async def api(world: World, signer: FakeSigner, nursery: trio.Nursery) -> AsyncIterator[Api]:
    a, t = world.enrol("a"), world.enrol("t")
    directory = world.directory
    (directory / "policy.yaml").write_text(f"{POLICY}  t: {{keys: [ed], token_only: true, rate: 1, burst: 2}}\n")
    config = directory / "oracle.yaml"
    config.write_text(config.read_text() + HTTP.format(user=pwd.getpwuid(os.geteuid()).pw_name))
    (directory / "certificates" / "ed.pgp").write_bytes(b"\x99" + bytes(100))
    oracle = Oracle(load(config, OracleConfig))
    ended = trio.Event()

    async def run() -> None:
        await oracle.run()
        ended.set()

    nursery.start_soon(run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
    yield Api(world, signer, oracle, a, t, ended)
    oracle.stop()

"""The API's sockets: from systemd, and what happens to them at a reload."""

import os
import pwd
import ssl
import sys

import pytest
import trio

from agentproxy.admin.dev.ports import free_ports
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.daemon import Oracle
from agentproxy.protocol.errors import ConfigError
from agentproxy.runtime.config import load
from tests.oracle.http.client import HttpClient, http_connected
from tests.oracle.http.conftest import Api, bearer
from tests.oracle.http.test_admission import proxied
from tests.oracle.signerserver import AUTHORITY, FakeSigner
from tests.oracle.test_daemon import RUN
from tests.oracle.test_metrics import scrape
from tests.oracle.world import SECONDS, World, context, until


async def test_systemd_s_sockets_are_taken_by_their_names(world: World, signer: FakeSigner) -> None:
    directory, who = world.directory, world.enrol("a")
    config = directory / "oracle.yaml"
    user = pwd.getpwuid(os.geteuid()).pw_name
    http = f"http: {{proxy: {{socket: unused.sock, user: {user}}}}}\nmetrics: {{socket: unused-metrics.sock}}\n"
    config.write_text(config.read_text() + http)
    relay, port = free_ports(2)
    places = [f"127.0.0.1:{relay}", f"127.0.0.1:{port}", directory / "p.sock", directory / "m.sock"]
    command = ["systemd-socket-activate", "--fdname=relay:http:http-proxy:metrics"]
    command += [f"--listen={place}" for place in places]
    command += [f"--setenv=PYTHONPATH={os.pathsep.join(sys.path)}", sys.executable, "-c", RUN, str(config)]
    process = await trio.lowlevel.open_process(command)
    try:
        with trio.fail_after(2 * SECONDS):
            await until((directory / "m.sock").exists)
            async with http_connected(f"127.0.0.1:{port}", context(who.certificate)) as client:
                assert (await client.get("/keys", bearer(who))).status == 200
            async with await trio.open_unix_socket(directory / "p.sock") as stream:
                assert (await HttpClient(stream).get("/keys", {**bearer(who), **proxied(who)})).status == 200
            assert b"blind_oracle_signer_up 1.0" in (await scrape(directory / "m.sock"))[1].encode()
            assert (directory / "oracle.address").read_text() == f"127.0.0.1:{relay}\n"
            assert (directory / "http.address").read_text() == f"127.0.0.1:{port}\n"
    finally:
        process.terminate()
        with trio.move_on_after(SECONDS, shield=True):
            await process.wait()


async def test_an_api_without_any_socket_stops_the_start(world: World, signer: FakeSigner) -> None:
    config = world.directory / "oracle.yaml"
    config.write_text(config.read_text() + "http: {}\n")
    with trio.fail_after(SECONDS):
        with pytest.raises(ConfigError, match=r"http: expected listen, proxy, or a socket http from systemd"):
            await Oracle(load(config, OracleConfig)).run()


async def test_a_reload_shows_the_new_certificate_to_new_connections(api: Api) -> None:
    tls = api.world.config.tls
    fresh = AUTHORITY.issue_cert("127.0.0.1")
    fresh.cert_chain_pems[0].write_to_path(str(tls.certificate))
    fresh.private_key_pem.write_to_path(str(tls.key))
    await api.oracle.reload()
    async with api.connect(api.a) as client:
        assert (await client.get("/version")).status == 200
        assert isinstance(client.stream, trio.SSLStream)
        shown: bytes = client.stream.getpeercert(binary_form=True)
    assert shown == ssl.PEM_cert_to_DER_cert(fresh.cert_chain_pems[0].bytes().decode())

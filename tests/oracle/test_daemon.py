import contextlib
import os
import signal
import ssl
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from agentproxy.oracle import daemon, doors, expiries
from agentproxy.oracle.config import ListenAddress, OracleConfig, TlsConfig, parse_address
from agentproxy.oracle.daemon import Oracle
from agentproxy.oracle.policy import Policy
from agentproxy.oracle.policyfile import load_policy
from agentproxy.oracle.stream import RelayStream
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.oracle_messages import Drain, KeysChanged, Rejected, Signed, Welcome
from agentproxy.runtime.config import load
from tests.oracle.conftest import Running
from tests.oracle.garbage import tls_streams, without_collections
from tests.oracle.samples import sign
from tests.oracle.signerserver import ED25519, FakeSigner
from tests.oracle.world import AUTHORITY, POLICY, SECONDS, World, connected, context, until

RUN = "import sys, pathlib; from agentproxy.oracle.daemon import run; run(pathlib.Path(sys.argv[1]))"


@pytest.fixture
async def process(world: World, signer: FakeSigner) -> AsyncIterator[trio.Process]:
    """An oracle in a process of its own."""
    command = [sys.executable, "-c", RUN, str(world.directory / "oracle.yaml")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    made = await trio.lowlevel.open_process(command, env=environment)
    try:
        await until((world.directory / "oracle.address").exists)
        yield made
    finally:
        if made.returncode is None:
            made.kill()
        with trio.move_on_after(SECONDS, shield=True):
            await made.wait()


async def test_a_process_serves_reloads_and_leaves_in_good_order(process: trio.Process, world: World) -> None:
    who = world.enrol("b")
    address = (world.directory / "oracle.address").read_text().strip()
    async with connected(address, context(who.certificate)) as client:
        with trio.fail_after(SECONDS):
            assert isinstance(await client.hello(who.token), Welcome)
            assert isinstance(await client.ask(sign(1, ED25519)), Signed)
            (world.directory / "policy.yaml").write_text(POLICY.replace("b: {keys: [ed]}", "b: {keys: []}"))
            process.send_signal(signal.SIGHUP)
            assert await client.receive() == KeysChanged(())
            process.send_signal(signal.SIGTERM)
            assert await client.receive() == Drain()
            assert await process.wait() == 0


async def test_a_new_certificate_is_shown_after_a_reload_and_a_broken_one_never(running: Running) -> None:
    shown = [await certificate_of(running)]
    leaf = AUTHORITY.issue_cert("127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(str(running.world.config.tls.certificate))
    await running.oracle.reload()  # the key is another's
    shown.append(await certificate_of(running))
    leaf.private_key_pem.write_to_path(str(running.world.config.tls.key))
    await running.oracle.reload()
    shown.append(await certificate_of(running))
    assert shown[0] == shown[1]
    assert shown[2] == ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


async def test_whoever_writes_certificates_during_a_reload_does_not_spoil_the_doors(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = running.world.config.tls
    leaf = AUTHORITY.issue_cert("127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(str(tls.certificate))
    leaf.private_key_pem.write_to_path(str(tls.key))
    load_context = daemon._context

    def and_more_is_written(tls: TlsConfig) -> ssl.SSLContext:
        made = load_context(tls)
        tls.key.write_text("half")
        return made

    monkeypatch.setattr(daemon, "_context", and_more_is_written)
    await running.oracle.reload()
    await running.oracle.reload()
    assert await certificate_of(running) == ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


async def test_of_reloads_in_quick_succession_the_newest_policy_wins(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = running.world.directory / "policy.yaml"
    began, go_on = threading.Event(), threading.Event()
    reads: list[Policy] = []

    def slowly(path: Path) -> Policy:
        policy = load_policy(path)
        reads.append(policy)
        if len(reads) == 1:
            began.set()
            assert go_on.wait(SECONDS)
        return policy

    monkeypatch.setattr(daemon, "load_policy", slowly)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.oracle.reload)
        await trio.to_thread.run_sync(began.wait, SECONDS)
        file.write_text(POLICY.replace("a: {keys: [ed]", "a: {keys: []"))
        for _ in range(20):
            nursery.start_soon(running.oracle.reload)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert running.oracle._service.policy.runners["a"].keys == ()
    assert len(reads) == 2


async def test_the_end_of_a_key_that_came_after_the_start_is_said_too(
    world: World,
    signer: FakeSigner,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expiries, "DAY_SECONDS", 0.05)
    oracle = Oracle(world.config)
    nursery.start_soon(oracle.run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
    signer.die()
    signer.keys = (replace(ED25519, expires=datetime.now(UTC) + timedelta(days=5, hours=1)),)
    await nursery.start(signer.serve)
    await until(lambda: "key ed expires in 5 days" in caplog.text)


async def certificate_of(running: Running) -> bytes:
    async with running.connect(running.a) as client:
        assert isinstance(await client.hello(running.a.token), Welcome)
        transport = client.stream._stream
        assert isinstance(transport, trio.SSLStream)
        shown: bytes = transport.getpeercert(binary_form=True)
        return shown


def test_a_policy_with_mistakes_is_refused_with_all_of_them(world: World) -> None:
    file = world.directory / "policy.yaml"
    file.write_text(POLICY + "  c: {keys: [x, y]}\n  d: {keys: [], rate: 0}\n")
    with pytest.raises(ConfigError) as refused:
        load_policy(file)
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()] == [
        "runners.c.keys[0]",
        "runners.c.keys[1]",
        "runners.d.rate",
    ]


async def test_a_key_that_does_not_fit_its_distributions_stops_the_start(world: World, signer: FakeSigner) -> None:
    file = world.directory / "policy.yaml"
    file.write_text(POLICY.replace("type: modern", "type: modern, distributions: [el7-*]"))
    with trio.fail_after(SECONDS):
        with pytest.raises(ConfigError, match=r"keys\.ed\.distributions\[0\]: EL7's rpm"):
            await Oracle(world.config).run()
    assert not (world.directory / "oracle.address").exists()


async def test_an_address_in_use_is_said(world: World, signer: FakeSigner) -> None:
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = taken.socket.getsockname()[1]
    file = world.directory / "oracle.yaml"
    file.write_text(file.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    async with taken:
        with trio.fail_after(SECONDS):
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
                await Oracle(load(file, OracleConfig)).run()


@pytest.mark.parametrize("missing", ["registry.sqlite", "policy.yaml", "server.key"])
def test_a_missing_file_is_named(world: World, missing: str) -> None:
    (world.directory / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        Oracle(world.config)


def test_a_key_that_others_can_read_is_refused(world: World) -> None:
    (world.directory / "server.key").chmod(0o644)
    with pytest.raises(ConfigError, match=r"server\.key: others may read it"):
        Oracle(world.config)


@pytest.mark.parametrize("dialled", ["oracle.example:7443", "localhost:7443"])
async def test_an_oracle_that_nobody_elsewhere_reaches_says_so(
    world: World, signer: FakeSigner, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, dialled: str
) -> None:
    oracle = Oracle(replace(world.config, addresses=(dialled,)))
    nursery.start_soon(oracle.run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
    warning = f"listen: build servers are to dial {dialled}, and only this host reaches {oracle.address}"
    assert (warning in caplog.messages) is (dialled == "oracle.example:7443")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7443", ListenAddress("127.0.0.1", 7443)),
        ("[::1]:0", ListenAddress("::1", 0)),
        ("oracle.example:65535", ListenAddress("oracle.example", 65535)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: ListenAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "7443", ":7443", "host:", "host:65536", "host:-1", "host:1_0", "host:٣"])
def test_another_form_is_no_address(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_address(text)


async def test_a_connection_that_is_over_leaves_nothing_for_a_collection(running: Running) -> None:
    """With its buffers each holds a third of a megabyte, and the oracle's collections are rare."""
    host, _, port = running.address.rpartition(":")
    with without_collections():
        before = tls_streams()
        for _ in range(5):
            async with running.connect(running.a) as client:
                assert isinstance(await client.hello(running.a.token), Welcome)
            async with running.connect(running.b) as client:
                assert isinstance(await client.hello(running.a.token), Rejected)
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(SECONDS):
                    while await stream.receive_some():
                        pass
        await until(lambda: tls_streams() <= before)


async def test_nor_does_one_that_has_been_looked_after(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_after = trio.Event()
    keep_alive = RelayStream.keep_alive

    def seen(relay: RelayStream) -> None:
        keep_alive(relay)
        looked_after.set()

    monkeypatch.setattr(RelayStream, "keep_alive", seen)
    monkeypatch.setattr(doors, "KEEP_ALIVE_SECONDS", 0.01)
    with without_collections():
        before = tls_streams()
        async with running.connect(running.a) as client:
            assert isinstance(await client.hello(running.a.token), Welcome)
            with trio.fail_after(SECONDS):
                await looked_after.wait()
        await until(lambda: tls_streams() <= before)

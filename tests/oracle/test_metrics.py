"""What an oracle tells Prometheus, over a real connection; promtool looks at the form."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from agentproxy.oracle import signing
from agentproxy.oracle.config import OracleConfig
from agentproxy.oracle.daemon import Oracle
from agentproxy.protocol.codes import FailureCode, RefusalCode, RejectionCode
from agentproxy.protocol.errors import ConfigError, RemoteProtocolError
from agentproxy.protocol.oracle_messages import Refused, Rejected, Signed, Welcome
from agentproxy.runtime.config import load
from agentproxy.runtime.metricsconfig import MetricsConfig
from tests.oracle.samples import sign
from tests.oracle.signerserver import ED25519, FakeSigner
from tests.oracle.world import AUTHORITY, SECONDS, World, connected, context, until

METRICS = "metrics: {socket: metrics.sock}\n"


async def scrape(path: Path, request: bytes = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n") -> tuple[bytes, str]:
    """The status line, and what is told."""
    with trio.fail_after(SECONDS):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(request)
            got = b"".join([bytes(part) async for part in stream])
    head, _, body = got.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body.decode()


async def promtool_takes(text: str) -> None:
    """Let the real promtool look at names, units and the form."""
    with trio.fail_after(SECONDS):
        done = await trio.run_process(
            ["promtool", "check", "metrics"], stdin=text.encode(), capture_stdout=True, capture_stderr=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr


def values(text: str) -> dict[str, float]:
    """Each sample by its name and labels, as it is written."""
    return {
        sample.name + "".join(f"[{value}]" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def listening_oracle(world: World, nursery: trio.Nursery) -> Oracle:
    """One that tells metrics."""
    config = world.directory / "oracle.yaml"
    config.write_text(config.read_text() + METRICS)
    oracle = Oracle(load(config, OracleConfig))
    nursery.start_soon(oracle.run)
    with trio.fail_after(SECONDS):
        await oracle.listening.wait()
    return oracle


async def test_everything_that_an_oracle_does_is_counted(
    world: World, signer: FakeSigner, nursery: trio.Nursery
) -> None:
    a, b = world.enrol("a"), world.enrol("b")
    oracle = await listening_oracle(world, nursery)
    async with connected(oracle.address, context(b.certificate)) as client:
        assert isinstance(await client.hello(b.token), Welcome)
        assert isinstance(await client.ask(sign(1, ED25519)), Signed)
        await client.ask(sign(2, ED25519, distribution="el7-x86_64"))
    async with connected(oracle.address, context(a.certificate)) as client:
        assert isinstance(await client.hello(b.token), Rejected)
        _, text = await scrape(world.directory / "metrics.sock")
    found = values(text)
    assert found["blind_oracle_signatures_total[ed][sign]"] == 1
    assert found["blind_oracle_refusals_total[distribution_forbidden]"] == 1
    assert found["blind_oracle_rejections_total[token_of_another_runner]"] == 1
    # All of them from the start: of a series that begins with 1 no alert sees an increase.
    for name, codes in (("refusals", RefusalCode), ("failures", FailureCode), ("rejections", RejectionCode)):
        counts = {key: value for key, value in found.items() if key.startswith(f"blind_oracle_{name}_total")}
        assert counts.keys() == {f"blind_oracle_{name}_total[{code.value}]" for code in codes}
        assert sum(counts.values()) == (0 if name == "failures" else 1)
    signed = {key: value for key, value in found.items() if key.startswith("blind_oracle_signatures_total")}
    assert signed == {"blind_oracle_signatures_total[ed][sign]": 1, "blind_oracle_signatures_total[ed][seal]": 0}
    assert found["blind_oracle_rate_limit_hits_total"] == 0
    assert found["blind_oracle_queue_length[urgent]"] == 0
    assert found["blind_oracle_registry_fresh"] == 1
    assert found["blind_oracle_signer_up"] == 1
    for stage, count in {"authn": 2, "policy": 2, "queue": 1, "signer": 1}.items():
        assert found[f"blind_oracle_stage_seconds_count[{stage}]"] == count
    assert found["blind_oracle_certifying_key_accepted[ed]"] == 0
    assert found["blind_oracle_expiry_timestamp_seconds[token of b]"] > 0
    assert found["blind_oracle_expiry_timestamp_seconds[certificate of this oracle]"] > 0
    assert a.token not in text
    await promtool_takes(text)
    signer.die()
    _, text = await scrape(world.directory / "metrics.sock")
    assert values(text)["blind_oracle_signer_up"] == 0
    assert values(text)["blind_oracle_audit_log_writable"] == 0
    assert (await scrape(world.directory / "metrics.sock", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"))[0].startswith(
        b"HTTP/1.1 404"
    )
    assert await scrape(world.directory / "metrics.sock", b"\x00\r\n\r\n") == (b"", "")
    oracle.stop()


async def test_who_waits_and_what_is_above_a_rate_are_counted(
    world: World, signer: FakeSigner, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = world.directory / "policy.yaml"
    policy.write_text(
        policy.read_text().replace("b: {keys: [ed]}", "b: {keys: [ed], priority: urgent, rate: 1, burst: 4}")
    )
    monkeypatch.setattr(signing, "_WINDOW", 1)
    b = world.enrol("b")
    oracle = await listening_oracle(world, nursery)
    signer.held = trio.Event()
    async with connected(oracle.address, context(b.certificate)) as client:
        assert isinstance(await client.hello(b.token), Welcome)
        for number in range(4):
            client.send(sign(number, ED25519))
        assert isinstance(await client.ask(sign(4, ED25519)), Refused)
        await until(lambda: signer.waiting)
        found = values((await scrape(world.directory / "metrics.sock"))[1])
        signer.held.set()
    waiting = {key: value for key, value in found.items() if key.startswith("blind_oracle_queue_length")}
    assert waiting == {
        "blind_oracle_queue_length[urgent]": 3,
        "blind_oracle_queue_length[normal]": 0,
        "blind_oracle_queue_length[bulk]": 0,
    }
    assert found["blind_oracle_rate_limit_hits_total"] == 1
    oracle.stop()


async def test_a_renewed_certificate_counts_when_it_is_shown_and_not_when_it_is_written(
    world: World, signer: FakeSigner, nursery: trio.Nursery
) -> None:
    oracle = await listening_oracle(world, nursery)
    ends = [await end_of_certificate(world)]
    new = datetime.now(UTC).replace(microsecond=0) + timedelta(days=700)
    leaf = AUTHORITY.issue_cert("127.0.0.1", not_after=new)
    leaf.cert_chain_pems[0].write_to_path(str(world.config.tls.certificate))
    leaf.private_key_pem.write_to_path(str(world.config.tls.key))
    ends.append(await end_of_certificate(world))
    await oracle.reload()
    ends.append(await end_of_certificate(world))
    assert ends == [ends[0], ends[0], new.timestamp()]
    assert ends[0] != ends[2]
    oracle.stop()


async def end_of_certificate(world: World) -> float:
    _, text = await scrape(world.directory / "metrics.sock")
    return values(text)["blind_oracle_expiry_timestamp_seconds[certificate of this oracle]"]


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "192.0.2.1:9464", "oracle.example:9464", "9464", "127.0.0.1:x"])
def test_metrics_are_told_on_loopback_only(listen: str) -> None:
    with pytest.raises(RemoteProtocolError, match="expected a loopback address"):
        MetricsConfig(listen=listen)


def test_metrics_have_one_place(world: World) -> None:
    config = world.directory / "oracle.yaml"
    config.write_text(config.read_text() + "metrics: {}\n")
    with pytest.raises(ConfigError, match="metrics: expected listen or socket"):
        load(config, OracleConfig)

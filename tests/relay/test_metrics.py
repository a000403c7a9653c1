"""What a relay tells Prometheus."""

import subprocess
import sys
from dataclasses import replace

from agentproxy.runtime.metricsconfig import MetricsConfig
from tests.oracle.test_metrics import promtool_takes, scrape, values
from tests.relay.conftest import Runner


async def test_a_relay_tells_its_oracles_its_requests_and_what_ends(runner: Runner) -> None:
    path = runner.directory / "metrics.sock"
    runner.config = replace(runner.config, metrics=MetricsConfig(socket=path))
    async with runner.both():
        await runner.sign()
        _, text = await scrape(path)
        found = values(text)
        address = runner.config.oracles[0].address
        assert found[f"blind_oracle_relay_oracle_up[{address}]"] == 1
        assert found["blind_oracle_relay_connected"] == 1
        assert found["blind_oracle_relay_requests_total[signed]"] == 1
        assert found["blind_oracle_relay_stage_seconds_count[request]"] == 1
        assert found["blind_oracle_relay_fallback_active"] == 0
        assert found["blind_oracle_relay_expiry_timestamp_seconds[certificate of this relay]"] > 0
    await promtool_takes(text)


async def test_a_relay_without_an_oracle_says_so(runner: Runner) -> None:
    path = runner.directory / "metrics.sock"
    runner.config = replace(runner.config, metrics=MetricsConfig(socket=path))
    async with runner.relay():
        found = values((await scrape(path))[1])
    address = runner.config.oracles[0].address
    assert found[f"blind_oracle_relay_oracle_up[{address}]"] == 0
    assert found["blind_oracle_relay_connected"] == 0


def test_a_relay_that_tells_no_metrics_loads_nothing_for_them() -> None:
    code = "import sys, relay.daemon; sys.exit(bool({'prometheus_client', 'h11'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0

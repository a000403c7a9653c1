"""The oracle's door for Prometheus."""

from collections.abc import Sequence

import trio

from agentproxy.oracle.metrics import OracleMetrics
from agentproxy.oracle.ports import METRICS, Passed
from agentproxy.runtime.metricsconfig import MetricsConfig
from agentproxy.runtime.scrape import MAX_CONNECTIONS, open_metrics, serve_metrics

__all__ = ["MetricsDoor"]


class MetricsDoor:
    """Fits `agentproxy.oracle.sidedoors.SideDoor`."""

    socket_names = (METRICS,)
    connections = MAX_CONNECTIONS

    def __init__(self, config: MetricsConfig, metrics: OracleMetrics) -> None:
        self._config = config
        self._metrics = metrics
        self._listeners: Sequence[trio.SocketListener] = ()
        self._scope = trio.CancelScope()

    async def open(self, passed: Passed) -> None:
        """Take systemd's socket, or bind.

        Raises:
            ConfigError: the address cannot be used.
        """
        self._listeners = passed.get(METRICS) or await open_metrics(self._config)

    async def serve(self) -> None:
        """Answer until `drain`."""
        with self._scope:
            await serve_metrics(self._listeners, self._metrics.render)

    def drain(self) -> None:
        """Stop: what is not told now is told by the next process."""
        self._scope.cancel()

    def reload(self) -> None:
        """Nothing of it comes from a file."""

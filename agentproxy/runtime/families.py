"""Metrics in Prometheus' words, made of plain numbers when somebody asks. Imported only where metrics are told."""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from agentproxy.protocol.timings import BOUNDS, TimingsReport

__all__ = ["Values", "by_name", "counter", "gauge", "histogram", "text_of"]

_PREFIX = "blind_oracle_"

Values = Iterable[tuple[Sequence[str], float]]  # of labels, and of the thing itself


def text_of(families: Sequence[Metric]) -> bytes:
    """All of them in the text format."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families:
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def by_name(counts: Mapping[str, int] | Mapping[int, int]) -> Values:
    """Values with the name as their one label."""
    return [((str(name),), number) for name, number in counts.items()]


def counter(name: str, words: str, values: Values, *labels: str) -> Metric:
    """Something that grows; its name gets `blind_oracle_` and `_total`."""
    family = CounterMetricFamily(_PREFIX + name, words, labels=labels)
    for given, value in values:
        family.add_metric(given, value)
    return family


def gauge(name: str, words: str, values: Values, *labels: str) -> Metric:
    """Something that goes up and down."""
    family = GaugeMetricFamily(_PREFIX + name, words, labels=labels)
    for given, value in values:
        family.add_metric(given, value)
    return family


def histogram(name: str, words: str, stages: Mapping[str, TimingsReport]) -> Metric:
    """How long something took, stage by stage."""
    family = HistogramMetricFamily(_PREFIX + name, words, labels=("stage",))
    for stage, report in stages.items():
        total, buckets = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), report.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric((stage,), buckets, report.total_us / 1e6)
    return family

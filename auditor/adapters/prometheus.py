"""Metrics in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from auditor.service.metrics import Metric, Metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Measured(Protocol):
    """Services with metrics."""

    @property
    def metrics(self) -> Metrics:
        """Reads them."""
        ...


def metrics_text(services: Measured) -> bytes:
    """The metrics as of now; raises StorageFailure when the database cannot be used."""
    registry = CollectorRegistry()
    registry.register(_Once(services.metrics.read()))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """What was read."""
        for metric in self._metrics:
            kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
            family = kind(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in sorted(metric.samples.items()):
                family.add_metric(labels, value)
            yield family

"""What the service counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics_core import Metric

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class LabeledRegistry(CollectorRegistry):
    """Metrics that share labels, which tell the replicas of a service apart."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        super().__init__()
        self._labels = dict(labels)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics with the shared labels."""
        for metric in super().collect():
            metric.samples = [sample._replace(labels={**sample.labels, **self._labels}) for sample in metric.samples]
            yield metric


class Metrics:
    """The counters of one service. They have their own registry, so that a process can have several services."""

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        """Count from zero; every sample gets the `labels`."""
        self.registry = LabeledRegistry(labels or {})
        names = ("method", "path", "status")
        self._requests = Counter("nextvec_requests", "Answered requests.", names, registry=self.registry)
        self._seconds = Histogram(
            "nextvec_request_seconds",
            "Time from the first byte of a request to the end of its response.",
            ("path",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._batch_requests = Histogram(
            "nextvec_batch_requests", "Requests of a batch.", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self._batch_items = Histogram(
            "nextvec_batch_items", "Contexts or texts of a batch.", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self._model = Info("nextvec_model", "The model of this service.", registry=self.registry)
        self._ready = Gauge("nextvec_ready", "1 if the service accepts requests, else 0.", registry=self.registry)
        self._queued = Gauge("nextvec_queued_requests", "Requests that wait for the model.", registry=self.registry)

    def watch(self, is_ready: Callable[[], bool], queue_length: Callable[[], int]) -> None:
        """Read the state of the service whenever the metrics are written."""
        self._ready.set_function(lambda: float(is_ready()))
        self._queued.set_function(lambda: float(queue_length()))

    def describe_model(self, **labels: str) -> None:
        """Set the labels of `nextvec_model_info`."""
        self._model.info(labels)

    def count_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_batch(self, requests: int, items: int) -> None:
        """Count a batch of requests with their contexts or texts."""
        self._batch_requests.observe(requests)
        self._batch_items.observe(items)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)

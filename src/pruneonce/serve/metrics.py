"""What a server counts, in Prometheus' text format; TEI's names where the meaning is TEI's.

TEI counts without the suffix `_total` that the client library gives a counter, so its counts are untyped here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536, 262144)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts of one server. Counts are the event loop's; histograms may be fed from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each
        self.registry = CollectorRegistry()
        self._counts: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        self._gauges: list[tuple[str, str, str, Callable[[], float]]] = []

        def histogram(name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, help_, ["model"], buckets=buckets, registry=self.registry)

        self.duration = histogram("te_request_duration", "Seconds from a request's body to its answer", SECONDS)
        self.tokenization = histogram("te_request_tokenization_duration", "Seconds from text to tokens", SECONDS)
        self.queue = histogram("te_request_queue_duration", "Seconds that a request waited for its model", SECONDS)
        self.inference = histogram("te_request_inference_duration", "Seconds of the batches of a request", SECONDS)
        self.batch_duration = histogram("pruneonce_batch_duration", "Seconds of a batch", SECONDS)
        self.input_length = histogram("te_request_input_length", "Tokens of a request", TOKENS)
        self.batch_tokens = histogram("te_batch_next_tokens", "Tokens of a batch", TOKENS)
        self.batch_size = histogram("te_batch_next_size", "Sequences of a batch", SEQUENCES)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def count(self, name: str, help_: str, amount: float = 1, **labels: str) -> None:
        self._counts[name, help_, tuple(sorted(labels.items()))] += amount

    def gauge(self, name: str, help_: str, model: str, read: Callable[[], float]) -> None:
        """A number that is read when it is asked for."""
        self._gauges.append((name, help_, model, read))

    def collect(self) -> Iterator[Metric]:
        counts: dict[str, Metric] = {}
        for (name, help_, labels), value in list(self._counts.items()):
            counts.setdefault(name, Metric(name, help_, "unknown")).add_sample(name, dict(labels), value)
        yield from counts.values()
        gauges: dict[str, GaugeMetricFamily] = {}
        for name, help_, model, read in self._gauges:
            gauges.setdefault(name, GaugeMetricFamily(name, help_, labels=["model"])).add_metric([model], read())
        yield from gauges.values()

    def text(self) -> bytes:
        return generate_latest(self.registry)

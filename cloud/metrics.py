"""What the verifier did, in numbers; `/metrics` shows them in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..wire.messages import Reply, Request

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass
class Counters:
    """What was done since the start. Only the owner thread of the context writes."""

    calls: int = 0
    repeats: int = 0
    conflicts: int = 0
    dropped: int = 0
    passes: int = 0
    positions: int = 0
    drafts: int = 0
    accepted: int = 0
    rejected: int = 0
    supplied: int = 0

    def judged(self, request: Request, reply: Reply) -> None:
        """Count what a reply decided."""
        is_rejected = reply.accepted < len(request.drafts)
        self.drafts += len(request.drafts)
        self.accepted += reply.accepted
        self.rejected += is_rejected
        self.supplied += 0 if is_rejected else len(reply.tokens)


class Observed:
    """Distributions over calls and passes, with a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"uhlm_{name}", text, buckets=buckets, registry=self.registry)

        self.queue = histogram("queue_seconds", "Wait of a call for its first pass", _SECONDS)
        self.model = histogram("model_seconds", "One pass of the model", _SECONDS)
        self.width = histogram("batch_width", "Calls in one pass", _WIDTHS)


class _Numbers:
    """Counters and gauges, read when they are asked for."""

    def __init__(self, counters: Counters, gauges: Callable[[], dict[str, float]]) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for one in fields(self._counters):
            value = getattr(self._counters, one.name)
            yield CounterMetricFamily(f"uhlm_{one.name}", f"{one.name} so far", value)
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"uhlm_{name}", f"{name} now", value)


def exposition(
    observed: Observed, counters: Counters, gauges: Callable[[], dict[str, float]]
) -> bytes:
    """All numbers as text."""
    numbers = CollectorRegistry()
    numbers.register(_Numbers(counters, gauges))
    return bytes(generate_latest(numbers)) + bytes(generate_latest(observed.registry))

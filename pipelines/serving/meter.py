"""What a place counts about itself: plain numbers while it answers, Prometheus text when it is asked."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Meter(Collector):
    """Requests by route and status, their time, answered rows; one process, one thread."""

    def __init__(self, use_case: str, model_version: str) -> None:
        """All series carry both names."""
        self._names = [use_case, model_version]
        self._requests: Counter[tuple[str, int]] = Counter()
        self._times: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()
        self.rows = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, route: str, status: int) -> None:
        """One more answer."""
        self._requests[route, status] += 1

    def observe(self, route: str, nanoseconds: int) -> None:
        """How long one answer took, from the whole request on."""
        times = self._times.get(route) or self._times.setdefault(route, [0] * (len(SECONDS) + 1))
        times[bisect_left(SECONDS, nanoseconds * 1e-9)] += 1
        self._sums[route] += nanoseconds

    def collect(self) -> Iterator[Metric]:
        """The families, as Prometheus knows them."""
        labels = ["use_case", "model_version"]
        requests = CounterMetricFamily("touchline_requests", "Answers.", labels=[*labels, "route", "status"])
        for (route, status), n in self._requests.items():
            requests.add_metric([*self._names, route, str(status)], n)
        yield requests
        rows = CounterMetricFamily("touchline_rows", "Answered rows.", labels=labels)
        rows.add_metric(self._names, self.rows)
        yield rows
        seconds = HistogramMetricFamily(
            "touchline_request_seconds", "From the whole request to its answer.", labels=[*labels, "route"]
        )
        for route, times in self._times.items():
            buckets = list(zip([*map(str, SECONDS), "+Inf"], accumulate(times), strict=True))
            seconds.add_metric([*self._names, route], buckets, self._sums[route] / 1e9)
        yield seconds

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

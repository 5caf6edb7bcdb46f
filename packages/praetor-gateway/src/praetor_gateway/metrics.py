# SPDX-License-Identifier: Apache-2.0
"""The gateway's metrics. No label ever holds a device's name or text."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from praetor_api.kube.runtime.metrics import ProgramMetrics
from praetor_gateway.__about__ import __version__
from praetor_gateway.http.auth import TokenDecision
from praetor_gateway.liveness.peers import PushResult
from praetor_gateway.status.writer import StatusOutcome


class _Durations:
    """A histogram of seconds with *bounds*, for one value of its label."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count *seconds*."""
        self._buckets[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, *labels: str) -> None:
        """Add what was counted to *family*, as it is scraped."""
        names = (*map(floatToGoString, self._bounds), "+Inf")
        family.add_metric(labels, list(zip(names, accumulate(self._buckets), strict=True)), sum_value=self._sum)


class _Answers(Collector):
    """What is counted of every answer, by the event loop alone.

    The values of prometheus_client have a lock each: to count with them took a sixth of the time of an answer.
    """

    _BOUNDS = Histogram.DEFAULT_BUCKETS[:-1]
    _HELD_BOUNDS = (0.1, 1, 5, 10, 15, 20, 25, 30, 40, 56)

    def __init__(self) -> None:
        self.counts: Counts[tuple[str, int]] = Counts()
        self.decisions = Counts(dict.fromkeys(TokenDecision, 0))
        self.held = _Durations(self._HELD_BOUNDS)
        self._took: dict[str, _Durations] = {}

    def took(self, route: str, seconds: float) -> None:
        """Record how long an answer took."""
        durations = self._took.get(route)
        if durations is None:
            durations = self._took[route] = _Durations(self._BOUNDS)
        durations.add(seconds)

    def collect(self) -> Iterable[Family]:
        """Return what was counted so far, as it is scraped."""
        answers = CounterMetricFamily("praetor_gateway_requests", "Answers to devices.", labels=["route", "code"])
        for (route, code), count in self.counts.items():
            answers.add_metric([route, str(int(code))], count)
        decisions = CounterMetricFamily("praetor_gateway_auth", "Decisions on tokens.", labels=["kind"])
        for decision, count in self.decisions.items():
            decisions.add_metric([decision.value], count)
        seconds = HistogramMetricFamily(
            "praetor_gateway_request_duration_seconds",
            "From a request's head to its answer; polls that were held are left out.",
            labels=["route"],
        )
        for route, durations in self._took.items():
            durations.add_to(seconds, route)
        held = HistogramMetricFamily("praetor_gateway_poll_held_seconds", "How long a poll was held before its answer.")
        self.held.add_to(held)
        return answers, decisions, seconds, held


class GatewayMetrics:
    """Counters by name, and gauges that ask when they are scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.program = ProgramMetrics(registry, "praetor_gateway", __version__)
        self._answers = _Answers()
        registry.register(self._answers)
        self.write_delay = Histogram(
            "praetor_gateway_status_write_delay_seconds",
            "From a change of a status until the apiserver stored it.",
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
            registry=registry,
        )
        writes = Counter("praetor_gateway_status_writes", "Attempts to write a status.", ["outcome"], registry=registry)
        self._writes = {outcome: writes.labels(outcome.value) for outcome in StatusOutcome}
        self._disconnected = Counter(
            "praetor_gateway_devices_disconnected", "Devices that were disconnected.", registry=registry
        )

        self._connections_refused = Counter(
            "praetor_gateway_connections_refused",
            "Connections of devices that were closed at once, for as many were open as may be.",
            registry=registry,
        )

        sent = Counter("praetor_gateway_peer_pushes", "Pushes to the leader.", ["result"], registry=registry)
        self._pushes_sent = {result: sent.labels(result.value) for result in PushResult}
        taken = Counter(
            "praetor_gateway_peer_pushes_received", "Pushes from other replicas.", ["result"], registry=registry
        )
        self._pushes_received = {result: taken.labels(result.value) for result in PushResult}
        self._reload_failures = Counter(
            "praetor_gateway_reload_failures", "Files that could not be read again.", ["what"], registry=registry
        )

    def took(self, route: str, seconds: float, *, held: bool) -> None:
        """Record how long a request took; *held* is whether most of that was waiting for a change."""
        if held:
            self._answers.held.add(seconds)
        else:
            self._answers.took(route, seconds)

    def pushed(self, result: PushResult) -> None:
        """Count a push to the leader."""
        self._pushes_sent[result].inc()

    def push_received(self, result: PushResult) -> None:
        """Count a push from another replica."""
        self._pushes_received[result].inc()

    def reload_failures(self, what: str) -> Callable[[], None]:
        """Return what counts that *what* could not be read again.

        The series is there from now on with 0: the increase of one that begins with 1 would be 0 for Prometheus.
        """
        return self._reload_failures.labels(what).inc

    def connection_refused(self) -> None:
        """Count a connection that was closed at once."""
        self._connections_refused.inc()

    def request(self, route: str, code: int) -> None:
        """Count an answer to a device."""
        self._answers.counts[route, code] += 1

    def auth(self, decision: TokenDecision) -> None:
        """Count a decision on a token."""
        self._answers.decisions[decision] += 1

    def write(self, outcome: StatusOutcome) -> None:
        """Count an attempt to write a status."""
        self._writes[outcome].inc()

    def disconnected(self, count: int) -> None:
        """Count devices that were disconnected."""
        self._disconnected.inc(count)

    def gauge(self, name: str, doc: str, value: Callable[[], float]) -> None:
        """Add a gauge; *value* is called with every scrape."""
        Gauge(f"praetor_gateway_{name}", doc, registry=self.registry).set_function(value)

# SPDX-License-Identifier: Apache-2.0
"""The metrics that every program has: its build, its process, and its requests to the apiserver."""

from __future__ import annotations

import platform
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from praetor_api.kube.client.resource import Resource

__all__ = ["ProgramMetrics"]


class ProgramMetrics:
    """Metrics in *registry* whose names begin with *prefix*, and those of the process (`process_*`)."""

    def __init__(self, registry: CollectorRegistry, prefix: str, version: str) -> None:
        ProcessCollector(registry=registry)
        build = Gauge(f"{prefix}_build_info", "1; the labels name the build.", ["version", "python"], registry=registry)
        build.labels(version, platform.python_version()).set(1)
        self._requests = Counter(
            f"{prefix}_apiserver_requests",
            "Requests to the apiserver; code 0 stands for no answer.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            f"{prefix}_apiserver_request_duration_seconds",
            "How long a request to the apiserver took; watches are left out.",
            ["verb"],
            registry=registry,
        )
        # Finding a child by its labels takes longer than to count. They are of closed sets.
        self._counted = cache(lambda verb, resource, code: self._requests.labels(verb, resource.plural, str(code)))
        self._timed = cache(lambda verb: self._seconds.labels(verb))

    def requested(self, verb: str, resource: Resource, code: int) -> None:
        """Count one request to the apiserver."""
        self._counted(verb, resource, code).inc()

    def took(self, verb: str, seconds: float) -> None:
        """Record how long a request to the apiserver took."""
        if verb != "watch":
            self._timed(verb).observe(seconds)

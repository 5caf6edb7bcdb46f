# SPDX-License-Identifier: Apache-2.0
"""Writes, connections and cost over the time of a run, sampled by a thread of its own."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from threading import Event, Thread
from types import TracebackType
from typing import Self

from attrs import frozen

from e2e.clusters.cluster import Cluster
from e2e.clusters.errors import ClusterError
from e2e.scale.processes import Usage, usages

WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "create", "update", "patch", "delete"})
FILES_EVERY = 5
"""Open files are counted in each fifth sample: to count 20,000 takes a while."""


@frozen(kw_only=True)
class Sample:
    """One moment, *at* in seconds of the monotonic clock; *writes* so far, by resource."""

    at: float
    writes: Mapping[str, int]
    connected: int
    programs: Mapping[str, list[Usage]]


class Sampler:
    """Samples every *interval_s* seconds around the block; *connected* returns how many devices are connected."""

    def __init__(self, cluster: Cluster, connected: Callable[[], int], interval_s: float) -> None:
        self.samples: list[Sample] = []
        self._cluster = cluster
        self._connected = connected
        self._interval_s = interval_s
        self._ended = Event()
        self._counted: dict[str, int] = {}  # by the apiserver that runs
        self._before: dict[str, int] = defaultdict(int)  # by those that ran before
        self._thread = Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def since(self, began: float) -> list[Sample]:
        """Return the samples since *began*, after one more of now."""
        self._sample()
        return [sample for sample in self.samples if sample.at >= began]

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        try:
            counted = dict(writes_so_far(self._cluster))
        except (ClusterError, OSError):  # it is too busy to say so
            return
        for resource, count in self._counted.items():
            if counted.get(resource, 0) < count:  # it started again
                self._before[resource] += count
        self._counted = counted
        writes = {name: counted.get(name, 0) + self._before[name] for name in {*counted, *self._before}}
        files = len(self.samples) % FILES_EVERY == 0
        self.samples.append(
            Sample(at=time.monotonic(), writes=writes, connected=self._connected(), programs=usages(files=files))
        )


def writes_so_far(cluster: Cluster) -> Mapping[str, int]:
    """Return how many writes the apiserver has answered, by resource."""
    found: dict[str, int] = defaultdict(int)
    for request, count in cluster.request_counts().items():
        if request.verb in WRITES:
            found[request.resource] += count
    return found

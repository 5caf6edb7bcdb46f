# SPDX-License-Identifier: Apache-2.0
"""The apiserver's own counts of requests for the kinds that our programs use."""

from __future__ import annotations

import time
from collections import Counter

from e2e.clusters.cluster import Cluster, Request
from e2e.stack.waiting import eventually

LEASES = "leases"
QUIET_S = 3.0
KINDS = ("deviceprocesses", "deviceprocessdeployments", "networkswitches", "events", "controllerrevisions", LEASES)


def ours(cluster: Cluster) -> Counter[Request]:
    """Return the requests so far; a watch counts when it ends."""
    counts = cluster.request_counts()
    return Counter({request: count for request, count in counts.items() if request.resource.split("/")[0] in KINDS})


def of_kind(counts: Counter[Request], resource: str, verb: str | None = None) -> Counter[Request]:
    """Return those of *counts* for *resource*, of one *verb* when it is given."""
    return Counter(
        {
            request: count
            for request, count in counts.items()
            if request.resource == resource and verb in (None, request.verb)
        }
    )


def settled(cluster: Cluster) -> Counter[Request]:
    """Return the counts once nothing but Leases was requested for QUIET_S."""
    last, since = ours(cluster), time.monotonic()

    def quiet() -> bool:
        nonlocal last, since
        now = ours(cluster)
        if any(request.resource != LEASES for request in now - last):
            since = time.monotonic()
        last = now
        return time.monotonic() - since > QUIET_S

    eventually(quiet, what=f"no request for {QUIET_S:g} s")
    return last

# SPDX-License-Identifier: Apache-2.0
"""Status writes that a clean rollout costs, by the apiserver's own count."""

from __future__ import annotations

import time
from collections import Counter

from e2e.bench.measure.context import Context, until
from e2e.bench.measure.figures import Figure, at_most
from e2e.bench.measure.fleet import DeployedFleet
from e2e.clusters.cluster import Cluster, Request
from e2e.stack.request_counts import of_kind, ours
from e2e.stack.stack import Stack, StackSettings

STATUS = ("deviceprocesses/status", "networkswitches/status", "deviceprocessdeployments/status", "events")
LINGER_S = 5.5
MOST = at_most(2)


def measure(context: Context) -> tuple[Figure, ...]:
    """Roll out for the first time, then roll a change out; the devices are simulated ones that all get healthy."""
    devices = context.size(200, 50)
    with context.launched() as cluster:
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=15))
        with stack.running(*stack.servers()):
            fleet = DeployedFleet(stack, devices)
            with fleet.simulated():
                _await_quiet(cluster)  # every device has connected, and been introduced
                first = _rollout(cluster, fleet, 1, "first rollout")
                change = _rollout(cluster, fleet, 2, "rolled-out change, maxUnavailable 10%")
    return (*first, *change)


def _rollout(cluster: Cluster, fleet: DeployedFleet, revision: int, what: str) -> tuple[Figure, ...]:
    before = ours(cluster)
    seconds = fleet.deploy(revision)
    last = _await_quiet(cluster)
    caused, devices = last - before, len(fleet.names)
    each = {kind: sum(of_kind(caused, kind).values()) / devices for kind in STATUS}
    others = ", ".join(f"{count:.2f} to {kind}" for kind, count in each.items() if kind != STATUS[0])
    return (
        Figure(
            what=f"status writes per device, {what} ({devices} devices in {seconds:.1f} s)",
            value=each[STATUS[0]],
            goal=MOST,
            detail=f"besides, per device: {others}",
        ),
    )


def _await_quiet(cluster: Cluster) -> Counter[Request]:
    """Return the counts once nothing was written for LINGER_S, longer than anything waits to be written together."""
    last = ours(cluster)

    def quiet() -> bool:
        nonlocal last
        previous, last = last, ours(cluster)
        return last.total() > 0 and all(of_kind(last, each) == of_kind(previous, each) for each in STATUS)

    time.sleep(LINGER_S)
    until(quiet, "nothing is written any more", poll_s=LINGER_S)
    return last

# SPDX-License-Identifier: Apache-2.0
"""What events of single devices cost the controller while a fleet is at rest, and how often it writes a status.

The controller runs in this process on an API in memory. Its handlers, its queue and its passes are the real ones, fed
by an informer; seconds are of the processor. The burst runs on a cluster, where the apiserver counts the writes.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from e2e.bench.controller.in_memory import ready_status, running_controller
from e2e.bench.measure.context import Context, progress, until
from e2e.bench.measure.figures import Figure, at_most, median_figure, number
from e2e.bench.measure.fleet import CONCURRENCY, NAME, DeployedFleet
from e2e.stack.request_counts import of_kind, ours
from e2e.stack.stack import Stack, StackSettings
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_controller.reconcile.state import DirtySet

SIZES = (10_000, 100_000)
STATUSES = "deviceprocessdeployments/status"
ONCE_A_SECOND = at_most(1.0)


class Switchable(DirtySet):
    """Can be turned *off*: then every event makes a pass over all devices."""

    off = False

    def take(self, key: Key) -> frozenset[str] | None:
        recorded = super().take(key)
        return None if self.off else recorded


@frozen
class Cost:
    """Processor seconds of events handled incrementally, and of events that make a pass over all devices."""

    alone: list[float]
    among_all: list[float]


def measure(context: Context) -> tuple[Figure, ...]:
    """Let single devices fail and recover in fleets in memory, then thousands at once on a cluster."""
    figures: list[Figure] = []
    for devices in context.size(SIZES, (1_000,)):
        progress(f"a fleet of {devices:,} devices in memory")
        figures += _figures(devices, asyncio.run(_cost(devices, context.size(40, 10))))
    return (*figures, *_burst(context, context.size(2_000, 200)))


def _figures(devices: int, cost: Cost) -> Iterator[Figure]:
    alone, among_all = statistics.median(cost.alone), statistics.median(cost.among_all)
    what = f"one device's event, {devices:,} devices at rest"
    yield median_figure(f"{what}: processor time", [each * 1000 for each in cost.alone], unit="ms")
    yield Figure(
        what=f"{what}: events a core could absorb one by one",
        value=1 / alone,
        unit="/s",
        detail=f"{number(1 / among_all)} with a pass over all devices for each",
    )
    yield Figure(
        what=f"{what}: a pass over all devices against it",
        value=among_all / alone,
        unit="x",
        detail=f"{number(among_all * 1000)} ms against {number(alone * 1000)} ms",
    )


async def _cost(devices: int, events: int) -> Cost:
    """Return what events cost, one by one, from the watch event to the write of the status."""
    dirty = Switchable()
    async with running_controller(devices, dirty) as fleet:

        async def absorb(number: int) -> float:
            await fleet.report(number // 2, "Running" if number % 2 else "Failed")
            gc.collect()  # the garbage of the event before is not this one's
            began = time.process_time()
            await fleet.clock.advance(1.5)
            return time.process_time() - began

        gc.freeze()  # nor is walking the fleet that the API in memory holds
        alone = [await absorb(number) for number in range(events)]
        dirty.off = True
        among_all = [await absorb(number) for number in range(max(4, events // 4))]
        gc.unfreeze()
    return Cost(alone, among_all)


def _burst(context: Context, devices: int) -> Iterator[Figure]:
    """Report for all processes at once, and count how often the deployment's status is written meanwhile."""
    with context.launched() as cluster:
        stack = Stack(cluster, context.folder("stack"), StackSettings(namespace="default"))
        with stack.running(stack.controller):
            fleet = DeployedFleet(stack, devices)
            fleet.apply(1)
            until(
                lambda: _counted(fleet, "currentNumberScheduled") == devices, "every device has its process", poll_s=0.2
            )
            before, began = ours(cluster), time.monotonic()
            asyncio.run(_report_all(cluster.kubeconfig, [f"{NAME}-{name}" for name in fleet.names]))
            reported_s = time.monotonic() - began
            until(lambda: _counted(fleet, "numberAvailable") == devices, "the status counts every report")
            counted_s = time.monotonic() - began
            written = sum(of_kind(ours(cluster) - before, STATUSES).values())
    yield Figure(
        what=f"status writes of a deployment a second, in a burst of {devices:,} status events",
        value=max(0, written - 1) / counted_s,  # the first is immediate; the others are a second apart
        goal=ONCE_A_SECOND,
        detail=f"{written} in {counted_s:.1f} s; {number(devices / reported_s)} events a second",
    )
    yield Figure(what="from the last event to the status that counts it", value=counted_s - reported_s, unit="s")


async def _report_all(kubeconfig: Path, names: list[str]) -> None:
    left = iter(names)
    body = {"status": ready_status(datetime.now(UTC))}
    async with await KubeClient.from_config(str(kubeconfig)) as client, asyncio.TaskGroup() as group:

        async def work() -> None:
            for name in left:
                await client.patch(DEVICE_PROCESSES, Key("default", name), body, subresource="status")

        for number in range(CONCURRENCY):
            group.create_task(work(), name=f"report {number}")


def _counted(fleet: DeployedFleet, field: str) -> int:
    return int(fleet.kube.deployment(NAME).get("status", {}).get(field, 0))

# SPDX-License-Identifier: Apache-2.0
"""How fast the controller fans a deployment out, against a bare loop of creates with the same client.

The loop creates the same objects in another namespace, as many at a time as the controller, and does nothing else.
"""

from __future__ import annotations

import json
import time

from attrs import frozen

from e2e.bench.measure.context import Context, progress, run_module, until
from e2e.bench.measure.figures import Figure, at_least, ratio_figure
from e2e.bench.measure.fleet import GROUP, GROUPS, DeployedFleet
from e2e.bench.measure.proc import cpu_seconds
from e2e.stack.kube import PROCESSES, Kube
from e2e.stack.manifests import deployment, process_spec
from e2e.stack.server import Server
from e2e.stack.stack import Stack, StackSettings

LIKE_A_BARE_LOOP = at_least(0.85)
BARE = "bare"


@frozen(kw_only=True)
class Made:
    """What it took to make some processes: seconds on the clock, and of the client's processor."""

    wall_s: float
    cpu_s: float


def measure(context: Context) -> tuple[Figure, ...]:
    """Fan out and run the loop in turns."""
    real = context.cluster == "envtest" and not context.quick
    count, rounds = (5_000, 2) if real else (context.size(400, 100), GROUPS)
    rates: dict[str, list[float]] = {"fanned out": [], "bare": []}
    costs: dict[str, list[float]] = {"fanned out": [], "bare": []}
    with context.launched() as cluster:
        stack = Stack(cluster, context.folder("stack"), StackSettings(namespace="default"))
        with stack.running(stack.controller):
            fleet = DeployedFleet(stack, count * rounds, groups=rounds)
            bare = stack.kube(BARE).create_namespace()
            for number in range(rounds):
                loop = _bare_loop(stack, bare, number, count)
                controller = _fan_out(fleet, stack.controller, number, count)
                for name, made in (("bare", loop), ("fanned out", controller)):
                    rates[name].append(count / made.wall_s)
                    costs[name].append(made.cpu_s / count * 1000)
                progress(
                    f"round {number + 1}: {count} in {loop.wall_s:.1f} s bare, in {controller.wall_s:.1f} s fanned out"
                )
    what = f"{rounds} times {count:,} processes, fan-out against a bare loop"
    return (
        ratio_figure(f"created a second: {what}", rates["fanned out"], rates["bare"], goal=LIKE_A_BARE_LOOP),
        ratio_figure("processor ms of the client for each, its watches included", costs["fanned out"], costs["bare"]),
    )


def _fan_out(fleet: DeployedFleet, controller: Server, number: int, count: int) -> Made:
    """Return what it took until a new deployment, to one group of the devices, has all its processes."""
    before = object_count_of(fleet.kube)
    began, cpu = time.monotonic(), cpu_seconds(controller.program.pid)
    spec = process_spec(["/bin/sleep", "1000"])
    fleet.kube.apply(deployment(f"agent-{number}", spec, match={GROUP: str(number)}))
    until(lambda: object_count_of(fleet.kube) == before + count, "every process is there", within_s=300, poll_s=0.05)
    return Made(wall_s=time.monotonic() - began, cpu_s=cpu_seconds(controller.program.pid) - cpu)


def object_count_of(kube: Kube) -> int:
    """Return how many DeviceProcesses the namespace has, without reading them all."""
    page = kube.api.get(kube.path(PROCESSES), limit=1).body
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)


def _bare_loop(stack: Stack, kube: Kube, number: int, count: int) -> Made:
    where = (str(stack.cluster.kubeconfig), kube.namespace, f"agent-{number}", str(count))
    return Made(**json.loads(run_module("e2e.bench.controller.creates", *where)))

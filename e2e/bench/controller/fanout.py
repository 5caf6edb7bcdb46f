# SPDX-License-Identifier: Apache-2.0
"""What it takes the controller to fan a deployment out, against a bare loop of creates with the same client.

The loop creates the same objects in another namespace, as many at a time as the controller, and does nothing else. Both
take short turns, the one that was first in a round second in the next, so that they meet the same load. They are
compared by the processor time of their own process for each object; the controller's includes what it reads back from
its watch, its passes, and the status that says that all are there. The first round is not counted: it warms both up.
"""

from __future__ import annotations

import json
import time

from attrs import frozen

from e2e.bench.measure.context import Context, progress, run_module, until
from e2e.bench.measure.figures import Figure, at_least, ratio_figure
from e2e.bench.measure.fleet import DeployedFleet
from e2e.bench.measure.proc import cpu_seconds
from e2e.stack.kube import PROCESSES, Kube
from e2e.stack.manifests import deployment, process_spec
from e2e.stack.stack import Stack, StackSettings

LIKE_A_BARE_LOOP = at_least(0.85)
BARE, FANNED_OUT = "bare", "fanned out"


@frozen(kw_only=True)
class Made:
    """How many processes were made, and what it took: seconds on the clock, and of the client's processor."""

    count: int
    wall_s: float
    cpu_s: float


def measure(context: Context) -> tuple[Figure, ...]:
    """Fan out and run the loop in turns."""
    count, rounds = context.size((500, 10), (100, 2))
    made: dict[str, list[Made]] = {BARE: [], FANNED_OUT: []}
    with context.launched() as cluster:
        stack = Stack(cluster, context.folder("stack"), StackSettings(namespace="default"))
        with stack.running(stack.controller):
            fleet = DeployedFleet(stack, count)
            bare = stack.kube(BARE).create_namespace()
            for number in range(rounds + 1):
                for name in made if number % 2 else reversed(made):
                    is_bare = name == BARE
                    turn = _bare_loop(stack, bare, number, count) if is_bare else _fan_out(stack, fleet, number, count)
                    made[name].append(turn)
                took = ", ".join(f"{taken[-1].wall_s:.1f} s {name}" for name, taken in made.items())
                progress(f"round {number} of {rounds}: {count} in {took}")
    counted = {name: taken[1:] for name, taken in made.items()}
    for_each = {name: [each.count / each.cpu_s for each in taken] for name, taken in counted.items()}
    rates = {name: [each.count / each.wall_s for each in taken] for name, taken in counted.items()}
    what = f"{rounds} times {count:,} processes, fan-out against a bare loop"
    return (
        ratio_figure(
            f"created in a second of the client's processor: {what}",
            for_each[FANNED_OUT],
            for_each[BARE],
            goal=LIKE_A_BARE_LOOP,
        ),
        ratio_figure("created in a second on the clock, where other load counts", rates[FANNED_OUT], rates[BARE]),
    )


def _fan_out(stack: Stack, fleet: DeployedFleet, number: int, count: int) -> Made:
    """Return what it took until a new deployment, with other arguments, has a process for each device."""
    name, pid, spec = f"agent-{number}", stack.controller.program.pid, process_spec(["/bin/sleep", str(1000 + number)])
    before = object_count_of(fleet.kube)
    began, cpu = time.monotonic(), cpu_seconds(pid)
    fleet.kube.apply(deployment(name, spec))
    until(lambda: object_count_of(fleet.kube) == before + count, "every process is there", within_s=300, poll_s=0.05)
    wall_s = time.monotonic() - began
    until(
        lambda: fleet.kube.deployment(name).get("status", {}).get("currentNumberScheduled") == count,
        "the status says so",
        poll_s=0.1,
    )
    return Made(count=count, wall_s=wall_s, cpu_s=cpu_seconds(pid) - cpu)


def object_count_of(kube: Kube) -> int:
    """Return how many DeviceProcesses the namespace has, without reading them all."""
    page = kube.api.get(kube.path(PROCESSES), limit=1).body
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)


def _bare_loop(stack: Stack, kube: Kube, number: int, count: int) -> Made:
    where = (str(stack.cluster.kubeconfig), kube.namespace, f"agent-{number}", str(count))
    return Made(count=count, **json.loads(run_module("e2e.bench.controller.creates", *where)))

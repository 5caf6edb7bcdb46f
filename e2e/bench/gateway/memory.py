# SPDX-License-Identifier: Apache-2.0
"""Memory of a gateway: for each DeviceProcess that it knows, and for each connection that waits."""

from __future__ import annotations

from e2e.bench.gateway.propagation import crowd
from e2e.bench.gateway.throughput import baseline_server
from e2e.bench.measure.context import Context, run_module, until
from e2e.bench.measure.figures import Figure, at_most, number
from e2e.bench.measure.fleet import DeployedFleet
from e2e.bench.measure.proc import resident_kib
from e2e.stack.server import Server
from e2e.stack.stack import Stack, StackSettings

FEW = 100
PER_PROCESS_KIB = at_most(2.0)
LIKE_BARE = at_most(1.25)


def measure(context: Context) -> tuple[Figure, ...]:
    """Measure both."""
    return (*_of_cache(context), *_of_connections(context))


def _of_cache(context: Context) -> tuple[Figure, ...]:
    count = context.size(40_000, 5_000)
    few, processes, both = (_cached(*size) for size in ((FEW, 0), (count, 0), (count, count)))
    each = (processes - few) / (count - FEW)
    detail = f"{number(processes / 1024)} MiB with {count:,}, {number(few / 1024)} MiB with {FEW}"
    switch = (both - processes) / count
    return (
        Figure(what="for each cached DeviceProcess", value=each, unit="KiB", goal=PER_PROCESS_KIB, detail=detail),
        Figure(what="for the NetworkSwitch of its device, besides", value=switch, unit="KiB"),
    )


def _cached(processes: int, switches: int) -> float:
    return float(run_module("e2e.bench.gateway.cached", str(processes), str(switches)))


def _of_connections(context: Context) -> tuple[Figure, ...]:
    count = context.size(2_000, 200)
    with context.launched() as cluster:
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=15))
        with stack.running(stack.gateway):
            fleet = DeployedFleet(stack, count)
            tokens = {name: stack.token(name) for name in fleet.names}
            until(lambda: f"praetor_gateway_devices {count}.0" in stack.gateway.metrics(), "all devices are known")
            ours = _grown(context, stack.gateway, {"devices": tokens})
        bare = baseline_server(context)
        try:
            theirs = _grown(context, bare, {"devices": tokens, "path": "hold"})
        finally:
            bare.program.stop()
    detail = f"{number(ours)} KiB against {number(theirs)} KiB, {count:,} connections"
    what = "for each waiting connection against a bare server that holds it"
    return (Figure(what=what, value=ours / theirs, unit="x", goal=LIKE_BARE, detail=detail),)


def _grown(context: Context, server: Server, plan: dict[str, object]) -> float:
    """Return by how many KiB the server grew for each device of *plan* that waits."""
    before = resident_kib(server.program.pid)
    devices = plan["devices"]
    assert isinstance(devices, dict)
    with crowd(context.folder(f"crowd-{server.name}"), {"port": server.ports[0], **plan}):
        return (resident_kib(server.program.pid) - before) / len(devices)

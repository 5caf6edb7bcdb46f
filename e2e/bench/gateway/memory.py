# SPDX-License-Identifier: Apache-2.0
"""Memory of a gateway: for each DeviceProcess that it knows, and for each connection that waits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from e2e.bench.gateway.propagation import crowd
from e2e.bench.gateway.throughput import pairs
from e2e.bench.measure.context import Context, run_module, until
from e2e.bench.measure.figures import Figure, at_most, number
from e2e.bench.measure.fleet import DeployedFleet
from e2e.bench.measure.proc import resident_kib
from e2e.stack.server import Server
from e2e.stack.stack import Stack, StackSettings
from praetor_gateway.settings import ServerKind

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
    with context.launched() as cluster, ExitStack() as running:
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=15))
        running.enter_context(stack.running())
        fleet = DeployedFleet(stack, count)
        tokens = {name: stack.token(name) for name in fleet.names}
        servers = pairs(context, stack, running)
        return tuple(_of_server(context, kind, *pair, tokens) for kind, pair in servers.items())


def _of_server(context: Context, kind: ServerKind, gateway: Server, bare: Server, tokens: Mapping[str, str]) -> Figure:
    count = len(tokens)
    until(lambda: f"praetor_gateway_devices {count}.0" in gateway.metrics(), "all devices are known")
    ours = _grown(context, gateway, {"devices": tokens})
    theirs = _grown(context, bare, {"devices": tokens, "path": "hold"})
    detail = f"{number(ours)} KiB against {number(theirs)} KiB, {count:,} connections"
    what = f"for each waiting connection on {kind} against a bare server that holds it"
    return Figure(what=what, value=ours / theirs, unit="x", goal=LIKE_BARE, detail=detail)


def _grown(context: Context, server: Server, plan: Mapping[str, Any]) -> float:
    """Return by how many KiB the server grew for each device of *plan* that waits."""
    before = resident_kib(server.program.pid)
    with crowd(context.folder(f"crowd-{server.name}"), {"port": server.ports[0], **plan}):
        return (resident_kib(server.program.pid) - before) / len(plan["devices"])

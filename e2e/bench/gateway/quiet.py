# SPDX-License-Identifier: Apache-2.0
"""Devices that a core carries: polls that are held, renewed and count as heartbeats, as a device sends while it rests.

Each device has a connection of its own and holds its poll for the shortest time that it can ask for, so that a few
thousand of them ask as often as many that hold it for an interval; how long it is held costs nothing but memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import ExitStack

from e2e.bench.gateway.baseline import HELD_S
from e2e.bench.gateway.throughput import etag, head_of, load, pairs, per_core_second, target
from e2e.bench.measure.context import Context, progress
from e2e.bench.measure.figures import Figure, at_least, median_figure, ratio_figure
from e2e.bench.measure.fleet import DeployedFleet
from e2e.stack.server import Server
from e2e.stack.stack import Stack, StackSettings
from praetor_api.protocol import POLL_HEADER, desired_path
from praetor_gateway.settings import ServerKind

HEARTBEAT_S = 15
BOOT_ID = "5d1f7a4e"
DEVICES_PER_CORE = {ServerKind.UVICORN: at_least(200_000), ServerKind.HYPERCORN: None}
TIMES_HYPERCORN = at_least(4.0)
ORIGINAL = 77_000
"""Devices that a core carried in the original system, in Go, with all that they sent: 24 requests a minute each."""


def measure(context: Context) -> tuple[Figure, ...]:
    """Measure renewed polls on each server, the gateway's and those of a route that holds and does nothing else."""
    with context.launched() as cluster, ExitStack() as running:
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=HEARTBEAT_S))
        running.enter_context(stack.running(stack.controller))
        fleet = DeployedFleet(stack, context.size(2_000, 100), strategy="Recreate")
        fleet.apply(1)
        servers = pairs(context, stack, running)
        for gateway, _ in servers.values():
            etags = {name: etag(stack, gateway, name) for name in fleet.names}
        stack.controller.program.terminate()  # nothing changes any more
        return _figures(context, stack, etags, servers)


def _figures(
    context: Context, stack: Stack, etags: Mapping[str, str], servers: Mapping[ServerKind, tuple[Server, Server]]
) -> tuple[Figure, ...]:
    prefer = f"Prefer: wait={HELD_S:.0f}\r\n{POLL_HEADER}: {BOOT_ID}/{{number}}\r\n\r\n"
    heads = {name: f"{head_of(stack, name)}If-None-Match: {tag}\r\n{prefer}" for name, tag in etags.items()}
    polls = [f"GET {desired_path(name)}{head}" for name, head in heads.items()]
    held = [f"GET /v1/devices/{name}/held{head}" for name, head in heads.items()]
    targets = [
        target(server, asked) for pair in servers.values() for server, asked in zip(pair, (polls, held), strict=True)
    ]
    plan = {"rounds": context.size(7, 1), "turn_s": 3 * HELD_S, "spread_s": HELD_S, "targets": targets}
    taken = load(plan)
    rates = [per_core_second(turns) for turns in taken]
    ours, theirs = dict(zip(servers, rates[::2], strict=True)), dict(zip(servers, rates[1::2], strict=True))
    for kind, turns in zip(servers, taken[::2], strict=True):
        busy = statistics.median(turn["server_s"] / turn["wall_s"] for turn in turns)
        progress(f"quiet polls on {kind}: {len(polls):,} a second keep {busy:.0%} of a core busy")
    carried = {kind: [rate * HEARTBEAT_S for rate in ours[kind]] for kind in DEVICES_PER_CORE}
    against_original = {kind: [each / ORIGINAL for each in devices] for kind, devices in carried.items()}
    what = f"devices per core, each with a quiet poll every {HEARTBEAT_S} s"
    return (
        *(median_figure(f"{what}, on {kind}", carried[kind], goal=goal) for kind, goal in DEVICES_PER_CORE.items()),
        *(
            median_figure(f"the same on {kind}, against {ORIGINAL:,} of the original system", ratios, unit="x")
            for kind, ratios in against_original.items()
        ),
        *(
            median_figure(f"how fast the core was: per core-second an empty route that holds, on {kind}", rate)
            for kind, rate in theirs.items()
        ),
        *(
            ratio_figure(
                f"quiet polls on {kind}: per core-second against an empty route that holds", ours[kind], theirs[kind]
            )
            for kind in servers
        ),
        ratio_figure(
            "quiet polls per core-second on uvicorn against Hypercorn",
            ours[ServerKind.UVICORN],
            ours[ServerKind.HYPERCORN],
            goal=TIMES_HYPERCORN,
        ),
    )

# SPDX-License-Identifier: Apache-2.0
"""Requests that the apiserver sees while devices send heartbeats in which nothing changed, by its own count."""

from __future__ import annotations

import time

from e2e.bench.measure.context import Context
from e2e.bench.measure.figures import Figure, at_most
from e2e.bench.measure.fleet import DeployedFleet
from e2e.stack.request_counts import LEASES, of_kind, ours, settled
from e2e.stack.stack import Stack, StackSettings
from e2e.suite.heartbeats import Beats

HEARTBEATS = 10_000


def measure(context: Context) -> tuple[Figure, ...]:
    """Let a settled fleet send heartbeats through the real gateway, the controller watching, and count."""
    devices = context.size(200, 50)
    rounds = context.size(HEARTBEATS, 1_000) // devices
    with context.launched() as cluster:
        settings = StackSettings(heartbeat=15, gateway_flags=("--device-rate=1000000",))
        stack = Stack(cluster, context.folder("stack"), settings)
        with stack.running(*stack.servers()):
            fleet = DeployedFleet(stack, devices)
            with fleet.simulated():
                fleet.deploy(1)
            beats = Beats(stack.gateway_url, {name: stack.token(name) for name in fleet.names})
            beats.send(1)  # reports another agent version and boot once, which is written
            before = settled(cluster)
            began = time.monotonic()
            sent = beats.send(rounds)
            took = time.monotonic() - began
            caused = ours(cluster) - before
    renewals = sum(of_kind(caused, LEASES).values())
    others = {request: count for request, count in caused.items() if request.resource != LEASES}
    detail = ", ".join(f"{count} {request.verb} {request.resource}" for request, count in others.items())
    return (
        Figure(
            what=f"apiserver requests in {sent:,} unchanged heartbeats of {devices} devices",
            value=sum(others.values()),
            goal=at_most(0),
            detail=detail or f"{took:.0f} s, controller and gateway running",
        ),
        Figure(
            what="Lease requests meanwhile, of both programs", value=renewals, detail=f"{renewals / took:.1f} a second"
        ),
    )

# SPDX-License-Identifier: Apache-2.0
"""How long after the apiserver's watch event a waiting device has its changed spec in hand."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.bench.measure.context import Context, own_environment, progress, until
from e2e.bench.measure.figures import Figure, at_most, percentile
from e2e.bench.measure.first_seen import FirstSeen, delays, first_seen, whole_lines
from e2e.bench.measure.fleet import NAME, DeployedFleet
from e2e.clusters.cluster import Cluster
from e2e.stack.kube import PROCESSES
from e2e.stack.program import Program
from e2e.stack.stack import Stack, StackSettings
from praetor_gateway.settings import ServerKind

P50 = at_most(50.0)
P99 = at_most(250.0)
TAIL = 50


def measure(context: Context) -> tuple[Figure, ...]:
    """Change specs of devices that all wait: one after the other, and all as fast as the controller writes."""
    figures: list[Figure] = []
    for devices in context.size((200, 2_000), (50,)):
        for kind in (ServerKind.UVICORN, ServerKind.HYPERCORN):
            figures += _of_fleet(context, devices, kind)
    return tuple(figures)


def _of_fleet(context: Context, devices: int, kind: ServerKind) -> tuple[Figure, ...]:
    folder = context.folder(f"{devices}-devices-{kind}")
    with context.launched(folder) as cluster:
        stack = Stack(cluster, folder / "stack", StackSettings(heartbeat=15, gateway_flags=(f"--server={kind}",)))
        with stack.running(*stack.servers()):
            fleet = DeployedFleet(stack, devices, strategy="Recreate")
            fleet.apply(1)
            tokens = {name: stack.token(name) for name in fleet.names}
            with crowd(folder, {"port": stack.gateway.ports[0], "devices": tokens}) as seen:
                until(lambda: len(first_seen(whole_lines(seen))) == devices, "every device has the first spec")
                with _watched(folder, cluster, fleet) as watched:
                    rounds = [_change(fleet, number, watched, seen) for number in range(2, context.size(5, 3))]
                    stack.controller.program.terminate()  # it would revert the single changes
                    single = _change_singly(fleet, context.size(60, 20), watched, seen)
    late = [delay for each, _ in rounds for delay in each]
    rate = devices / max(seconds for _, seconds in rounds)
    burst = f"{len(rounds)} changes of all at {rate:,.0f} specs a second"
    return (
        *_figures(f"{kind}, one of {devices:,} devices at a time", single, f"{len(single)} changes"),
        *_figures(f"{kind}, all of {devices:,} devices at once", late, burst),
    )


def _figures(what: str, late: Sequence[float], detail: str) -> Iterator[Figure]:
    for name, share, goal in (("p50", 0.5, P50), ("p99", 0.99, P99)):
        yield Figure(
            what=f"{what}, {name} from watch event to device",
            value=percentile(late, share) * 1000,
            unit="ms",
            goal=goal,
            detail=f"{detail}; worst {max(late) * 1000:,.0f} ms",
        )


def _change_singly(fleet: DeployedFleet, count: int, watched: Path, seen: Path) -> list[float]:
    """Return the delays of changes of single processes, each made when the one before has arrived."""
    keys = []
    for name in fleet.names[:count]:
        changed = fleet.kube.patch(PROCESSES, f"{NAME}-{name}", {"spec": {"execution": {"args": ["once more"]}}})
        key = (changed["metadata"]["name"], changed["metadata"]["generation"])
        until(lambda key=key: key in first_seen(whole_lines(seen)[-TAIL:]), f"{name} has its spec")  # type: ignore[misc]
        keys.append(key)
    until(lambda: set(keys) <= first_seen(whole_lines(watched)).keys(), "the watch saw every spec")
    sink = first_seen(whole_lines(seen))
    return delays(first_seen(whole_lines(watched)), {key: sink[key] for key in keys})


def _change(fleet: DeployedFleet, revision: int, watched: Path, seen: Path) -> tuple[list[float], float]:
    """Return the delays of one change of all specs, and how many seconds the change took in all."""
    before, began = set(first_seen(whole_lines(seen))), time.monotonic()

    def arrived() -> FirstSeen:
        return {key: at for key, at in first_seen(whole_lines(seen)).items() if key not in before}

    fleet.apply(revision)
    until(lambda: len(arrived()) == len(fleet.names), f"every device has spec {revision}", poll_s=0.5)
    sink = arrived()
    until(lambda: sink.keys() <= first_seen(whole_lines(watched)).keys(), "the watch saw every spec", poll_s=0.5)
    late, seconds = delays(first_seen(whole_lines(watched)), sink), time.monotonic() - began
    progress(f"{len(late)} specs in {seconds:.1f} s: p50 {percentile(late, 0.5) * 1000:.0f} ms")
    return late, seconds


@contextmanager
def crowd(folder: Path, plan: Mapping[str, Any]) -> Iterator[Path]:
    """Run the devices of *plan* around the block, which begins when all wait; yields the file that they write."""
    (folder / "plan.json").write_text(json.dumps({"host": "127.0.0.1", **plan}))
    output = folder / "seen.jsonl"
    program = _module("pollers", folder, str(folder / "plan.json"), str(output))
    try:
        count = {"waiting": len(plan["devices"])}
        until(lambda: _alive(program) and count in map(json.loads, whole_lines(output)), "every device waits")
        yield output
    finally:
        program.stop()


@contextmanager
def _watched(folder: Path, cluster: Cluster, fleet: DeployedFleet) -> Iterator[Path]:
    output = folder / "watched.jsonl"
    program = _module("watching", folder, str(cluster.kubeconfig), fleet.kube.namespace, str(output))
    try:
        until(lambda: _alive(program) and bool(whole_lines(output)), "the watch is open")
        yield output
    finally:
        program.stop()


def _module(name: str, folder: Path, *arguments: str) -> Program:
    argv = [sys.executable, "-m", f"e2e.bench.gateway.{name}", *arguments]
    program = Program(name, argv, workdir=folder, env=own_environment())
    program.start()
    return program


def _alive(program: Program) -> bool:
    return program.pid > 0  # StackError, with the end of the log, when it is not

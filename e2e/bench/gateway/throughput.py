# SPDX-License-Identifier: Apache-2.0
"""Requests that a gateway serves per core, against an empty route on the same server.

A core is a second of the server's processor time, so that what else runs on the machine matters little.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import requests

from e2e.bench.gateway.load import Turn
from e2e.bench.measure.context import Context, own_environment, progress, run_module, until
from e2e.bench.measure.figures import Figure, at_least, median_figure, ratio_figure
from e2e.stack.manifests import device_process, network_switch, process_spec
from e2e.stack.server import Server
from e2e.stack.stack import Stack, StackSettings
from praetor_api.protocol import TOKEN_HEADER, Report, desired_path, report_path
from praetor_api.wire import write

CONNECTIONS = 64
HEARTBEAT_S = 15
DEVICES_OF_THE_ORIGINAL = 77_000
LIKE_AN_EMPTY_ROUTE = at_least(0.85)


def measure(context: Context) -> tuple[Figure, ...]:
    """Measure 304s and heartbeats, the gateway's and the empty route's in turns."""
    with context.launched() as cluster:
        flags = ("--device-rate=1000000",)  # few devices stand for many here
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=HEARTBEAT_S, gateway_flags=flags))
        with stack.running(stack.gateway):
            baseline = baseline_server(context)
            try:
                return _figures(context, stack, baseline)
            finally:
                baseline.program.stop()


def baseline_server(context: Context) -> Server:
    """Return the running server of empty routes."""

    def arguments(ports: Sequence[int]) -> Sequence[str]:
        return (sys.executable, "-m", "e2e.bench.gateway.baseline", str(ports[0]))

    server = Server("baseline", arguments, ports=1, workdir=context.folder("baseline"), env=own_environment())
    server.start()
    return server


def _figures(context: Context, stack: Stack, baseline: Server) -> tuple[Figure, ...]:
    asks, servers = _asks(stack), (stack.gateway, baseline)
    targets = [(way, server) for way in asks for server in servers]
    plan = {
        "rounds": context.size(30, 6),
        "turn_s": context.size(0.3, 0.15),
        "targets": [_target(server, asks[way]) for way, server in targets],
    }
    turns = dict(zip(((way, server.name) for way, server in targets), _load(plan), strict=True))
    for (way, name), taken in turns.items():
        wall, server, own = (statistics.median(turn[key] for turn in taken) for key in ("wall_s", "server_s", "own_s"))
        rate = statistics.median(turn["requests"] / turn["wall_s"] for turn in taken)
        progress(f"{way}, {name}: {rate:,.0f}/s on the clock; server busy {server / wall:.0%}, load {own / wall:.0%}")
    rates = {key: [turn["requests"] / turn["server_s"] for turn in taken] for key, taken in turns.items()}
    devices = [rate * HEARTBEAT_S for rate in rates["heartbeat", stack.gateway.name]]
    return (
        *(
            ratio_figure(
                f"{way}: requests per core-second against an empty route",
                rates[way, stack.gateway.name],
                rates[way, baseline.name],
                goal=LIKE_AN_EMPTY_ROUTE,
            )
            for way in asks
        ),
        median_figure(
            f"devices per core at a {HEARTBEAT_S} s heartbeat", devices, goal=at_least(DEVICES_OF_THE_ORIGINAL)
        ),
    )


def _asks(stack: Stack) -> Mapping[str, Sequence[str]]:
    devices = [f"leaf-{number}" for number in range(CONNECTIONS)]
    kube = stack.kube("default")
    spec = process_spec(["/bin/sleep", "1000"])
    kube.apply(*(network_switch(name) for name in devices), *(device_process(name, name, spec) for name in devices))
    etags = {name: _etag(stack, name) for name in devices}
    body = json.dumps(write(Report(agent_version="0.1.0", boot_id="5d1f7a4e", seq=1, timestamp="2026-01-01T00:00:00Z")))
    head = {name: f" HTTP/1.1\r\nHost: gateway\r\n{TOKEN_HEADER}: {stack.token(name)}\r\n" for name in devices}
    typed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return {
        "304": [f"GET {desired_path(name)}{head[name]}If-None-Match: {etags[name]}\r\n\r\n" for name in devices],
        "heartbeat": [f"POST {report_path(name)}{head[name]}{typed}" for name in devices],
    }


def _etag(stack: Stack, device: str) -> str:
    """Return the ETag of the device's desired state once its process is in it."""
    tag = ""

    def served() -> bool:
        nonlocal tag
        url = stack.gateway_url + desired_path(device)
        answer = requests.get(url, headers={TOKEN_HEADER: stack.token(device)}, timeout=5)
        tag = answer.headers.get("ETag", "")
        return answer.status_code == HTTPStatus.OK and bool(answer.json()["items"])

    until(served, f"{device} is served its process")
    return tag


def _target(server: Server, requests: Sequence[str]) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": server.ports[0], "pid": server.program.pid, "requests": list(requests)}


def _load(plan: Mapping[str, Any]) -> list[list[Turn]]:
    turns: list[list[Turn]] = json.loads(run_module("e2e.bench.gateway.load", text=json.dumps(plan)))
    return turns

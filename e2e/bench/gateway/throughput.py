# SPDX-License-Identifier: Apache-2.0
"""Requests that a gateway serves per core, against an empty route on the same server.

A core is a second of the server's processor time, so that what else runs on the machine matters little.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

import requests

from e2e.bench.gateway.load import Turn
from e2e.bench.measure.context import Context, own_environment, progress, run_module, until
from e2e.bench.measure.figures import Figure, at_least, ratio_figure
from e2e.stack.kube import Object
from e2e.stack.manifests import device_process, network_switch, process_spec
from e2e.stack.server import Server
from e2e.stack.stack import Stack, StackSettings
from praetor_api.annotations import TRACEPARENT_ANNOTATION
from praetor_api.protocol import AGENT_FEATURES, FEATURES_HEADER, TOKEN_HEADER, Report, desired_path, report_path
from praetor_api.wire import write
from praetor_gateway.settings import ServerKind

CONNECTIONS = 64
SLEEP = process_spec(["/bin/sleep", "1000"])
HEARTBEAT_S = 15
TRACED = {TRACEPARENT_ANNOTATION: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
LIKE_AN_EMPTY_ROUTE = {
    ServerKind.HYPERCORN: {"304": 0.85, "heartbeat": 0.85},
    ServerKind.UVICORN: {"304": 0.75, "heartbeat": 0.65},
}
TIMES_HYPERCORN = {"304": 4.0, "heartbeat": 3.5}


def measure(context: Context) -> tuple[Figure, ...]:
    """Measure 304s and heartbeats on each server, the gateway's and the empty route's in turns, then with traces."""
    with context.launched() as cluster, ExitStack() as running:
        flags = ("--device-rate=1000000",)  # few devices stand for many here
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=HEARTBEAT_S, gateway_flags=flags))
        running.enter_context(stack.running())
        servers = pairs(context, stack, running)
        figures = _figures(context, asks(stack, [gateway for gateway, _ in servers.values()]), servers)
        return (*figures, *_of_tracing(context, stack, running, servers[ServerKind.UVICORN][0]))


def pairs(context: Context, stack: Stack, running: ExitStack) -> dict[ServerKind, tuple[Server, Server]]:
    """Return, by the kind of its server, a gateway and the empty routes beside it, which run until *running* ends."""
    servers = {}
    for kind in LIKE_AN_EMPTY_ROUTE:
        gateway = stack.new_gateway(f"gateway-{kind}", f"--server={kind}")
        running.callback(gateway.program.stop)
        gateway.start()
        baseline = baseline_server(context, kind)
        running.callback(baseline.program.stop)
        servers[kind] = gateway, baseline
    return servers


def baseline_server(context: Context, kind: ServerKind = ServerKind.AUTO) -> Server:
    """Return the running server of empty routes."""

    def arguments(ports: Sequence[int]) -> Sequence[str]:
        return (sys.executable, "-m", "e2e.bench.gateway.baseline", str(ports[0]), kind)

    name = f"baseline-{kind}"
    server = Server(name, arguments, ports=1, workdir=context.folder(name), env=own_environment())
    server.start()
    return server


def _figures(
    context: Context, asks: Mapping[str, Sequence[str]], servers: Mapping[ServerKind, tuple[Server, Server]]
) -> tuple[Figure, ...]:
    targets = [(way, kind, number) for way in asks for kind in servers for number in range(2)]
    plan = {
        "rounds": context.size(30, 6),
        "turn_s": context.size(0.3, 0.15),
        "targets": [target(servers[kind][number], asks[way]) for way, kind, number in targets],
    }
    turns = dict(zip(targets, load(plan), strict=True))
    for (way, kind, number), taken in turns.items():
        wall, server, own = (statistics.median(turn[key] for turn in taken) for key in ("wall_s", "server_s", "own_s"))
        rate = statistics.median(turn["requests"] / turn["wall_s"] for turn in taken)
        name = servers[kind][number].name
        progress(f"{way}, {name}: {rate:,.0f}/s on the clock; server busy {server / wall:.0%}, load {own / wall:.0%}")
    rates = {key: per_core_second(taken) for key, taken in turns.items()}
    ours = {(way, kind): rates[way, kind, 0] for way in asks for kind in servers}
    return (
        *(
            ratio_figure(
                f"{way} on {kind}: requests per core-second against an empty route",
                ours[way, kind],
                rates[way, kind, 1],
                goal=at_least(LIKE_AN_EMPTY_ROUTE[kind][way]),
            )
            for way, kind in ours
        ),
        *(
            ratio_figure(
                f"{way}: requests per core-second on uvicorn against Hypercorn",
                ours[way, ServerKind.UVICORN],
                ours[way, ServerKind.HYPERCORN],
                goal=at_least(TIMES_HYPERCORN[way]),
            )
            for way in asks
        ),
    )


def _of_tracing(context: Context, stack: Stack, running: ExitStack, untraced: Server) -> Iterator[Figure]:
    """Compare gateways with and without --tracing, on devices whose processes a tracing controller wrote.

    Without it a gateway has no part that records, so that there is nothing to compare it with but this.
    """
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}  # no collector: devices at rest make no spans
    traced = stack.new_gateway("gateway-traced", f"--server={ServerKind.UVICORN}", "--tracing", variables=variables)
    running.callback(traced.program.stop)
    traced.start()
    asked = {server: asks(stack, [server], prefix="traced", annotations=TRACED) for server in (traced, untraced)}
    targets = [(way, server) for way in LIKE_AN_EMPTY_ROUTE[ServerKind.UVICORN] for server in asked]
    plan = {
        "rounds": context.size(20, 6),
        "turn_s": context.size(0.3, 0.15),
        "targets": [target(server, asked[server][way]) for way, server in targets],
    }
    rates = [per_core_second(taken) for taken in load(plan)]
    for at, (way, _) in enumerate(targets[::2]):
        what = f"{way} on uvicorn: requests per core-second with --tracing against without"
        yield ratio_figure(what, rates[2 * at], rates[2 * at + 1])


def asks(
    stack: Stack,
    gateways: Sequence[Server],
    spec: Object = SLEEP,
    prefix: str = "leaf",
    annotations: Mapping[str, str] | None = None,
) -> Mapping[str, Sequence[str]]:
    """Declare CONNECTIONS devices with a process; return, by `304` and `heartbeat`, each device's request as text."""
    devices = [f"{prefix}-{number}" for number in range(CONNECTIONS)]
    kube = stack.kube("default")
    kube.apply(
        *(network_switch(name, {"site": "dc-1"}) for name in devices),
        *(_annotated(device_process(name, name, spec), annotations) for name in devices),
    )
    for gateway in gateways:
        etags = {name: etag(stack, gateway, name) for name in devices}
    body = json.dumps(write(Report(agent_version="0.1.0", boot_id="5d1f7a4e", seq=1, timestamp="2026-01-01T00:00:00Z")))
    head = {name: head_of(stack, name) for name in devices}
    typed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return {
        "304": [f"GET {desired_path(name)}{head[name]}If-None-Match: {etags[name]}\r\n\r\n" for name in devices],
        "heartbeat": [f"POST {report_path(name)}{head[name]}{typed}" for name in devices],
    }


def _annotated(process: Object, annotations: Mapping[str, str] | None) -> Object:
    return {**process, "metadata": {**process["metadata"], "annotations": dict(annotations or {})}}


def head_of(stack: Stack, device: str) -> str:
    """Return how a request of *device* goes on after its path, to the end of the headers that all have."""
    own = "".join(f"{key}: {value}\r\n" for key, value in _headers(stack, device).items())
    return f" HTTP/1.1\r\nHost: gateway\r\n{own}"


def etag(stack: Stack, gateway: Server, device: str) -> str:
    """Return the ETag of the device's desired state once its process is in it."""
    tag = ""

    def served() -> bool:
        nonlocal tag
        url = stack.url_of(gateway) + desired_path(device)
        answer = requests.get(url, headers=_headers(stack, device), timeout=5)
        tag = answer.headers.get("ETag", "")
        return answer.status_code == HTTPStatus.OK and any("spec" in item for item in answer.json()["items"])

    until(served, f"{device} is served its process")
    return tag


def _headers(stack: Stack, device: str) -> Mapping[str, str]:
    return {TOKEN_HEADER: stack.token(device), FEATURES_HEADER: ",".join(sorted(AGENT_FEATURES))}


def target(server: Server, requests: Sequence[str]) -> dict[str, Any]:
    """Return what load() needs of one target."""
    return {"host": "127.0.0.1", "port": server.ports[0], "pid": server.program.pid, "requests": list(requests)}


def per_core_second(taken: Sequence[Turn]) -> list[float]:
    """Return how many requests a second of the server's processor answered, in each turn."""
    return [turn["requests"] / turn["server_s"] for turn in taken]


def load(plan: Mapping[str, Any]) -> list[list[Turn]]:
    """Return the turns of each target of *plan*."""
    turns: list[list[Turn]] = json.loads(run_module("e2e.bench.gateway.load", text=json.dumps(plan)))
    return turns

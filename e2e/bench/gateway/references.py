# SPDX-License-Identifier: Apache-2.0
"""What ten references to objects and fields of the device cost a gateway, against none.

Devices whose process has them and devices whose process has none are served by the same gateway, in turns.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from e2e.bench.gateway.synthetic_api import SPEC
from e2e.bench.gateway.throughput import SLEEP, asks, load, target
from e2e.bench.measure.context import Context, run_module
from e2e.bench.measure.figures import Figure, at_least, at_most, number, ratio_figure
from e2e.stack.kube import Object
from e2e.stack.stack import Stack, StackSettings
from e2e.suite.delivered import DELIVERED, put_config_map, put_secret, reading_gateway
from praetor_api.kube.client.resource import CONFIG_MAPS, SECRETS, Resource
from praetor_gateway.settings import ServerKind

NAMESPACE = "default"
SETTINGS = {key: f"the value of {key}" for key in ("site", "region", "level", "collector")}
LOGIN = {key: f"the value of {key}".encode() for key in ("user", "password", "token")}
FIELDS = ("metadata.name", "metadata.namespace", "metadata.labels['site']")
LIKE_WITHOUT = at_least(0.95)
NO_MORE_MEMORY = at_most(1.05)


def referring(spec: Mapping[str, Any]) -> Object:
    """Return *spec* with ten values: four of a ConfigMap, three of a Secret, and three of the device."""
    sources = [
        *({"configMapKeyRef": {"name": "settings", "key": key}} for key in SETTINGS),
        *({"secretKeyRef": {"name": "login", "key": key}} for key in LOGIN),
        *({"deviceFieldRef": {"fieldPath": path}} for path in FIELDS),
    ]
    env = [{"name": f"VALUE_{at}", "valueFrom": source} for at, source in enumerate(sources)]
    execution = spec["execution"]
    return {**spec, "execution": {**execution, "env": [*execution.get("env", ()), *env]}}


def delivered() -> Mapping[Resource, Sequence[Object]]:
    """Return the objects that referring() names, as they are stored."""
    secret = {key: base64.b64encode(value).decode() for key, value in LOGIN.items()}

    def stored(name: str, data: Mapping[str, str]) -> Object:
        return {
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": DELIVERED, "resourceVersion": "1"},
            "data": data,
        }

    return {CONFIG_MAPS: [stored("settings", SETTINGS)], SECRETS: [stored("login", secret)]}


def measure(context: Context) -> tuple[Figure, ...]:
    """Measure requests on each server, and memory."""
    return (*_of_requests(context), *_of_memory(context))


def _of_requests(context: Context) -> tuple[Figure, ...]:
    with context.launched() as cluster, ExitStack() as running:
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=15))
        running.enter_context(stack.running())
        kube = stack.kube(NAMESPACE)
        put_config_map(kube.api, kube, "settings", **SETTINGS)
        put_secret(kube.api, kube, "login", **LOGIN)
        servers = {
            kind: running.enter_context(
                reading_gateway(
                    stack, kube, kube.api, f"--server={kind}", "--device-rate=1000000", name=f"gateway-{kind}"
                )
            )
            for kind in (ServerKind.HYPERCORN, ServerKind.UVICORN)
        }
        gateways = [*servers.values()]
        plain = asks(stack, gateways, SLEEP)
        with_references = asks(stack, gateways, referring(SLEEP), prefix="spine")
        targets = [(way, kind, own) for way in plain for kind in servers for own in (with_references, plain)]
        plan = {
            "rounds": context.size(40, 6),
            "turn_s": context.size(0.3, 0.15),
            "targets": [target(servers[kind], own[way]) for way, kind, own in targets],
        }
        turns = load(plan)
    rates = [[turn["requests"] / turn["server_s"] for turn in taken] for taken in turns]
    return tuple(
        ratio_figure(
            f"{way} on {kind}: requests per core-second with ten references against none",
            rates[2 * at],
            rates[2 * at + 1],
            goal=LIKE_WITHOUT,
        )
        for at, (way, kind, _) in enumerate(targets[::2])
    )


def _of_memory(context: Context) -> tuple[Figure, ...]:
    count = context.size(20_000, 5_000)
    each = {}
    for way in ("plain", "referring"):
        few, many = (float(run_module("e2e.bench.gateway.cached", str(size), str(size), way)) for size in (100, count))
        each[way] = (many - few) / (count - 100)
    detail = f"{number(each['referring'])} KiB against {number(each['plain'])} KiB, {count:,} devices"
    what = "memory for each device and its process with ten references against none"
    return (Figure(what=what, value=each["referring"] / each["plain"], unit="x", goal=NO_MORE_MEMORY, detail=detail),)


SPECS: Mapping[str, Mapping[str, Any]] = {"plain": SPEC, "referring": referring(SPEC)}

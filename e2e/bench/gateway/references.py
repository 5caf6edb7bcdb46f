# SPDX-License-Identifier: Apache-2.0
"""What ten references to objects and fields of the device cost a gateway, and how soon a changed object is delivered.

Devices whose process has references and devices whose process has none are served by the same gateway, in turns.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from e2e.bench.gateway.propagation import crowd
from e2e.bench.gateway.synthetic_api import SPEC
from e2e.bench.gateway.throughput import SLEEP, asks, etag, load, target
from e2e.bench.measure.context import Context, run_module, until
from e2e.bench.measure.figures import Figure, at_least, at_most, number, percentile, ratio_figure
from e2e.bench.measure.first_seen import whole_lines
from e2e.bench.measure.fleet import create_switches
from e2e.stack.kube import Object
from e2e.stack.manifests import device_process, process_spec
from e2e.stack.stack import Stack, StackSettings
from e2e.suite.delivered import DELIVERED, put_config_map, put_secret, reading_gateway
from praetor_api.kube.client.resource import CONFIG_MAPS, SECRETS, Resource
from praetor_gateway.settings import ServerKind

NAMESPACE = "default"
SERVERS = (ServerKind.HYPERCORN, ServerKind.UVICORN)
SETTINGS = {key: f"the value of {key}" for key in ("site", "region", "level", "collector")}
LOGIN = {key: f"the value of {key}".encode() for key in ("user", "password", "token")}
FIELDS = ("metadata.name", "metadata.namespace", "metadata.labels['site']")
FILES = (
    {"path": "settings.conf", "configMapKeyRef": {"name": "settings", "key": "level"}, "onChange": "Signal"},
    {"path": "password", "secretKeyRef": {"name": "login", "key": "password"}, "onChange": "None"},
)
LIKE_WITHOUT = at_least(0.95)
NO_MORE_MEMORY = at_most(1.05)
WITHIN_MS = at_most(1000.0)


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
    """Measure requests on each server, memory, and changes on each server."""
    changes = [figure for kind in SERVERS for figure in _of_changes(context, kind)]
    return (*_of_requests(context), *_of_memory(context), *changes)


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
            for kind in SERVERS
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


def _of_changes(context: Context, kind: ServerKind) -> Iterator[Figure]:
    """Change a ConfigMap and a Secret in turns, each whenever all devices have what the change before brought."""
    names = [f"leaf-{number}" for number in range(context.size(500, 50))]
    folder = context.folder(f"changes-{kind}")
    with context.launched(folder) as cluster, ExitStack() as running:
        stack = Stack(cluster, folder / "stack", StackSettings(heartbeat=15))
        running.enter_context(stack.running())
        kube = stack.kube(NAMESPACE)
        put_config_map(kube.api, kube, "settings", **SETTINGS)
        put_secret(kube.api, kube, "login", **LOGIN)
        flags = f"--server={kind}", "--device-rate=1000"  # as soon as all have one change, the next is made
        gateway = running.enter_context(reading_gateway(stack, kube, kube.api, *flags))
        asyncio.run(create_switches(cluster.kubeconfig, NAMESPACE, names))
        spec = process_spec(["/bin/sleep", "1000"], execution={"files": [*FILES]})
        kube.apply(*(device_process(name, name, spec) for name in names))
        for name in names:
            etag(stack, gateway, name)
        tokens = {name: stack.token(name) for name in names}
        late: dict[str, list[float]] = {"ConfigMap": [], "Secret": []}
        with crowd(folder, {"port": gateway.ports[0], "devices": tokens}) as seen:
            for number in range(context.size(20, 3)):
                text = f"the value {number}"
                late["ConfigMap"] += _delays(seen, partial(put_config_map, kube.api, kube, "settings", level=text))
                late["Secret"] += _delays(seen, partial(put_secret, kube.api, kube, "login", password=text.encode()))
    for what, taken in late.items():
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            yield Figure(
                what=f"changed {what}, {name} from the API's answer to each of {len(names)} waiting devices, on {kind}",
                value=percentile(taken, share) * 1000,
                unit="ms",
                goal=WITHIN_MS,
                detail=f"{len(taken) // len(names)} changes; worst {max(taken) * 1000:,.0f} ms",
            )


def _delays(seen: Path, change: Callable[[], None]) -> list[float]:
    """Return how many seconds after the API answered *change* each device had other values; never less than 0."""
    before = _newest(seen)
    change()
    answered = time.monotonic()

    def arrived() -> dict[str, float]:
        return {name: at for name, (values, at) in _newest(seen).items() if values != before[name][0]}

    until(lambda: len(arrived()) == len(before), "every device has the changed value", poll_s=0.1)
    return [max(0.0, at - answered) for at in arrived().values()]


def _newest(seen: Path) -> dict[str, tuple[str, float]]:
    """Return the digest of the values that each device had last, and when it had them."""
    lines = map(json.loads, whole_lines(seen))
    return {each["name"]: (each["values"], each["at"]) for each in lines if "values" in each}


SPECS: Mapping[str, Mapping[str, Any]] = {"plain": SPEC, "referring": referring(SPEC)}

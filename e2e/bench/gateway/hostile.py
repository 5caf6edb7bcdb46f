# SPDX-License-Identifier: Apache-2.0
"""What devices notice of hostile clients: the 99th percentile of their answers, against that without the clients.

The devices, the hostile clients and the gateway are processes of their own, and the clients are there in every other
turn of the devices. What they send is what the tests of the gateway check, over plain HTTP. A machine that does other
work at the same time, or has fewer cores than there are processes, delays answers by itself: the clients, which have a
machine of their own in the field, get what the gateway and the devices leave of this one. The slowest hundredth of two
turns are a handful of answers, so that what is near the goal is measured for longer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from e2e.bench.gateway.attacker import attacks
from e2e.bench.gateway.throughput import asks
from e2e.bench.measure.context import BenchError, Context, own_environment, progress
from e2e.bench.measure.figures import Figure, at_most, percentile
from e2e.stack.manifests import network_switch
from e2e.stack.server import Server
from e2e.stack.stack import Stack, StackSettings
from praetor_gateway.settings import ServerKind

SHARE = 0.99
TIMES_ALONE = at_most(2.0)
DOUBTFUL = 1.5
MISUSING = 4
"""Devices with good tokens among the hostile clients: what each may send is limited."""
KINDS = (ServerKind.UVICORN, ServerKind.HYPERCORN)


def measure(context: Context) -> tuple[Figure, ...]:
    """Measure every attack on each server."""
    with context.launched() as cluster, ExitStack() as running:
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=15))
        running.enter_context(stack.running())
        gateways = {}
        for kind in KINDS:
            gateways[kind] = stack.new_gateway(f"gateway-{kind}", f"--server={kind}")
            running.callback(gateways[kind].program.stop)
            gateways[kind].start()
        bad = {name: stack.token(name) for name in (f"bad-{number}" for number in range(MISUSING))}
        stack.kube("default").apply(*map(network_switch, bad))
        ways = asks(stack, list(gateways.values()))
        requests = list(zip(*ways.values(), strict=True))
        return tuple(
            figure
            for kind, gateway in gateways.items()
            for figure in _of_server(context, kind, gateway, {"requests": requests}, {"devices": bad})
        )


def _of_server(
    context: Context, kind: ServerKind, gateway: Server, polite: Mapping[str, Any], hostile: Mapping[str, Any]
) -> Iterator[Figure]:
    few, many, seconds = context.size(2, 1), context.size(8, 1), context.size(1.5, 0.6)
    server, folder = {"host": "127.0.0.1", "port": gateway.ports[0]}, context.folder(f"programs-{kind}")
    with (
        _program("polite", folder, {**server, **polite}) as devices,
        _program("attacker", folder, {**server, **hostile}) as clients,
    ):
        _asked(devices, seconds)  # they warm up
        for name in attacks(hostile["devices"]):
            alone: list[float] = []
            beside: list[float] = []
            for number in range(many):
                alone += _asked(devices, seconds)
                before = _asked(clients, name)
                beside += _asked(devices, seconds)
                opened = _asked(clients, "") - before
                worst, least = (percentile(each, SHARE) * 1000 for each in (beside, alone))
                if number + 1 >= few and worst < DOUBTFUL * least:
                    break
            progress(f"{kind}, {name}: {opened:,} connections in the last turn")
            yield Figure(
                what=f"{kind}: {name}",
                value=worst / least,
                unit="x",
                goal=TIMES_ALONE,
                detail=f"{worst:,.1f}/{least:,.1f} ms",
            )


@contextmanager
def _program(name: str, folder: Path, plan: Mapping[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """Run a module of this folder around the block, with *plan* as its first line of input."""
    command = [sys.executable, "-m", f"e2e.bench.gateway.{name}"]
    pipe = subprocess.PIPE
    with (
        (folder / f"{name}.log").open("w") as log,
        subprocess.Popen(command, env=own_environment(), stdin=pipe, stdout=pipe, stderr=log, text=True) as program,
    ):
        try:
            assert program.stdin is not None
            program.stdin.write(json.dumps(plan) + "\n")
            yield program
        except BenchError as error:
            raise BenchError(f"{error}: {name} said\n{Path(log.name).read_text()}") from error
        finally:
            program.kill()


def _asked(program: subprocess.Popen[str], line: object) -> Any:
    """Return what the program answers to *line*; BenchError when it has ended."""
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        program.stdin.write(f"{line}\n")
        program.stdin.flush()
        return json.loads(program.stdout.readline())
    except (OSError, ValueError) as error:
        raise BenchError("a program ended") from error

# SPDX-License-Identifier: Apache-2.0
"""Memory of the agent and the time to import it, against `python -c "import requests"` on the same interpreter."""

from __future__ import annotations

import compileall
import subprocess
import sys
import time

import praetor_agent
import praetor_api
from e2e.bench.measure.context import Context, own_environment, until
from e2e.bench.measure.figures import Figure, at_most, number, ratio_figure
from e2e.bench.measure.interpreter import processor_ms
from e2e.bench.measure.proc import resident_kib
from e2e.stack.kube import Kube
from e2e.stack.manifests import device_process, network_switch, process_spec
from e2e.stack.stack import Stack, StackSettings

LIKE_REQUESTS = at_most(1.1)
REFERENCE = "import requests"
IMPORT = "import praetor_agent.cli, praetor_agent.app"
COUNTS = (0, 1, 20)
PLAIN = {"PATH": "/nonexistent"}
"""A device without a container runtime; where there is one, the agent holds what asks it, too."""
MIB = 1024.0


def measure(context: Context) -> tuple[Figure, ...]:
    """Run agents with no, one and many processes against a gateway, and measure them when they are idle."""
    for package in (praetor_agent, praetor_api):  # as an installer leaves them; to compile them takes memory
        compileall.compile_dir(package.__path__[0], quiet=2)
    reference = _imported(REFERENCE)
    with context.launched() as cluster:
        stack = Stack(cluster, context.folder("stack"), StackSettings(heartbeat=5))
        with stack.running(stack.gateway):
            kube = stack.kube("default")
            for count in COUNTS:
                _declare(kube, stack, count)
            until(lambda: _running(kube) == sum(COUNTS), "all processes run")
            time.sleep(context.size(15.0, 3.0))
            held = {count: resident_kib(stack.agents[_name(count)].program.pid) for count in COUNTS}
    return (
        *(
            Figure(
                what=f"resident memory, idle, with {count} processes",
                value=kib / reference,
                unit="x",
                goal=LIKE_REQUESTS if not count else None,
                detail=f"{number(kib / MIB)} MiB against {number(reference / MIB)} MiB",
            )
            for count, kib in held.items()
        ),
        _import_time(context),
    )


def _name(count: int) -> str:
    return f"leaf-{count}"


def _declare(kube: Kube, stack: Stack, count: int) -> None:
    device, spec = _name(count), process_spec(["/bin/sleep", "1000"])
    kube.apply(network_switch(device), *(device_process(f"{device}-{n}", device, spec) for n in range(count)))
    stack.add_agent(device, variables=PLAIN)


def _running(kube: Kube) -> int:
    return sum(item.get("status", {}).get("phase") == "Running" for item in kube.list("deviceprocesses"))


def _imported(statement: str) -> float:
    """Return the resident memory, in KiB, of an interpreter that has only carried *statement* out."""
    script = f"{statement}\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own_environment()
    ) as python:
        assert python.stdout is not None
        python.stdout.readline()
        kib = resident_kib(python.pid)
        python.communicate(b"\n")
    return kib


def _import_time(context: Context) -> Figure:
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(context.size(15, 3)):
        ours.append(processor_ms(["-c", IMPORT]))
        theirs.append(processor_ms(["-c", REFERENCE]))
    return ratio_figure("processor ms to start Python and import all of the agent", ours, theirs)

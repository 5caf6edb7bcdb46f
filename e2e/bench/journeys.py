# SPDX-License-Identifier: Apache-2.0
"""How far each of the three journeys from a change to its effect goes: files, moves, repeated work, disk flushes.

A move is a call that enters another file of the wheels. Each journey is traced once, on the real parts in this process:
the gateway behind ASGI and the controller, both on an API in memory, and an agent with real processes. The
agent's counts vary a little, since it has threads; the others are exact.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent_testing import FakeGateway, end_processes, item, process_spec
from e2e.bench.controller.in_memory import running_controller
from e2e.bench.measure.context import BenchError, Context, own_environment
from e2e.bench.measure.figures import Figure, at_most
from e2e.bench.measure.trace import Counts, Trace, tracing
from gateway_testing import GatewayLab, running_lab
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_controller.rollout.planner import plan
from praetor_gateway.status.merge import merge

Journey = Callable[[Trace], Coroutine[Any, Any, None]]

WITHIN_S = 300.0
DEVICES = 5
POLL_S = 0.05
QUIET_S = 0.5
"""How long nothing happens when a journey is over. The rollout's status and the version's confirmation come later."""
DEVICE = "leaf-1"
PROCESS = Key("lab", f"agent-{DEVICE}")


def measure(context: Context) -> tuple[Figure, ...]:
    """Trace one change on each journey."""
    delivered, reported, rolled_out = (_traced(journey) for journey in (_deliver, _report, _roll_out))
    swapped = _swap(context.folder("agent"))
    return (
        *_figures("changed spec to bytes at a device", delivered.counts, files=24),
        *_figures("changed spec to running process", swapped, files=18),
        Figure(what="changed spec to running process: fsyncs", value=swapped.fsyncs, goal=at_most(4)),
        *_figures("report to status", reported.counts, files=20),
        Figure(what="report to status: calls of merge", value=reported.calls_of(merge), goal=at_most(3)),
        *_figures(f"template to next write, {DEVICES} devices", rolled_out.counts, files=30),
        Figure(
            what=f"template to next write, {DEVICES} devices: planner passes",
            value=rolled_out.calls_of(plan),
            goal=at_most(1),
        ),
    )


def _figures(what: str, counts: Counts, *, files: int) -> Iterator[Figure]:
    yield Figure(what=f"{what}: files", value=counts.files, goal=at_most(files))
    yield Figure(what=f"{what}: moves", value=counts.moves)


def _traced(journey: Journey) -> Trace:
    """Return the trace of a journey on an event loop; BenchError when it does not end."""

    async def bounded() -> None:
        async with asyncio.timeout(WITHIN_S):
            await journey(trace)

    trace = Trace()
    try:
        with tracing(trace):
            asyncio.run(bounded())
    except TimeoutError as error:
        raise BenchError(f"the journey {journey.__name__} did not end within {WITHIN_S:g} s") from error
    return trace


async def _deliver(trace: Trace) -> None:
    """Change the spec of a process whose device waits in a long poll, until the device has its answer."""
    async with _settled() as lab:
        path = f"/v1/devices/{DEVICE}/desired"
        etag = (await lab.client.get(path)).headers["etag"]
        poll = asyncio.ensure_future(lab.client.get(path, if_none_match=etag, prefer="wait=50"))
        await lab.clock.settle()
        with trace.on():
            await lab.kube.patch(DEVICE_PROCESSES, PROCESS, {"spec": {"execution": {"command": ["sleep", "10"]}}})
            answer = await poll
        assert answer.status == 200


async def _report(trace: Trace) -> None:
    """Report that a process has failed, until that is in its status and nothing waits to be written."""
    async with _settled() as lab:
        observation = {**await lab.running(DEVICE), "processStarted": False, "healthy": False, "pid": None}
        version = lab.process(DEVICE)["metadata"]["resourceVersion"]
        with trace.on():
            await lab.report(DEVICE, observation)
            while lab.process(DEVICE)["metadata"]["resourceVersion"] == version:
                await lab.clock.advance(POLL_S)


@asynccontextmanager
async def _settled() -> AsyncIterator[GatewayLab]:
    """Run a gateway around the block, which begins when its device is known to run its process."""
    async with running_lab() as lab:
        await lab.declare(DEVICE)
        await lab.report(DEVICE, await lab.running(DEVICE), agentVersion="1", bootID="b")
        await lab.clock.advance(10)
        yield lab


async def _roll_out(trace: Trace) -> None:
    """Change a template, until the next device's process is written and nothing more happens."""
    async with running_controller(DEVICES) as fleet:
        with trace.on():
            await fleet.apply(2)
            await fleet.clock.advance(QUIET_S)


def _swap(folder: Path) -> Counts:
    """Change what a device shall run, until its agent has reported the new process and waits again."""
    with FakeGateway(token="t") as gateway, (folder / "agent.log").open("wb") as log:
        command = [sys.executable, "-m", "e2e.bench.agent.traced", gateway.url, DEVICE, "t", str(folder)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=own_environment(), stdin=pipe, stdout=pipe, stderr=log) as agent:
            try:
                _ask(agent, "count")
                _desire(gateway, 1)
                time.sleep(QUIET_S)
                _ask(agent, "start")
                _desire(gateway, 2)
                return _quiet(agent)
            except (AssertionError, ValueError) as error:
                raise BenchError(f"the agent failed: {error}\n{Path(log.name).read_text()}") from error
            finally:
                agent.kill()
                end_processes(folder / "state")


def _desire(gateway: FakeGateway, generation: int) -> None:
    """Change what the device shall run, and return when it reports that it does."""
    wanted = item("p", process_spec("sleep", str(1000 + generation)), generation=generation)
    gateway.desire(wanted)

    def runs() -> bool:
        seen = gateway.observations.get("p")
        return seen is not None and seen.process_started is True and seen.observed_spec_hash == wanted["specHash"]

    gateway.wait_for(runs, f"the agent runs generation {generation}", WITHIN_S)


def _quiet(agent: subprocess.Popen[bytes]) -> Counts:
    """Return the counts once they have not changed for QUIET_S."""
    counts, last = _ask(agent, "count"), None
    while counts != last:
        time.sleep(QUIET_S)
        counts, last = _ask(agent, "count"), counts
    return counts


def _ask(agent: subprocess.Popen[bytes], word: str) -> Counts:
    """Send *word* and return what the agent has counted; ValueError when it has ended."""
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.write(f"{word}\n".encode())
    agent.stdin.flush()
    return Counts(**json.loads(agent.stdout.readline()))

# SPDX-License-Identifier: Apache-2.0
"""Devices whose agent knows the first description of the protocol alone, on both servers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from e2e.clusters.cluster import Capability
from e2e.stack.kube import Kube, condition
from e2e.stack.manifests import deployment
from e2e.stack.program import Program
from e2e.stack.stack import Stack, environment
from e2e.stack.waiting import eventually
from e2e.suite import first_agent
from e2e.suite.connections import disconnections, pass_time
from e2e.suite.fleet import AgentFleet
from e2e.suite.gateways import only_gateway
from e2e.suite.readiness import await_process, await_ready, await_revision
from e2e.suite.running import environment_of, is_alive
from e2e.suite.workloads import change_template, sleeping

pytestmark = pytest.mark.needs(Capability.PROGRAMS)
both_servers = pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])

PowerOn = Callable[[int, str, str], dict[str, Program]]


@pytest.fixture
def powered_on(stack: Stack, fleet: AgentFleet, tmp_path: Path) -> Iterator[PowerOn]:
    """Declare so many devices, and run their agents, which come to a gateway at a URL every INTERVAL seconds."""
    programs: list[Program] = []

    def power_on(number: int, url: str, interval: str) -> dict[str, Program]:
        found = {}
        for device in [fleet.declare() for _ in range(number)]:
            argv = [sys.executable, first_agent.__file__, url, device]
            env = environment() | {"TOKEN": stack.token(device), "INTERVAL": interval}
            program = found[device] = Program(device, argv, workdir=tmp_path, env=env)
            programs.append(program)
            program.start()
        return found

    yield power_on
    for program in programs:
        if program.running:
            program.thaw()
        program.stop()


def processes(programs: Sequence[Program]) -> list[int]:
    """Return the processes that the agents run."""
    children = (Path(f"/proc/{each.pid}/task/{each.pid}/children").read_text().split() for each in programs)
    return [pid for found in children for pid in map(int, found) if is_alive(pid)]


@both_servers
def test_a_rollout_of_two_revisions_and_a_silent_device(
    stack: Stack, fleet: AgentFleet, kube: Kube, powered_on: PowerOn, server: str
) -> None:
    with only_gateway(stack, server) as gateway:
        agents = powered_on(3, stack.url_of(gateway), "1")
        kube.apply(deployment("sleeper", sleeping("1")))
        await_revision(kube, agents, "1")
        first = processes([*agents.values()])
        change_template(kube, "sleeper", sleeping("2"))
        await_revision(kube, agents, "2")
        second = processes([*agents.values()])
        assert [environment_of(pid)["REVISION"] for pid in second] == ["2"] * 3
        assert not any(map(is_alive, first))

        silent = next(iter(agents))
        for device in agents:
            fleet.await_connected(device)
        with disconnections(stack, kube) as disconnected:
            agents[silent].freeze()
            fleet.await_connected(silent, "False")
            await_process(kube, silent, lambda it: condition(it, "AgentConnected") == "False", "disconnected")
            agents[silent].thaw()
            fleet.await_connected(silent)
            await_ready(kube, agents)
        assert disconnected() == {silent}
        assert processes([*agents.values()]) == second


@both_servers
def test_the_503_of_an_overloaded_gateway_does_no_harm(
    stack: Stack, fleet: AgentFleet, kube: Kube, powered_on: PowerOn, server: str
) -> None:
    # the longest interval is the shortest, so that an overload leaves only refusals
    with only_gateway(stack, server, "--default-heartbeat-seconds=5", "--max-heartbeat-seconds=5") as gateway:
        agents = powered_on(2, stack.url_of(gateway), "1")
        kube.apply(deployment("sleeper", sleeping("1")))
        await_revision(kube, agents, "1")
        for device in agents:
            fleet.await_connected(device)
        running = processes([*agents.values()])

        def starved() -> str:
            """Keep the processor from the gateway for a while, as others on its machine do; return its metrics."""
            gateway.program.freeze()
            pass_time(stack, seconds=3)
            gateway.program.thaw()
            return gateway.metrics()

        def refused() -> bool:
            starved()
            return all(" 503\n" in each.log.read_text() for each in agents.values())

        with disconnections(stack, kube) as disconnected:
            eventually(starved, lambda said: "\npraetor_gateway_overloaded 1.0\n" in said, what="it is overloaded")
            eventually(refused, what="each agent is refused")
            calm = "\npraetor_gateway_overloaded 0.0\n"
            eventually(gateway.metrics, lambda said: calm in said, what="the overload is over")
            assert processes([*agents.values()]) == running
            change_template(kube, "sleeper", sleeping("2"))
            await_revision(kube, agents, "2")
        assert disconnected() == set()

# SPDX-License-Identifier: Apache-2.0
"""Liveness: silent devices are found, also across restarts of the gateway, and no other device is disconnected."""

from __future__ import annotations

import pytest

from e2e.clusters.cluster import Capability
from e2e.stack.kube import Kube, condition, conditions
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.connections import disconnections, pass_time
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_process, await_ready, phase
from e2e.suite.running import is_alive
from e2e.suite.workloads import prompt

pytestmark = pytest.mark.needs(Capability.PROGRAMS)


def test_a_silent_device_is_disconnected_and_its_process_unknown_until_it_is_heard_again(
    fleet: AgentFleet, kube: Kube
) -> None:
    device, other = fleet.add(2)
    kube.apply(deployment("sleeper", prompt()))
    pid = await_ready(kube, [device, other])[device]["status"]["pid"]
    fleet.agent(device).program.kill()
    switch = fleet.await_connected(device, "False")
    assert conditions(switch)["AgentConnected"]["reason"]
    lost = await_process(kube, device, lambda item: condition(item, "AgentConnected") == "False", "disconnected")
    assert phase(lost) == "Unknown"
    eventually(
        lambda: kube.deployment("sleeper")["status"], lambda status: status["numberReady"] == 1, what="one is ready"
    )
    assert is_alive(pid)
    assert condition(kube.switch(other), "AgentConnected") == "True"
    fleet.agent(device).start()
    assert await_ready(kube, [device, other])[device]["status"]["pid"] == pid
    assert condition(fleet.await_connected(device), "AgentConnected") == "True"


def test_disconnection_and_reconnection_are_recorded_as_events(fleet: AgentFleet, kube: Kube) -> None:
    device, _ = fleet.add(2)
    fleet.agent(device).program.kill()
    fleet.await_connected(device, "False")
    fleet.agent(device).start()
    fleet.await_connected(device)

    def reasons() -> set[str]:
        return {event["reason"] for event in kube.events() if event["regarding"]["name"] == device}

    wanted = {"AgentConnected", "AgentDisconnected"}
    eventually(reasons, lambda seen: seen >= wanted, what=f"events {wanted}")


def test_a_frozen_agent_is_silent_and_a_thawed_one_is_back(fleet: AgentFleet) -> None:
    device, _ = fleet.add(2)
    fleet.agent(device).program.freeze()
    fleet.await_connected(device, "False")
    fleet.agent(device).program.thaw()
    fleet.await_connected(device)


def test_a_device_that_died_while_no_gateway_was_up_is_found_and_no_other_is_disconnected(
    stack: Stack, fleet: AgentFleet, kube: Kube
) -> None:
    device, *_ = devices = fleet.add(3)
    kube.apply(deployment("sleeper", prompt()))
    await_ready(kube, devices)
    with disconnections(stack, kube) as disconnected:
        stack.gateway.program.kill()
        fleet.agent(device).unplug()
        stack.gateway.program.start()
        stack.gateway.wait_ready()
        fleet.await_connected(device, "False")
        await_process(kube, device, lambda item: condition(item, "AgentConnected") == "False", "disconnected")
    assert disconnected() == {device}


def test_a_restart_of_the_gateway_disconnects_no_device(stack: Stack, fleet: AgentFleet, kube: Kube) -> None:
    devices = fleet.add(3)
    kube.apply(deployment("sleeper", prompt()))
    await_ready(kube, devices)
    with disconnections(stack, kube) as disconnected:
        stack.gateway.restart()
        # a device that is made to die now is judged only after the others would have been
        fleet.agent(devices[0]).program.kill()
        fleet.await_connected(devices[0], "False")
    assert disconnected() == {devices[0]}


def test_a_gateway_that_was_frozen_for_long_disconnects_no_device(stack: Stack, fleet: AgentFleet, kube: Kube) -> None:
    devices = fleet.add(2)
    with disconnections(stack, kube) as disconnected:
        stack.gateway.program.freeze()
        pass_time(stack, seconds=2 * stack.settings.heartbeat * stack.settings.stale_multiplier)
        stack.gateway.program.thaw()
        stack.gateway.wait_ready()
        fleet.agent(devices[0]).program.kill()
        fleet.await_connected(devices[0], "False")
    assert disconnected() == {devices[0]}

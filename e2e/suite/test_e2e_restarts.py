# SPDX-License-Identifier: Apache-2.0
"""Any component may end at any moment: processes on devices run on, and pending changes are made afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.clusters.cluster import CONTROLLER, GATEWAY, Capability
from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.kube import PROCESSES, Kube
from e2e.stack.manifests import deployment, network_switch
from e2e.stack.relay import Relay
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually, steadily
from e2e.suite.device_api import DeviceApi
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready, await_revision, is_ready, revision
from e2e.suite.running import is_alive
from e2e.suite.workloads import change_template, prompt, sleeping

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

BOTH_WAYS = pytest.mark.parametrize("kill", [False, True], ids=["graceful", "killed"])


@pytest.fixture
def devices(fleet: AgentFleet, kube: Kube) -> tuple[str, ...]:
    """Three devices that run a sleeper of revision 1."""
    devices = fleet.add(3)
    kube.apply(deployment("sleeper", prompt("1"), max_unavailable=1))
    await_ready(kube, devices)
    return devices


@pytest.fixture
def outage(stack: Stack, kube: Kube) -> Iterator[Stack]:
    """A stack whose apiserver the test stops; it is up again afterwards, and every program watches it again."""
    if Capability.OUTAGE not in stack.cluster.capabilities:
        pytest.skip("this cluster's apiserver cannot be stopped")
    yield stack
    stack.cluster.start_apiserver()
    for server in stack.servers():
        eventually(lambda server=server: server.ready, what=f"{server.name} is ready again")  # type: ignore[misc]
    # a test that counts requests next must not meet the last attempts to watch it
    probe = f"{kube.namespace}-probe"
    kube.apply(network_switch(probe), deployment("probe", sleeping()))
    eventually(kube.processes, lambda found: probe in found, what="the controller follows the apiserver again")


@BOTH_WAYS
def test_a_rollout_goes_on_after_a_restart_of_the_controller(
    stack: Stack, kube: Kube, plan_check: PlanCheck, devices: tuple[str, ...], kill: bool
) -> None:
    with plan_check.template("sleeper", sleeping("2")) as change:
        eventually(lambda: "2" in _revisions(kube), what="the rollout began")
        stack.controller.restart(kill=kill)
        await_done(kube, "sleeper")
    await_revision(kube, devices, "2")
    assert change.timeline.worst(lambda sample: sample.unavailable) <= 1
    assert len(kube.list(PROCESSES)) == len(devices)


def test_processes_run_on_while_no_controller_is_there(
    stack: Stack, kube: Kube, plan_check: PlanCheck, devices: tuple[str, ...]
) -> None:
    pids = _pids(kube)
    stack.controller.program.terminate()
    with plan_check.template("sleeper", prompt("2")):
        steadily(lambda: list(map(is_alive, pids)), all, what="the processes run", for_s=1)
        assert set(_revisions(kube)) == {"1"}
        stack.controller.program.start()
        await_done(kube, "sleeper")
    await_revision(kube, devices, "2")


def test_processes_run_on_through_a_restart_of_the_gateway(
    stack: Stack, kube: Kube, plan_check: PlanCheck, devices: tuple[str, ...]
) -> None:
    pids = _pids(kube)
    stack.gateway.restart()
    with plan_check.template("sleeper", prompt("1", restartPolicy="OnFailure")):
        eventually(lambda: not any(map(is_alive, pids)), what="devices got the change through the new gateway")
        await_done(kube, "sleeper")
    await_ready(kube, devices)


def test_an_outage_of_the_gateway_stops_nothing_and_changes_arrive_afterwards(
    stack: Stack, kube: Kube, plan_check: PlanCheck, devices: tuple[str, ...]
) -> None:
    pids = _pids(kube)
    stack.gateway.program.kill()
    eventually(
        lambda: _reasons(kube, "sleeper"),
        lambda reasons: "GatewayUnavailable" in reasons,
        what="the controller sees it",
    )
    with plan_check.template("sleeper", prompt("2")):
        steadily(lambda: list(map(is_alive, pids)), all, what="the processes run", for_s=2)
        assert set(_revisions(kube)) == {"1"}, "it is offered to no device meanwhile"
        stack.gateway.program.start()
        await_done(kube, "sleeper")
    assert "GatewayUnavailable" not in _reasons(kube, "sleeper")
    await_revision(kube, devices, "2")


@BOTH_WAYS
def test_a_restart_of_the_agent_leaves_its_processes_alone(
    stack: Stack, kube: Kube, fleet: AgentFleet, devices: tuple[str, ...], kill: bool
) -> None:
    before = kube.processes()
    for device in devices:
        fleet.agent(device).restart(kill=kill)
    # a change that comes after the restart shows that the agents are at work again
    kube.apply(deployment("second", prompt()))
    eventually(
        lambda: [is_ready(item) for item in kube.list(PROCESSES)].count(True) == 6, what="the second deployment runs"
    )
    after = {device: kube.process(f"sleeper-{device}") for device in devices}
    assert {device: after[device]["status"]["pid"] for device in devices} == {
        device: before[device]["status"]["pid"] for device in devices
    }
    assert all(is_alive(item["status"]["pid"]) for item in after.values())


def test_a_process_that_ended_while_no_agent_was_there_is_started_again(
    fleet: AgentFleet, kube: Kube, devices: tuple[str, ...]
) -> None:
    device = devices[0]
    pid = kube.processes()[device]["status"]["pid"]
    fleet.agent(device).unplug()
    fleet.agent(device).start()
    eventually(
        lambda: kube.processes()[device],
        lambda item: is_ready(item) and item["status"]["pid"] != pid and is_alive(item["status"]["pid"]),
        what="it runs again",
    )


def test_a_device_without_network_runs_its_last_known_state(
    stack: Stack, fleet: AgentFleet, devices: tuple[str, ...]
) -> None:
    agent = fleet.agent(devices[0])
    agent.unplug()
    stack.gateway.program.kill()
    agent.start()
    eventually(agent.processes, what="the process runs again without a gateway")
    stack.gateway.program.start()
    stack.gateway.wait_ready()
    fleet.await_connected(devices[0])


def test_an_outage_of_the_apiserver_stops_nothing_and_disconnects_no_device(
    outage: Stack, kube: Kube, plan_check: PlanCheck, devices: tuple[str, ...]
) -> None:
    pids = _pids(kube)
    outage.cluster.stop_apiserver()
    steadily(lambda: list(map(is_alive, pids)), all, what="the processes run", for_s=4)
    assert outage.gateway.ready
    assert all(server.program.running for server in outage.servers())
    outage.cluster.start_apiserver()
    with plan_check.template("sleeper", prompt("2")) as change:
        await_done(kube, "sleeper")
    await_revision(kube, devices, "2")
    assert change.timeline.worst(lambda sample: sample.unavailable) <= 1


def test_a_device_can_restart_in_an_outage_of_the_apiserver(
    outage: Stack, kube: Kube, fleet: AgentFleet, devices: tuple[str, ...]
) -> None:
    agent = fleet.agent(devices[0])
    outage.cluster.stop_apiserver()
    agent.unplug()
    agent.start()
    eventually(agent.processes, what="the process runs again")
    outage.cluster.start_apiserver()
    eventually(
        lambda: kube.processes()[devices[0]],
        lambda item: is_ready(item) and item["status"]["pid"] in agent.processes(),
        what="the status has the new process",
    )


def test_a_rollout_right_after_an_outage_includes_a_switch_that_was_created_then(outage: Stack, kube: Kube) -> None:
    device = f"{kube.namespace}-new"
    outage.cluster.stop_apiserver()
    outage.cluster.start_apiserver()
    kube.apply(network_switch(device), deployment("early", sleeping()))
    status = eventually(
        lambda: kube.deployment("early").get("status"),
        lambda status: bool(status and status.get("conditions")),
        what="the controller has written the status of the deployment",
    )
    assert status is not None
    assert status["desiredNumberScheduled"] == 1
    assert device in kube.processes()


def _reasons(kube: Kube, name: str) -> set[str]:
    return {each["reason"] for each in kube.deployment(name)["status"]["conditions"]}


def test_connections_that_a_middlebox_swallows_leave_no_program_blind(
    stack: Stack, kube: Kube, fleet: AgentFleet
) -> None:
    with ExitStack() as opened:
        way = opened.enter_context(Relay(stack.cluster.url))
        for server in stack.servers():
            server.program.terminate()
        controller = stack.new_controller("controller-behind", kubeconfig=_by(way, stack, CONTROLLER))
        gateway = stack.new_gateway("gateway-behind", kubeconfig=_by(way, stack, GATEWAY))
        for server in (controller, gateway):
            opened.callback(server.program.stop)
            server.start()
        first = fleet.declare()
        fleet.power_on(first, gateway=gateway)
        kube.apply(deployment("sleeper", prompt("1"), max_unavailable=2))
        eventually(lambda: is_ready(kube.processes()[first]), what="the first device runs revision 1")
        way.swallow()
        change_template(kube, "sleeper", prompt("2"))
        third = fleet.declare()
        api = DeviceApi(stack.url_of(gateway), third, stack.token(third))
        eventually(
            lambda: (revision(kube.processes()[first]), third in kube.processes(), api.desired().json()["items"] != []),
            lambda found: found == ("2", True, True),
            what="controller and gateway see what happened since",
            within_s=90,  # a renewal without an answer makes all watches start again; the rest is for slow machines
        )


def _by(way: Relay, stack: Stack, user: str) -> Path:
    """Return the kubeconfig of *user* that leads through *way*."""
    there = stack.cluster.kubeconfig_for(user)
    path = there.with_name(f"{user}-behind.kubeconfig")  # beside it, for the files that it names
    path.write_text(there.read_text().replace(stack.cluster.url, way.url))
    path.chmod(0o600)
    return path


def _pids(kube: Kube) -> list[int]:
    return [item["status"]["pid"] for item in kube.list(PROCESSES)]


def _revisions(kube: Kube) -> list[str]:
    return [revision(item) for item in kube.list(PROCESSES)]

# SPDX-License-Identifier: Apache-2.0
"""Devices that come, change and go, and deployments that go: processes follow, on the devices, too."""

from __future__ import annotations

import platform
import sys

from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, SWITCHES, Kube, condition, conditions
from e2e.stack.manifests import deployment, process_spec
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready, is_ready
from e2e.suite.running import is_alive
from e2e.suite.workloads import prompt, shell

LEAF = {"role": "leaf"}


def test_a_device_that_is_added_gets_its_process(fleet: AgentFleet, kube: Kube) -> None:
    first = fleet.add(labels=LEAF)
    kube.apply(deployment("sleeper", prompt(), match=LEAF))
    before = await_ready(kube, first)[first[0]]["status"]["pid"]
    second = fleet.add(labels=LEAF)
    after = await_ready(kube, first + second)
    assert after[first[0]]["status"]["pid"] == before
    eventually(lambda: kube.deployment("sleeper")["status"]["numberAvailable"] == 2, what="both are counted")


def test_a_device_that_is_relabelled_loses_and_gets_its_process(fleet: AgentFleet, kube: Kube) -> None:
    device, other = fleet.add(2, labels=LEAF)
    kube.apply(deployment("sleeper", prompt(), match=LEAF))
    pid = await_ready(kube, [device, other])[device]["status"]["pid"]
    fleet.label(device, {"role": "spine"})
    await_ready(kube, [other])
    eventually(lambda: not is_alive(pid), what="its process ended on the device")
    eventually(lambda: kube.deployment("sleeper")["status"]["desiredNumberScheduled"] == 1, what="one is counted")
    fleet.label(device, LEAF)
    assert await_ready(kube, [device, other])[device]["status"]["pid"] != pid


ENDING_S = 8
HOLDS = f"""
import fcntl, os, signal, sys, time
device = os.path.dirname(os.path.dirname(os.environ["PRAETOR_PROCESS_DIR"]))
port = open(device + "/port", "w")
fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
signal.signal(signal.SIGTERM, lambda *_: (time.sleep({ENDING_S}), sys.exit(0)))
while True:
    signal.pause()
"""
"""Holds what a device has once, as a port, and takes a while to give it up."""


def test_the_process_of_the_next_deployment_waits_until_that_of_the_last_one_has_ended(
    fleet: AgentFleet, kube: Kube
) -> None:
    device, other = fleet.add(2, labels={"colour": "blue"})
    spec = process_spec([sys.executable], execution={"args": ["-c", HOLDS], "terminationGracePeriodSeconds": 30})
    kube.apply(deployment("blue", spec, match={"colour": "blue"}))
    await_ready(kube, [device, other])
    stop = {"maxFailures": 0, "action": "Pause"}
    kube.apply(deployment("green", spec, match={"colour": "green"}, failurePolicy=stop))
    fleet.label(device, {"colour": "green"})
    waiting = eventually(
        lambda: next((one for one in kube.list(PROCESSES) if one["metadata"]["name"] == f"green-{device}"), {}),
        lambda found: conditions(found).get("SpecObserved", {}).get("reason") == "WaitingForOthersToEnd",
        what="green says what it waits for",
    )
    assert f"/blue-{device} to end" in conditions(waiting)["SpecObserved"]["message"]
    green = eventually(lambda: kube.process(f"green-{device}"), is_ready, what="green runs")
    assert green["status"]["restartCount"] == 0
    assert condition(kube.deployment("green"), "Paused") != "True"


def test_a_changed_selector_moves_the_processes(fleet: AgentFleet, kube: Kube, plan_check: PlanCheck) -> None:
    (leaf,), (both,) = fleet.add(labels=LEAF), fleet.add(labels=LEAF | {"site": "b"})
    (spine,) = fleet.add(labels={"role": "spine", "site": "b"})
    kube.apply(deployment("sleeper", prompt(), match=LEAF))
    pid = await_ready(kube, [leaf, both])[leaf]["status"]["pid"]
    with plan_check.change("sleeper", selector={"matchLabels": {"site": "b"}}) as change:
        await_ready(kube, [both, spine])
        await_done(kube, "sleeper")
    assert change.timeline.deleted == [f"sleeper-{leaf}"]
    eventually(lambda: not is_alive(pid), what="the process of the leaf ended")


def test_a_device_that_is_removed_from_the_inventory_loses_its_process(fleet: AgentFleet, kube: Kube) -> None:
    device, other = fleet.add(2)
    kube.apply(deployment("sleeper", prompt()))
    pid = await_ready(kube, [device, other])[device]["status"]["pid"]
    kube.delete(SWITCHES, device)
    await_ready(kube, [other])
    eventually(lambda: not is_alive(pid), what="its process ended")


def test_a_deleted_deployment_takes_its_processes_with_it(fleet: AgentFleet, kube: Kube) -> None:
    devices = fleet.add(2)
    kube.apply(deployment("sleeper", prompt()), deployment("other", prompt()))
    eventually(lambda: len(kube.list(PROCESSES)) == 4, what="two processes on each device")

    def pids(name: str) -> list[int]:
        found = (kube.process(f"{name}-{device}") for device in devices)
        return [pid for item in found if (pid := item.get("status", {}).get("pid"))]

    deleted = eventually(lambda: pids("sleeper"), lambda found: len(found) == 2, what="the first deployment runs")
    spared = eventually(lambda: pids("other"), lambda found: len(found) == 2, what="the second deployment runs")
    kube.delete(DEPLOYMENTS, "sleeper")
    eventually(lambda: not any(map(is_alive, deleted)), what="its processes ended on the devices")
    eventually(lambda: len(kube.list(PROCESSES)) == 2, what="their objects are gone")
    assert all(map(is_alive, spared))


def test_a_deleted_process_is_created_again(fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("sleeper", prompt()))
    before = await_ready(kube, [device])[device]
    kube.delete(PROCESSES, before["metadata"]["name"])
    after = eventually(
        lambda: await_ready(kube, [device])[device],
        lambda item: item["metadata"]["uid"] != before["metadata"]["uid"],
        what="another object of the same name",
    )
    assert is_alive(after["status"]["pid"])
    eventually(lambda: not is_alive(before["status"]["pid"]), what="the old process ended")


def test_an_edited_spec_is_reverted(fleet: AgentFleet, kube: Kube) -> None:
    device = fleet.declare()
    kube.apply(deployment("sleeper", prompt()))
    eventually(lambda: device in kube.processes(), what="it exists")
    kube.patch(PROCESSES, f"sleeper-{device}", {"spec": {"execution": {"args": ["1"]}}})
    eventually(
        lambda: kube.processes()[device]["spec"]["execution"]["args"] == ["infinity"],
        what="the template's args are back",
    )


def test_a_process_that_ignores_sigterm_is_killed(fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add()
    stubborn = shell("trap '' TERM; while :; do sleep 0.2; done")
    stubborn["execution"]["terminationGracePeriodSeconds"] = 1
    kube.apply(deployment("stubborn", stubborn))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    kube.delete(DEPLOYMENTS, "stubborn")
    eventually(lambda: not is_alive(pid), what="it was ended by force")


def test_what_a_device_reports_selects_it_and_removes_nothing(fleet: AgentFleet, kube: Kube, stack: Stack) -> None:
    device, other = fleet.add(2)
    arch = platform.machine()
    kube.apply(deployment("sleeper", prompt(), factSelector={"matchLabels": {"arch": arch}}))
    pid = await_ready(kube, [device, other])[device]["status"]["pid"]
    selects_nothing = {"matchExpressions": [{"key": "arch", "operator": "NotIn", "values": [arch]}]}
    kube.patch(DEPLOYMENTS, "sleeper", {"spec": {"factSelector": {"matchLabels": None, **selects_nothing}}})
    held = eventually(
        lambda: conditions(kube.deployment("sleeper")).get("RemovalHeld", {}),
        lambda found: found.get("reason") == "FactsNoLongerMatch",
        what="the removal is held",
    )
    assert device in held["message"]
    assert is_alive(pid)
    ctl = Ctl(stack.cluster.kubeconfig, kube.namespace)
    assert "RemovalHeld" in ctl("explain", device)
    ctl("rollout", "approve", "sleeper", "--removal")
    eventually(lambda: not kube.list(PROCESSES), what="what was approved is gone")
    eventually(lambda: not is_alive(pid), what="its process ended on the device")

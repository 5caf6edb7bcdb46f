# SPDX-License-Identifier: Apache-2.0
"""A changed template: every device gets it as planned, and the watch never shows more devices down than allowed."""

from __future__ import annotations

import pytest

from e2e.rollouts.plan_check import PlanCheck
from e2e.rollouts.scenario import await_done
from e2e.stack.kube import PROCESSES, Kube, condition
from e2e.stack.manifests import deployment
from e2e.stack.waiting import eventually, steadily
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready, await_revision, is_ready, revision
from e2e.suite.running import environment_of, is_alive
from e2e.suite.workloads import probed, prompt, sleeping

NAME = "sleeper"


@pytest.mark.parametrize(("number", "limit", "most"), [(3, 1, 1), (4, "50%", 2), (2, "10%", 1)])
def test_no_more_devices_are_down_at_a_time_than_allowed(
    fleet: AgentFleet, kube: Kube, plan_check: PlanCheck, number: int, limit: int | str, most: int
) -> None:
    devices = fleet.add(number)
    with plan_check.first(deployment(NAME, prompt("1"), max_unavailable=limit)):
        await_done(kube, NAME)
    before = {device: item["status"]["pid"] for device, item in kube.processes().items()}
    with plan_check.template(NAME, prompt("2")) as change:
        status = await_done(kube, NAME)["status"]
    assert 1 <= change.timeline.worst() <= most
    names = ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady", "numberAvailable")
    assert [status.get(name) for name in names] == [number] * 4
    assert set(before) == set(devices)
    for device, item in kube.processes().items():
        pid = item["status"]["pid"]
        assert (environment_of(pid)["REVISION"], is_alive(before[device])) == ("2", False)
        assert item["metadata"]["generation"] == 2  # it was written once
    assert [(event["reason"], event["note"]) for event in kube.events() if event["type"] == "Warning"] == []


def test_a_version_that_does_not_become_healthy_reaches_no_more_devices_than_allowed(
    fleet: AgentFleet, kube: Kube, plan_check: PlanCheck
) -> None:
    devices = fleet.add(3)
    kube.apply(deployment(NAME, prompt("1"), max_unavailable=1))
    await_ready(kube, devices)
    with plan_check.template(NAME, sleeping("bad", healthCheck=probed(["/bin/false"])), stopped=True):
        eventually(
            lambda: [revision(item) for item in kube.list(PROCESSES)],
            lambda found: found.count("bad") == 1,
            what="one device got it",
        )
        eventually(
            lambda: [condition(item, "RolledBack") for item in kube.list(PROCESSES)].count("True") == 1,
            what="the device found it unhealthy, and went back",
        )

        def spread() -> tuple[int, int]:
            items = kube.list(PROCESSES)
            return sum(revision(item) == "bad" for item in items), sum(map(is_ready, items))

        steadily(spread, lambda seen: seen == (1, 2), what="one device has it and two are ready", for_s=2)
    with plan_check.template(NAME, sleeping("3", healthCheck=probed(["/bin/true"]))):
        await_done(kube, NAME)
    await_revision(kube, devices, "3")


def test_recreate_updates_all_at_once(fleet: AgentFleet, kube: Kube, plan_check: PlanCheck) -> None:
    devices = fleet.add(3)
    kube.apply(deployment(NAME, prompt("1"), updateStrategy={"type": "Recreate"}))
    await_ready(kube, devices)
    with plan_check.template(NAME, sleeping("2", healthCheck=probed(["/bin/false"])), stopped=True):
        eventually(
            lambda: {revision(item) for item in kube.list(PROCESSES)}, lambda seen: seen == {"2"}, what="all have it"
        )


def test_a_paused_deployment_changes_nothing(fleet: AgentFleet, kube: Kube, plan_check: PlanCheck) -> None:
    devices = fleet.add(2)
    kube.apply(deployment(NAME, prompt("1"), max_unavailable=1))
    await_ready(kube, devices)
    with plan_check.template(NAME, prompt("2"), paused=True) as paused:
        generation = kube.deployment(NAME)["metadata"]["generation"]
        eventually(
            lambda: kube.deployment(NAME)["status"]["observedGeneration"] == generation, what="the change was seen"
        )
        steadily(
            lambda: {revision(item) for item in kube.list(PROCESSES)},
            lambda seen: seen == {"1"},
            what="all old",
            for_s=1,
        )
    assert paused.timeline.writes == []
    with plan_check.change(NAME, paused=False):
        await_done(kube, NAME)
    await_revision(kube, devices, "2")


def test_a_changed_label_of_the_template_reaches_processes_without_restarting_them(
    fleet: AgentFleet, kube: Kube, plan_check: PlanCheck
) -> None:
    (device,) = fleet.add()
    kube.apply(deployment(NAME, sleeping(), labels={"app": NAME}))
    before = await_ready(kube, [device])[device]
    template = {"metadata": {"labels": {"app": NAME, "tier": "gold"}}, "spec": sleeping()}
    with plan_check.change(NAME, template=template) as change:
        await_done(kube, NAME)
        eventually(
            lambda: kube.processes()[device]["metadata"]["labels"].get("tier") == "gold",
            what="the process has the label",
        )
    assert change.timeline.writes == []
    after = kube.processes()[device]
    assert (after["status"]["pid"], is_alive(before["status"]["pid"])) == (before["status"]["pid"], True)

# SPDX-License-Identifier: Apache-2.0
"""Changes that need confirmation: the annotation reaches the agent, or the device reverts them."""

from __future__ import annotations

from typing import Any

from e2e.stack.kube import PROCESSES, Kube, Object, condition, conditions
from e2e.stack.manifests import deployment
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_process, await_ready, revision
from e2e.suite.running import environment_of, is_alive
from e2e.suite.workloads import change_template, sleeping

CONFIRMED = "azure.com/confirmed"


def manual(seconds: int) -> Object:
    return {"mode": "Manual", "timeoutSeconds": seconds}


def waits(fleet: AgentFleet, device: str) -> Any:
    """Return what the device itself says that the change waits for."""
    return [process["confirmation"] for process in fleet.agent(device).status()["processes"]]


def changed(fleet: AgentFleet, kube: Kube, seconds: int) -> tuple[str, Object]:
    """Return a device and its process after a change that must be confirmed within *seconds*."""
    (device,) = fleet.add()
    kube.apply(deployment("sleeper", sleeping("1")))
    await_ready(kube, [device])
    change_template(kube, "sleeper", sleeping("2", confirm=manual(seconds)))

    def runs(process: Object) -> bool:
        status = process["status"]
        current = status.get("observedGeneration") == process["metadata"]["generation"] and status.get("pid")
        return revision(process) == "2" and condition(process, "ProcessStarted") == "True" and bool(current)

    return device, await_process(kube, device, runs, "the change runs")


def annotate(kube: Kube, process: Object, spec_hash: str) -> None:
    kube.patch(PROCESSES, process["metadata"]["name"], {"metadata": {"annotations": {CONFIRMED: spec_hash}}})


def test_the_annotation_with_the_hash_of_the_spec_confirms_a_change_and_no_other_does(
    fleet: AgentFleet, kube: Kube
) -> None:
    device, process = changed(fleet, kube, 3600)
    agent = fleet.agent(device)
    before = agent.status()
    assert [wait["mode"] for wait in waits(fleet, device)] == ["Manual"]
    annotate(kube, process, "sha256:" + "0" * 64)
    eventually(
        agent.status, lambda status: status["desiredETag"] != before["desiredETag"], what="the wrong hash arrived"
    )
    assert [wait["mode"] for wait in waits(fleet, device)] == ["Manual"]
    annotate(kube, process, process["status"]["observedSpecHash"])
    eventually(lambda: waits(fleet, device), lambda found: found == [None], what="the change is confirmed")
    after = await_ready(kube, [device])[device]
    assert (after["status"]["pid"], revision(after)) == (process["status"]["pid"], "2")
    assert condition(after, "RolledBack") != "True"


def test_an_unconfirmed_change_is_reverted_although_the_agent_was_killed_meanwhile(
    fleet: AgentFleet, kube: Kube
) -> None:
    device, process = changed(fleet, kube, 10)
    fleet.agent(device).restart(kill=True)
    process_after = await_process(kube, device, lambda item: condition(item, "RolledBack") == "True", "rolled back")
    rolled_back = conditions(process_after)["RolledBack"]
    assert rolled_back["reason"] == "ConfirmTimedOut"
    assert rolled_back["message"] == "no user confirmed the change within 10 s"
    assert not is_alive(process["status"]["pid"])
    old = await_process(
        kube, device, lambda item: item["status"].get("pid") not in (None, process["status"]["pid"]), "the old one runs"
    )
    assert environment_of(old["status"]["pid"])["REVISION"] == "1"
    assert condition(old, "SpecObserved") == "False"

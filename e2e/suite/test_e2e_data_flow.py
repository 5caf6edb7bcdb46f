# SPDX-License-Identifier: Apache-2.0
"""The happy path, step by step: deployment → processes → desired state → real process → status → counts."""

from __future__ import annotations

from e2e.stack.kube import DEPLOYMENTS, PROCESSES, Kube, condition, conditions
from e2e.stack.manifests import deployment, device_process
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.device_api import DeviceApi
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_phase, await_ready, phase
from e2e.suite.running import argv_of, environment_of, is_alive
from e2e.suite.workloads import sleeping


def test_a_deployment_makes_one_process_for_every_matching_device(fleet: AgentFleet, kube: Kube) -> None:
    leaves = {fleet.declare({"role": "leaf"}), fleet.declare({"role": "leaf"})}
    fleet.declare({"role": "spine"})
    kube.apply(deployment("sleeper", sleeping(), match={"role": "leaf"}, labels={"app": "sleeper", "tier": "x"}))
    found = eventually(kube.processes, lambda processes: set(processes) == leaves, what="a process for every leaf")
    owner = kube.deployment("sleeper")["metadata"]
    for device, process in found.items():
        meta = process["metadata"]
        assert meta["name"] == f"sleeper-{device}"
        assert meta["labels"].items() >= {"app": "sleeper", "tier": "x"}.items()
        (reference,) = meta["ownerReferences"]
        assert (reference["uid"], reference["controller"]) == (owner["uid"], True)
        assert process["spec"]["deviceRef"]["kind"] == "NetworkSwitch"
        assert process["spec"]["execution"]["command"] == ["/bin/sleep"]


def test_a_device_without_an_agent_leaves_its_process_pending(fleet: AgentFleet, kube: Kube) -> None:
    device = fleet.declare()
    kube.apply(deployment("sleeper", sleeping()))
    eventually(kube.processes, lambda processes: device in processes, what="its process exists")
    state = eventually(
        lambda: kube.deployment("sleeper"),
        lambda item: item.get("status", {}).get("desiredNumberScheduled") == 1,
        what="the deployment counts it",
    )
    kube.apply(device_process("orphan", f"{device}-missing", sleeping(), kind="DPU"))
    eventually(
        lambda: [
            (phase(found), conditions(found)["AgentConnected"]["reason"])
            for found in (kube.processes()[device], kube.process("orphan"))
        ],
        lambda found: found == [("Pending", "NeverConnected"), ("Pending", "NotDeclared")],
        what="both say that no device was ever heard",
    )
    assert conditions(kube.switch(device))["AgentConnected"]["reason"] == "NeverConnected"
    assert state["status"].get("numberReady", 0) == 0
    assert condition(state, "Available") == "False"


def test_what_the_gateway_serves_is_what_the_controller_wrote(stack: Stack, fleet: AgentFleet, kube: Kube) -> None:
    device = fleet.declare()
    kube.apply(deployment("sleeper", sleeping()))
    answer = eventually(
        lambda: DeviceApi.of(stack, device).desired().json(), lambda body: body["items"], what="the device has an item"
    )
    process = kube.processes()[device]
    (item,) = answer["items"]
    assert answer["deviceName"] == device
    assert answer["heartbeatIntervalSeconds"] == stack.settings.heartbeat
    assert (item["name"], item["namespace"], item["uid"], item["generation"]) == (
        process["metadata"]["name"],
        kube.namespace,
        process["metadata"]["uid"],
        process["metadata"]["generation"],
    )
    assert item["specHash"].startswith("sha256:")
    assert item["spec"]["execution"]["args"] == ["infinity"]


def test_the_device_runs_the_process_and_its_status_agrees_with_the_kernel(fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("sleeper", sleeping("7")))
    process = await_ready(kube, [device])[device]
    status = process["status"]
    assert argv_of(status["pid"]) == ("/bin/sleep", "infinity")
    assert environment_of(status["pid"])["REVISION"] == "7"
    assert status["pid"] in fleet.agent(device).processes()
    assert (status["phase"], status.get("restartCount", 0)) == ("Running", 0)
    assert status["observedSpecHash"].startswith("sha256:")
    assert status["startTime"]
    for kind in ("AgentConnected", "SpecObserved", "ProcessStarted", "Healthy"):
        entry = conditions(process)[kind]
        assert (entry["status"], bool(entry["reason"]), bool(entry["lastTransitionTime"])) == ("True", True, True)


def test_the_deployment_counts_its_processes_and_becomes_available(fleet: AgentFleet, kube: Kube) -> None:
    fleet.add(2)
    kube.apply(deployment("sleeper", sleeping()))
    done = eventually(
        lambda: kube.deployment("sleeper"),
        lambda item: condition(item, "Available") == "True" and item["status"]["numberAvailable"] == 2,
        what="the deployment is available on both",
    )
    status = done["status"]
    assert status["observedGeneration"] == done["metadata"]["generation"]
    counts = ("desired", "current", "updated")
    assert [status[f"{count}NumberScheduled"] for count in counts] == [2, 2, 2]
    assert (status["numberReady"], status.get("numberUnavailable", 0)) == (2, 0)
    assert condition(done, "Progressing") == "True"


def test_the_device_is_connected_and_its_switch_has_the_facts_of_the_agent(fleet: AgentFleet) -> None:
    device = fleet.declare()
    fleet.power_on(device)
    switch = fleet.await_connected(device)
    status = eventually(
        lambda: fleet.kube.switch(device)["status"], lambda status: status.get("facts"), what="facts are reported"
    )
    assert status["agentVersion"]
    assert status["bootID"]
    assert conditions(switch)["AgentConnected"]["reason"]


def test_changes_are_recorded_as_events(fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("sleeper", sleeping()))
    name = await_ready(kube, [device])[device]["metadata"]["name"]

    def reasons() -> set[tuple[str, str]]:
        return {(event["regarding"]["name"], event["reason"]) for event in kube.events()}

    wanted = {(name, "ProcessStarted"), (name, "Healthy"), (device, "AgentConnected")}
    eventually(reasons, lambda seen: seen >= wanted, what=f"events {wanted}")


def test_a_process_written_by_hand_needs_neither_deployment_nor_switch(
    stack: Stack, kube: Kube, fleet: AgentFleet
) -> None:
    device = f"{kube.namespace}-bmc"
    fleet.power_on(device)
    kube.apply(device_process("collector", device, sleeping(), kind="BMC"))
    process = await_phase(kube, device, "Running")
    assert is_alive(process["status"]["pid"])
    kube.delete(PROCESSES, "collector")
    eventually(lambda: not is_alive(process["status"]["pid"]), what="the process ended on the device")


def test_a_deployment_that_matches_nothing_says_so_and_is_idle(fleet: AgentFleet, kube: Kube) -> None:
    fleet.declare({"role": "leaf"})
    kube.apply(deployment("nowhere", sleeping(), match={"role": "none"}))
    found = eventually(
        lambda: kube.deployment("nowhere"),
        lambda item: conditions(item)["Progressing"]["reason"] == "NoDevices",
        what="it says that no device matches",
    )
    assert condition(found, "Available") == condition(found, "Progressing") == "False"
    assert found["status"].get("desiredNumberScheduled", 0) == 0
    assert kube.list(PROCESSES) == ()
    kube.delete(DEPLOYMENTS, "nowhere")

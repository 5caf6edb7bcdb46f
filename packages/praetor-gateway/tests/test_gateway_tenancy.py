# SPDX-License-Identifier: Apache-2.0
"""What a user of one namespace can do to devices of another: nothing, and it shows on the user's own objects."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_testing import GatewayLab, process_object, running_lab, switch_object
from praetor_api.kube.client.resource import DEVICE_PROCESSES, EVENTS, NETWORK_SWITCHES, Key, Resource

THEIRS = Key("other", "agent-leaf-1")


def condition(lab: GatewayLab, resource: Resource, key: Key, kind: str) -> tuple[str, str] | None:
    """Return status and reason of a condition."""
    stored = lab.kube.objects(resource)[key].get("status", {}).get("conditions", ())
    return next(((each["status"], each["reason"]) for each in stored if each["type"] == kind), None)


def warned(lab: GatewayLab, reason: str) -> set[str]:
    """Return the namespaces of the objects that a Warning with *reason* is about."""
    found = [each for each in lab.kube.objects(EVENTS).values() if each["reason"] == reason]
    assert all(each["type"] == "Warning" for each in found)
    return {each["regarding"]["namespace"] for each in found}


async def names(lab: GatewayLab, device: str = "leaf-1") -> list[tuple[str, str]]:
    """Return namespace and name of what the device is served."""
    return [(item["namespace"], item["name"]) for item in (await lab.desired(device))["items"]]


@pytest.mark.parametrize("kind", ["NetworkSwitch", "DPU"])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_process_of_another_namespace_is_refused_and_its_owner_sees_it(declared: bool, kind: str) -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1", switch=declared)
        seen = await lab.running("leaf-1")
        await lab.report("leaf-1", seen, then_s=2)
        ref = {"kind": kind, "name": "leaf-1", "namespace": "lab"}
        foreign = process_object("leaf-1", deviceRef=ref)
        created = await lab.settled(lab.kube.create(DEVICE_PROCESSES, "other", foreign))
        await lab.clock.advance(2)
        assert await names(lab) == [("lab", "agent-leaf-1")]
        answer = await lab.report("leaf-1", {**seen, "namespace": "other", "uid": created["metadata"]["uid"]}, then_s=2)
        assert answer["rejected"][0]["reason"] == "no such process on this device"
        assert condition(lab, DEVICE_PROCESSES, THEIRS, "Refused") == ("True", "ForeignNamespace")
        assert lab.kube.objects(DEVICE_PROCESSES)[THEIRS]["status"]["phase"] == "Pending"
        assert warned(lab, "Refused") == {"other"}
        assert condition(lab, DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), "Refused") is None
        assert lab.process("leaf-1")["status"]["phase"] == "Running"


async def test_what_a_device_already_runs_from_a_foreign_process_is_stopped_as_if_it_were_deleted() -> None:
    """An earlier gateway served it: the status it wrote is replaced, the device gets a desired state without it."""
    status: dict[str, Any] = {
        "phase": "Running",
        "pid": 42,
        "observedGeneration": 1,
        "conditions": [
            {"type": kind, "status": "True", "reason": "X", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind in ("AgentConnected", "Healthy", "ProcessStarted", "Theirs")
        ],
    }
    async with running_lab() as first:
        ref = {"name": "leaf-1", "namespace": "lab"}
        await first.kube.create(DEVICE_PROCESSES, "other", process_object("leaf-1", deviceRef=ref))
        await first.kube.patch(DEVICE_PROCESSES, THEIRS, {"status": status}, subresource="status")
        kube, clock = first.kube.another_client(), first.clock
        await clock.advance(20)
    async with running_lab(kube, clock) as lab:
        await lab.clock.advance(20)
        assert await names(lab) == []
        stored = lab.kube.objects(DEVICE_PROCESSES)[THEIRS]["status"]
        assert (stored["phase"], "pid" in stored) == ("Pending", False)
        assert {each["type"] for each in stored["conditions"]} == {"Refused", "Theirs"}
        assert warned(lab, "Unhealthy") == set()


async def test_a_refusal_is_over_once_the_reference_is_corrected() -> None:
    """The definitions of old clusters do not keep users from changing a reference."""
    async with running_lab() as lab:
        await lab.kube.loosen(DEVICE_PROCESSES)
        ref = {"name": "leaf-1", "namespace": "lab"}
        await lab.kube.create(DEVICE_PROCESSES, "other", process_object("leaf-1", deviceRef=ref))
        await lab.clock.advance(2)
        assert condition(lab, DEVICE_PROCESSES, THEIRS, "Refused") == ("True", "ForeignNamespace")
        patch = {"spec": {"deviceRef": {"namespace": "other"}}}
        await lab.settled(lab.kube.patch(DEVICE_PROCESSES, THEIRS, patch))
        assert await names(lab) == [("other", "agent-leaf-1")]
        await lab.clock.advance(2)
        assert condition(lab, DEVICE_PROCESSES, THEIRS, "Refused") == ("False", "Accepted")
        back = {"spec": {"deviceRef": {"namespace": "lab"}}}
        await lab.settled(lab.kube.patch(DEVICE_PROCESSES, THEIRS, back))
        assert await names(lab) == []


async def test_many_foreign_processes_change_nothing_of_the_device() -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        before = (await lab.client.get("/v1/devices/leaf-1/desired")).headers["etag"]
        for number in range(20):
            ref = {"name": "leaf-1", "namespace": "lab"}
            process = process_object("leaf-1", f"p-{number}", deviceRef=ref)
            await lab.kube.create(DEVICE_PROCESSES, "other", process)
        await lab.clock.advance(2)
        assert (await lab.client.get("/v1/devices/leaf-1/desired")).headers["etag"] == before
        assert lab.switch("leaf-1").get("status", {}).get("processes", {}).get("desired", 1) == 1
        assert lab.gateway.device_entries() <= 2


async def test_a_process_needs_no_switch_and_processes_alone_never_beat_a_declared_switch() -> None:
    async with running_lab() as lab:
        await lab.settled(lab.kube.create(DEVICE_PROCESSES, "other", process_object("leaf-1")))
        assert await names(lab) == [("other", "agent-leaf-1")]
        await lab.settled(lab.kube.create(NETWORK_SWITCHES, "lab", switch_object("leaf-1")))
        await lab.clock.advance(2)
        assert await names(lab) == []
        assert condition(lab, DEVICE_PROCESSES, THEIRS, "NameConflict") == ("True", "BoundElsewhere")
        assert warned(lab, "NameConflict") == {"other"}

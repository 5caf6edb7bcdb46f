# SPDX-License-Identifier: Apache-2.0
"""What a user of one namespace can do to devices of another: nothing, and it shows on the user's own objects."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from gateway_testing import GatewayLab, process_object, running_lab, switch_object
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICE_PROCESSES, EVENTS, NETWORK_SWITCHES, Key, Resource
from praetor_api.tokens import device_token
from praetor_gateway.settings import Credentials

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


BINDINGS = Key("lab", "praetor-device-bindings")
OURS, LATER = Key("lab", "leaf-1"), Key("other", "leaf-1")
SILENT_S = 60.0


def bindings(lab: GatewayLab) -> dict[str, str] | None:
    """Return what is stored of the contested names, None while nothing is."""
    stored = lab.kube.objects(CONFIG_MAPS).get(BINDINGS)
    return None if stored is None else stored.get("data", {})


def writes(lab: GatewayLab, resource: Resource = CONFIG_MAPS) -> int:
    return sum(each.resource is resource and each.verb in ("create", "patch") for each in lab.kube.requests)


async def answers(lab: GatewayLab) -> tuple[int, int]:
    """Return how a poll and a report of leaf-1 are answered."""
    polled = await lab.client.get("/v1/devices/leaf-1/desired")
    return polled.status, (await lab.client.post("/v1/devices/leaf-1/report", {"heartbeat": True})).status


async def served_by(lab: GatewayLab) -> str:
    """Return the namespace that leaf-1 is served from, or that it is held."""
    polled = await lab.client.get("/v1/devices/leaf-1/desired")
    if polled.status == HTTPStatus.CONFLICT:
        assert await answers(lab) == (409, 409)
        return "held"
    namespaces = {item["namespace"] for item in polled.json()["items"]}
    assert len(namespaces) == 1
    return str(namespaces.pop())


async def claim(lab: GatewayLab, namespace: str, *, switch: bool = True, **spec: Any) -> None:
    """Declare leaf-1 in *namespace*, with a process."""
    if switch:
        await lab.kube.create(NETWORK_SWITCHES, namespace, switch_object("leaf-1") | {"spec": spec})
    await lab.kube.create(DEVICE_PROCESSES, namespace, process_object("leaf-1"))
    await lab.clock.advance(3)


async def leave(lab: GatewayLab, namespace: str) -> None:
    """Delete what *namespace* has of leaf-1."""
    for resource, name in ((DEVICE_PROCESSES, "agent-leaf-1"), (NETWORK_SWITCHES, "leaf-1")):
        if Key(namespace, name) in lab.kube.objects(resource):
            await lab.kube.delete(resource, Key(namespace, name))
    await lab.clock.advance(3)


async def restarted(lab: GatewayLab) -> str:
    """Return where leaf-1 is served from by a gateway that starts now."""
    async with running_lab(lab.kube.another_client(), lab.clock, identity="gateway-2") as fresh:
        await fresh.clock.advance(3)
        return await served_by(fresh)


@pytest.mark.parametrize("switch", [True, False], ids=["switches", "processes"])
async def test_a_name_stays_with_the_namespace_that_was_served_before(switch: bool) -> None:
    async with running_lab() as lab:
        await claim(lab, "lab", switch=switch)
        await lab.report("leaf-1", await lab.running("leaf-1"), then_s=20)
        etag = (await lab.client.get("/v1/devices/leaf-1/desired")).headers["etag"]
        before, written = lab.process("leaf-1")["status"], writes(lab, DEVICE_PROCESSES)
        await claim(lab, "other", switch=switch, **({"credentialEpoch": 7} if switch else {}))
        await lab.report("leaf-1", then_s=5)
        assert await answers(lab) == (200, 200)
        assert (await lab.client.get("/v1/devices/leaf-1/desired")).headers["etag"] == etag
        assert lab.process("leaf-1")["status"] == before
        assert writes(lab, DEVICE_PROCESSES) == written + 2  # the test created the other one, and it was refused
        assert bindings(lab) == {"leaf-1": "lab" if switch else "lab/processes"}
        assert condition(lab, DEVICE_PROCESSES, THEIRS, "NameConflict") == ("True", "BoundElsewhere")
        if switch:
            assert condition(lab, NETWORK_SWITCHES, LATER, "NameConflict") == ("True", "BoundElsewhere")
            assert condition(lab, NETWORK_SWITCHES, LATER, "AgentConnected") is None
            assert condition(lab, NETWORK_SWITCHES, OURS, "NameConflict") is None
        assert warned(lab, "NameConflict") == {"other"}
        assert await restarted(lab) == "lab"
        await leave(lab, "other")
        assert bindings(lab) == {}
        assert writes(lab) == 2
        assert await served_by(lab) == "lab"


@pytest.mark.parametrize("switch", [True, False], ids=["switches", "processes"])
async def test_a_device_whose_owner_went_away_keeps_what_it_runs_until_the_owner_is_back(switch: bool) -> None:
    async with running_lab() as lab:
        await claim(lab, "lab", switch=switch)
        await claim(lab, "other", switch=switch)
        await leave(lab, "lab")
        assert (await served_by(lab), await restarted(lab)) == ("held", "held")
        await leave(lab, "other")  # a squatter that declares it again is no better off
        await claim(lab, "other", switch=switch)
        assert (await served_by(lab), await restarted(lab)) == ("held", "held")
        await claim(lab, "lab", switch=switch)  # as a restore does it: with other uids, and later than the other
        assert (await served_by(lab), await restarted(lab)) == ("lab", "lab")
        assert condition(lab, DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), "NameConflict") is None
        assert bindings(lab) == {"leaf-1": "lab" if switch else "lab/processes"}


async def test_processes_of_an_owner_whose_switch_is_gone_are_kept_too_and_say_why() -> None:
    async with running_lab() as lab:
        await claim(lab, "lab")
        await lab.report("leaf-1", await lab.running("leaf-1"), then_s=5)
        await claim(lab, "other")
        await lab.settled(lab.kube.delete(NETWORK_SWITCHES, OURS))
        await lab.clock.advance(3)
        process = Key("lab", "agent-leaf-1")
        assert await served_by(lab) == "held"
        assert condition(lab, DEVICE_PROCESSES, process, "NameConflict") == ("True", "OwnerGone")
        assert lab.process("leaf-1")["status"]["phase"] == "Running"
        await lab.kube.create(NETWORK_SWITCHES, "lab", switch_object("leaf-1"))
        await lab.clock.advance(3)
        assert await served_by(lab) == "lab"
        assert condition(lab, DEVICE_PROCESSES, process, "NameConflict") == ("False", "Accepted")


async def test_a_transfer_gives_the_name_to_another_namespace_and_replicas_agree() -> None:
    async with running_lab() as lab:
        await claim(lab, "lab")
        await lab.report("leaf-1", await lab.running("leaf-1"), then_s=5)
        await claim(lab, "other")
        async with running_lab(lab.kube.another_client(), lab.clock, identity="gateway-2") as second:
            await lab.kube.patch(CONFIG_MAPS, BINDINGS, {"data": {"leaf-1": "other"}})
            await lab.clock.advance(3)
            assert [await served_by(each) for each in (lab, second)] == ["other", "other"]
            assert condition(lab, NETWORK_SWITCHES, OURS, "NameConflict") == ("True", "BoundElsewhere")
            assert lab.process("leaf-1")["status"]["phase"] == "Pending"
            assert condition(lab, NETWORK_SWITCHES, LATER, "NameConflict") == ("False", "Accepted")
            assert writes(second) == 0
        assert await restarted(lab) == "other"
        await leave(lab, "lab")
        assert bindings(lab) == {}
        assert (await served_by(lab), await restarted(lab)) == ("other", "other")


async def test_without_a_binding_the_oldest_switch_has_the_name() -> None:
    async with running_lab() as lab:
        lab.kube.unreachable = True  # two namespaces declared the device while no gateway ran
        world = lab.kube.another_client()
        for namespace in ("other", "lab"):
            await world.create(NETWORK_SWITCHES, namespace, switch_object("leaf-1"))
            await world.create(DEVICE_PROCESSES, namespace, process_object("leaf-1"))
            await lab.clock.advance(2)
        await world.create(DEVICE_PROCESSES, "elsewhere", process_object("leaf-1"))
        async with running_lab(world.another_client(), lab.clock, identity="gateway-2") as fresh:
            assert await served_by(fresh) == "other"


async def test_many_contested_names_are_one_write() -> None:
    async with running_lab() as lab:
        for namespace in ("lab", "other"):
            for number in range(50):
                await lab.kube.create(NETWORK_SWITCHES, namespace, switch_object(f"leaf-{number}"))
            await lab.clock.settle()
        await lab.clock.advance(3)
        assert len(bindings(lab) or {}) == lab.value("names_contested") == 50
        assert (writes(lab), lab.value("bindings_unwritten")) == (1, 0)
        await lab.clock.advance(300)
        assert writes(lab) == 1


async def test_bindings_that_are_deleted_by_mistake_are_written_again() -> None:
    async with running_lab() as lab:
        await claim(lab, "lab")
        await claim(lab, "other")
        await leave(lab, "lab")
        await lab.kube.delete(CONFIG_MAPS, BINDINGS)
        await lab.clock.advance(5)
        assert bindings(lab) == {"leaf-1": "lab"}
        assert await served_by(lab) == "held"


async def test_removing_a_line_by_hand_releases_the_name() -> None:
    async with running_lab() as lab:
        await claim(lab, "lab")
        await claim(lab, "other")
        await leave(lab, "lab")
        assert await served_by(lab) == "held"
        await lab.settled(lab.kube.patch(CONFIG_MAPS, BINDINGS, {"data": {"leaf-1": None}}))
        assert await served_by(lab) == "other"
        await lab.clock.advance(3)
        assert bindings(lab) == {}


@pytest.mark.parametrize("status", [403, 413, 500])
async def test_a_gateway_that_may_not_keep_bindings_serves_whom_it_served_and_says_so(status: int) -> None:
    """The roles of an earlier version do not allow it."""
    async with running_lab() as world:
        kube = world.kube.another_client()
        refused = api_error(status, "Refused", "no")
        if status == 403:
            for verb in ("get", "list", "create", "patch"):
                kube.fail_next(refused, verb=verb, resource=CONFIG_MAPS, times=1000)
        kube.fail_next(refused, verb="create", resource=CONFIG_MAPS, times=1000)
        await world.clock.advance(1)
        async with running_lab(kube, world.clock, namespaces=("lab", "other"), lease_namespace="a") as lab:
            await claim(lab, "lab")
            await claim(lab, "other")
            assert await served_by(lab) == "lab"
            assert (lab.value("names_contested"), lab.value("bindings_unwritten")) == (1, 1)
            assert condition(lab, NETWORK_SWITCHES, LATER, "NameConflict") == ("True", "BoundElsewhere")
            kube.heal()
            await lab.clock.advance(120)
            assert lab.value("bindings_unwritten") == 0


async def test_tenants_with_a_gateway_each_do_not_see_each_other() -> None:
    """A tenant that declared another's device first has the name in a shared gateway, but not in one of its own."""
    async with running_lab() as shared:
        await claim(shared, "other")
        await claim(shared, "lab")
        assert await served_by(shared) == "other"
        assert condition(shared, NETWORK_SWITCHES, OURS, "NameConflict") == ("True", "BoundElsewhere")
    secret = {name: Credentials(secrets=(name,)) for name in ("one", "two")}
    kube, clock = shared.kube, shared.clock
    async with (
        running_lab(
            kube.another_client(), clock, namespaces=("lab",), lease_namespace="one", credentials=secret["one"]
        ) as ours,
        running_lab(
            kube.another_client(), clock, namespaces=("other",), lease_namespace="two", credentials=secret["two"]
        ) as theirs,
    ):
        for lab, own, foreign in ((ours, "one", "two"), (theirs, "two", "one")):
            lab.client.token = device_token(foreign.encode(), "leaf-1")
            assert await answers(lab) == (401, 401)
            lab.client.token = device_token(own.encode(), "leaf-1")
        assert [await served_by(lab) for lab in (ours, theirs)] == ["lab", "other"]
        await clock.advance(SILENT_S)
        assert condition(ours, NETWORK_SWITCHES, OURS, "NameConflict") == ("False", "Accepted")
        assert bindings(ours) == {"leaf-1": "other"}  # of the shared gateway, whose Lease was there
        await leave(theirs, "other")
        assert await served_by(ours) == "lab"

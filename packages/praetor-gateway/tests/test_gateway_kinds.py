# SPDX-License-Identifier: Apache-2.0
"""Devices of all kinds: served alike, and a name belongs to one kind, as the protocol knows names only."""

from __future__ import annotations

from pathlib import Path
from shutil import copy

import pytest

from gateway_testing import GatewayLab, process_object, running_lab, switch_object
from kube_testing import CRDS, NAMESPACES, FakeClock, InProcessKube
from kubeplane import ControlPlane
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import CONFIG_MAPS, DEVICE_PROCESSES, DEVICES, EVENTS, Key, Resource
from praetor_api.kube.crds import CUSTOM_RESOURCES, crd
from praetor_api.spec import DeviceKind
from praetor_gateway.fleet.devices import Binding

DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
BINDINGS = Key("lab", "praetor-device-bindings")
OURS = Key("lab", "leaf-1")
SWITCH, DPU = DeviceKind.NETWORK_SWITCH, DeviceKind.DPU


async def claim(lab: GatewayLab, kind: DeviceKind, namespace: str = "lab", *, declared: bool = True) -> None:
    """Declare leaf-1 as *kind*, with a process `<kind>-leaf-1`."""
    if declared:
        await lab.kube.create(DEVICES[kind], namespace, switch_object("leaf-1", kind=kind))
    process = process_object("leaf-1", f"{kind.lower()}-leaf-1", deviceRef={"kind": kind, "name": "leaf-1"})
    await lab.kube.create(DEVICE_PROCESSES, namespace, process)
    await lab.clock.advance(3)


async def served(lab: GatewayLab) -> str:
    """Return the names of what leaf-1 is served, or that it is held."""
    polled = await lab.client.get("/v1/devices/leaf-1/desired")
    return "held" if polled.status == 409 else " ".join(item["name"] for item in polled.json()["items"])


async def restarted(lab: GatewayLab) -> str:
    """Return what a gateway serves that starts now."""
    async with running_lab(lab.kube.another_client(), lab.clock, identity="gateway-2") as fresh:
        await fresh.clock.advance(3)
        return await served(fresh)


def conflict(lab: GatewayLab, resource: Resource, key: Key) -> tuple[str, str] | None:
    """Return status and reason of NameConflict."""
    stored = lab.kube.objects(resource)[key].get("status", {}).get("conditions", ())
    return next(((each["status"], each["reason"]) for each in stored if each["type"] == "NameConflict"), None)


def bindings(lab: GatewayLab) -> dict[str, str]:
    """Return what is stored of the contested names."""
    found: dict[str, str] = lab.kube.objects(CONFIG_MAPS).get(BINDINGS, {}).get("data", {})
    return found


@pytest.mark.parametrize("kind", DeviceKind)
async def test_a_device_of_any_kind_is_served_and_shows_what_a_switch_shows(kind: DeviceKind) -> None:
    async with running_lab() as lab:
        await claim(lab, kind)
        await lab.report("leaf-1", await lab.running("leaf-1"), agentVersion="2", facts={"os": "linux"}, then_s=10)
        assert await served(lab) == f"{kind.lower()}-leaf-1"
        status = lab.kube.objects(DEVICES[kind])[OURS]["status"]
        assert status["processes"] == {"desired": 1, "running": 1, "healthy": 1}
        assert (status["agentVersion"], status["facts"]) == ("2", {"os": "linux"})
        said = [each for each in lab.kube.objects(EVENTS).values() if each["reason"] == "AgentConnected"]
        assert [each["regarding"]["kind"] for each in said] == [kind]
        await lab.kube.patch(DEVICES[kind], OURS, {"spec": {"credentialEpoch": 1}})
        await lab.clock.advance(1)
        assert (await lab.client.get("/v1/devices/leaf-1/desired")).status == 401
        assert bindings(lab) == {}


@pytest.mark.parametrize("declared", [True, False])
async def test_a_name_stays_with_the_kind_that_was_first_and_the_other_says_so(declared: bool) -> None:
    async with running_lab() as lab:
        await claim(lab, SWITCH, declared=declared)
        await lab.report("leaf-1", await lab.running("leaf-1"), then_s=20)
        etag = (await lab.client.get("/v1/devices/leaf-1/desired")).headers["etag"]
        await claim(lab, DPU, declared=declared)
        assert (await lab.client.get("/v1/devices/leaf-1/desired")).headers["etag"] == etag
        assert conflict(lab, DEVICE_PROCESSES, Key("lab", "dpu-leaf-1")) == ("True", "BoundToAnotherKind")
        assert conflict(lab, DEVICE_PROCESSES, Key("lab", "networkswitch-leaf-1")) is None
        warned = {e["regarding"]["kind"] for e in lab.kube.objects(EVENTS).values() if e["reason"] == "NameConflict"}
        assert warned == ({"DPU", "DeviceProcess"} if declared else {"DeviceProcess"})
        if declared:
            assert conflict(lab, DEVICES[DPU], OURS) == ("True", "BoundToAnotherKind")
            assert conflict(lab, DEVICES[SWITCH], OURS) is None
            assert lab.switch("leaf-1")["status"]["processes"]["desired"] == 1
        assert await restarted(lab) == "networkswitch-leaf-1"
        assert bindings(lab) == {"leaf-1": "lab" if declared else "lab/processes"}


async def test_a_process_of_another_kind_never_beats_a_declared_device() -> None:
    async with running_lab() as lab:
        await claim(lab, SWITCH, declared=False)
        await claim(lab, DPU)
        assert await served(lab) == "dpu-leaf-1"
        assert conflict(lab, DEVICE_PROCESSES, Key("lab", "networkswitch-leaf-1")) == ("True", "BoundToAnotherKind")


async def test_a_transfer_gives_the_name_to_the_other_kind_and_replicas_agree() -> None:
    async with running_lab() as lab:
        await claim(lab, SWITCH)
        await claim(lab, DPU)
        async with running_lab(lab.kube.another_client(), lab.clock, identity="gateway-2") as second:
            await lab.kube.patch(CONFIG_MAPS, BINDINGS, {"data": {"leaf-1": "lab/DPU"}})
            await lab.clock.advance(3)
            assert [await served(each) for each in (lab, second)] == ["dpu-leaf-1"] * 2
        assert conflict(lab, DEVICES[SWITCH], OURS) == ("True", "BoundToAnotherKind")
        assert conflict(lab, DEVICES[DPU], OURS) == ("False", "Accepted")
        assert await restarted(lab) == "dpu-leaf-1"
        await lab.kube.delete(DEVICES[DPU], OURS)
        await lab.clock.advance(3)
        assert (await served(lab), await restarted(lab)) == ("held", "held")
        await lab.kube.delete(DEVICES[SWITCH], OURS)
        await lab.kube.delete(DEVICE_PROCESSES, Key("lab", "networkswitch-leaf-1"))
        await lab.clock.advance(3)
        await lab.kube.create(DEVICES[DPU], "lab", switch_object("leaf-1", kind=DPU))
        await lab.clock.advance(3)
        assert (await served(lab), bindings(lab)) == ("dpu-leaf-1", {})


async def test_a_gateway_of_one_namespace_keeps_to_whom_a_name_was_transferred() -> None:
    async with running_lab(namespaces=("lab",)) as lab:
        await claim(lab, SWITCH)
        await claim(lab, DPU)
        await lab.kube.patch(CONFIG_MAPS, BINDINGS, {"data": {"leaf-1": "lab/DPU"}})
        await lab.clock.advance(3)
        assert await served(lab) == "dpu-leaf-1"
        async with running_lab(lab.kube.another_client(), lab.clock, identity="g-2", namespaces=("lab",)) as fresh:
            await fresh.clock.advance(3)
            assert await served(fresh) == "dpu-leaf-1"


async def test_a_device_of_another_kind_in_another_namespace_is_refused_for_its_namespace() -> None:
    async with running_lab() as lab:
        await claim(lab, SWITCH)
        await claim(lab, DPU, "other")
        assert conflict(lab, DEVICES[DPU], Key("other", "leaf-1")) == ("True", "BoundElsewhere")
        await lab.kube.patch(CONFIG_MAPS, BINDINGS, {"data": {"leaf-1": "other"}})  # of a kind that is not there
        await lab.clock.advance(3)
        assert await served(lab) == "held"
        await lab.kube.patch(CONFIG_MAPS, BINDINGS, {"data": {"leaf-1": "other/DPU"}})
        await lab.clock.advance(3)
        assert await served(lab) == "dpu-leaf-1"


async def test_a_cluster_without_the_other_kinds_is_served_and_follows_them_once_they_exist(
    tmp_path: Path,
) -> None:
    for plural in ("networkswitches", "deviceprocesses"):
        copy(CRDS / f"azure.com_{plural}.yaml", tmp_path)
    clock = FakeClock()
    kube = InProcessKube(clock, plane=ControlPlane(crds=tmp_path, namespaces=NAMESPACES, clock=clock, bookmark_s=0))
    async with running_lab(kube, clock) as lab:
        await lab.declare("leaf-2")
        await lab.report("leaf-2", await lab.running("leaf-2"), then_s=10)
        assert lab.switch("leaf-2")["status"]["processes"]["running"] == 1
        before = len(kube.requests)
        await lab.clock.advance(300)
        asked = [each for each in kube.requests[before:] if each.resource.plural == "dpus"]
        assert len(asked) <= 7
        [definition] = [crd(each) for each in CUSTOM_RESOURCES if each.kind == DPU]
        await kube.create(DEFINITIONS, "", definition)
        await claim(lab, DPU)
        await lab.clock.advance(60)
        await lab.report("leaf-1", await lab.running("leaf-1"), then_s=10)
        assert lab.kube.objects(DEVICES[DPU])[OURS]["status"]["processes"]["running"] == 1


async def test_a_role_of_an_earlier_release_leaves_the_switches_served() -> None:
    async with running_lab() as world:
        kube, clock = world.kube.another_client(), world.clock
        await clock.advance(20)
    kube.fail_next(api_error(403, "Forbidden", "no"), verb="list", resource=DEVICES[DPU], times=100)
    async with running_lab(kube, clock) as lab:
        await claim(lab, SWITCH)
        assert await served(lab) == "networkswitch-leaf-1"


@pytest.mark.parametrize(
    "text", ["lab", "lab/processes", "lab/DPU", "lab/DPU/processes", "lab/Toaster", "lab/Toaster/processes"]
)
def test_a_binding_is_stored_as_it_was_read(text: str) -> None:
    assert str(Binding.parse(text)) == text


def test_a_binding_to_a_kind_of_a_later_release_is_to_no_namespace() -> None:
    assert Binding.parse("lab/Toaster").namespace != "lab"

# SPDX-License-Identifier: Apache-2.0
"""Deployments to devices of several kinds, on the whole program."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from kube_testing import CRDS, NAMESPACES, FakeClock, InProcessKube, body_of
from kubeplane import ControlPlane
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import DEVICE_PROCESSES, DEVICES, EVENTS, Key, Resource
from praetor_api.kube.crds import CUSTOM_RESOURCES, crd
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.forecast.model import ForecastModel
from praetor_controller.ctl.inventory import inventory_of
from praetor_controller.journal.replay import replay
from praetor_controller.model.projection import project_deployment
from praetor_controller.settings import Recording
from program_testing import ProgramFixture

SWITCH, DPU = DeviceKind.NETWORK_SWITCH, DeviceKind.DPU
BOTH = [SWITCH.value, DPU.value]
DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)


async def declare(fixture: ProgramFixture, kind: DeviceKind, *names: str) -> None:
    for name in names:
        body = body_of(DEVICES[kind], name, {"labels": {"role": "leaf"}}, spec={})
        await fixture.kube.create(DEVICES[kind], "lab", body)


def references(fixture: ProgramFixture) -> dict[str, tuple[str, str]]:
    """Return kind and name of the device of each process."""
    refs = {name: each["spec"]["deviceRef"] for name, each in fixture.processes().items()}
    return {name: (ref["kind"], ref["name"]) for name, ref in refs.items()}


def without_other_kinds(folder: Path) -> ProgramFixture:
    """Return a fixture on a cluster of an earlier release."""
    for plural in ("networkswitches", "deviceprocesses", "deviceprocessdeployments"):
        copy(CRDS / f"azure.com_{plural}.yaml", folder)

    class Older(InProcessKube):
        def __init__(self, clock: FakeClock) -> None:
            plane = ControlPlane(crds=folder, namespaces=NAMESPACES, clock=clock, bookmark_s=0)
            super().__init__(clock, plane=plane)

    return ProgramFixture(Older)


def missing(fixture: ProgramFixture) -> str:
    """Return the message of KindsMissing; empty without the condition."""
    found = (each for each in fixture.status().get("conditions", ()) if each["type"] == "KindsMissing")
    return next((str(each["message"]) for each in found), "")


async def test_a_deployment_selects_switches_unless_it_names_kinds() -> None:
    fixture = ProgramFixture()
    await declare(fixture, SWITCH, "a")
    await declare(fixture, DPU, "b")
    await fixture.deploy()
    async with fixture.controller():
        assert references(fixture) == {"tel-a": ("NetworkSwitch", "a")}
        await fixture.edit(deviceKinds=BOTH)
        await fixture.clock.advance(5)
        assert references(fixture) == {"tel-a": ("NetworkSwitch", "a"), "tel-dpu-b": ("DPU", "b")}
        await declare(fixture, DPU, "c")
        await fixture.clock.advance(5)
        assert references(fixture)["tel-dpu-c"] == ("DPU", "c")
        await fixture.report_ready()
        await fixture.clock.advance(5)
        assert fixture.status()["reasons"] == {"UpToDate": 3}
        assert missing(fixture) == ""


@pytest.mark.parametrize("kind", DeviceKind)
async def test_each_kind_rolls_out_within_the_budget(kind: DeviceKind) -> None:
    fixture = ProgramFixture()
    await declare(fixture, kind, "a", "b", "c")
    await fixture.deploy(deviceKinds=[kind.value])
    async with fixture.controller():
        await fixture.report_ready()
        await fixture.clock.advance(5)
        assert fixture.status()["reasons"] == {"UpToDate": 3}
        await fixture.change_template("v2")
        await fixture.clock.advance(5)
        assert sorted(fixture.commands().values()) == ["v1", "v1", "v2"]
        for _ in range(4):
            await fixture.report_ready()
            await fixture.clock.advance(5)
        assert set(fixture.commands().values()) == {"v2"}
        assert {each for each, _ in references(fixture).values()} == {kind.value}
        await fixture.kube.delete(DEVICES[kind], Key("lab", "c"))
        await fixture.clock.advance(20)
        assert len(fixture.processes()) == 2


async def test_two_kinds_of_one_name_get_a_process_each_and_none_takes_the_others_name() -> None:
    fixture = ProgramFixture()
    await declare(fixture, SWITCH, "a", "dpu-a")
    await declare(fixture, DPU, "a")
    await fixture.deploy(deviceKinds=BOTH)
    async with fixture.controller():
        found = references(fixture)
        assert sorted(found.values()) == [("DPU", "a"), ("NetworkSwitch", "a"), ("NetworkSwitch", "dpu-a")]
        await fixture.report_ready()
        await fixture.clock.advance(60)
        assert references(fixture) == found
        assert fixture.status()["reasons"] == {"UpToDate": 3}


async def test_a_kind_that_the_cluster_lacks_is_said_and_followed_once_it_is_there(tmp_path: Path) -> None:
    fixture = without_other_kinds(tmp_path)
    await declare(fixture, SWITCH, "a")
    await fixture.deploy(deviceKinds=BOTH)
    async with fixture.controller():
        assert references(fixture) == {"tel-a": ("NetworkSwitch", "a")}
        assert "the cluster has no DPU" in missing(fixture)
        await fixture.report_ready()
        await fixture.clock.advance(10)
        assert fixture.status()["reasons"] == {"UpToDate": 1}
        warned = [each for each in fixture.kube.objects(EVENTS).values() if each["reason"] == "KindsMissing"]
        assert len(warned) == 1
        [definition] = [crd(each) for each in CUSTOM_RESOURCES if each.kind == DPU]
        await fixture.kube.create(DEFINITIONS, "", definition)
        await fixture.clock.advance(70)
        assert missing(fixture) == ""
        await declare(fixture, DPU, "b")
        await fixture.clock.advance(5)
        assert references(fixture)["tel-dpu-b"] == ("DPU", "b")


async def test_a_deployment_to_missing_kinds_alone_matches_nothing_and_says_why(tmp_path: Path) -> None:
    fixture = without_other_kinds(tmp_path)
    await fixture.deploy(deviceKinds=["DPU", "BMC"])
    async with fixture.controller():
        assert fixture.condition("Progressing") == ("False", "NoDevices")
        assert "the cluster has no DPU and no BMC" in missing(fixture)


async def test_processes_of_a_kind_that_may_not_be_read_any_more_are_kept() -> None:
    fixture = ProgramFixture()
    await declare(fixture, SWITCH, "a")
    await declare(fixture, DPU, "b")
    await fixture.deploy(deviceKinds=BOTH)
    async with fixture.controller():
        await fixture.report_ready()
        await fixture.clock.advance(5)
    before = fixture.processes()["tel-dpu-b"]
    fixture.kube.fail_next(api_error(403, "Forbidden", "no"), verb="list", resource=DEVICES[DPU], times=1000)
    async with fixture.controller():
        await fixture.change_template("v2")
        await fixture.clock.advance(30)
        assert fixture.processes()["tel-dpu-b"] == before
        assert "no DPU, or it may not be read" in missing(fixture)
        assert fixture.commands()["tel-a"] == "v2"


def test_device_kinds_change_no_hash_revision_or_name_of_a_deployment() -> None:
    def row(**spec: Any) -> Any:
        template = {"spec": {"execution": {"backend": "process", "command": ["/bin/a"]}}}
        metadata = {"name": "web", "namespace": "lab"}
        return project_deployment({"metadata": metadata, "spec": {"selector": {}, "template": template, **spec}})

    assert row().template == row(deviceKinds=["NetworkSwitch"]).template == row(deviceKinds=BOTH).template
    assert row().policy.device_kinds == (SWITCH,)


async def test_a_process_of_an_undeclared_kind_made_by_hand_is_left_alone() -> None:
    fixture = ProgramFixture()
    await declare(fixture, SWITCH, "a")
    ref = {"kind": "DPU", "name": "a"}
    spec = {"execution": {"backend": "process", "command": ["mine"]}, "deviceRef": ref}
    await fixture.kube.create(DEVICE_PROCESSES, "lab", body_of(DEVICE_PROCESSES, "own", spec=spec))
    await fixture.deploy()
    async with fixture.controller():
        await fixture.clock.advance(60)
        assert references(fixture) == {"own": ("DPU", "a"), "tel-a": ("NetworkSwitch", "a")}


async def test_a_recording_of_devices_of_several_kinds_is_replayed_without_a_difference(tmp_path: Path) -> None:
    fixture = ProgramFixture()
    await declare(fixture, SWITCH, "a")
    await declare(fixture, DPU, "a", "b")
    await fixture.deploy(deviceKinds=BOTH)
    recording = Recording(path=tmp_path / "decisions.jsonl", max_bytes=1 << 20, files=2)
    async with fixture.controller(recording):
        await fixture.report_ready()
        await fixture.clock.advance(5)
    recorded = recording.path.read_bytes()
    *_, done = replay(recorded.splitlines(keepends=True))
    assert b'"DPU/b"' in recorded
    assert done.decisions > 1
    assert done.difference is None


def test_plan_warns_of_kinds_that_the_cluster_lacks() -> None:
    inventory = inventory_of([], [], [], [], (DPU,))
    template = {"spec": {"execution": {"backend": "process", "command": ["/bin/a"]}}}
    metadata = {"name": "web", "namespace": "lab", "uid": "u"}
    manifest = {"metadata": metadata, "spec": {"selector": {}, "deviceKinds": BOTH, "template": template}}
    warnings = ForecastModel(inventory, [], manifest, datetime(2026, 1, 1, tzinfo=UTC)).warnings()
    assert [each for each in warnings if each.startswith("KindsMissing: spec.deviceKinds: the cluster has no DPU")]

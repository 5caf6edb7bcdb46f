# SPDX-License-Identifier: Apache-2.0
"""Values of the device in the desired state: what is served, what wakes a device, and what holds it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import evolve

from gateway_testing import GatewayLab, conditions, process_row, running_lab, switch_row
from praetor_api.canonical import spec_hash
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_api.kube.objects import NetworkSwitchStatus
from praetor_api.protocol import read_desired
from praetor_api.values import Reference
from praetor_gateway.fleet.devices import DeviceIndex
from praetor_gateway.fleet.rows import CachedProcess, CachedSwitch

DESIRED = "/v1/devices/leaf-1/desired"
SWITCH, PROCESS = Key("lab", "leaf-1"), Key("lab", "agent-leaf-1")
KNOWS = "values.v1"


def ref(name: str, path: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"deviceFieldRef": {"fieldPath": path, **more}}}


def execution(*env: dict[str, Any]) -> dict[str, Any]:
    return {"backend": "process", "command": ["sleep", "9"], "env": list(env)}


RACK = execution(ref("RACK", "metadata.labels['rack']"))


async def label(lab: GatewayLab, **labels: str | None) -> None:
    await lab.settled(lab.kube.patch(NETWORK_SWITCHES, SWITCH, {"metadata": {"labels": labels}}))


async def test_an_item_has_the_values_of_its_device_beside_the_spec_as_it_is_stored() -> None:
    env = (
        {"name": "PLAIN", "value": "$(NAME)"},
        ref("NAME", "metadata.name"),
        ref("NAMESPACE", "metadata.namespace"),
        ref("RACK", "metadata.labels['example.com/rack']"),
        ref("ADDRESS", "spec.managementAddress"),
        ref("OS", "status.facts['os']"),
        ref("GONE", "metadata.labels['gone']", optional=True),
    )
    async with running_lab() as lab:
        await lab.declare("leaf-1", execution=execution(*env))
        await lab.kube.patch(NETWORK_SWITCHES, SWITCH, {"spec": {"managementAddress": "192.0.2.7"}})
        await label(lab, **{"example.com/rack": "r1"})
        await lab.report("leaf-1", bootID="b", facts={"os": "Debian 12"}, then_s=5)
        (item,) = (await lab.client.get(DESIRED, praetor_features=KNOWS)).json()["items"]
        assert item["values"] == {
            "NAME": "leaf-1",
            "NAMESPACE": "lab",
            "RACK": "r1",
            "ADDRESS": "192.0.2.7",
            "OS": "Debian 12",
        }
        assert item["spec"] == lab.process("leaf-1")["spec"]
        assert item["specHash"] == spec_hash(item["spec"])
        (read,) = read_desired({"items": [item], "deviceName": "leaf-1"}).items
        assert (read.values, read.values_hash) == (item["values"], item["valuesHash"])


async def test_a_changed_value_answers_a_held_poll_and_keeps_the_spec_hash() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1", execution=RACK)
        await label(lab, rack="r1")
        before = await lab.client.get(DESIRED, praetor_features=KNOWS)
        poll = asyncio.ensure_future(
            lab.client.get(DESIRED, praetor_features=KNOWS, if_none_match=before.headers["etag"], prefer="wait=50")
        )
        await lab.clock.settle()
        await label(lab, other="x")
        assert not poll.done()
        await label(lab, rack="r2")
        after = await poll
        old, new = before.json()["items"][0], after.json()["items"][0]
        assert (after.status, new["values"]) == (200, {"RACK": "r2"})
        assert (new["specHash"], new["valuesHash"] == old["valuesHash"]) == (old["specHash"], False)


async def test_an_agent_without_the_feature_is_not_sent_a_reference() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1", execution=RACK)
        (item,) = (await lab.client.get(DESIRED, praetor_features="reboot.v1")).json()["items"]
        assert (item["features"], "spec" in item, "values" in item) == ([KNOWS], False, False)


async def test_a_missing_value_holds_the_process_until_the_device_has_one() -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        running = await lab.running("leaf-1")
        both = execution(ref("RACK", "metadata.labels['rack']"), ref("OS", "status.facts['os']"))
        await lab.settled(lab.kube.patch(DEVICE_PROCESSES, PROCESS, {"spec": {"execution": both}}))
        answer = await lab.client.get(DESIRED, praetor_features=KNOWS)
        (item,) = answer.json()["items"]
        assert {"spec", "specHash", "values"}.isdisjoint(item)
        assert item["missing"] == ["metadata.labels['rack']", "status.facts['os']"]
        assert read_desired(answer.json()).invalid[0].uid == item["uid"]  # what makes an agent keep what it has

        seen = running | {"errorMessage": "spec: is required"}
        await lab.report("leaf-1", seen, then_s=1)
        held = update_held(lab)
        assert (held["status"], held["reason"]) == ("True", "ReferenceMissing")
        assert held["message"].startswith("ReferenceMissing(metadata.labels['rack'], status.facts['os']): ")
        assert lab.process("leaf-1")["status"]["phase"] == "Running"

        await label(lab, rack="r1")
        assert (await lab.client.get(DESIRED, praetor_features=KNOWS)).headers["etag"] != answer.headers["etag"]
        ack = await lab.report("leaf-1", bootID="b", facts={"arch": "arm"})
        assert ack["resync"]  # so that the message says what is missing still
        await lab.report("leaf-1", seen, bootID="b", then_s=1)
        assert update_held(lab)["message"].startswith("ReferenceMissing(status.facts['os']): ")

        await lab.report("leaf-1", seen, bootID="b", facts={"os": "Debian 12"}, then_s=5)
        (item,) = (await lab.client.get(DESIRED, praetor_features=KNOWS)).json()["items"]
        assert item["values"] == {"RACK": "r1", "OS": "Debian 12"}
        await lab.report("leaf-1", running | {"observedSpecHash": item["specHash"]}, bootID="b", then_s=1)
        assert conditions(lab.process("leaf-1"))["UpdateHeld"] == "False"


def update_held(lab: GatewayLab) -> dict[str, Any]:
    found: list[dict[str, Any]] = lab.process("leaf-1")["status"]["conditions"]
    return next(each for each in found if each["type"] == "UpdateHeld")


async def test_a_process_that_runs_with_older_values_says_so_until_it_has_the_new_ones() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1", execution=execution(ref("NAME", "metadata.name")))
        (item,) = (await lab.client.get(DESIRED, praetor_features=KNOWS)).json()["items"]
        running = {"name": item["name"], "observedSpecHash": item["specHash"], "processStarted": True, "healthy": True}
        await lab.report("leaf-1", running, then_s=1)
        assert "ValuesOutdated" not in conditions(lab.process("leaf-1"))
        for outdated, status in ((True, "True"), (None, "False")):
            await lab.report("leaf-1", running | {"valuesOutdated": outdated}, then_s=1)
            assert conditions(lab.process("leaf-1"))["ValuesOutdated"] == status


@pytest.mark.parametrize("refers", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"labels": ("rack", "r2")}, id="label"),
        pytest.param({"address": "192.0.2.8"}, id="address"),
        pytest.param({"status": NetworkSwitchStatus(facts={"os": "x"})}, id="fact"),
    ],
)
def test_only_devices_with_references_are_woken_by_what_they_may_name(refers: bool, change: dict[str, Any]) -> None:
    woken: list[str] = []
    index = DeviceIndex(woken.append)
    references = (Reference("RACK", "metadata.labels['rack']"),) if refers else ()
    process, switch = process_row(references=references), switch_row(labels=("rack", "r1"))
    for row in (process, switch):
        index.on_change(row.key, None, row)
    woken.clear()
    index.on_change(switch.key, switch, evolve(switch, resource_version="4", **change))
    index.on_change(
        switch.key,
        switch,
        evolve(
            switch,
            resource_version="5",
            status=NetworkSwitchStatus(boot_id="b"),
            **{name: value for name, value in change.items() if name != "status"},
        ),
    )
    assert bool(woken) is refers
    assert len(woken) <= 2


def test_a_device_whose_processes_have_no_references_keeps_its_etag_and_resolves_nothing() -> None:
    index = DeviceIndex(lambda _: None)
    rows: tuple[CachedProcess, CachedSwitch] = process_row(), switch_row()
    for row in rows:
        index.on_change(row.key, None, row)
    device = index.device("leaf-1")
    assert device is not None
    before = device.etag
    assert not device.refers
    index.on_change(rows[1].key, rows[1], evolve(rows[1], resource_version="9", labels=("a", "b")))
    assert device.etag is before

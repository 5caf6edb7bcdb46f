# SPDX-License-Identifier: Apache-2.0
"""Devices selected by what they report: as labels do, but what a device reports never removes a process by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve

from controller_testing import START, device, process, stored
from ctl_testing import OLD, Lab, connected
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES
from praetor_api.kube.conditions import get_condition
from praetor_controller.journal.codec import plain, restored
from praetor_controller.model.actions import Create, Delete
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.reconcile.snapshot_builder import Sources, build_snapshot
from praetor_controller.reconcile.state import ReconcilerState
from praetor_controller.rollout.neighbours import Neighbour
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.removals import removal_token
from praetor_controller.rollout.snapshot import Moment, Plan, Snapshot

LEAF = {"role": "leaf"}
DEBIAN_12 = {"matchLabels": {"os.id": "debian", "os.version": "12"}}


def row_of(fact_selector: dict[str, Any] | None = None, selector: dict[str, Any] | None = None) -> DeploymentRow:
    spec = {"selector": {"matchLabels": LEAF} if selector is None else selector, "template": {"spec": OLD}}
    spec |= {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}
    spec |= {} if fact_selector is None else {"factSelector": fact_selector}
    return project_deployment({"metadata": {"name": "tel", "namespace": "lab", "uid": "uid-tel"}, "spec": spec})


def debian(name: str, version: str = "12", **fields: Any) -> DeviceRow:
    return device(name, **{"labels": LEAF, "facts": {"os.id": "debian", "os.version": version}} | fields)


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator} | ({"values": [*values]} if values else {})]}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (None, "abcd"),
        ({}, "abcd"),
        (DEBIAN_12, "a"),
        (expression("os.version", "In", "11", "12"), "ab"),
        (expression("os.version", "NotIn", "11"), "ac"),
        (expression("os.version", "Exists"), "ab"),
        (expression("os.version", "DoesNotExist"), "c"),
        (DEBIAN_12 | expression("os.version", "In", "11"), ""),
    ],
)
def test_devices_are_selected_by_labels_and_by_facts(selector: dict[str, Any] | None, selected: str) -> None:
    devices = [debian("a"), debian("b", "11"), debian("c", facts={}), debian("d", facts=None), debian("e", labels={})]
    row = row_of(selector)
    assert row.fault == ""
    assert "".join(each.name for each in devices if row.selects(each)) == selected
    assert row.reads_facts is (selector not in (None, {}))


@pytest.mark.parametrize(
    ("selector", "by_the_api", "by_the_controller"),
    [
        (expression("os", "Exists", "x"), "take none", "spec.factSelector.matchExpressions[0].values: must be empty"),
        (expression("os", "In"), "In and NotIn need values", "spec.factSelector.matchExpressions[0].values: In needs"),
        ({"matchLabels": {"-": "x"}}, "", "spec.factSelector.matchLabels: '-' names no fact; write one such as"),
    ],
)
def test_what_no_fact_can_be_is_refused(selector: dict[str, Any], by_the_api: str, by_the_controller: str) -> None:
    """By the API where its schema can say so, and by the controller."""
    assert row_of(selector).fault.startswith(by_the_controller)
    if by_the_api:
        with pytest.raises(Exception, match=by_the_api):
            Lab().deployment("tel", spec={"selector": {}, "template": {"spec": OLD}, "factSelector": selector})


def built(row: DeploymentRow, devices: list[DeviceRow], processes: list[ProcessRow]) -> Snapshot:
    sources = Sources(devices=devices, processes=processes, revisions=(), find=lambda key: None)
    return build_snapshot(row, sources, ReconcilerState(), now=Moment(START), watching=False)


def planned(row: DeploymentRow, devices: list[DeviceRow], processes: list[ProcessRow]) -> Plan:
    return plan(built(row, devices, processes), START)


def served(row: DeploymentRow, *devices: DeviceRow) -> list[ProcessRow]:
    return [process(each.name, row.template.spec_hash, revision=row.template.revision) for each in devices]


def deleted(made: Plan) -> list[str]:
    return [each.process.device for each in made.actions if isinstance(each, Delete)]


def removal_held(made: Plan) -> tuple[str, str]:
    assert made.status is not None
    found = get_condition(made.status.conditions, "RemovalHeld")
    return ("", "") if found is None else (str(found.reason), found.message)


def test_a_fact_that_changes_removes_nothing_until_a_user_approves_it() -> None:
    row = row_of(DEBIAN_12)
    devices = [debian("a"), debian("b"), debian("c", "13"), debian("d", facts=None)]
    processes = served(row, *devices)
    made = planned(row, devices, processes)
    assert deleted(made) == []
    assert {each.process.device: each.reason for each in made.held_removals} == {
        "c": Reason(ReasonCode.REMOVAL_HELD, "tel-c: os.id=debian, os.version=13"),
        "d": Reason(ReasonCode.REMOVAL_HELD, "tel-d: its agent has reported no facts"),
    }
    reason, message = removal_held(made)
    assert reason == "FactsNoLongerMatch"
    assert message.startswith(
        "2 devices no longer match spec.factSelector, and what a device reports removes no process"
    )
    assert "praetorctl rollout approve tel --removal" in message
    tokens = {each.process.device: each.token for each in made.held_removals}
    approved = [evolve(each, removal=tokens.get(each.device, "")) for each in processes]
    assert deleted(planned(row, devices, approved)) == ["c", "d"]
    upgraded = [*devices[:2], debian("c", "14"), debian("d", "13")]  # the approval was for other facts
    assert deleted(planned(row, upgraded, approved)) == []
    assert deleted(planned(row_of(expression("os.version", "In", "12")), devices, approved)) == []


def test_a_held_process_delays_no_other_device_and_no_other_removal() -> None:
    row = row_of(DEBIAN_12)
    stay, gone, moved = debian("a"), debian("c", "13"), debian("m", labels={"role": "spine"})
    devices = [stay, debian("new"), gone, moved]
    processes = served(row, stay, gone, moved)
    made = planned(row, devices, processes)
    assert [each.device for each in made.actions if isinstance(each, Create)] == ["new"]
    assert deleted(made) == ["m"]
    assert made.status is not None
    assert made.status.counts.desired == 2
    again = planned(evolve(row, status=stored(made.status)), devices, processes)
    assert deleted(again) == ["m"]


def test_too_many_that_leave_by_their_labels_are_held_as_ever() -> None:
    row = row_of(DEBIAN_12)
    away = [debian(f"m{number}", labels={}) for number in range(4)]
    devices = [debian("a"), debian("c", "13"), *away]
    made = planned(row, devices, served(row, *devices))
    assert (deleted(made), removal_held(made)[0], len(made.held_removals)) == ([], "DevicesNoLongerMatch", 5)
    assert made.status is not None
    fewer = [debian("a"), debian("c", "13"), *away[:1]]  # it is remembered that they left together
    made = planned(evolve(row, status=stored(made.status)), fewer, served(row, *fewer))
    assert (deleted(made), removal_held(made)[0]) == ([], "DevicesNoLongerMatch")


def test_without_a_fact_selector_approvals_are_what_they_were() -> None:
    row = row_of()
    assert removal_token(row, debian("a")) == removal_token(row, debian("a", "13"))
    assert built(row, [debian("a", labels={})], served(row, debian("a"))).unselected == {}


def test_a_fleet_that_no_fact_selects_says_so() -> None:
    made = planned(row_of(DEBIAN_12), [debian("a", "13")], [])
    assert made.status is not None
    found = get_condition(made.status.conditions, "Available")
    assert found is not None
    assert found.message == "no device matches spec.selector and spec.factSelector"


def test_a_recorded_snapshot_is_planned_as_it_was() -> None:
    row = row_of(DEBIAN_12)
    devices = [debian("a"), debian("c", "13")]
    names: dict[str, Any] = dict.fromkeys(("taken_names", "leftovers", "occupied"), frozenset())
    given = evolve(built(row, devices, served(row, *devices)), **names)
    found = plan(restored(json.loads(json.dumps(plain(given))), Snapshot), START)
    assert [each.token for each in found.removals] == [each.token for each in plan(given, START).removals]
    assert found.status == plan(given, START).status


def test_plan_explain_and_approve_show_what_facts_hold() -> None:
    lab = Lab()
    spec = {"selector": {}, "template": {"spec": OLD}, "factSelector": {"matchLabels": {"os.version": "12"}}}
    uid = lab.deployment("tel", spec=spec)
    for name, version in (("a", "12"), ("b", "13")):
        lab.switch(name, status={"conditions": [connected()], "facts": {"os.version": version}})
        lab.process("tel", uid, name)
    manifest = {"apiVersion": "azure.com/v1alpha1", "kind": "DeviceProcessDeployment", "metadata": {"name": "tel"}}
    manifest["spec"] = spec
    warned = lab.run("plan", "-f", "-", input=json.dumps(manifest)).output
    assert "warning: RemovalHeld(1): b: " in warned
    assert "or only their facts do not" in warned
    assert "RemovalHeld" in lab.run("explain", "b").output
    assert "b" in lab.run("rollout", "approve", "tel", "--removal").output
    assert "azure.com/removal-approved" in lab.stored(DEVICE_PROCESSES, "tel-b")["metadata"]["annotations"]
    lab.patch(NETWORK_SWITCHES, "a", "status", status={"facts": {"os.version": "13"}})
    nothing = lab.run("plan", "-f", "-", input=json.dumps(manifest)).output
    assert "NoDevices: spec.factSelector: no device of 2 matches" in nothing


def test_a_device_that_another_deployment_is_to_leave_waits_for_that() -> None:
    twelve, thirteen = row_of(DEBIAN_12), evolve(row_of({"matchLabels": {"os.version": "13"}}), name="new", uid="new")
    neighbour = Neighbour(twelve, served(twelve, debian("a")))
    sources = Sources(
        devices=[debian("a", "13")], processes=(), revisions=(), find=lambda key: None, neighbours=[neighbour]
    )
    given = build_snapshot(thirteen, sources, ReconcilerState(), now=Moment(START), watching=False)
    assert plan(given, START).reasons["a"] == Reason(ReasonCode.WAITING_FOR_REMOVAL, "tel")

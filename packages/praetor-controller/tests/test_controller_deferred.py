# SPDX-License-Identifier: Apache-2.0
"""Devices that cost nothing and delay no rollout: those that never connected, and those that hold updates."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from controller_testing import START, deployment, device, process, snapshot, template
from praetor_api.kube.objects import FailurePolicy, StrategyType, Wave
from praetor_controller.model.actions import Create, Update
from praetor_controller.model.projection import project_device, project_process
from praetor_controller.model.rows import ProcessRow, StoredStatus
from praetor_controller.reconcile.snapshot_builder import Sources, build_snapshot
from praetor_controller.reconcile.state import ReconcilerState
from praetor_controller.rollout.neighbours import Neighbour, neighbours_down
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Moment, Plan
from praetor_controller.rollout.status import CONNECT_S

AT = START.timestamp()
TEXT = "maintenance window until Friday"
HELD = Reason(ReasonCode.UPDATE_HELD, TEXT)
ROLLED_OUT = StoredStatus(current_revision="rev-v0", update_revision="rev-v1")
UNSEEN: dict[str, Any] = {
    "connected": None,
    "connected_since": None,
    "reported": False,
    "observed": False,
    "ready_since": None,
    "settled_since": None,
}
UNTAKEN: dict[str, Any] = {"observed": False, "ready_since": None, "settled_since": None, "held": TEXT}


def planned(processes: list[ProcessRow], now: datetime = START, **policy: Any) -> Plan:
    devices = [device(row.device, connected=row.connected) for row in processes]
    return plan(snapshot(deployment("v1", **policy), devices, processes), now)


def updated(made: Plan) -> list[str]:
    return sorted(action.process.device for action in made.actions if isinstance(action, Update))


def progressing(made: Plan) -> str | None:
    assert made.status is not None
    return made.status.conditions[1].reason


def test_a_first_rollout_waits_a_minute_for_devices_that_have_never_connected() -> None:
    rows = [process("a", ready_since=AT), process("b", **UNSEEN | {"offered_at": AT, "created_at": AT})]
    early = planned(rows, START + timedelta(seconds=1))
    assert early.reasons["b"] == Reason(ReasonCode.NEVER_CONNECTED)
    assert progressing(early) == "RolloutInProgress"
    assert early.recheck_at == START + timedelta(seconds=CONNECT_S)
    done = planned(rows, START + timedelta(seconds=CONNECT_S))
    assert progressing(done) == "NewRevisionRolledOut"
    assert done.status is not None
    assert done.status.current_revision == "rev-v1"


def test_an_agent_that_starts_late_extends_the_wait_for_others() -> None:
    late = [process("a", ready_since=AT), process("b", ready_since=AT + 50), process("c", **UNSEEN)]
    assert progressing(planned(late, START + timedelta(seconds=CONNECT_S))) == "RolloutInProgress"
    assert progressing(planned(late, START + timedelta(seconds=50 + CONNECT_S))) == "NewRevisionRolledOut"


def test_a_shorter_deadline_makes_that_wait_shorter() -> None:
    rows = [process("a", ready_since=AT), process("b", **UNSEEN)]
    made = planned(rows, START + timedelta(seconds=10), progress_deadline_seconds=10)
    assert progressing(made) == "NewRevisionRolledOut"


def test_later_rollouts_do_not_wait_for_devices_that_have_never_connected() -> None:
    rows = [process("a", ready_since=AT), process("b", **UNSEEN)]
    assert progressing(planned(rows, status=ROLLED_OUT)) == "NewRevisionRolledOut"


def test_a_device_that_holds_updates_is_not_updated_and_costs_nothing() -> None:
    rows = [process("a", "v0", held=TEXT), process("b", "v0"), process("c", "v0")]
    made = planned(rows, max_unavailable=1)
    assert updated(made) == ["b"]
    assert made.reasons["a"] == HELD
    assert planned([evolve(rows[0], held="")], max_unavailable=1).reasons["a"] == Reason(ReasonCode.UPDATING)


def test_a_device_that_held_updates_before_it_observed_the_spec_costs_nothing() -> None:
    made = planned([process("a", **UNTAKEN), process("b", "v0")], max_unavailable=1)
    assert made.reasons["a"] == HELD
    assert updated(made) == ["b"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        pytest.param(process("a", ready_since=None, held=TEXT), ReasonCode.NOT_READY, id="took-the-offer-before"),
        pytest.param(
            process("a", ready_since=None, settled_since=None, failure="phase Failed", held=TEXT),
            ReasonCode.FAILING,
            id="failing",
        ),
        pytest.param(process("a", held=TEXT), ReasonCode.UP_TO_DATE, id="up-to-date"),
    ],
)
def test_a_hold_excuses_only_what_the_device_did_not_do(row: ProcessRow, code: ReasonCode) -> None:
    assert planned([row]).reasons["a"].code is code


def test_a_held_device_that_is_down_with_its_old_version_still_counts() -> None:
    down = process("a", "v0", ready_since=None, settled_since=None, failure="exit 1", held=TEXT, offered_at=AT)
    made = planned([down, process("b", "v0")], max_unavailable=1)
    assert made.reasons["a"] == HELD
    assert updated(made) == []


@pytest.mark.parametrize("strategy", list(StrategyType))
def test_no_strategy_changes_a_device_that_holds(strategy: StrategyType) -> None:
    assert updated(planned([process("a", "v0", held=TEXT)], strategy=strategy)) == []


def test_held_devices_delay_no_rollout_and_no_wave_and_are_not_failures() -> None:
    rows = [process("a", ready_since=AT), process("b", "v0", held=TEXT), process("c", **UNTAKEN)]
    assert progressing(planned(rows, status=ROLLED_OUT)) == "NewRevisionRolledOut"
    later = START + timedelta(hours=1)
    failing = planned(
        [*rows, process("d", "v0")], later, failure_policy=FailurePolicy(max_failures=0), max_unavailable=0
    )
    assert failing.reasons["d"].code is ReasonCode.BUDGET_EXHAUSTED
    waves = (Wave(name="canary", limit=3),)
    canaries = [evolve(row, wave="canary", offered_at=AT) if row.spec_hash == "v1" else row for row in rows]
    given = snapshot(
        deployment("v1", waves=waves, status=ROLLED_OUT, max_unavailable=9),
        [device(row.device) for row in canaries] + [device("z")],
        [*canaries, process("z", "v0")],
        current=template("v0"),
    )
    assert updated(plan(given, START)) == ["z"]


def test_other_deployments_do_not_count_a_held_device_as_down() -> None:
    neighbour = Neighbour(deployment(), [process("a", **UNTAKEN)])
    assert neighbours_down([neighbour], {"a": device("a")}, AT, AT).devices == ()


REBOOTS = {"execution": {"backend": "process", "reboot": "Expected"}}


def test_a_device_whose_agent_does_not_know_a_feature_keeps_what_it_has_at_no_cost() -> None:
    row = deployment("v2", max_unavailable=1)
    row = evolve(row, template=evolve(row.template, spec=REBOOTS))
    devices = [device("old"), evolve(device("new"), features=frozenset({"files.v1", "reboot.v1"})), device("other")]
    processes = [process("old", "v1"), process("new", "v1"), process("other", "v2", **UNTAKEN)]
    made = plan(snapshot(row, devices, processes), START)
    too_old = Reason(ReasonCode.AGENT_TOO_OLD, "reboot.v1")
    assert (made.reasons["old"], made.reasons["other"]) == (too_old, too_old)
    assert str(too_old) == "AgentTooOld(reboot.v1)"
    assert updated(made) == ["new"]
    upgraded = [evolve(each, features=frozenset({"reboot.v1"})) for each in devices[:2]]
    assert len(updated(plan(snapshot(row, upgraded, processes[:2]), START))) == 1  # within the budget


@pytest.mark.parametrize(("reboots", "after_s", "stops"), [(True, 599, False), (True, 601, True), (False, 1, True)])
def test_the_silence_of_an_expected_reboot_is_a_failure_only_after_the_deadline(
    reboots: bool, after_s: int, stops: bool
) -> None:
    row = deployment("v2", failure_policy=FailurePolicy(max_failures=0), progress_deadline_seconds=600)
    row = evolve(row, template=evolve(row.template, spec=REBOOTS if reboots else {}))
    gone = {"connected": False, "connected_since": AT, "fetched": True, "offered_at": AT}
    devices = [evolve(device("a", connected=False), features=frozenset({"reboot.v1"}))]
    made = plan(
        snapshot(row, devices, [process("a", "v2", **UNTAKEN | gone | {"held": ""})]),
        START + timedelta(seconds=after_s),
    )
    assert made.reasons["a"].code is ReasonCode.SILENT_SINCE_OFFER
    assert (made.status is not None and made.status.failed_revision is not None) is stops


def test_a_device_without_a_process_gets_none_that_its_agent_does_not_know_and_delays_no_wave() -> None:
    row = deployment("v2", waves=(Wave(name="first", limit=1),))
    row = evolve(row, template=evolve(row.template, spec=REBOOTS))
    new = evolve(device("new"), features=frozenset({"reboot.v1"}))
    made = plan(snapshot(row, [device("old"), new, evolve(device("far"), connected=None)], []), START)
    assert made.reasons["old"] == Reason(ReasonCode.AGENT_TOO_OLD, "reboot.v1")
    assert [action.device for action in made.actions if isinstance(action, Create)] == ["new"]


def reference(path: str, **more: bool) -> dict[str, Any]:
    return {"name": "A", "valueFrom": {"deviceFieldRef": {"fieldPath": path, **more}}}


def test_a_device_that_lacks_a_value_of_the_template_keeps_what_it_has_and_delays_no_wave() -> None:
    row = deployment("v2", max_unavailable=1, waves=(Wave(name="first", limit=1),))
    lacks = "ReferenceMissing(metadata.labels['rack'], status.facts['os'])"
    devices = [evolve(device(name), missing=lacks) for name in ("a", "b")] + [device("c")]
    made = plan(snapshot(row, devices, [process("a", "v1"), process("c", "v1")]), START)
    for name in ("a", "b"):
        assert made.reasons[name].code is ReasonCode.REFERENCE_MISSING
        assert str(made.reasons[name]) == lacks
    assert (updated(made), [action for action in made.actions if isinstance(action, Create)]) == (["c"], [])
    labelled = [device(each.name) for each in devices[:2]]
    assert len(updated(plan(snapshot(row, labelled, [process("a", "v1"), process("b", "v1")]), START))) == 1


def test_a_device_whose_gateway_says_so_first_has_the_same_reason() -> None:
    text = "ReferenceMissing(status.facts['os']): the device has no such value; until it has one it keeps what it runs."
    made = planned([process("a", "v1", **UNTAKEN | {"held": text})])
    assert made.reasons["a"] == Reason(ReasonCode.REFERENCE_MISSING, "status.facts['os']")


@pytest.mark.parametrize(
    ("variables", "lacking"),
    [
        pytest.param([{"name": "A", "value": "x"}], {}, id="none"),
        pytest.param([reference("metadata.name")], {}, id="what-all-have"),
        pytest.param([reference("metadata.labels['rack']", optional=True)], {}, id="optional"),
        pytest.param([reference("metadata.labels['rack']")], {"bare": "metadata.labels['rack']"}, id="label"),
        pytest.param([reference("spec.managementAddress")], {"bare": "spec.managementAddress"}, id="address"),
        pytest.param([reference("status.facts['os']")], {"bare": "status.facts['os']"}, id="fact"),
        pytest.param([reference("metadata.uid")], {"bare": "metadata.uid", "full": "metadata.uid"}, id="no-field"),
    ],
)
def test_the_snapshot_says_who_lacks_what(variables: list[dict[str, Any]], lacking: dict[str, str]) -> None:
    row = deployment("v1")
    row = evolve(row, template=evolve(row.template, spec={"execution": {"backend": "process", "env": variables}}))
    objects: list[dict[str, Any]] = [
        {"metadata": {"name": "bare"}},
        {
            "metadata": {"name": "full", "labels": {"rack": "r1"}},
            "spec": {"managementAddress": "192.0.2.7"},
            "status": {"facts": {"os": "Debian 12"}},
        },
    ]
    sources = Sources(devices=[*map(project_device, objects)], processes=(), revisions=(), find=lambda key: None)
    found = build_snapshot(row, sources, ReconcilerState(), now=Moment(START))
    said = {each.name: each.missing for each in found.devices if each.missing}
    assert said == {name: f"ReferenceMissing({path})" for name, path in lacking.items()}


def test_what_an_agent_knows_is_one_of_its_facts() -> None:
    known = project_device({"metadata": {"name": "a"}, "status": {"facts": {"features": "files.v1,reboot.v1"}}})
    assert known.features == {"files.v1", "reboot.v1"}
    assert project_device({"metadata": {"name": "a"}}).features == set()


def test_a_held_update_says_which_feature_the_agent_lacks() -> None:
    text = "AgentTooOld(reboot.v1): upgrade praetor-agent; until then the device keeps what it has"
    made = planned([process("a", "v1", **UNTAKEN | {"held": text})])
    assert made.reasons["a"] == Reason(ReasonCode.AGENT_TOO_OLD, "reboot.v1")


def condition(kind: str, status: str, message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "message": message}


@pytest.mark.parametrize(
    ("conditions", "held"),
    [
        pytest.param([condition("UpdateHeld", "True", TEXT), condition("AgentConnected", "True")], TEXT, id="held"),
        pytest.param(
            [condition("UpdateHeld", "True"), condition("AgentConnected", "True")],
            "held on the device",
            id="default",
        ),
        pytest.param([condition("UpdateHeld", "False", TEXT), condition("AgentConnected", "True")], "", id="free"),
        pytest.param([condition("UpdateHeld", "True", TEXT), condition("AgentConnected", "False")], "", id="silent"),
        pytest.param([], "", id="no-condition"),
    ],
)
def test_a_device_is_held_when_it_says_so_while_connected(conditions: list[dict[str, Any]], held: str) -> None:
    assert project_process({"metadata": {"name": "p"}, "status": {"conditions": conditions}}).held == held


STORM: dict[str, Any] = {"connected": False, "in_storm": True, "fetched": True, "ready_since": None}


@pytest.mark.parametrize("connected", [False, None])
def test_devices_of_a_storm_are_no_failures_and_cost_no_budget(connected: bool | None) -> None:
    gone = process("a", "v0", **STORM | {"connected": connected})
    made = planned([gone, process("b", "v0"), process("c", "v0")], max_unavailable=1)
    assert made.reasons["a"].code is ReasonCode.OFFLINE_SINCE
    assert updated(made) == ["b"]
    settled = process("a", **STORM | {"connected": connected})
    failing = planned([settled, process("b", "v0")], max_unavailable=1, failure_policy=FailurePolicy(max_failures=0))
    assert updated(failing) == ["b"]


@pytest.mark.parametrize(("fetched", "waits"), [(True, True), (None, True), (False, False)])
def test_a_revision_that_may_have_silenced_many_devices_is_offered_to_no_other(
    fetched: bool | None, waits: bool
) -> None:
    gone = process("a", **STORM | {"fetched": fetched, "observed": False, "settled_since": None})
    made = planned([gone, process("b", "v0")], max_unavailable=1, failure_policy=FailurePolicy(max_failures=0))
    assert updated(made) == ([] if waits else ["b"])
    code = ReasonCode.FLEET_SILENT if waits else ReasonCode.UPDATING
    assert made.reasons["b"].code is code


@pytest.mark.parametrize(
    ("status", "reason", "in_storm"),
    [
        ("False", "SilentInStorm", True),
        ("Unknown", "FleetSilent", True),
        ("False", "HeartbeatMissed", False),
        ("True", "HeartbeatReceived", False),
    ],
)
def test_the_gateway_says_what_was_a_storm(status: str, reason: str, in_storm: bool) -> None:
    said = condition("AgentConnected", status) | {"reason": reason, "observedGeneration": 1}
    metadata = {"name": "tel-a", "namespace": "lab", "generation": 1}
    row = project_process({"metadata": metadata, "status": {"observedGeneration": 1, "conditions": [said]}})
    assert row.in_storm is in_storm

# SPDX-License-Identifier: Apache-2.0
"""What a plan does and says, case by case."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from controller_testing import START, deployment, device, offline, process, snapshot, stored, template
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import Budget, Condition, ConditionStatus, FailurePolicy, StrategyType
from praetor_controller.errors import InvalidDeployment
from praetor_controller.model.actions import Create, Delete, Update
from praetor_controller.model.amounts import max_unavailable
from praetor_controller.model.rows import ProcessRow, StoredStatus
from praetor_controller.model.wave_record import WaveRecord, parse_wave_record
from praetor_controller.rollout.assignment import adoptable
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.removals import removal_token
from praetor_controller.rollout.snapshot import Plan
from praetor_controller.rollout.status import status_patch

AT = START.timestamp()
NAMES = ["a", "b", "c", "d"]


def planned(version: str, processes: list[ProcessRow], *, devices: list[Any] | None = None, **policy: Any) -> Plan:
    rows = devices if devices is not None else [device(name) for name in NAMES[: max(1, len(processes))]]
    return plan(snapshot(deployment(version, **policy), rows, processes), START)


def codes(made: Plan) -> dict[str, ReasonCode]:
    return {name: reason.code for name, reason in made.reasons.items()}


def updated(made: Plan) -> list[str]:
    return sorted(action.process.device for action in made.actions if isinstance(action, Update))


STARTING: dict[str, Any] = {"ready_since": None, "settled_since": None, "observed": False}
FAILING: dict[str, Any] = {"ready_since": None, "settled_since": None, "failure": "phase Failed: exit 1"}


@pytest.mark.parametrize(
    ("value", "devices", "number"),
    [(0, 10, 0), (3, 10, 3), (-1, 10, 0), ("10%", 10, 1), ("10%", 11, 2), ("10%", 0, 0), ("0%", 10, 0), ("100%", 3, 3)],
)
def test_percentages_are_rounded_up(value: int | str, devices: int, number: int) -> None:
    assert max_unavailable(value, devices) == number


@pytest.mark.parametrize("value", ["ten", "10", "-1%", "%"])
def test_an_invalid_max_unavailable_is_refused_by_its_field(value: str) -> None:
    with pytest.raises(InvalidDeployment, match="maxUnavailable"):
        max_unavailable(value, 10)


def test_an_invalid_deployment_gets_a_condition_with_the_fault() -> None:
    for row in (deployment(max_unavailable="ten"), deployment(fault="spec.selector: no")):
        made = plan(snapshot(row, [device("a")], []), START)
        assert made.actions == ()
        assert made.status is not None
        assert [each.reason for each in made.status.conditions] == ["InvalidSpec"]


def test_an_invalid_deployment_keeps_the_numbers_that_were_counted_last() -> None:
    stored = {"desiredNumberScheduled": 3, "numberAvailable": 2, "numberUnavailable": 1}
    row = deployment(fault="spec.selector: no")
    made = plan(snapshot(evolve(row, status=evolve(row.status, raw=stored)), [device("a")], []), START)
    assert made.status is not None
    assert not stored.keys() & status_patch(stored, made.status).keys()


def test_a_deployment_being_deleted_is_left_to_the_garbage_collector() -> None:
    assert plan(snapshot(evolve(deployment(), terminating=True), [device("a")], []), START) == Plan()


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        pytest.param(process("a"), {}, Reason(ReasonCode.UP_TO_DATE), id="up-to-date"),
        pytest.param(process("a", **STARTING), {}, Reason(ReasonCode.UPDATING), id="not-observed"),
        pytest.param(process("a", ready_since=None), {}, Reason(ReasonCode.NOT_READY), id="observed-but-not-ready"),
        pytest.param(process("a", **FAILING), {}, Reason(ReasonCode.FAILING, "phase Failed: exit 1"), id="failing"),
        pytest.param(
            process("a", ready_since=AT - 10),
            {"min_ready_seconds": 30},
            Reason(ReasonCode.BECOMING_AVAILABLE, "at 2026-01-01T00:00:20Z"),
            id="min-ready",
        ),
        pytest.param(
            process("a", on_trial=True),
            {},
            Reason(ReasonCode.BECOMING_AVAILABLE, "once its device has proven the version"),
            id="on-trial",
        ),
        pytest.param(
            offline(process("a"), AT - 60),
            {},
            Reason(ReasonCode.SILENT_SINCE_OFFER, "2025-12-31T23:59:00Z"),
            id="silent",
        ),
        pytest.param(
            offline(process("a", offered_at=AT), AT - 60),
            {},
            Reason(ReasonCode.OFFLINE_SINCE, "2025-12-31T23:59:00Z"),
            id="offline-before-the-offer",
        ),
        pytest.param(
            evolve(offline(process("a"), AT - 60), fetched=None),
            {},
            Reason(ReasonCode.SILENT_SINCE_OFFER, "2025-12-31T23:59:00Z or before the offer"),
            id="perhaps-before-the-offer",
        ),
        pytest.param(process("a", terminating=True), {}, Reason(ReasonCode.TERMINATING), id="terminating"),
        pytest.param(process("a", "v0"), {"paused": True}, Reason(ReasonCode.PAUSED), id="paused"),
        pytest.param(
            process("a", "v0"),
            {"strategy": StrategyType.ON_DELETE},
            Reason(ReasonCode.WAITING_FOR_DELETION),
            id="on-delete",
        ),
        pytest.param(process("a", "v0"), {}, Reason(ReasonCode.UPDATING), id="updating"),
        pytest.param(
            process("a", "v0"),
            {"max_unavailable": 0},
            Reason(ReasonCode.BUDGET_EXHAUSTED, "maxUnavailable=0"),
            id="no-budget",
        ),
    ],
)
def test_a_device_has_one_reason(row: ProcessRow, fields: dict[str, Any], expected: Reason) -> None:
    assert planned("v1", [row], **fields).reasons == {"a": expected}


@pytest.mark.parametrize(
    ("connected", "since", "age", "expected"),
    [
        pytest.param(None, None, 0, "NeverConnected", id="never-connected"),
        pytest.param(False, AT - 5, 599, "OfflineSince(2025-12-31T23:59:55Z)", id="switch-offline"),
        pytest.param(True, AT - 5, 599, "Updating", id="switch-connected"),
    ],
)
def test_a_process_that_was_never_reported_is_as_connected_as_its_switch(
    connected: bool | None, since: float | None, age: int, expected: str
) -> None:
    row = process("a", connected=None, connected_since=None, reported=False, created_at=AT - age, **STARTING)
    made = planned("v1", [row], devices=[device("a", connected=connected, connected_since=since)])
    assert str(made.reasons["a"]) == expected


def test_devices_without_a_process_get_one_regardless_of_the_budget() -> None:
    made = planned("v1", [], devices=[device(name) for name in NAMES], max_unavailable=0)
    assert made.actions == tuple(Create(name, f"tel-{name}", template("v1")) for name in NAMES)
    assert set(codes(made).values()) == {ReasonCode.CREATING}


@pytest.mark.parametrize(
    "policy", [{"paused": True}, {"strategy": StrategyType.ON_DELETE}], ids=["paused", "on-delete"]
)
def test_a_process_that_is_left_alone_is_checked_when_it_becomes_available(policy: dict[str, Any]) -> None:
    made = planned("v2", [process("a", ready_since=AT - 10)], min_ready_seconds=30, **policy)
    assert (made.actions, made.recheck_at) == ((), START + timedelta(seconds=20))


def test_a_paused_deployment_writes_nothing() -> None:
    rows = [process("b", "v0"), process("gone")]
    made = planned("v1", rows, devices=[device("a"), device("b")], paused=True)
    assert made.actions == ()
    assert set(codes(made).values()) == {ReasonCode.PAUSED}


def test_no_more_than_max_unavailable_devices_are_updated() -> None:
    made = planned("v2", [process(name) for name in NAMES], max_unavailable=2)
    assert updated(made) == ["a", "b"]
    assert [codes(made)[name] for name in "cd"] == [ReasonCode.BUDGET_EXHAUSTED] * 2


@pytest.mark.parametrize(
    ("first", "moving"),
    [
        pytest.param(process("a", "v2", **STARTING), [], id="updated-and-not-ready"),
        pytest.param(process("a", "v2", **FAILING), [], id="updated-and-failing"),
        pytest.param(offline(process("a", "v2"), AT - 60), [], id="silent-after-the-offer"),
        pytest.param(process("a", "v2", on_trial=True), [], id="updated-and-on-trial"),
        pytest.param(process("a", on_trial=True), ["a"], id="on-trial-is-updated-first-and-counts"),
        pytest.param(
            offline(process("a", offered_at=AT - 100, settled_since=AT - 90, on_trial=True), AT - 60),
            [],
            id="silent-in-its-trial-of-an-older-offer-still-counts",
        ),
        pytest.param(offline(process("a", "v2", offered_at=AT), AT - 60), ["b"], id="offline-before-the-offer"),
        pytest.param(process("a", **FAILING), ["a"], id="failing-is-updated-first-and-counts"),
        pytest.param(
            evolve(offline(process("a", "v2"), AT - 60), fetched=None), [], id="silent-and-what-it-fetched-is-unknown"
        ),
        pytest.param(offline(process("a"), AT - 60), ["b"], id="offline-is-deferred-and-free"),
        pytest.param(
            offline(process("a", offered_at=AT - 100, observed=False, settled_since=None), AT - 60),
            [],
            id="silent-since-an-older-offer-still-counts",
        ),
        pytest.param(
            offline(process("a", offered_at=AT - 601, observed=False, settled_since=None), AT - 590),
            ["b"],
            id="silent-for-longer-than-the-deadline",
        ),
        pytest.param(process("a", terminating=True), [], id="terminating"),
        pytest.param(process("a", connected=None, reported=False, **STARTING), ["a"], id="starting-for-the-first-time"),
    ],
)
def test_devices_that_count_against_the_budget(first: ProcessRow, moving: list[str]) -> None:
    assert updated(planned("v2", [first, process("b"), process("c")], max_unavailable=1)) == moving


def test_a_silent_device_is_checked_when_it_no_longer_counts() -> None:
    row = offline(process("a", offered_at=AT - 100, observed=False, settled_since=None), AT - 60)
    assert planned("v2", [row, process("b")]).recheck_at == START + timedelta(seconds=500)


def test_ready_processes_wait_while_too_many_are_down() -> None:
    soaking = [process(name, ready_since=AT - 1) for name in NAMES]
    crowded = planned("v2", soaking, min_ready_seconds=30, max_unavailable=2)
    assert (updated(crowded), set(codes(crowded).values())) == ([], {ReasonCode.BUDGET_EXHAUSTED})
    roomy = planned("v2", soaking[:2], min_ready_seconds=30, max_unavailable=2)
    assert updated(roomy) == ["a", "b"]


def test_a_device_that_never_reported_gets_the_new_template_at_once() -> None:
    row = process("a", connected=None, reported=False, **STARTING)
    made = planned("v2", [row, process("b")], devices=[device("a", connected=None), device("b")], max_unavailable=1)
    assert updated(made) == ["a", "b"]


def test_recreate_updates_all_at_once() -> None:
    made = planned("v2", [process(name) for name in NAMES], strategy=StrategyType.RECREATE)
    assert updated(made) == NAMES


def test_on_delete_uses_the_template_for_new_processes_only() -> None:
    devices = [device("a"), device("b"), device("c")]
    rows = [process("a", "v1"), process("b", "v2", revision="other")]
    made = planned("v2", rows, devices=devices, strategy=StrategyType.ON_DELETE)
    assert made.actions == (Create("c", "tel-c", template("v2")),)
    assert made.status is not None
    assert made.status.conditions[1].reason == "WaitingForDeletion"


def test_a_device_in_maintenance_is_not_touched_and_costs_nothing() -> None:
    busy = device("a", in_maintenance=True, maintenance_until=AT + 60)
    rows = [process("a", "v1", **FAILING), process("b")]
    made = planned("v2", rows, devices=[busy, device("b"), device("c", in_maintenance=True)], max_unavailable=1)
    assert updated(made) == ["b"]
    assert str(made.reasons["a"]) == "InMaintenance(until 2026-01-01T00:01:00Z)"
    assert str(made.reasons["c"]) == "InMaintenance"
    assert made.recheck_at == START + timedelta(seconds=60)


def test_maintenance_ends_by_itself() -> None:
    over = device("a", in_maintenance=True, maintenance_until=AT)
    assert updated(planned("v2", [process("a")], devices=[over])) == ["a"]


def test_a_change_of_metadata_does_not_write_the_spec() -> None:
    rows = [process(name, revision="other") for name in NAMES]
    made = planned("v1", rows, max_unavailable=0)
    assert [action for action in made.actions if isinstance(action, Update) and action.spec] == []
    assert updated(made) == NAMES
    assert set(codes(made).values()) == {ReasonCode.UP_TO_DATE}


def test_refused_updates_are_not_repeated() -> None:
    rows = [process("a", **FAILING), process("b", "v2", revision="other")]
    made = plan(
        snapshot(deployment("v2"), [device("a"), device("b")], rows, refusals={"a": "bad field", "b": "bad label"}),
        START,
    )
    assert made.actions == ()
    assert made.reasons["a"] == Reason(ReasonCode.CANNOT_CONVERGE, "bad field")


def test_a_write_of_unknown_outcome_counts_as_down() -> None:
    rows = [process("a"), process("b")]
    made = plan(snapshot(deployment("v2"), [device("a"), device("b")], rows, in_flight=frozenset({"a"})), START)
    assert updated(made) == []


def test_a_hash_that_the_api_is_known_to_store_counts_as_the_template() -> None:
    rows = [process("a", "v2-defaulted")]
    made = plan(snapshot(deployment("v2"), [device("a")], rows, stored_as=frozenset({"v2-defaulted"})), START)
    assert codes(made) == {"a": ReasonCode.UP_TO_DATE}


def test_processes_without_a_device_and_surplus_ones_are_deleted() -> None:
    younger = process("a", name="tel-a-2", uid="uid-2", created_at=AT)
    gone, going = process("gone"), process("going", terminating=True)
    made = planned("v1", [younger, process("a"), gone, going], devices=[device("a")])
    assert [action.process.name for action in made.actions if isinstance(action, Delete)] == ["tel-gone", "tel-a-2"]


def leaving(count: int, of: int = 6, **fields: Any) -> Plan:
    """Return the plan for a deployment that *count* of so many devices left, with two that may be unavailable."""
    names = [f"d{number}" for number in range(of)]
    rows = fields.pop("rows", [process(name, uid=name) for name in names])
    gone = [device(name, labels=RACK) for name in names[:count]]
    given = {"leaving": gone, "removed": fields.pop("removed", ())} | fields.pop("given", {})
    row = deployment("v1", **{"max_unavailable": 2} | fields)
    return plan(snapshot(row, [device(name, labels=RACK) for name in names[count:]], rows, **given), START)


RACK = {"rack": "r1"}
HELD = StoredStatus(conditions=(Condition(type="RemovalHeld", status=ConditionStatus.TRUE),))
APPROVED = removal_token(deployment("v1", max_unavailable=2), device("any", labels=RACK))


def deleted(made: Plan) -> list[str]:
    return [each.process.device for each in made.actions if isinstance(each, Delete)]


def held(made: Plan) -> list[str]:
    return [each.process.device for each in made.held_removals]


def removal_condition(made: Plan) -> str:
    assert made.status is not None
    found = get_condition(made.status.conditions, "RemovalHeld")
    return found.message if found else ""


def test_as_many_devices_as_may_be_unavailable_leave_at_once() -> None:
    made = leaving(2)
    assert (deleted(made), made.removals, removal_condition(made)) == (["d0", "d1"], [], "")


@pytest.mark.parametrize(
    ("count", "fields", "said"),
    [
        pytest.param(3, {}, "3 devices no longer match, at most 2 may leave at once", id="more-than-allowed"),
        pytest.param(2, {"max_unavailable": 0}, "2 devices no longer match, at most 1", id="one-may-always-leave"),
        pytest.param(2, {"of": 2}, "2 devices no longer match", id="all"),
        pytest.param(1, {"of": 1}, "1 device no longer matches", id="the-only-one"),
        pytest.param(4, {"max_unavailable": "50%"}, "at most 3 may leave at once", id="a-share-of-those-before"),
        pytest.param(1, {"status": HELD}, "1 device no longer matches", id="held-before"),
        pytest.param(3, {"strategy": StrategyType.RECREATE}, "3 devices no longer match", id="recreate"),
        pytest.param(3, {"strategy": StrategyType.ON_DELETE}, "3 devices no longer match", id="on-delete"),
    ],
)
def test_a_change_that_unmatches_many_devices_holds(count: int, fields: dict[str, Any], said: str) -> None:
    made = leaving(count, **fields)
    assert deleted(made) == []
    assert held(made) == [f"d{number}" for number in range(count)]
    assert said in removal_condition(made)
    assert made.status is not None
    assert made.status.reasons[ReasonCode.REMOVAL_HELD] == count


def test_nothing_else_is_written_before_the_status_says_that_removals_are_held() -> None:
    """With new processes on other devices not all would leave any more."""
    rows = [process("d0", uid="d0")]
    assert leaving(1, of=2, rows=rows).actions == ()
    later = leaving(1, of=2, rows=rows, status=HELD)
    assert [type(each) for each in later.actions] == [Create]
    assert held(later) == ["d0"]


def test_removals_that_a_user_approved_are_made_within_the_budget() -> None:
    rows = [process(f"d{number}", uid=f"d{number}", removal=APPROVED if number < 3 else "") for number in range(6)]
    made = leaving(3, rows=rows, status=HELD)
    assert (deleted(made), held(made), removal_condition(made)) == (["d0", "d1"], [], "")
    assert [str(each.reason) for each in made.removals] == ["Removing(maxUnavailable=2)"]
    stale = leaving(3, rows=[evolve(each, removal="of-other-labels") for each in rows])
    assert held(stale) == ["d0", "d1", "d2"]


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        pytest.param({"removed": [device("x"), device("y")]}, [], id="others-left-just-now"),
        pytest.param({"removed": [device("x", labels=RACK)]}, ["d0"], id="one-left-just-now"),
        pytest.param({"budgets": (Budget(group_by=("rack",), max_unavailable=1),)}, ["d0"], id="one-of-a-rack"),
        pytest.param({"given": {"removable": frozenset({"d1"})}}, ["d1"], id="unmatched-for-long-enough"),
        pytest.param(
            {"rows": [process("d0", uid="d0", **STARTING), *(process(f"d{n}", uid=f"d{n}") for n in range(1, 6))],
             "removed": [device("x"), device("y")]},
            ["d0"],
            id="down-already",
        ),
        pytest.param({"given": {"leaving": [], "removed": []}}, ["d0", "d1"], id="not-declared-any-more"),
    ],
)  # fmt: skip
def test_a_removal_takes_a_place_like_an_update(fields: dict[str, Any], gone: list[str]) -> None:
    assert deleted(leaving(2, **fields)) == gone


def test_the_deletion_of_the_deployment_itself_holds_nothing() -> None:
    row = evolve(deployment("v1"), terminating=True)
    assert plan(snapshot(row, [], [process(name) for name in "abc"]), START) == Plan()


def test_an_update_waits_for_the_places_of_removals() -> None:
    rows = [process("d0", uid="d0"), *(process(f"d{n}", "v0", uid=f"d{n}") for n in range(1, 6))]
    made = leaving(1, rows=rows)
    assert (deleted(made), updated(made)) == (["d0"], ["d1"])


def test_a_device_gets_a_process_when_that_of_the_deployment_before_is_gone() -> None:
    devices = [device("a"), device("b")]
    made = plan(snapshot(deployment("v1"), devices, [], left_behind={"a": "blue"}), START)
    assert [each.device for each in made.actions if isinstance(each, Create)] == ["b"]
    assert str(made.reasons["a"]) == "WaitingForRemoval(blue)"


def test_of_two_processes_the_one_that_is_not_being_deleted_is_kept() -> None:
    older = process("a", terminating=True)
    younger = process("a", name="tel-a-2", created_at=AT, revision="rev-v1")
    assert planned("v1", [older, younger], devices=[device("a")]).actions == ()


UNSEEN: dict[str, Any] = {"connected": None, "connected_since": None, "reported": False} | STARTING


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(process("b"), id="none-left"),
        pytest.param(offline(process("b", offered_at=AT), AT - 60), id="offline-before-the-offer"),
        pytest.param(process("b", **UNSEEN), id="never-connected"),
    ],
)
def test_a_rollout_is_complete_when_only_deferred_devices_are_left(other: ProcessRow) -> None:
    seen = device("b", connected=other.connected)
    made = planned(
        "v1", [process("a"), other], devices=[device("a"), seen], status=StoredStatus(current_revision="rev-v0")
    )
    assert made.status is not None
    assert made.status.current_revision == "rev-v1"
    assert made.status.conditions[1].reason == "NewRevisionRolledOut"


@pytest.mark.parametrize("row", [offline(process("a", offered_at=AT), AT - 60), process("a", **UNSEEN)])
def test_a_revision_that_no_device_runs_is_not_the_current_one(row: ProcessRow) -> None:
    made = planned("v1", [row], devices=[device("a", connected=row.connected)])
    assert made.status is not None
    assert made.status.current_revision is None
    assert made.status.conditions[1].reason == "RolloutInProgress"


def test_a_deployment_that_matches_nothing_makes_no_progress_and_sets_no_current_revision() -> None:
    made = planned("v1", [], devices=[])
    assert made.status is not None
    assert made.status.current_revision is None
    assert [(each.status, each.reason) for each in made.status.conditions] == [("False", "NoDevices")] * 2


def test_a_device_offline_before_an_older_write_does_not_count_after_the_next() -> None:
    row = offline(process("a", offered_at=AT - 100, observed=False, settled_since=None), AT - 200)
    made = planned("v2", [row, process("b")], max_unavailable=1)
    assert (updated(made), codes(made)["a"]) == (["b"], ReasonCode.OFFLINE_SINCE)


def test_a_complete_rollout_stays_complete_when_a_device_fails_later() -> None:
    made = planned("v1", [process("a")])
    assert made.status is not None
    row = deployment("v1", status=stored(made.status))
    later = plan(snapshot(row, [device("a")], [process("a", **FAILING)]), START + timedelta(days=1))
    assert later.status is not None
    assert [each.reason for each in later.status.conditions] == ["TooManyUnavailable", "NewRevisionRolledOut"]


@pytest.mark.parametrize(
    ("devices", "failing", "reason"),
    [
        (1, 0, "MinimumDevicesAvailable"),
        (1, 1, "TooManyUnavailable"),
        (2, 1, "MinimumDevicesAvailable"),
        (0, 0, "NoDevices"),
    ],
)
def test_a_deployment_is_not_available_when_none_of_its_devices_is(devices: int, failing: int, reason: str) -> None:
    names = [f"d{number}" for number in range(devices)]
    rows = [process(name, **(FAILING if number < failing else {})) for number, name in enumerate(names)]
    made = planned("v1", rows, devices=[device(name) for name in names])
    assert made.status is not None
    assert made.status.conditions[0].reason == reason


def test_a_template_that_is_used_again_is_rolled_out_again() -> None:
    first = planned("v1", [process("a")]).status
    assert first is not None
    second = plan(snapshot(deployment("v2", status=stored(first)), [device("a")], [process("a")]), START).status
    assert second is not None
    back = deployment("v1", status=stored(second))
    third = plan(snapshot(back, [device("a")], [process("a", "v2", **STARTING)]), START).status
    assert third is not None
    assert third.conditions[1].reason == "RolloutInProgress"


@pytest.mark.parametrize(("current", "again"), [("rev-v1", "praetorctl rollout undo tel"), (None, "another template")])
def test_a_rollout_that_failing_devices_hold_up_says_so(current: str | None, again: str) -> None:
    row = deployment("v2", status=StoredStatus(current_revision=current))
    rows = [process("a", "v2", **FAILING, offered_at=AT - 100), process("b")]
    made = plan(snapshot(row, [device("a"), device("b")], rows), START)
    assert made.status is not None
    assert made.status.conditions[1].message == (
        "revision rev-v2 cannot move until the devices that fail are well: "
        f"1 BudgetExhausted, 1 Failing; fix them, or: {again}"
    )


def test_the_deadline_runs_from_the_last_step_forward() -> None:
    rows = [process("a", "v2", **FAILING, offered_at=AT - 100), process("b")]
    made = planned("v2", rows, max_unavailable=0)
    assert made.recheck_at == START + timedelta(seconds=600)  # the rollout began at START
    devices = [device("a"), device("b")]
    late = plan(snapshot(deployment("v2", max_unavailable=0), devices, rows), START + timedelta(seconds=600))
    assert late.status is not None
    condition = late.status.conditions[1]
    assert (condition.status, condition.reason) == ("False", "ProgressDeadlineExceeded")
    assert condition.message == (
        "revision rev-v2 made no progress for 600 s: 1 BudgetExhausted, 1 Failing; "
        "maxUnavailable is 0, so only devices that are unavailable already are updated"
    )


def test_a_pause_sets_a_condition_and_its_end_removes_it() -> None:
    paused = planned("v1", [process("a")], paused=True).status
    assert paused is not None
    assert {each.type: each.status.value for each in paused.conditions} == {
        "Available": "True", "Paused": "True", "Progressing": "Unknown",
    }  # fmt: skip
    resumed = plan(snapshot(deployment(status=stored(paused)), [device("a")], [process("a")]), START).status
    assert resumed is not None
    assert [each.type for each in resumed.conditions] == ["Available", "Progressing"]


def test_a_complete_rollout_stays_complete_through_a_pause() -> None:
    done = planned("v1", [process("a")]).status
    assert done is not None
    failing = [process("a", **FAILING)]
    paused = plan(snapshot(deployment(paused=True, status=stored(done)), [device("a")], failing), START).status
    assert paused is not None
    assert [each.reason for each in paused.conditions] == [
        "TooManyUnavailable", "DeploymentPaused", "NewRevisionRolledOut",
    ]  # fmt: skip
    resumed = plan(snapshot(deployment(status=stored(paused)), [device("a")], failing), START + timedelta(days=1))
    assert resumed.status is not None
    assert [each.reason for each in resumed.status.conditions] == ["TooManyUnavailable", "NewRevisionRolledOut"]


def test_a_plan_that_was_carried_out_is_followed_by_an_empty_one() -> None:
    made = planned("v2", [process("a"), process("b")])
    rows = [process("a", "v2", **STARTING), process("b")]
    assert updated(made) == ["a"]
    assert planned("v2", rows).actions == ()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "mine"},
        {"labels": frozenset({("azure.com/deployment", "other")})},
        {"owner": "another"},
        {"terminating": True},
        {"device": "gone"},
    ],
    ids=["name", "label", "owner", "terminating", "device"],
)
def test_only_what_the_deployment_could_have_made_is_adopted(change: dict[str, Any]) -> None:
    row = process("a", owner=None, labels=frozenset({("azure.com/deployment", "tel")}))
    find = {"a": device("a")}.get
    assert list(adoptable(deployment(), [row], find)) == [row]
    assert list(adoptable(deployment(), [evolve(row, **change)], find)) == []
    assert list(adoptable(evolve(deployment(), matches=lambda labels: False), [row], find)) == []


@pytest.mark.parametrize(("left", "stops"), [({}, True), ({"revision": "rev-v0"}, False), ({"failure": ""}, False)])
def test_a_device_that_failed_and_was_taken_away_counts_while_its_process_is_there(
    left: dict[str, Any], stops: bool
) -> None:
    failed: dict[str, Any] = {"failure": "exit code 1", "ready_since": None, "settled_since": None}
    row = deployment("v1", max_unavailable=3, failure_policy=FailurePolicy(max_failures=1))
    processes = [process("gone", **failed | left), process("a", **failed), process("b", "v0"), process("c", "v0")]
    made = plan(snapshot(row, [device(name) for name in "abc"], processes, current=template("v0")), START)
    assert made.status is not None
    assert bool(made.status.failed_revision) is stops
    assert updated(made) == ([] if stops else ["b", "c"])


@pytest.mark.parametrize(
    ("again", "stops", "kept"),
    [
        pytest.param(None, True, ["a", "gone"], id="its process is gone"),
        pytest.param(
            {"failure": "exit code 1", "ready_since": None, "settled_since": None}, True, ["a", "gone"], id="fails"
        ),
        pytest.param({"ready_since": None, "settled_since": None}, False, ["a", "gone"], id="is not ready yet"),
        pytest.param({}, False, ["a"], id="is ready"),
    ],
)
def test_a_failure_is_remembered_until_the_process_is_ready(
    again: dict[str, Any] | None, stops: bool, kept: list[str]
) -> None:
    row = deployment("v1", max_unavailable=3, failure_policy=FailurePolicy(max_failures=1))
    failing: dict[str, Any] = {"failure": "exit code 1", "ready_since": None, "settled_since": None}
    processes = [process("a", **failing), process("b", "v0"), process("c", "v0")]
    names = ["a", "b", "c"]
    if again is not None:
        processes.append(process("gone", **{"offered_at": AT} | again))
        names.append("gone")
    record = WaveRecord(number=2, counted=(("gone", "uid-gone"),))
    given = snapshot(row, [device(name) for name in names], processes, current=template("v0"), wave_record=record)
    made = plan(given, START)
    assert made.status is not None
    assert bool(made.status.failed_revision) is stops
    found = made.wave_record or record
    assert [name for name, _ in found.counted] == kept
    assert parse_wave_record(found.text(), 2) == found

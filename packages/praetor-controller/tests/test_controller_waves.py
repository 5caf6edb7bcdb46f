# SPDX-License-Identifier: Apache-2.0
"""Waves, failure domains and the failure policy, case by case."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from controller_testing import START, deployment, device, offline, process, snapshot, stored, template
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import (
    Approval,
    Budget,
    FailureAction,
    FailurePolicy,
    LabelSelector,
    StrategyType,
    Wave,
)
from praetor_controller.model.actions import Create, Update
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, StoredStatus
from praetor_controller.model.wave_record import WaveFailure, WaveRecord, parse_wave_record
from praetor_controller.rollout.budgets import Domains
from praetor_controller.rollout.neighbours import RECHECK_WRITES_S, Neighbour, neighbours_down
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Plan
from praetor_controller.rollout.waves import REST

AT = START.timestamp()
CANARY = Wave(name="canary", selector=LabelSelector(match_labels={"ring": "0"}))
ROLLED_OUT_V1 = StoredStatus(current_revision="rev-v1", update_revision="rev-v2")
STARTING: dict[str, Any] = {"ready_since": None, "settled_since": None, "observed": False}
FAILING: dict[str, Any] = {"ready_since": None, "settled_since": None, "failure": "phase Failed: exit 1"}


SEEN = WaveRecord(number=3, matched=frozenset({"canary"}))
SEEN_FAILING = evolve(SEEN, failed=(WaveFailure("canary", "z", "uid-z"),))
LOST, FAILED_GONE = "WaveLostItsDevices(canary)", "WaveLostItsDevices(canary, failed: z)"
PASSED = evolve(SEEN, passed=frozenset({"canary"}))


def ring(name: str, number: int = 1, **fields: Any) -> DeviceRow:
    return device(name, labels={"ring": str(number)}, **fields)


def new(name: str, wave: str, since: float = AT, **fields: Any) -> ProcessRow:
    """Return a process that got v2 in *wave* and is ready since then."""
    ready = {"offered_at": AT, "ready_since": since, "settled_since": since, "wave": wave}
    return process(name, "v2", **ready | fields)


def planned(
    devices: list[DeviceRow], processes: list[ProcessRow], waves: tuple[Wave, ...] = (CANARY,), **fields: Any
) -> Plan:
    now = START + timedelta(seconds=fields.pop("after", 60))
    given = {"current": template("v1"), "down_elsewhere": fields.pop("down_elsewhere", ())} | fields.pop("given", {})
    settings: dict[str, Any] = {"max_unavailable": 10, "status": ROLLED_OUT_V1} | fields
    approved = frozenset(filter(None, [settings.pop("approved", "")]))
    row = evolve(deployment("v2", waves=waves, **settings), approved=approved)
    return plan(snapshot(row, devices, processes, **given), now)


def updated(made: Plan) -> list[str]:
    return sorted(action.process.device for action in made.actions if isinstance(action, Update))


def reasons(made: Plan) -> dict[str, str]:
    return {name: str(reason) for name, reason in made.reasons.items()}


def condition(made: Plan, type_: str) -> tuple[str, str] | None:
    assert made.status is not None
    found = get_condition(made.status.conditions, type_)
    return None if found is None else (found.status.value, found.reason)


DEVICES = [ring("a", 0), ring("b", 0), ring("c"), ring("d")]
OLD = [process(name) for name in "abcd"]


def test_the_first_wave_goes_first_and_is_recorded() -> None:
    made = planned(DEVICES, OLD)
    assert updated(made) == ["a", "b"]
    assert {action.wave for action in made.actions if isinstance(action, Update)} == {"canary"}
    assert reasons(made)["c"] == "WaitingForWave(canary 0/2)"
    assert made.status is not None
    assert made.status.wave == "canary"
    assert [(each.name, each.devices, each.open) for each in made.waves] == [("canary", 2, True), (REST, 2, False)]


def test_devices_that_no_wave_takes_come_last() -> None:
    made = planned(DEVICES, [new("a", "canary"), new("b", "canary"), *OLD[2:]])
    assert updated(made) == ["c", "d"]
    assert {action.wave for action in made.actions if isinstance(action, Update)} == {REST}


@pytest.mark.parametrize(
    ("wave", "second", "expected"),
    [
        pytest.param({}, process("b", "v2", **STARTING, wave="canary"), "WaitingForWave(canary 1/2)", id="not-yet"),
        pytest.param({"success_threshold": 50}, process("b", "v2", **FAILING), "Updating", id="enough"),
        pytest.param({}, offline(process("b"), AT - 60), "Updating", id="offline-before-the-offer"),
        pytest.param(
            {}, offline(new("b", "canary"), AT + 50), "WaitingForWave(canary 1/2)", id="silent-after-the-offer"
        ),
        pytest.param({"soak_seconds": 30}, new("b", "canary"), "Updating", id="soaked"),
        pytest.param(
            {"soak_seconds": 90}, new("b", "canary"), "Soaking(canary until 2026-01-01T00:01:30Z)", id="soaking"
        ),
        pytest.param({"success_threshold": 0}, process("b"), "Updating", id="no-threshold"),
    ],
)  # fmt: skip
def test_a_wave_opens_after_those_before_it(wave: dict[str, Any], second: ProcessRow, expected: str) -> None:
    made = planned(DEVICES, [new("a", "canary"), second, *OLD[2:]], (evolve(CANARY, **wave),))
    assert reasons(made)["c"] == expected


def test_the_end_of_a_soak_is_the_next_check_and_no_deadline_runs() -> None:
    waves = (evolve(CANARY, soak_seconds=9000),)
    made = planned(DEVICES, [new("a", "canary"), new("b", "canary"), *OLD[2:]], waves, after=5000)
    assert made.recheck_at == START + timedelta(seconds=9000)
    assert condition(made, "Progressing") == ("True", "RolloutInProgress")


def test_a_wave_of_offline_devices_does_not_open_the_next() -> None:
    dead = [offline(process(name, offered_at=AT - 9000), AT - 5000) for name in "ab"]
    made = planned(DEVICES, [*dead, *OLD[2:]])
    assert reasons(made)["c"] == "WaveHasNoEligibleDevice(canary)"
    assert condition(made, "Progressing") == ("True", "WaveHasNoEligibleDevice")


@pytest.mark.parametrize(
    ("wave", "fields", "held"),
    [
        pytest.param({}, {}, "WaveMatchesNothing(canary)", id="a-typo"),
        pytest.param({"approval": Approval.MANUAL}, {}, "WaveMatchesNothing(canary)", id="manual"),
        pytest.param({"success_threshold": 0}, {}, "WaveMatchesNothing(canary)", id="no-threshold"),
        pytest.param({"allow_empty": True, "approval": Approval.MANUAL}, {}, "", id="allowed"),
        pytest.param({}, {"given": {"wave_record": PASSED}}, "", id="passed-before"),
        pytest.param({}, {"given": {"wave_record": SEEN}}, "WaveLostItsDevices(canary)", id="lost"),
        pytest.param({}, {"given": {"wave_record": SEEN_FAILING}}, FAILED_GONE, id="failed"),
        pytest.param(
            {}, {"given": {"wave_record": SEEN}, "approved": "rev-v2/canary/3"}, "", id="lost-and-approved"
        ),
        pytest.param(
            {"approval": Approval.MANUAL},
            {"given": {"wave_record": SEEN}, "approved": "rev-v2/canary"},
            "WaveLostItsDevices(canary)",
            id="only-its-begin-was-approved",
        ),
        pytest.param(
            {}, {"given": {"wave_record": SEEN}, "approved": "rev-v2/canary/2"}, LOST, id="before"
        ),
    ],
)  # fmt: skip
def test_a_wave_that_no_device_matches_holds(wave: dict[str, Any], fields: dict[str, Any], held: str) -> None:
    made = planned(DEVICES[2:], OLD[2:], (evolve(CANARY, **wave),), **fields)
    assert updated(made) == ([] if held else ["c", "d"])
    if held:
        assert set(reasons(made).values()) == {held}
        assert condition(made, "Progressing") == ("False", held.partition("(")[0])
    else:
        assert made.wave_record is None or made.wave_record.passed == {"canary"}


def test_a_wave_that_holds_lets_devices_without_a_process_have_the_current_revision() -> None:
    made = planned(DEVICES[2:], OLD[2:3])
    assert [(each.device, each.template.revision) for each in made.actions if isinstance(each, Create)] == [
        ("d", "rev-v1")
    ]
    unknown = planned(DEVICES[2:], OLD[2:3], given={"current": None})
    assert (unknown.actions, reasons(unknown)["d"]) == ((), "WaveMatchesNothing(canary)")


def test_the_first_revision_of_all_is_never_held() -> None:
    fields: dict[str, Any] = {"given": {"current": None}, "budgets": (Budget(group_by=("rakc",), max_unavailable=1),)}
    made = planned(DEVICES[2:], [], **fields)
    assert [each.device for each in made.actions if isinstance(each, Create)] == ["c", "d"]


def test_a_wave_whose_devices_an_earlier_one_took_is_passed_over() -> None:
    twice = (CANARY, evolve(CANARY, name="again"))
    made = planned(DEVICES, [new("a", "canary"), new("b", "canary"), *OLD[2:]], twice)
    assert updated(made) == ["c", "d"]


def test_only_the_waves_after_one_that_matches_nothing_are_held() -> None:
    typo = evolve(CANARY, name="early", selector=LabelSelector(match_labels={"ring": "9"}))
    assert updated(planned(DEVICES, OLD, (CANARY, typo))) == ["a", "b"]
    made = planned(DEVICES, [new("a", "canary"), new("b", "canary"), *OLD[2:]], (CANARY, typo))
    assert reasons(made)["c"] == "WaveMatchesNothing(early)"


@pytest.mark.parametrize(
    ("canaries", "processes", "waits"),
    [
        pytest.param("ab", [process("a", "v2", **FAILING, wave="canary", offered_at=AT), new("b", "canary")],
                     "WaitingForWave(canary 1/2)", id="it-fails"),
        pytest.param("b", [new("b", "canary")], "WaveFailed(canary 1/2, failed: a)", id="it-is-gone"),
        pytest.param("ab", [new("a", "canary", uid="another"), new("b", "canary")],
                     "WaveFailed(canary 2/3, failed: a)", id="it-was-replaced"),
        pytest.param("aB", [process("a", "v2", **FAILING, wave="canary", offered_at=AT), new("b", "canary")],
                     "WaveFailed(canary 1/2, failed: a)", id="it-is-in-maintenance"),
        pytest.param("ab", [new("a", "canary"), new("b", "canary")], "", id="the-same-process-recovered"),
    ],
)  # fmt: skip
def test_a_device_that_failed_stays_counted_in_its_wave(canaries: str, processes: list[ProcessRow], waits: str) -> None:
    """An upper-case name: the device a is in maintenance."""
    first = planned(
        DEVICES, [process("a", "v2", **FAILING, wave="canary", offered_at=AT), new("b", "canary"), *OLD[2:]]
    )
    assert first.wave_record is not None
    assert first.wave_record.failed == (WaveFailure("canary", "a", "uid-a"),)
    devices = [ring(name, 0, in_maintenance=name == "a" and "B" in canaries) for name in canaries.lower()]
    record = parse_wave_record(first.wave_record.text(), 0)
    made = planned([*devices, *DEVICES[2:]], [*processes, *OLD[2:]], given={"wave_record": record})
    assert reasons(made)["c"] == (waits or "Updating")
    remembered = made.wave_record or record
    assert bool(remembered.failed) == bool(waits)


def test_what_failed_before_the_rollout_was_stopped_is_remembered() -> None:
    policy = FailurePolicy(max_failures=0)
    rows = [process("a", "v2", **FAILING, wave="canary", offered_at=AT), new("b", "canary"), *OLD[2:]]
    made = planned(DEVICES, rows, failure_policy=policy)
    assert condition(made, "Paused") == ("True", "FailurePolicy")
    assert made.wave_record is not None
    assert [each.device for each in made.wave_record.failed] == ["a"]


def test_a_wave_that_was_passed_stays_so_when_its_devices_die() -> None:
    manual = Wave(name="half", limit="50%", approval=Approval.MANUAL)
    good = [new("a", "canary"), new("b", "canary"), *OLD[2:]]
    made = planned(DEVICES, good, (CANARY, manual))
    assert made.wave_record is not None
    assert made.wave_record.passed == {"canary"}
    dead = [offline(new(name, "canary"), AT + 50) for name in "ab"]
    given = {"wave_record": made.wave_record}
    waiting = planned(DEVICES, [*dead, *OLD[2:]], (CANARY, manual), given=given)
    assert reasons(waiting)["c"] == "AwaitingApproval(half)"
    assert [each.passed for each in waiting.waves] == [True, False, False]
    begun = planned(DEVICES, [*dead, *OLD[2:]], (CANARY, manual), given=given, approved="rev-v2/half")
    assert updated(begun) == ["c", "d"]


def test_waves_that_were_begun_without_a_record_are_passed() -> None:
    """An older controller keeps none, and passed over what matched nothing."""
    early = Wave(name="early", limit=1)
    made = planned(DEVICES[2:], [new("c", "early"), OLD[3]], (CANARY, early))
    assert updated(made) == ["d"]
    assert made.wave_record is not None
    assert made.wave_record.passed == {"canary", "early"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"number":3}', '{"number":3,"matched":[],"passed":[],"failed":[[1]]}']
)
def test_a_record_that_cannot_be_read_is_an_empty_one(text: str) -> None:
    assert parse_wave_record(text, 3) == WaveRecord(number=3)
    assert parse_wave_record(SEEN.text(), 3) == SEEN
    assert parse_wave_record(SEEN.text(), 4) == WaveRecord(number=4)


def test_a_device_that_joins_a_passed_wave_waits_for_its_approval() -> None:
    manual = Wave(name="w1", selector=LabelSelector(match_labels={"ring": "1"}), approval=Approval.MANUAL)
    devices = [ring("a", 0), ring("b", 1), ring("c", 2), ring("d", 2)]
    processes = [new("a", "canary"), OLD[1], new("c", REST), OLD[3]]
    made = planned(devices, processes, (CANARY, manual))
    assert updated(made) == ["d"]
    assert reasons(made)["b"] == "AwaitingApproval(w1)"
    assert [each.open for each in made.waves] == [True, False, True]
    begun = planned(devices, [processes[0], new("b", "w1"), *processes[2:]], (CANARY, manual))
    assert [each.open for each in begun.waves] == [True, True, True]


def test_a_wave_that_has_begun_stays_open() -> None:
    fallen = offline(new("b", "canary"), AT + 50)
    made = planned(DEVICES, [new("a", "canary"), fallen, new("c", REST), OLD[3]])
    assert updated(made) == ["d"]


def test_a_wave_that_an_earlier_rollout_of_the_revision_began_is_not_open() -> None:
    made = planned(DEVICES, [*OLD[:3], new("d", REST, offered_at=AT - 100)])
    assert updated(made) == ["a", "b"]


def test_a_manual_wave_waits_for_the_approval_of_this_revision() -> None:
    waves = (evolve(CANARY, approval=Approval.MANUAL),)
    row = deployment("v2", waves=waves, max_unavailable=10, status=ROLLED_OUT_V1)
    for approved, expected in (
        (frozenset({"rev-v1/canary"}), []),
        (frozenset({"rev-v2/canary"}), ["a", "b"]),
    ):
        made = plan(snapshot(evolve(row, approved=approved), DEVICES, OLD), START)
        assert updated(made) == expected
    waiting = plan(snapshot(row, DEVICES, OLD), START + timedelta(days=1))
    assert set(reasons(waiting).values()) == {"AwaitingApproval(canary)"}
    assert condition(waiting, "Progressing") == ("True", "RolloutInProgress")


@pytest.mark.parametrize(
    ("approved", "labels", "expected"),
    [
        pytest.param(frozenset(), {"ring": "1"}, [], id="its-devices-got-the-version-in-another-wave"),
        pytest.param(frozenset({"rev-v2/w1"}), {"ring": "1"}, ["c", "d"], id="approved"),
        pytest.param(frozenset(), {"ring": "9"}, ["c", "d"], id="it-may-be-empty"),
    ],
)
def test_a_manual_wave_holds_the_devices_after_it_also_when_its_own_have_the_version(
    approved: frozenset[str], labels: dict[str, str], expected: list[str]
) -> None:
    manual = Wave(name="w1", selector=LabelSelector(match_labels=labels), approval=Approval.MANUAL, allow_empty=True)
    devices = [ring("a", 0), ring("b", 1), ring("c", 2), ring("d", 2)]
    row = deployment("v2", waves=(CANARY, manual), max_unavailable=10, status=ROLLED_OUT_V1)
    processes = [new("a", "canary"), new("b", "canary"), *OLD[2:]]  # b was labelled ring=0 when it got it
    made = plan(snapshot(evolve(row, approved=approved), devices, processes), START + timedelta(hours=1))
    assert updated(made) == expected
    assert expected or made.waits_for == Reason(ReasonCode.AWAITING_APPROVAL, "w1")
    done = [new("a", "canary"), new("b", "canary")]
    finished = plan(snapshot(row, devices[:2], done), START + timedelta(hours=1))
    assert (finished.waits_for, condition(finished, "Progressing")) == (None, ("True", "NewRevisionRolledOut"))


@pytest.mark.parametrize(("limit", "first"), [(1, ["a"]), ("50%", ["a", "b"]), ("1%", ["a"]), (0, [])])
def test_a_limited_wave_takes_the_first_by_name(limit: int | str, first: list[str]) -> None:
    wave = Wave(name="few", limit=limit)
    made = planned(DEVICES, OLD, (wave,))
    assert updated(made) == (first or list("abcd"))


def test_a_limited_wave_takes_reachable_devices_first() -> None:
    devices = [ring("a", in_maintenance=True), *DEVICES[1:]]
    assert updated(planned(devices, OLD, (Wave(name="few", limit=1),))) == ["b"]


def test_a_limited_wave_prefers_devices_that_have_connected_before() -> None:
    devices = [ring("a", connected=None), ring("b")]
    made = planned(devices, [], (Wave(name="few", limit=1),), given={"current": None})
    assert [each.device for each in made.actions if isinstance(each, Create)] == ["b"]


def test_a_new_device_does_not_replace_one_in_a_limited_wave() -> None:
    devices = [ring("a"), *DEVICES[1:]]
    made = planned(devices, [new("b", "few"), *OLD[2:]], (Wave(name="few", limit=1), CANARY), given={"current": None})
    assert reasons(made)["b"] == "UpToDate"
    assert [each.devices for each in made.waves] == [1, 0, 3]
    assert [action.wave for action in made.actions if isinstance(action, Create)] == [REST]


def test_a_new_device_gets_the_revision_of_its_wave() -> None:
    made = planned(DEVICES, OLD[1:3])
    creates = {each.device: (each.template.revision, each.wave) for each in made.actions if isinstance(each, Create)}
    assert creates == {"a": ("rev-v2", "canary"), "d": ("rev-v1", "")}


def test_in_a_first_rollout_a_device_of_a_closed_wave_gets_nothing() -> None:
    made = planned(DEVICES, [], given={"current": None})
    assert [each.device for each in made.actions if isinstance(each, Create)] == ["a", "b"]
    assert reasons(made)["d"] == "WaitingForWave(canary 0/2)"


def test_waves_are_for_rolling_updates_only() -> None:
    assert updated(planned(DEVICES, OLD, strategy=StrategyType.RECREATE)) == list("abcd")


@pytest.mark.parametrize(
    ("waiting", "fields", "moving"),
    [
        pytest.param(process("d", **FAILING, offered_at=AT - 100), {}, [], id="down-since-its-offer"),
        pytest.param(process("d", **FAILING), {}, ["a"], id="down-for-long"),
        pytest.param(process("d", ready_since=AT + 50), {"min_ready_seconds": 30}, [], id="not-ready-for-long"),
        pytest.param(offline(process("d"), AT - 60), {}, ["a"], id="offline-before"),
        pytest.param(offline(process("d", **STARTING, offered_at=AT), AT + 50), {}, [], id="silent"),
    ],
)
def test_a_device_that_is_down_while_it_waits_for_its_wave_counts(
    waiting: ProcessRow, fields: dict[str, Any], moving: list[str]
) -> None:
    assert updated(planned(DEVICES, [*OLD[:3], waiting], max_unavailable=1, **fields)) == moving


@pytest.mark.parametrize(
    ("wave", "field"),
    [
        (Wave(name="w", limit="many"), "waves[0].limit"),
        (Wave(name="w", selector=evolve(LabelSelector(), match_expressions=())), ""),
    ],
)
def test_an_invalid_wave_is_refused_by_its_field(wave: Wave, field: str) -> None:
    made = planned(DEVICES, OLD, (wave,))
    assert made.status is not None
    condition = get_condition(made.status.conditions, "Progressing")
    assert condition is not None
    assert field in condition.message
    assert (condition.reason == "InvalidSpec") == bool(field)


RACK = Budget(group_by=("rack",), max_unavailable=1)
TYPO = Budget(group_by=("rakc",), max_unavailable=1)


def racked(name: str, rack: str, **labels: str) -> DeviceRow:
    return device(name, labels={"rack": rack} | labels)


RACKS = [racked("a", "r1"), racked("b", "r1"), racked("c", "r2"), device("d")]


def test_each_domain_keeps_its_limit() -> None:
    made = planned(RACKS, OLD, (), budgets=(RACK,))
    assert updated(made) == ["a", "c", "d"]
    assert reasons(made)["b"] == "BudgetExhausted(rack=r1 1/1)"


def test_devices_without_the_label_of_a_budget_are_one_domain() -> None:
    devices = [racked("a", "r1"), *map(device, "bcd")]
    made = planned(devices, OLD, (), budgets=(RACK,))
    assert updated(made) == ["a", "b"]
    assert reasons(made)["c"] == "BudgetExhausted(rack=<none> 1/1)"
    elsewhere = planned(devices, OLD, (), budgets=(RACK,), down_elsewhere=[device("z")])
    assert updated(elsewhere) == ["a", "b"]  # z is in no domain of this deployment
    half = Budget(group_by=("rack", "feed"), max_unavailable="50%")
    assert len(updated(planned(devices, OLD, (), budgets=(evolve(half, allow_empty=True),)))) == 2


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        pytest.param({"budgets": (TYPO,)}, True, id="a-typo"),
        pytest.param({"budgets": (RACK, TYPO)}, True, id="one-of-two"),
        pytest.param({"budgets": (evolve(TYPO, allow_empty=True, max_unavailable=4),)}, False, id="allowed"),
        pytest.param({"budgets": (TYPO,), "strategy": StrategyType.RECREATE}, False, id="recreate"),
        pytest.param({"budgets": (evolve(RACK, group_by=("rack", "feed")),)}, True, id="one-label-of-two"),
    ],
)
def test_a_budget_that_no_device_belongs_to_holds(fields: dict[str, Any], held: bool) -> None:
    made = planned(RACKS, OLD, (), **fields)
    assert updated(made) == ([] if held else list("abcd"))
    if held:
        assert {reason.code for reason in made.reasons.values()} == {ReasonCode.BUDGET_MATCHES_NOTHING}
        assert condition(made, "Progressing") == ("False", "BudgetMatchesNothing")


def test_a_budget_that_no_device_belongs_to_holds_no_rollback_and_no_steady_state() -> None:
    policy = FailurePolicy(max_failures=1, action=FailureAction.ROLLBACK)
    first = with_policy(FailureAction.ROLLBACK, BAD, row=deployment("v2", budgets=(TYPO,), failure_policy=policy))
    assert condition(first, "RolledBack") == ("True", "FailurePolicy")
    done = planned(RACKS, [new(name, "") for name in "abcd"], (), budgets=(TYPO,))
    assert done.aggregate is not None


def test_devices_that_another_deployment_has_down_count() -> None:
    made = planned(RACKS, OLD, (), budgets=(RACK,), down_elsewhere=[racked("z", "r2"), racked("b", "r1")])
    assert reasons(made)["c"] == "BudgetExhausted(rack=r2 1/1)"
    assert updated(made) == ["b", "d"]  # b is down already
    crowded = planned(RACKS, OLD, (), budgets=(RACK,), down_elsewhere=[racked("a", "r1"), racked("b", "r1")])
    assert updated(crowded) == ["c", "d"]  # neither of the two that are down may be so for longer


def test_several_budgets_hold_at_the_same_time() -> None:
    devices = [racked("a", "r1", feed="x"), racked("b", "r2", feed="x"), racked("c", "r2", feed="y")]
    feed = Budget(group_by=("feed", "rack"), max_unavailable=2)
    made = planned(devices, OLD[:3], (), budgets=(feed, RACK))
    assert updated(made) == ["a", "b"]
    assert reasons(made)["c"] == "BudgetExhausted(rack=r2 1/1)"


def test_a_domain_of_several_labels_is_named_by_all_of_them() -> None:
    devices = [racked("a", "r1", feed="x"), racked("b", "r1", feed="x")]
    made = planned(devices, OLD[:2], (), budgets=(Budget(group_by=("feed", "rack"), max_unavailable=1),))
    assert reasons(made)["b"] == "BudgetExhausted(feed=x,rack=r1 1/1)"


def test_a_percentage_is_of_the_domain() -> None:
    budget = Budget(group_by=("rack",), max_unavailable="50%")
    devices = [racked("a", "r1"), racked("b", "r1"), racked("c", "r1"), racked("d", "r2")]
    assert updated(planned(devices, OLD, (), budgets=(budget,))) == ["a", "b", "d"]


def test_a_process_that_is_ready_again_waits_while_its_domain_is_exceeded() -> None:
    processes = [process("a", "v2", **STARTING), process("b", ready_since=AT + 50), *OLD[2:]]
    made = planned(RACKS, processes, (), budgets=(RACK,), min_ready_seconds=30)
    assert reasons(made)["b"] == "BudgetExhausted(rack=r1 2/1)"


def test_a_process_that_is_ready_again_is_updated_where_no_domain_is_exceeded() -> None:
    processes = [OLD[0], process("b", ready_since=AT + 50), OLD[2], process("d", ready_since=AT + 50)]
    made = planned(RACKS, processes, (), budgets=(RACK,), min_ready_seconds=30)
    assert updated(made) == ["b", "c", "d"]  # d has no rack
    assert reasons(made)["a"] == "BudgetExhausted(rack=r1 1/1)"


def test_an_invalid_budget_is_refused_by_its_field() -> None:
    made = planned(RACKS, OLD, (), budgets=(Budget(group_by=("rack",), max_unavailable="all"),))
    assert condition(made, "Progressing") == ("False", "InvalidSpec")


def test_without_budgets_there_are_no_domains() -> None:
    domains = Domains((), RACKS, ())
    assert not domains
    assert domains.full(RACKS[0]) == ""


@pytest.mark.parametrize(
    ("row", "down"),
    [
        (process("a"), False),
        (process("a", **STARTING), True),
        (offline(process("a"), AT - 60), False),
        (offline(process("a", **STARTING, offered_at=AT - 60), AT), True),
        (process("gone", **STARTING), False),
    ],
)
def test_a_neighbour_has_down_what_it_wrote_to_and_is_not_available(row: ProcessRow, down: bool) -> None:
    other = Neighbour(deployment(), [row])
    found = neighbours_down([other], {"a": device("a")}, AT, AT)
    assert [each.name for each in found.devices] == ["a"] * down


@pytest.mark.parametrize(
    ("row", "writing", "changes_at"),
    [
        pytest.param(process("a", ready_since=AT - 10), frozenset(), AT + 20, id="soon-available"),
        pytest.param(offline(process("a", **STARTING, offered_at=AT), AT), frozenset(), AT + 600, id="blamed"),
        pytest.param(process("a", **STARTING), frozenset(), math.inf, id="an-event-follows"),
        pytest.param(process("a"), frozenset("a"), AT + RECHECK_WRITES_S, id="perhaps-not-written"),
    ],
)
def test_the_time_when_a_neighbour_frees_a_place_is_known(
    row: ProcessRow, writing: frozenset[str], changes_at: float
) -> None:
    found = neighbours_down([Neighbour(deployment(min_ready_seconds=30), [row], writing)], {"a": device("a")}, AT, AT)
    assert found.changes_at == changes_at
    made = planned(RACKS, OLD, (), budgets=(RACK,), given={"elsewhere_changes_at": AT + 61})
    assert made.recheck_at == START + timedelta(seconds=61)


def test_devices_that_a_neighbour_is_about_to_write_to_count_unless_in_maintenance() -> None:
    devices = {"a": device("a"), "b": device("b", in_maintenance=True)}
    found = neighbours_down([Neighbour(deployment(), [], frozenset("abz"))], devices, AT, AT)
    assert [each.name for each in found.devices] == ["a"]


def with_policy(
    action: FailureAction, processes: list[ProcessRow], *, limit: int | str = 1, status: StoredStatus = ROLLED_OUT_V1,
    after: int = 60, current: str | None = "v1", row: DeploymentRow | None = None, **fields: Any,
) -> Plan:  # fmt: skip
    policy = FailurePolicy(max_failures=limit, action=action)
    deployed = row or deployment("v2", max_unavailable=10, failure_policy=policy, status=status, **fields)
    known = template(current) if current else None
    given = snapshot(deployed, [device(name) for name in "abcd"], processes, current=known)
    return plan(given, START + timedelta(seconds=after))


BAD = [process("a", "v2", **FAILING), process("b", "v2", **FAILING), *OLD[2:]]


def test_too_many_failures_stop_the_revision() -> None:
    made = with_policy(FailureAction.PAUSE, BAD)
    assert made.actions == ()
    assert reasons(made)["c"] == "Paused(the failure policy stopped the revision)"
    assert condition(made, "Paused") == ("True", "FailurePolicy")
    assert condition(made, "Progressing") == ("False", "FailurePolicy")
    assert made.status is not None
    assert made.status.failed_revision == "rev-v2"
    paused = get_condition(made.status.conditions, "Paused")
    assert paused is not None
    assert paused.message == (
        "2 devices failed at revision rev-v2, at most 1 may: a: phase Failed: exit 1; b: phase Failed: exit 1"
    )


@pytest.mark.parametrize(
    ("second", "after", "stops"),
    [
        pytest.param(process("b", "v2", **FAILING), 60, True, id="failing"),
        pytest.param(offline(process("b", "v2", offered_at=AT), AT + 50), 60, True, id="silent"),
        pytest.param(
            evolve(offline(process("b", "v2"), AT), fetched=None), 60, False, id="silent-and-what-it-fetched-is-unknown"
        ),
        pytest.param(process("b", "v2", **STARTING, offered_at=AT), 60, False, id="starting"),
        pytest.param(process("b", "v2", **STARTING, offered_at=AT), 600, True, id="not-in-time"),
        pytest.param(process("b", "v2", **FAILING, terminating=True), 60, False, id="terminating"),
        pytest.param(process("b", **FAILING), 60, False, id="failing-at-the-old-one"),
        pytest.param(
            offline(process("b", "v2", offered_at=AT + 50), AT), 60, False, id="offline-before-the-offer"
        ),
    ],
)  # fmt: skip
def test_what_counts_as_a_failure(second: ProcessRow, after: int, stops: bool) -> None:
    made = with_policy(FailureAction.PAUSE, [BAD[0], second, *OLD[2:]], after=after)
    assert (condition(made, "Paused") is not None) is stops


def test_a_long_list_of_failures_is_shortened() -> None:
    made = with_policy(FailureAction.PAUSE, [process(name, "v2", **FAILING) for name in "abcd"], limit="25%")
    assert made.status is not None
    paused = get_condition(made.status.conditions, "Paused")
    assert paused is not None
    assert paused.message.endswith("; and 1 more")


def message(made: Plan) -> str:
    assert made.status is not None
    paused = get_condition(made.status.conditions, "Paused")
    assert paused is not None
    return paused.message


def test_the_condition_says_how_devices_failed() -> None:
    silent = offline(process("a", "v2", offered_at=AT), AT + 50)
    late = process("b", "v2", **STARTING, offered_at=AT)
    failing = process("c", "v2", **FAILING)
    made = with_policy(FailureAction.PAUSE, [silent, late, failing, OLD[3]], after=600)
    assert message(made) == (
        "3 devices failed at revision rev-v2, at most 1 may: "
        "a: silent since the offer; b: not ready in time; c: phase Failed: exit 1"
    )
    alone = with_policy(FailureAction.PAUSE, [BAD[0], *OLD[1:]], limit=0)
    assert message(alone) == "1 device failed at revision rev-v2, at most 0 may: a: phase Failed: exit 1"


def test_a_device_in_maintenance_is_not_a_failure() -> None:
    policy = FailurePolicy(max_failures=0, action=FailureAction.PAUSE)
    for until, stops in ((AT + 60, False), (AT - 60, True)):
        devices = [device("a", in_maintenance=True, maintenance_until=until)]
        given = snapshot(deployment("v2", failure_policy=policy), devices, [BAD[0]], current=template("v1"))
        assert (condition(plan(given, START), "Paused") is not None) is stops


def test_a_failed_revision_without_its_condition_is_judged_again() -> None:
    made = with_policy(FailureAction.PAUSE, OLD, status=StoredStatus(failed_revision="rev-v2"))
    assert condition(made, "Paused") is None


def test_a_stop_holds_until_the_spec_changes() -> None:
    status = with_policy(FailureAction.PAUSE, BAD).status
    assert status is not None
    fixed = [new("a", ""), new("b", ""), *OLD[2:]]
    later = with_policy(FailureAction.PAUSE, fixed, status=stored(status))
    assert later.actions == ()
    assert condition(later, "Paused") == ("True", "FailurePolicy")
    policy = FailurePolicy(max_failures=1)
    edited = deployment("v2", max_unavailable=10, failure_policy=policy, status=stored(status))
    again = with_policy(FailureAction.PAUSE, fixed, row=evolve(edited, generation=2))
    assert updated(again) == ["c", "d"]
    assert condition(again, "Paused") is None
    forgotten = evolve(stored(status), conditions=())
    assert updated(with_policy(FailureAction.PAUSE, fixed, status=forgotten)) == ["c", "d"]


def test_a_rollback_restores_the_current_revision_under_the_budget() -> None:
    rows = [*BAD[:2], new("c", ""), OLD[3]]
    first = with_policy(FailureAction.ROLLBACK, rows, limit=1)
    assert first.actions == ()  # else a controller that restarts half-way would not know that it must continue
    assert first.status is not None
    policy = FailurePolicy(max_failures=1, action=FailureAction.ROLLBACK)
    row = deployment("v2", max_unavailable=10, failure_policy=policy, status=stored(first.status))
    made = with_policy(FailureAction.ROLLBACK, rows, row=row)
    assert updated(made) == ["a", "b", "c"]
    assert {each.template.revision for each in made.actions if isinstance(each, Update)} == {"rev-v1"}
    assert condition(made, "RolledBack") == ("True", "FailurePolicy")
    assert made.status is not None
    assert (made.status.current_revision, made.status.failed_revision) == ("rev-v1", "rev-v2")


def test_a_rollback_holds_until_the_template_changes() -> None:
    status = with_policy(FailureAction.ROLLBACK, BAD).status
    assert status is not None
    row = deployment("v2", max_unavailable=10, failure_policy=FailurePolicy(max_failures=1), status=stored(status))
    settled = with_policy(FailureAction.ROLLBACK, OLD, row=evolve(row, generation=7))
    assert settled.actions == ()
    assert set(reasons(settled).values()) == {"UpToDate"}
    assert settled.status is not None
    assert settled.status.current_revision == "rev-v1"
    fixed = evolve(row, template=template("v3"), generation=8)
    again = with_policy(FailureAction.ROLLBACK, OLD, row=fixed)
    assert updated(again) == list("abcd")
    assert condition(again, "RolledBack") is None


def test_a_stopped_revision_is_not_recreated_either() -> None:
    made = with_policy(FailureAction.PAUSE, BAD, strategy=StrategyType.RECREATE)
    assert made.actions == ()
    assert reasons(made)["c"] == "Paused(the failure policy stopped the revision)"


def test_a_device_that_may_fail_by_time_alone_is_checked_at_its_deadline() -> None:
    rows = [process("a", "v2", **STARTING, offered_at=AT), new("b", "", since=AT + 50), *OLD[2:]]
    made = with_policy(FailureAction.PAUSE, rows, limit=0)
    assert made.recheck_at == START + timedelta(seconds=600)


def test_a_first_rollout_pauses_instead_of_rolling_back() -> None:
    made = with_policy(FailureAction.ROLLBACK, BAD, current=None, status=StoredStatus())
    assert made.actions == ()
    assert condition(made, "Paused") == ("True", "FailurePolicy")


def test_failures_after_a_complete_rollout_do_not_count() -> None:
    done = with_policy(FailureAction.PAUSE, [new(name, "") for name in "abcd"]).status
    assert done is not None
    made = with_policy(FailureAction.PAUSE, [*BAD[:2], new("c", ""), new("d", "")], status=stored(done))
    assert condition(made, "Paused") is None


def test_an_invalid_failure_policy_is_refused_by_its_field() -> None:
    made = with_policy(FailureAction.PAUSE, OLD, limit="few")
    assert condition(made, "Progressing") == ("False", "InvalidSpec")


def test_a_process_being_deleted_is_not_replaced_on_delete_by_the_policy() -> None:
    made = with_policy(FailureAction.PAUSE, BAD, strategy=StrategyType.ON_DELETE)
    assert {reason.code for reason in made.reasons.values()} == {ReasonCode.FAILING, ReasonCode.WAITING_FOR_DELETION}

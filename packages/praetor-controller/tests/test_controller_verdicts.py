# SPDX-License-Identifier: Apache-2.0
"""The table that the planner decides by: complete, free of contradictions, and the one in the documentation."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
from attrs import evolve

from controller_testing import START, deployment, device, process, snapshot, template
from praetor_api.kube.objects import StrategyType
from praetor_api.names import hashed_process_name
from praetor_controller.rollout.assignment import Assignment, assign
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Snapshot, specs_of
from praetor_controller.rollout.verdicts import TABLE, Context, Step, Verdict, classify, classify_all
from praetor_controller.rollout.waves import WaveProgress
from rollout_table import PAGE, replaced

AT = START.timestamp()
CLOSED = WaveProgress(place=(), open=0, blocker=Reason(ReasonCode.WAITING_FOR_WAVE, "canary 0/1"), waves=())
FIELDS: dict[str, tuple[Any, ...]] = {
    "spec_hash": ("v1", "v2"),
    "ready_since": (None, AT - 10, AT - 3600),
    "connected": (True, False, None),
    "connected_since": (None, AT - 7300, AT - 60),
    "reported": (True, False),
    "observed": (True, False),
    "settled_since": (None, AT - 3600),
    "failure": ("", "phase Failed"),
    "held": ("", "by a file"),
    "terminating": (True, False),
}


def context_of(made: Snapshot, assigned: Assignment, waves: WaveProgress | None) -> Context:
    made = evolve(made, devices=assigned.devices)
    target = specs_of(made, made.deployment.template, frozenset())
    return Context.of(made, AT, target, target.run_by(assigned.hashes), waves)


def test_no_case_has_two_rules() -> None:
    cases = Counter(case for rule in TABLE for case in rule.cases())
    assert [case for case, count in cases.items() if count > 1] == []


@pytest.mark.parametrize("strategy", StrategyType)
@pytest.mark.parametrize("waves", [None, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_every_state_of_a_process_has_a_rule(strategy: StrategyType, waves: WaveProgress | None, paused: bool) -> None:
    row = deployment("v2", strategy=strategy, paused=paused, min_ready_seconds=30)
    processes = [process("a", **dict(zip(FIELDS, values, strict=True))) for values in product(*FIELDS.values())]
    seen = set()
    for name in ("a", "refused", "in-flight"):
        made = snapshot(row, [], [], refusals={"refused": "no"}, in_flight=frozenset({"in-flight"}))
        for each in processes:
            assigned = assign([device(name)], [evolve(each, device=name)], 30.0, AT)
            context = context_of(made, assigned, waves)
            verdict = classify(context, 0, *next(iter(assigned)))
            assert verdict.step in (Step.NONE, Step.UPDATE, Step.UPDATE_IN_BUDGET, Step.UPDATE_WITH_PLACE)
            assert classify_all(context, assigned).all == [verdict]
            seen.add(verdict.step)
    offers = not paused and strategy is not StrategyType.ON_DELETE and waves is None
    assert (seen != {Step.NONE}) == offers


@pytest.mark.parametrize(
    ("fields", "waves", "expected"),
    [
        pytest.param({}, None, Verdict(Reason(ReasonCode.CREATING), Step.CREATE, name="tel-a"), id="free"),
        pytest.param(
            {"current": template("v1")},
            CLOSED,
            Verdict(Reason(ReasonCode.CREATING), Step.CREATE_CURRENT, name="tel-a"),
            id="closed-with-a-current-revision",
        ),
        pytest.param({}, CLOSED, Verdict(Reason(ReasonCode.WAITING_FOR_WAVE, "canary 0/1")), id="closed"),
        pytest.param({"in_flight": frozenset({"a"})}, None, Verdict(Reason(ReasonCode.CREATING)), id="in-flight"),
        pytest.param({"refusals": {"a": "no"}}, None, Verdict(Reason(ReasonCode.CANNOT_CONVERGE, "no")), id="refused"),
        pytest.param(
            {"taken_names": {"tel-a"}, "leftovers": {"tel-a"}},
            None,
            Verdict(
                Reason(ReasonCode.TERMINATING, "tel-a of a deleted deployment is not collected yet"),
                recheck_at=AT + 10,
                name="tel-a",
            ),
            id="leftover",
        ),
        pytest.param(
            {"taken_names": {"tel-a"}},
            None,
            Verdict(Reason(ReasonCode.CREATING), Step.CREATE, name=hashed_process_name("tel", "a")),
            id="hashed-name",
        ),
        pytest.param(
            {"taken_names": {"tel-a", hashed_process_name("tel", "a")}},
            None,
            Verdict(
                Reason(ReasonCode.NAME_TAKEN, f"{hashed_process_name('tel', 'a')} belongs to another owner or to none"),
                recheck_at=AT + 10,
                name=hashed_process_name("tel", "a"),
            ),
            id="name-taken",
        ),
        pytest.param(
            {"taken_names": {"tel-a"}, "occupied": {"a/tel-a"}},
            None,
            Verdict(
                Reason(ReasonCode.NAME_TAKEN, "tel-a belongs to another owner or to none"),
                recheck_at=AT + 10,
                name="tel-a",
            ),
            id="runs-a-process-of-that-name",
        ),
    ],
)
def test_a_device_without_a_process(fields: dict[str, Any], waves: WaveProgress | None, expected: Verdict) -> None:
    context = context_of(snapshot(deployment("v2"), [], [], **fields), assign([device("a")], [], 0.0, AT), waves)
    assert classify(context, 0, device("a"), None, None) == expected


def test_a_device_in_maintenance_gets_no_process_until_it_ends() -> None:
    context = context_of(snapshot(deployment("v2"), [], []), assign([device("a")], [], 0.0, AT), None)
    row = device("a", in_maintenance=True, maintenance_until=AT + 60)
    reason = Reason(ReasonCode.IN_MAINTENANCE, "until 2026-01-01T00:01:00Z")
    assert classify(context, 0, row, None, None) == Verdict(reason, recheck_at=AT + 60)
    over = device("a", in_maintenance=True, maintenance_until=AT)
    assert classify(context, 0, over, None, None).step is Step.CREATE


def test_a_device_that_is_down_counts_while_its_wave_is_closed_until_the_deadline() -> None:
    for offered_s, down in ((599, True), (600, False)):
        row = process("a", ready_since=None, settled_since=None, offered_at=AT - offered_s)
        assigned = assign([device("a")], [row], 0.0, AT)
        context = context_of(snapshot(deployment("v2"), [], []), assigned, CLOSED)
        verdict = classify(context, 0, *next(iter(assigned)))
        assert verdict.down is down
        assert verdict.recheck_at == AT - offered_s + 600


def test_the_documentation_has_the_table() -> None:
    page = PAGE.read_text()
    assert replaced(page) == page, "run `hatch run rollout-table`"

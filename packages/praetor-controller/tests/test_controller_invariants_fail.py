# SPDX-License-Identifier: Apache-2.0
"""Each invariant of the random search is violated by a write that breaks it, and by that one alone."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve, frozen

from controller_simulation.invariants import (
    INVARIANTS,
    REMOVAL_INVARIANTS,
    Facts,
    Removal,
    SteadyState,
    Write,
    a_passed_gate_stays_passed,
)
from controller_testing import deployment, device, process
from praetor_api.kube.objects import (
    Approval,
    Budget,
    FactOperator,
    FactRequirement,
    LabelSelector,
    StrategyType,
    Wave,
)
from praetor_controller.model.rows import DeploymentRow, ProcessRow, StoredStatus
from praetor_controller.model.wave_record import WaveRecord

NOW = 1000.0
FIRST = Wave(name="w0", selector=LabelSelector(match_labels={"ring": "0"}), soak_seconds=60)
SECOND = Wave(name="w1", approval=Approval.MANUAL)
PROVEN = StoredStatus(current_revision="rev-v1")
ROLLING, RUNNING, NOTHING = deployment("v2", max_unavailable=2), process("a"), SteadyState()
RACKS = (Budget(group_by=("rack",), max_unavailable=1),)


@frozen(kw_only=True)
class Case:
    """A write of v2 to the device `a`, which has v1, and what differs from one that keeps every invariant."""

    invariant: str
    row: DeploymentRow = ROLLING
    device: dict[str, Any] = {}  # noqa: RUF008 - never changed
    old: ProcessRow = RUNNING
    new: dict[str, Any] = {}  # noqa: RUF008 - never changed
    down: str = ""
    beside: tuple[ProcessRow, ...] = ()
    stood: dict[str, float] = {}  # noqa: RUF008 - never changed
    failed: tuple[str, ...] = ()
    steady: SteadyState = NOTHING
    judged: bool = True
    command: str = "v2"
    approved: tuple[str | None, ...] = ("digest",)


def waves(*approved: str) -> DeploymentRow:
    return evolve(
        deployment("v2", max_unavailable=5, waves=(FIRST, SECOND), status=PROVEN), approved=frozenset(approved)
    )


NEEDS = (FactRequirement(fact="os.version", operator=FactOperator.GE, values=("12",)),)
LEFT_OUT = SteadyState(left_out=frozenset({("tel", "a")}))

CASES = (
    Case(
        invariant="requirements_are_respected",
        row=deployment("v2", max_unavailable=2, requirements=NEEDS),
        device={"facts": {"os.version": "11"}},
        steady=LEFT_OUT,
    ),
    Case(invariant="a_device_is_given_what_its_labels_ask_for", command="v1"),
    Case(invariant="contents_are_approved", approved=(None,)),
    Case(invariant="max_unavailable_holds", down="abc"),
    Case(invariant="every_budget_holds", row=deployment("v2", max_unavailable=5, budgets=RACKS), down="ab"),
    Case(invariant="one_process_for_each_device", beside=(process("a", name="tel-a-2"),)),
    Case(
        invariant="paused_means_no_writes",
        row=deployment("v2", max_unavailable=2, paused=True),
        steady=SteadyState(paused=frozenset({"tel"})),
    ),
    Case(
        invariant="on_delete_waits_for_the_deletion",
        row=deployment("v2", strategy=StrategyType.ON_DELETE),
        steady=SteadyState(on_delete=frozenset({"tel"})),
    ),
    Case(
        invariant="maintenance_is_respected",
        device={"in_maintenance": True},
        steady=SteadyState(maintained=frozenset("a")),
    ),
    Case(
        invariant="held_devices_are_deferred",
        old=process("a", held="do not touch"),
        steady=SteadyState(held=frozenset({"tel-a"})),
    ),
    Case(
        invariant="offline_devices_are_deferred",
        device={"connected": False},
        old=process("a", reported=True),
        steady=SteadyState(offline=frozenset("a")),
    ),
    Case(invariant="untested_revisions_wait_for_their_wave", row=waves("rev-v2/w1"), new={"wave": "w1"}),
    Case(invariant="waves_soak", row=waves("rev-v2/w1"), new={"wave": "w1"}, stood={"w0": NOW - 59}),
    Case(
        invariant="waves_keep_their_limit",
        row=deployment("v2", max_unavailable=5, waves=(Wave(name="w0", limit=1),), status=PROVEN),
        new={"wave": "w0"},
        beside=(process("b", "v2", wave="w0", offered_at=NOW),),
    ),
    Case(invariant="approvals_are_asked_for", row=waves(), new={"wave": "w1"}, stood={"w0": NOW - 60}),
    Case(
        invariant="what_matches_nothing_holds",
        row=deployment("v2", max_unavailable=5, budgets=(evolve(RACKS[0], group_by=("rakc",)),), status=PROVEN),
    ),
    Case(
        invariant="a_gate_that_saw_a_failure_stays_closed",
        row=waves("rev-v2/w1"),
        new={"wave": "w1"},
        stood={"w0": NOW - 60},
        failed=("w0",),
    ),
    Case(
        invariant="a_stopped_revision_is_offered_to_no_device",
        row=deployment("v2", max_unavailable=2, status=PROVEN),
        steady=SteadyState(stopped=frozenset({("tel", 0)})),
    ),
    Case(invariant="nothing_is_offered_while_no_gateway_judges", steady=SteadyState(unjudged=True), judged=False),
    Case(
        invariant="a_storm_holds_its_revision",
        beside=(process("b", "v2", in_storm=True, connected=False, ready_since=None, settled_since=None),),
        steady=SteadyState(stormy=frozenset({("tel", "rev-v2")})),
    ),
)


def violated(case: Case) -> list[str]:
    """Return the names of the invariants that the write of *case* breaks."""
    labels = {"ring": "1", "rack": "r1"}
    written = device("a", **{"labels": labels} | case.device)
    new = process("a", "v2", **{"offered_at": NOW} | case.new)
    write = Write(
        deployment=evolve(case.row, generation=0),
        device=written,
        old=case.old,
        new=new,
        takes_down=bool(case.down),
        takes_down_first=bool(case.down),
        command=case.command,
        approved=case.approved,
        given={"v2"},
    )
    facts = Facts(
        now=NOW,
        devices={"a": written} | {name: device(name, labels=labels | {"ring": "0"}) for name in "bc"},
        processes={"tel": (new, *case.beside)},
        down={"tel": frozenset(case.down)},
        began={"tel": 0.0},
        stood={"tel": case.stood},
        failed={"tel": case.failed},
        deployments=(case.row,),
        steady=case.steady,
        judged=case.judged,
    )
    return [invariant.__name__ for invariant in INVARIANTS if invariant(write, facts)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.invariant)
def test_a_write_that_breaks_an_invariant_violates_it_and_no_other(case: Case) -> None:
    assert violated(case) == [case.invariant]


def removing(**fields: Any) -> list[str]:
    """Return the names of the invariants that a removal breaks, which breaks none but for *fields*."""
    others = [device(name) for name in "bcd"]
    held: dict[str, Any] = {
        "unmatched": {"uid-a"},
        "approved": (),
        "kept": 3,
        "matching": others,
        "down": (),
        "left": (),
    }
    removal = Removal(
        deployment=deployment("v1", max_unavailable=2), process=process("a"), device=None, **held | fields
    )
    return [invariant.__name__ for invariant in REMOVAL_INVARIANTS if invariant(removal)]


@pytest.mark.parametrize(
    ("fields", "invariant"),
    [
        ({"unmatched": {"uid-a", "uid-x", "uid-y"}}, "bulk_removals_are_held"),
        ({"kept": 0}, "bulk_removals_are_held"),
        ({"down": "bc"}, "removals_keep_the_budget"),
        ({"down": "b", "left": "x"}, "removals_keep_the_budget"),
    ],
)
def test_a_removal_that_breaks_an_invariant_violates_it_and_no_other(fields: dict[str, Any], invariant: str) -> None:
    assert removing(**fields) == [invariant]
    assert removing() == []


def test_a_gate_that_was_passed_and_is_not_any_more_is_a_violation() -> None:
    passed = WaveRecord(number=2, passed=frozenset({"w0"}))
    assert a_passed_gate_stays_passed(passed, WaveRecord(number=2))
    assert not a_passed_gate_stays_passed(passed, passed)
    assert not a_passed_gate_stays_passed(passed, WaveRecord(number=3))


def test_every_invariant_is_shown_to_fail_and_an_allowed_write_violates_none() -> None:
    assert {case.invariant for case in CASES} == {invariant.__name__ for invariant in INVARIANTS}
    assert violated(Case(invariant="none")) == []

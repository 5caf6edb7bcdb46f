# SPDX-License-Identifier: Apache-2.0
"""The planner measures by a clock that nothing sets, and shows times by the wall clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from controller_testing import START, deployment, device, offline, process, snapshot, stored, template
from praetor_api.kube.objects import FailureAction, FailurePolicy, Wave
from praetor_controller.model.rows import DeviceRow, ProcessRow
from praetor_controller.rollout.incremental import IncrementalAggregate
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import Moment, Snapshot

AT = START.timestamp()
AHEAD_S = 7200.0
STARTING: dict[str, Any] = {"observed": False, "ready_since": None, "settled_since": None}


def later(row: ProcessRow) -> ProcessRow:
    """Return *row* as a controller has it whose wall clock was set back since it began."""
    times = ("offered_at", "ready_since", "settled_since", "silent_since")
    return evolve(row, **{name: at + AHEAD_S for name in times if (at := getattr(row, name)) is not None})


def ahead(given: Snapshot) -> Snapshot:
    since = {name: getattr(given, name) + timedelta(seconds=AHEAD_S) for name in ("rollout_since", "revision_since")}
    return evolve(given, processes=[later(row) for row in given.processes], ahead_s=AHEAD_S, revision_stamp=AT, **since)


ROWS: list[tuple[DeviceRow, ProcessRow]] = [
    (device("a"), process("a", "v2", wave="canary", offered_at=AT, offer_stamp=AT, ready_since=AT + 5)),
    (device("b"), process("b", "v2", wave="canary", offered_at=AT, offer_stamp=AT, **STARTING)),
    (device("c", in_maintenance=True, maintenance_until=AT + 90), process("c")),
    (device("d", in_maintenance=True, maintenance_until=AT + 5), process("d")),
    (device("e"), offline(process("e", offered_at=AT - 50, **STARTING), AT - 40)),
]


@pytest.mark.parametrize("seconds", [10, 30, 59, 700])
@pytest.mark.parametrize("waves", [(), (Wave(name="canary", limit=2, soak_seconds=20),)])
def test_a_clock_that_was_set_changes_nothing(seconds: int, waves: tuple[Wave, ...]) -> None:
    row = deployment("v2", waves=waves, min_ready_seconds=20, progress_deadline_seconds=60, max_unavailable=3)
    row = evolve(
        row, policy=evolve(row.policy, failure_policy=FailurePolicy(max_failures=2, action=FailureAction.PAUSE))
    )
    given = snapshot(
        row, [each for each, _ in ROWS], [each for _, each in ROWS], current=template("v1"), revision_since=START
    )
    now = START + timedelta(seconds=seconds)
    made, moved = plan(given, now), plan(ahead(given), now)
    assert [type(each) for each in moved.actions] == [type(each) for each in made.actions]
    soaking = [each for each, why in made.reasons.items() if why.code is ReasonCode.SOAKING]
    assert {name: str(why) for name, why in moved.reasons.items() if name not in soaking} == {
        name: str(why) for name, why in made.reasons.items() if name not in soaking
    }
    assert moved.status == made.status
    assert moved.recheck_at == made.recheck_at


def test_a_steady_fleet_is_counted_by_the_same_clock() -> None:
    row = deployment("v1", min_ready_seconds=20, progress_deadline_seconds=60)
    given = snapshot(
        row, [device("a"), device("b")], [process("a"), process("b", ready_since=AT - 25)], revision_since=START
    )
    now = START + timedelta(seconds=10)
    first = plan(ahead(given), now)
    assert first.aggregate is not None
    account = IncrementalAggregate(ahead(given), first.aggregate, now)
    changed = evolve(ahead(given), devices=[device("a")], processes=[later(process("a", ready_since=AT + 5))])
    soon = account.plan(changed, now + timedelta(seconds=1))
    assert soon is not None
    assert soon.recheck_at == START + timedelta(seconds=25)
    whole = evolve(given, processes=[process("a", ready_since=AT + 5), process("b", ready_since=AT - 25)])
    assert soon.status == plan(whole, now + timedelta(seconds=1)).status


def test_what_was_ready_before_the_controller_began_is_shown_as_available_and_relied_on_later() -> None:
    row = deployment("v1", min_ready_seconds=60, max_unavailable=1)
    ready = [process(name, ready_since=AT) for name in "abc"]
    given = snapshot(row, [device(name) for name in "abc"], ready, watched_since=START + timedelta(seconds=1))
    made = plan(given, START + timedelta(seconds=2))
    assert made.status is not None
    assert made.status.counts.available == 3
    assert {why.code for why in made.reasons.values()} == {ReasonCode.BECOMING_AVAILABLE}
    again = plan(
        evolve(given, processes=[*ready[:2], process("c", ready_since=AT + 1.5)]), START + timedelta(seconds=2)
    )
    assert again.status is not None
    assert again.status.counts.available == 2
    newer = deployment("v2", min_ready_seconds=60, max_unavailable=1)
    assert plan(evolve(given, deployment=newer), START + timedelta(seconds=2)).actions == ()


def test_a_deadline_that_was_exceeded_stays_so_until_something_progresses() -> None:
    row = deployment("v2", progress_deadline_seconds=60)
    given = snapshot(row, [device("a")], [process("a", "v2", offered_at=AT, **STARTING)], revision_since=START)
    exceeded = plan(given, START + timedelta(seconds=60)).status
    assert exceeded is not None
    restarted = START + timedelta(hours=1)
    first_seen = process("a", "v2", offered_at=restarted.timestamp(), **STARTING)
    again = evolve(
        given, deployment=evolve(row, status=stored(exceeded)), processes=[first_seen], rollout_since=restarted
    )
    kept = plan(again, restarted + timedelta(seconds=1)).status
    assert kept is not None
    assert kept.conditions == exceeded.conditions
    offered = evolve(again, processes=[evolve(first_seen, offered_at=restarted.timestamp() + 1)])
    progressed = plan(offered, restarted + timedelta(seconds=2)).status
    assert progressed is not None
    assert progressed.conditions[1].reason == "RolloutInProgress"


@pytest.mark.parametrize(
    ("revision", "seen", "min_ready_s", "blamed"),
    [
        pytest.param("rev-v1", {"silent_since": None}, 20, False, id="silent-when-it-was-seen-first"),
        pytest.param("rev-v1", {"silent_since": None, "offer_stamp": AT}, 20, True, id="offered-again-since"),
        pytest.param("rev-v0", {"silent_since": None}, 20, True, id="not-rolled-out"),
        pytest.param("rev-v0", {"silent_since": None}, 0, False, id="available-as-soon-as-settled"),
        pytest.param("rev-v1", {}, 20, True, id="settled-and-silent-at-once"),
        pytest.param("rev-v1", {"silent_since": None, "connected": None, "fetched": None}, 20, True, id="not-known"),
    ],
)
def test_what_was_silent_already_is_spared_if_its_revision_was_rolled_out(
    revision: str, seen: dict[str, Any], min_ready_s: int, blamed: bool
) -> None:
    row = deployment("v2", max_unavailable=1, min_ready_seconds=min_ready_s)
    settled = process("a", revision=revision, offered_at=AT, offer_stamp=AT - 1.0, settled_since=AT)
    devices = [device("a", connected=seen.get("connected", True)), device("b")]
    given = snapshot(row, devices, [evolve(offline(settled, AT), **seen), process("b")], proven={"rev-v1": AT})
    made = plan(given, START + timedelta(seconds=10))
    assert [each.process.device for each in made.actions] == ([] if blamed else ["b"])  # type: ignore[union-attr]


def test_a_moment_has_two_times() -> None:
    assert Moment(START).steady == AT
    assert Moment(START, AHEAD_S).steady == AT + AHEAD_S

# SPDX-License-Identifier: Apache-2.0
"""Incremental plans of a deployment in steady state equal passes over all devices, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import event, given, settings
from hypothesis import strategies as st

from controller_testing import START, deployment, device, offline, process, snapshot, stored, template
from praetor_api.kube.objects import Budget, FailurePolicy, StrategyType, Wave
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, StoredStatus
from praetor_controller.rollout.incremental import IncrementalAggregate
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import Plan, Snapshot

AT = START.timestamp()
NAMES = tuple("abcdefgh")

times = st.sampled_from([AT - 7200, AT - 700, AT - 60, AT - 20, AT, AT + 5, AT + 40])
maybe = st.one_of(st.none(), times)
devices: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    connected=st.sampled_from([None, True, True, False]),
    connected_since=maybe,
    in_maintenance=st.sampled_from([False, False, True]),
    maintenance_until=st.sampled_from([None, AT + 30]),
    labels=st.sampled_from([{"rack": "1"}, {"rack": "2"}]),
)
processes: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    spec_hash=st.sampled_from(["v1", "v1", "v1", "v0"]),
    revision=st.just("rev-v1"),
    offered_at=times,
    created_at=st.sampled_from([AT - 7200, AT - 30]),
    terminating=st.sampled_from([False, False, False, True]),
    connected=st.sampled_from([None, True, True, False]),
    connected_since=maybe,
    fetched=st.sampled_from([None, True, False]),
    in_storm=st.sampled_from([False, False, True]),
    reported=st.booleans(),
    observed=st.booleans(),
    ready_since=maybe,
    settled_since=maybe,
    failure=st.sampled_from(["", "", "phase Failed"]),
    held=st.sampled_from(["", "", "not now"]),
)
ROLLED_OUT = plan(snapshot(deployment(), [device("a")], [process("a")]), START).status
assert ROLLED_OUT is not None
AT_REST = stored(ROLLED_OUT)
policies = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(StrategyType),
        "paused": st.booleans(),
        "min_ready_seconds": st.sampled_from([0, 45]),
        "progress_deadline_seconds": st.sampled_from([60, 600]),
        "max_unavailable": st.sampled_from([0, 1, "50%"]),
        "failure_policy": st.sampled_from([None, None, FailurePolicy(max_failures=1)]),
        "waves": st.sampled_from([(), (), (Wave(name="canary", limit=1),)]),
        "budgets": st.sampled_from([(), (Budget(group_by=("rack",), max_unavailable=1),)]),
        "status": st.sampled_from([StoredStatus(), AT_REST]),
    }
)
steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 20, 50, 400]),
        st.dictionaries(st.sampled_from(NAMES[:3]), st.tuples(devices, processes), max_size=1),
    ),
    max_size=6,
)


class World:
    """A fleet that changes, and one that keeps account of it as the controller does."""

    def __init__(self, row: DeploymentRow, rows: list[tuple[DeviceRow, ProcessRow]]) -> None:
        self.row = row
        self.devices = {device_row.name: device_row for device_row, _ in rows}
        self.processes = {process_row.device: process_row for _, process_row in rows}
        self.now = START
        self.account: IncrementalAggregate | None = None
        self.pass_over_all()

    def snapshot(self, *names: str) -> Snapshot:
        shown = names or tuple(self.devices)
        rows = [self.devices[name] for name in shown], [self.processes[name] for name in shown]
        return snapshot(self.row, *rows, current=template("v0"))

    def pass_over_all(self) -> Plan:
        whole = self.snapshot()
        planned = plan(whole, self.now)
        self.account = IncrementalAggregate(whole, planned.aggregate, self.now) if planned.aggregate else None
        return planned

    def incrementally(self, *names: str) -> Plan | None:
        """Return what the account says after *names* changed."""
        changed = self.snapshot(*names) if names else evolve(self.snapshot(), devices=[], processes=[])
        return self.account.plan(changed, self.now) if self.account else None

    def change(self, name: str, of_device: dict[str, Any], of_process: dict[str, Any]) -> None:
        self.devices[name] = evolve(self.devices[name], **of_device)
        self.processes[name] = evolve(self.processes[name], **of_process)


def agrees(made: Plan, counted: Plan) -> bool:
    """Return whether *made* equals *counted*; its check may be earlier, for a device that changed back since."""
    early = counted.recheck_at is None or (made.recheck_at is not None and made.recheck_at <= counted.recheck_at)
    return made.status == counted.status and made.actions == counted.actions == () and early


@settings(max_examples=400)
@given(policies, st.lists(st.tuples(devices, processes), max_size=4), steps)
def test_an_incremental_plan_equals_a_pass_over_all_devices(
    policy: dict[str, Any],
    others: list[tuple[dict[str, Any], dict[str, Any]]],
    happens: list[tuple[int, dict[str, tuple[dict[str, Any], dict[str, Any]]]]],
) -> None:
    rows = [(device(name), process(name)) for name in NAMES]
    for number, (of_device, of_process) in enumerate(others):
        name = NAMES[number]
        rows[number] = (device(name, **of_device), process(name, **of_process))
    world = World(deployment("v1", **policy), rows)
    for seconds, changed in happens:
        world.now += timedelta(seconds=seconds)
        for name, (of_device, of_process) in changed.items():
            world.change(name, of_device, of_process)
        incremental = world.incrementally(*changed)
        event("incrementally" if incremental else "over all")
        counted = world.pass_over_all() if incremental is None else plan(world.snapshot(), world.now)
        if incremental is not None:
            assert agrees(incremental, counted)
            assert counted.status is not None
            world.row = evolve(world.row, status=stored(counted.status))


def fleet(**policy: Any) -> World:
    return World(deployment("v1", status=AT_REST, **policy), [(device(n), process(n)) for n in NAMES])


def silent(world: World) -> None:
    world.processes["c"] = offline(world.processes["c"], AT)


def failing(world: World) -> None:
    world.change("c", {}, {"ready_since": None, "settled_since": None, "failure": "exit 1"})


def younger(world: World) -> None:
    world.change("c", {}, {"ready_since": AT, "settled_since": AT})


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        pytest.param(silent, {ReasonCode.UP_TO_DATE: 7, ReasonCode.SILENT_SINCE_OFFER: 1}, id="silent"),
        pytest.param(failing, {ReasonCode.UP_TO_DATE: 7, ReasonCode.FAILING: 1}, id="failing"),
        pytest.param(younger, {ReasonCode.UP_TO_DATE: 8}, id="restarted"),
    ],
)
def test_the_change_of_one_device_is_planned_incrementally(
    change: Callable[[World], None], reasons: dict[ReasonCode, int]
) -> None:
    world = fleet()
    change(world)
    incremental = world.incrementally("c")
    assert incremental is not None
    assert incremental.status is not None
    assert incremental.status.reasons == reasons
    assert agrees(incremental, plan(world.snapshot(), world.now))
    again = world.incrementally()
    assert again is not None
    assert again.status == incremental.status


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"spec_hash": "evil"}, id="edited-by-hand"),
        pytest.param({"revision": "rev-v0"}, id="without-annotations"),
        pytest.param({"spec_hash": "v0", "connected": False, "ready_since": AT}, id="an-old-one-that-came-back"),
    ],
)
def test_a_change_that_needs_a_write_needs_a_pass_over_all_devices(fields: dict[str, Any]) -> None:
    world = fleet()
    world.change("c", {}, fields)
    assert world.incrementally("c") is None


def test_a_rollout_needs_passes_over_all_devices() -> None:
    world = fleet(failure_policy=FailurePolicy(max_failures=1), waves=(Wave(name="canary", limit=1),))
    assert world.account is not None
    begun = World(evolve(world.row, status=StoredStatus()), [(device("a"), process("a"))])
    assert begun.account is None


def test_another_spec_needs_a_pass_over_all_devices() -> None:
    world = fleet()
    world.row = evolve(world.row, generation=2)
    assert world.incrementally() is None


def test_a_time_that_may_change_a_device_needs_a_pass_over_all_devices() -> None:
    world = fleet(min_ready_seconds=30)
    world.change("c", {}, {"ready_since": AT})
    assert world.incrementally("c") is not None
    world.now += timedelta(seconds=29)
    assert world.incrementally() is not None
    world.now += timedelta(seconds=1)
    assert world.incrementally() is None


def test_many_changes_at_once_need_a_pass_over_all_devices() -> None:
    world = fleet()
    assert world.incrementally("a", "b") is None
    assert world.incrementally("a") is not None


def test_a_new_device_needs_a_pass_over_all_devices() -> None:
    world = fleet()
    world.devices["z"], world.processes["z"] = device("z"), process("z")
    assert world.incrementally("z") is None
    assert world.account is not None
    assert world.account.processes_of(["a", "z"]) == ["tel-a"]


def test_the_loss_of_the_last_step_forward_needs_a_pass_over_all_devices() -> None:
    world = World(deployment("v1"), [(device(n), process(n)) for n in NAMES])
    world.change("c", {}, {"ready_since": AT + 10, "settled_since": AT + 10})
    world.now += timedelta(seconds=10)
    world.pass_over_all()
    world.change("c", {}, {"ready_since": None, "settled_since": None, "failure": "exit 1"})
    assert world.incrementally("c") is None


def test_after_a_complete_rollout_the_loss_of_the_last_step_does_not_matter() -> None:
    world = fleet()
    failing(world)
    assert world.incrementally("c") is not None
    world.row = evolve(world.row, status=StoredStatus())  # another client removed the status
    assert world.incrementally() is None


def test_a_step_forward_moves_the_deadline() -> None:
    stuck = process("h", ready_since=None, settled_since=None, failure="exit 1")
    world = World(deployment("v1"), [*((device(n), process(n)) for n in NAMES[:-1]), (device("h"), stuck)])
    world.now += timedelta(seconds=90)
    world.change("c", {}, {"ready_since": AT + 90, "settled_since": AT + 90})
    incremental = world.incrementally("c")
    assert incremental is not None
    assert incremental.recheck_at == START + timedelta(seconds=90 + 600)


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        pytest.param({"max_unavailable": 0}, {"spec_hash": "v0"}, id="waits-for-the-budget"),
        pytest.param(
            {"max_unavailable": 0, "min_ready_seconds": 30},
            {"spec_hash": "v0", "ready_since": AT - 10},
            id="waits-while-down",
        ),
    ],
)
def test_devices_that_wait_for_others_are_not_in_steady_state(policy: dict[str, Any], fields: dict[str, Any]) -> None:
    rows = [(device("a"), process("a")), (device("b"), process("b", **fields))]
    held_up = evolve(rows[0][1], ready_since=None, settled_since=None, failure="exit 1")
    assert World(deployment("v1", **policy), [(device("a"), held_up), rows[1]]).account is None


def test_a_failure_policy_that_may_still_stop_the_rollout_needs_all_devices() -> None:
    policy: dict[str, Any] = {"failure_policy": FailurePolicy(max_failures=5)}
    assert World(deployment("v1", **policy), [(device("a"), process("a"))]).account is None
    assert World(deployment("v1", status=AT_REST, **policy), [(device("a"), process("a"))]).account

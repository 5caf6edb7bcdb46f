# SPDX-License-Identifier: Apache-2.0
"""The invariants of a rollout, over a simulated fleet that plans are carried out on and random events.

No API and no controller: only the planner and time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from controller_simulation.trace import Step, Trace
from controller_testing import PlannedDevice, PlannedFleet, deployment, device
from praetor_api.kube.objects import (
    Budget,
    FailureAction,
    FailurePolicy,
    LabelSelector,
    RollingUpdate,
    StrategyType,
    Wave,
)
from praetor_controller.model.actions import Create, Update
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import Plan, Snapshot
from praetor_controller.rollout.status import was_rolled_out

Planner: TypeAlias = Callable[[Snapshot, datetime], Plan]

NAMES = [f"leaf-{number}" for number in range(9)]
VERSIONS = ["v1", "v2", "v3", "bad", "killer"]
NO_DEADLINE_S = 10**7
PER_RACK = 1
MAX_FAILURES = 1
WAVES = tuple(
    Wave(name=f"w{ring}", selector=LabelSelector(match_labels={"ring": str(ring)}), allow_empty=True)
    for ring in range(2)
)
BUDGETS = (Budget(group_by=("rack",), max_unavailable=PER_RACK),)


def ring_of(name: str) -> int:
    return int(name.removeprefix("leaf-")) % 3


def rack_of(name: str) -> str:
    return f"r{int(name.removeprefix('leaf-')) // 3}"


class StagedRollout(RuleBasedStateMachine):
    """Three rings, three racks, and a neighbour that takes devices down as it likes.

    Edits, pauses, deaths, recoveries and crashes in the middle of a round of writes come in any order.
    """

    planner: Planner = staticmethod(plan)

    @initialize(limit=st.integers(0, 4), min_ready=st.sampled_from([0, 20]), action=st.sampled_from(FailureAction))
    def begin(self, limit: int, min_ready: int, action: FailureAction) -> None:
        self.fleet = PlannedFleet([], bad=frozenset({"bad"}), killers=frozenset({"killer"}))
        self.fleet.devices = {name: self.new_device(name) for name in NAMES}
        self.limit, self.min_ready = limit, min_ready
        self.version, self.since = "v1", self.fleet.now
        self.paused, self.writes_when_paused = False, 0
        self.action, self.generation, self.deadline = action, 1, NO_DEADLINE_S
        self.proven: set[int] = set()
        for _ in range(4):
            self.reconcile(None)
            self.report_all()
            self.wait(self.min_ready)
        self.reconcile(None)

    def row(self) -> DeploymentRow:
        row = deployment(
            self.version,
            max_unavailable=self.limit,
            waves=WAVES,
            budgets=BUDGETS,
            min_ready_seconds=self.min_ready,
            progress_deadline_seconds=self.deadline,
            failure_policy=FailurePolicy(max_failures=MAX_FAILURES, action=self.action),
            paused=self.paused,
        )
        return evolve(row, generation=self.generation, status=self.fleet.status)

    def new_device(self, name: str) -> PlannedDevice:
        return PlannedDevice(row=device(name, labels={"ring": str(ring_of(name)), "rack": rack_of(name)}))

    def next_plan(self) -> Plan:
        return type(self).planner(self.fleet.snapshot(self.row(), self.since), self.fleet.now)

    @rule(crash_after=st.none() | st.integers(0, 3))
    def reconcile(self, crash_after: int | None) -> None:
        row, before = self.row(), self.fleet.devices_down(self.min_ready)
        planned = self.next_plan()
        assert planned.reasons.keys() == self.fleet.devices.keys()
        self.prove()
        offered = self.offered(planned)
        if row.status.current_revision != row.template.revision:  # else it is not untested
            self.no_device_jumps_ahead(offered)
        self.a_stopped_revision_is_not_offered(row, offered)
        if crash_after is not None:
            planned = Plan(actions=planned.actions[:crash_after])
        self.fleet.carry_out(planned, row)
        if self.deadline == NO_DEADLINE_S:
            self.no_domain_gives_up_more_than_it_may(self.fleet.devices_down(self.min_ready) - before)

    def offered(self, planned: Plan) -> frozenset[str]:
        """Return the devices that *planned* gives the update revision's spec."""
        creates = {each.device: each.template for each in planned.actions if isinstance(each, Create)}
        updates = {
            each.process.device: each.template for each in planned.actions if isinstance(each, Update) and each.spec
        }
        return frozenset(name for name, wanted in (creates | updates).items() if wanted.spec_hash == self.version)

    def prove(self) -> None:
        """Note the rings of which every reachable device has been seen available at the version."""
        now = self.fleet.now.timestamp()
        for ring in range(2):
            members = [name for name in self.fleet.devices if ring_of(name) == ring]
            rows = {row.device: row for row in self.fleet.processes.values()}
            good = [
                name for name in members
                if (row := rows.get(name)) and row.spec_hash == self.version
                and row.ready_since is not None and row.ready_since + self.min_ready <= now
            ]  # fmt: skip
            silent = [name for name in members if not self.fleet.devices[name].row.connected]
            if not members or (good and len(good) + len(set(silent) - set(good)) == len(members)):
                self.proven.add(ring)

    def no_device_jumps_ahead(self, offered: frozenset[str]) -> None:
        for name in offered:
            assert set(range(ring_of(name))) <= self.proven

    def a_stopped_revision_is_not_offered(self, row: DeploymentRow, offered: frozenset[str]) -> None:
        failing = sum(each.spec_hash == self.version and bool(each.failure) for each in self.fleet.processes.values())
        halted = row.status.failed_revision == row.template.revision
        if halted or (failing > MAX_FAILURES and not was_rolled_out(row)):
            current = row.status.current_revision
            assert not offered or current == row.template.revision

    def no_domain_gives_up_more_than_it_may(self, newly: frozenset[str]) -> None:
        down = self.fleet.devices_down(self.min_ready) | (self.fleet.down_elsewhere & self.fleet.devices.keys())
        for rack in {rack_of(name) for name in newly - self.fleet.down_elsewhere}:
            assert sum(rack_of(name) == rack for name in down) <= PER_RACK

    @rule(version=st.sampled_from(VERSIONS))
    def edit(self, version: str) -> None:
        if version != self.version:
            self.wait(1)  # annotations are in whole seconds
            self.version, self.since = version, self.fleet.now
            self.generation += 1
            self.proven = set()

    @rule(version=st.sampled_from(VERSIONS), rounds=st.integers(1, 6))
    def roll(self, version: str, rounds: int) -> None:
        self.edit(version)
        for _ in range(rounds):
            self.reconcile(None)
            self.report_all()
            self.wait(self.min_ready + 1)

    @rule()
    def report_all(self) -> None:
        for name in self.fleet.devices:
            self.fleet.report(name)

    @rule(name=st.sampled_from(NAMES))
    def report(self, name: str) -> None:
        if name in self.fleet.devices:
            self.fleet.report(name)

    @rule(name=st.sampled_from(NAMES))
    def go_silent(self, name: str) -> None:
        if name in self.fleet.devices:
            self.fleet.disconnect(name)

    @rule(name=st.sampled_from(NAMES))
    def come_back(self, name: str) -> None:
        if name in self.fleet.devices:
            self.fleet.reconnect(name)

    @rule(seconds=st.sampled_from([1, 10, 60, 3600]))
    def wait(self, seconds: int) -> None:
        self.fleet.advance(seconds)

    @rule(name=st.sampled_from(NAMES))
    def add_or_remove(self, name: str) -> None:
        if self.fleet.devices.pop(name, None) is None:
            self.fleet.devices[name] = self.new_device(name)

    @rule()
    def toggle_pause(self) -> None:
        self.paused = not self.paused
        self.writes_when_paused = self.fleet.writes

    @rule(name=st.sampled_from(NAMES))
    def neighbour_takes_or_returns(self, name: str) -> None:
        self.fleet.down_elsewhere ^= {name}

    @invariant()
    def invariants_hold(self) -> None:
        """Check that no more devices are down by our writes than may be, none has two processes, and a pause holds."""
        assert len(self.fleet.devices_down(self.min_ready)) <= self.limit
        devices = [row.device for row in self.fleet.processes.values()]
        assert len(devices) == len(set(devices))
        assert not self.paused or self.fleet.writes == self.writes_when_paused

    def teardown(self) -> None:
        """A good template, connected devices and time: every wave opens, and then nothing is left to do."""
        if not hasattr(self, "fleet"):
            return
        self.edit("v9")
        self.paused, self.limit = False, max(1, self.limit)
        self.fleet.down_elsewhere = set()
        self.deadline = 1  # so that no device is held against the budget without end
        for _ in range(6 * len(self.fleet.devices) + 12):
            for name, target in self.fleet.devices.items():
                if not target.row.connected:
                    self.fleet.reconnect(name)
            self.reconcile(None)
            self.report_all()
            self.wait(self.min_ready + 1)
            assert len(self.fleet.devices_down(self.min_ready)) <= self.limit
        settled = self.next_plan()
        assert {reason.code for reason in settled.reasons.values()} <= {ReasonCode.UP_TO_DATE}
        assert settled.actions == ()


FACTOR = int(os.environ.get("PRAETOR_PROPERTY_FACTOR", "1"))
STEPS = settings(max_examples=60 * FACTOR, stateful_step_count=30)


def test_a_rollout_keeps_its_invariants() -> None:
    run_state_machine_as_test(StagedRollout, settings=STEPS)


def _rolling(given: Snapshot, **changes: Any) -> Snapshot:
    row = given.deployment
    update = row.policy.update_strategy
    rolling: RollingUpdate = evolve(update.rolling_update, **changes)
    policy = evolve(row.policy, update_strategy=evolve(update, rolling_update=rolling))
    return evolve(given, deployment=evolve(row, policy=policy))


def without_budget(given: Snapshot, now: datetime) -> Plan:
    return plan(_rolling(given, max_unavailable=100), now)


def deaf_to_pause(given: Snapshot, now: datetime) -> Plan:
    row = given.deployment
    return plan(evolve(given, deployment=evolve(row, policy=evolve(row.policy, paused=False))), now)


def forgetful(given: Snapshot, now: datetime) -> Plan:
    """Forget what was written to silent devices, so that they do not count."""
    rows = [evolve(row, offered_at=0.0, created_at=-NO_DEADLINE_S) for row in given.processes]
    return plan(evolve(given, processes=rows), now)


def blind(given: Snapshot, now: datetime) -> Plan:
    """See only some of the processes, as a stale cache would show them."""
    return plan(evolve(given, processes=given.processes[1:]), now)


def without_waves(given: Snapshot, now: datetime) -> Plan:
    return plan(_rolling(given, waves=()), now)


def without_domains(given: Snapshot, now: datetime) -> Plan:
    return plan(_rolling(given, budgets=()), now)


def deaf_to_neighbours(given: Snapshot, now: datetime) -> Plan:
    return plan(evolve(given, down_elsewhere=()), now)


def forgets_that_it_stopped(given: Snapshot, now: datetime) -> Plan:
    row = given.deployment
    return plan(evolve(given, deployment=evolve(row, status=evolve(row.status, failed_revision=None))), now)


def takes_every_wave_for_begun(given: Snapshot, now: datetime) -> Plan:
    """Trust the recorded waves of processes that got the revision in an earlier rollout of it."""
    long_ago = given.rollout_since.replace(year=2000)
    return plan(evolve(given, revision_since=long_ago), now)


def counts_only_half(given: Snapshot, now: datetime) -> Plan:
    waves = given.deployment.policy.update_strategy.rolling_update.waves
    return plan(_rolling(given, waves=tuple(evolve(wave, success_threshold=50) for wave in waves)), now)


def begun(**given: Any) -> Step:
    return "begin", {"limit": 3, "min_ready": 0, "action": FailureAction.ROLLBACK} | given


def rolled(version: str, rounds: int) -> Step:
    return "roll", {"version": version, "rounds": rounds}


def replay(machine: type[StagedRollout], trace: Trace) -> None:
    """Make these steps, check the invariants after each, and end as every run does."""
    fleet = machine()
    for name, given in trace:
        getattr(fleet, name)(**given)
        fleet.invariants_hold()
    fleet.teardown()


@pytest.mark.parametrize(
    ("mutant", "trace"),
    [
        (without_budget, [begun(limit=1), rolled("bad", 1)]),
        (deaf_to_pause, [begun(), ("toggle_pause", {}), rolled("v2", 1)]),
        (
            forgetful,
            [begun(limit=1), rolled("killer", 1), ("edit", {"version": "v2"}), ("reconcile", {"crash_after": None})],
        ),
        (blind, [begun()]),
        (without_waves, [begun()]),
        (without_domains, [begun(), ("neighbour_takes_or_returns", {"name": "leaf-6"}), rolled("v3", 3)]),
        (deaf_to_neighbours, [begun(), ("neighbour_takes_or_returns", {"name": "leaf-2"}), rolled("v2", 6)]),
        (
            forgets_that_it_stopped,
            [begun(limit=2), rolled("killer", 2), ("add_or_remove", {"name": "leaf-3"}), rolled("killer", 3)],
        ),
        (
            takes_every_wave_for_begun,
            [
                begun(limit=4, min_ready=20),
                ("go_silent", {"name": "leaf-2"}),
                rolled("v2", 5),
                ("come_back", {"name": "leaf-5"}),
                rolled("v1", 1),
            ],
        ),
        (counts_only_half, [begun(limit=2)]),
    ],
)
def test_a_broken_planner_is_detected(mutant: Planner, trace: list[Step]) -> None:
    class Mutant(StagedRollout):
        planner = staticmethod(mutant)

    replay(StagedRollout, trace)
    with pytest.raises(AssertionError):
        replay(Mutant, trace)


@pytest.mark.parametrize("strategy", [StrategyType.RECREATE, StrategyType.ROLLING_UPDATE])
def test_every_strategy_converges(strategy: StrategyType) -> None:
    fleet = PlannedFleet(NAMES)
    for version in ("v1", "v2"):
        row = deployment(version, max_unavailable="25%", strategy=strategy)
        for _ in range(20):
            fleet.carry_out(plan(fleet.snapshot(row, fleet.now), fleet.now), row)
            fleet.advance(1)
            for name in NAMES:
                fleet.report(name)
    assert {process.spec_hash for process in fleet.processes.values()} == {"v2"}

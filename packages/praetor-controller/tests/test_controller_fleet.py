# SPDX-License-Identifier: Apache-2.0
"""The invariants of a rollout, over a simulated fleet that plans are carried out on and random events."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from controller_simulation.planned import NAMES, NO_DEADLINE_S, VERSIONS, PlannedFleetMachine, Planner, replay
from controller_simulation.trace import Step
from controller_testing import PlannedFleet, deployment
from praetor_api.kube.objects import StrategyType
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import Plan, Snapshot


class Rollout(PlannedFleetMachine):
    """Edits, deaths, recoveries and crashes in the middle of a round of writes, in any order."""

    @initialize(limit=st.integers(0, 4), min_ready=st.sampled_from([0, 20]), size=st.integers(1, len(NAMES)))
    def begin(self, limit: int, min_ready: int, size: int) -> None:
        self.start(NAMES[:size], limit, min_ready)
        self.paused, self.writes_when_paused = False, 0
        self.reconcile(None)
        self.report_all()
        self.wait(self.min_ready)

    def row(self) -> DeploymentRow:
        return deployment(
            self.version,
            max_unavailable=self.limit,
            min_ready_seconds=self.min_ready,
            progress_deadline_seconds=NO_DEADLINE_S,
            paused=self.paused,
        )

    @rule(crash_after=st.none() | st.integers(0, 3))
    def reconcile(self, crash_after: int | None) -> None:
        planned = self.next_plan()
        assert planned.reasons.keys() == self.fleet.devices.keys()
        if crash_after is not None:
            planned = Plan(actions=planned.actions[:crash_after])
        self.fleet.carry_out(planned, self.row())

    @rule(version=st.sampled_from(VERSIONS))
    def edit(self, version: str) -> None:
        self.version, self.since = version, self.fleet.now

    @rule(version=st.sampled_from(VERSIONS))
    def roll_a_step(self, version: str) -> None:
        self.edit(version)
        self.reconcile(None)
        self.report_all()

    @rule()
    def toggle_pause(self) -> None:
        self.paused = not self.paused
        self.writes_when_paused = self.fleet.writes

    @invariant()
    def invariants_hold(self) -> None:
        super().invariants_hold()
        assert not self.paused or self.fleet.writes == self.writes_when_paused

    def teardown(self) -> None:
        """A good template, connected devices and time: everything converges, and then nothing is left to do."""
        if not hasattr(self, "fleet"):
            return
        self.version, self.paused, self.limit = "v9", False, max(1, self.limit)
        for name in self.fleet.devices:
            self.fleet.reconnect(name)
        for _ in range(6 * len(self.fleet.devices) + 6):
            self.fleet.carry_out(self.next_plan(), self.row())
            self.fleet.advance(self.min_ready + 1)
            for name in self.fleet.devices:
                self.fleet.report(name)
            self.fleet.advance(self.min_ready + 1)
            assert self.fleet.down_by_us(self.min_ready) <= self.limit
        settled = self.next_plan()
        assert {reason.code for reason in settled.reasons.values()} <= {ReasonCode.UP_TO_DATE}
        assert settled.actions == ()


STEPS = settings(max_examples=60, stateful_step_count=30)


def test_a_rollout_keeps_its_invariants() -> None:
    run_state_machine_as_test(Rollout, settings=STEPS)


def without_budget(given: Snapshot, now: datetime) -> Plan:
    return plan(_evolved(given, max_unavailable=100), now)


def deaf_to_pause(given: Snapshot, now: datetime) -> Plan:
    return plan(_evolved(given, paused=False), now)


def forgetful(given: Snapshot, now: datetime) -> Plan:
    """Forget what was written to silent devices, so that they do not count."""
    rows = [evolve(row, offered_at=0.0, created_at=-NO_DEADLINE_S) for row in given.processes]
    return plan(evolve(given, processes=rows), now)


def blind(given: Snapshot, now: datetime) -> Plan:
    """See only some of the processes, as a stale cache would show them."""
    return plan(evolve(given, processes=given.processes[1:]), now)


def _evolved(given: Snapshot, **changes: Any) -> Snapshot:
    policy = given.deployment.policy
    limit = changes.pop("max_unavailable", given.deployment.max_unavailable)
    changed = deployment(
        given.deployment.template.spec_hash,
        max_unavailable=limit,
        min_ready_seconds=policy.min_ready_seconds,
        progress_deadline_seconds=policy.progress_deadline_seconds,
        **{"paused": policy.paused} | changes,
    )
    return evolve(given, deployment=evolve(changed, status=given.deployment.status))


def begun(**given: Any) -> Step:
    return "begin", {"limit": 1, "min_ready": 0, "size": 4} | given


def rolled(version: str) -> Step:
    return "roll_a_step", {"version": version}


@pytest.mark.parametrize(
    ("mutant", "trace"),
    [
        (without_budget, [begun(), rolled("bad")]),
        (deaf_to_pause, [begun(), ("toggle_pause", {}), rolled("v2")]),
        (forgetful, [begun(min_ready=20), rolled("killer"), rolled("v2")]),
        (blind, [begun()]),
    ],
)
def test_a_broken_planner_is_detected(mutant: Planner, trace: list[Step]) -> None:
    class Mutant(Rollout):
        planner = staticmethod(mutant)

    replay(Rollout, trace)
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

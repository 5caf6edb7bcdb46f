"""A pretend fleet that plans are carried out on: the promises of a rollout, whatever happens and in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from attrs import evolve
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from praetor_api.kube.objects import StrategyType
from praetor_controller.planner import plan
from praetor_controller.reasons import ReasonCode
from praetor_controller.rows import DeploymentRow
from praetor_controller.snapshot import Plan, Snapshot
from praetor_controller.testing import Device, Fleet, deployment, device

NAMES = [f"leaf-{number}" for number in range(8)]
VERSIONS = ["v1", "v2", "v3", "bad", "killer"]
FOR_EVER = 10**7

Planner = Callable[[Snapshot, datetime], Plan]


class Rollout(RuleBasedStateMachine):
    """Edits, deaths, recoveries and crashes in the middle of a round of writes, in any order."""

    planner: Planner = staticmethod(plan)

    @initialize(limit=st.integers(0, 4), min_ready=st.sampled_from([0, 20]), size=st.integers(1, len(NAMES)))
    def begin(self, limit: int, min_ready: int, size: int) -> None:
        self.fleet = Fleet(NAMES[:size], bad=frozenset({"bad"}), killers=frozenset({"killer"}))
        self.limit, self.min_ready = limit, min_ready
        self.version, self.paused = "v1", False
        self.since = self.fleet.now
        self.writes_when_paused = 0
        self.reconcile(None)
        self.report_all()
        self.wait(self.min_ready)

    def row(self) -> DeploymentRow:
        return deployment(
            self.version,
            max_unavailable=self.limit,
            min_ready_seconds=self.min_ready,
            progress_deadline_seconds=FOR_EVER,
            paused=self.paused,
        )

    def look(self) -> Plan:
        return type(self).planner(self.fleet.snapshot(self.row(), self.since), self.fleet.now)

    @rule(crash_after=st.none() | st.integers(0, 3))
    def reconcile(self, crash_after: int | None) -> None:
        planned = self.look()
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

    @rule(name=st.sampled_from(NAMES))
    def report(self, name: str) -> None:
        if name in self.fleet.devices:
            self.fleet.report(name)

    @rule()
    def report_all(self) -> None:
        for name in self.fleet.devices:
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
            self.fleet.devices[name] = Device(row=device(name))

    @precondition(lambda self: self.paused)
    @invariant()
    def paused_means_no_writes(self) -> None:
        assert self.fleet.writes == self.writes_when_paused

    @invariant()
    def never_more_down_by_our_doing_than_allowed(self) -> None:
        assert self.fleet.down_by_us(self.min_ready) <= self.limit

    @invariant()
    def never_two_processes_on_a_device(self) -> None:
        devices = [row.device for row in self.fleet.processes.values()]
        assert len(devices) == len(set(devices))

    def teardown(self) -> None:
        """A good template, connected devices and time: everything converges, and then nothing is left to do."""
        if not hasattr(self, "fleet"):
            return
        self.version, self.paused, self.limit = "v9", False, max(1, self.limit)
        for name in self.fleet.devices:
            self.fleet.reconnect(name)
        for _ in range(6 * len(self.fleet.devices) + 6):
            self.fleet.carry_out(self.look(), self.row())
            self.fleet.advance(self.min_ready + 1)
            for name in self.fleet.devices:
                self.fleet.report(name)
            self.fleet.advance(self.min_ready + 1)
            assert self.fleet.down_by_us(self.min_ready) <= self.limit
        settled = self.look()
        assert {reason.code for reason in settled.reasons.values()} <= {ReasonCode.UP_TO_DATE}
        assert settled.actions == ()


STEPS = settings(max_examples=60, stateful_step_count=30, deadline=None)
SEARCH = settings(STEPS, max_examples=5000, derandomize=True, database=None, phases=[Phase.generate])


def test_a_rollout_keeps_its_promises() -> None:
    run_state_machine_as_test(Rollout, settings=STEPS)


def without_budget(given: Snapshot, now: datetime) -> Plan:
    return plan(_evolved(given, max_unavailable=100), now)


def deaf_to_pause(given: Snapshot, now: datetime) -> Plan:
    return plan(_evolved(given, paused=False), now)


def forgetful(given: Snapshot, now: datetime) -> Plan:
    """Forget what silent devices were offered, so that nobody is blamed for them."""
    rows = [evolve(row, offered_at=0.0, created_at=-FOR_EVER) for row in given.processes]
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


@pytest.mark.timeout(180)  # a search; how soon it finds depends on which modules Hypothesis takes its constants from
@pytest.mark.parametrize("mutant", [without_budget, deaf_to_pause, forgetful, blind])
def test_a_broken_planner_is_found_out(mutant: Planner) -> None:
    class Broken(Rollout):
        planner = staticmethod(mutant)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Broken, settings=SEARCH)


@pytest.mark.parametrize("strategy", [StrategyType.RECREATE, StrategyType.ROLLING_UPDATE])
def test_every_strategy_converges(strategy: StrategyType) -> None:
    fleet = Fleet(NAMES)
    for version in ("v1", "v2"):
        row = deployment(version, max_unavailable="25%", strategy=strategy)
        for _ in range(20):
            fleet.carry_out(plan(fleet.snapshot(row, fleet.now), fleet.now), row)
            fleet.advance(1)
            for name in NAMES:
                fleet.report(name)
    assert {process.spec_hash for process in fleet.processes.values()} == {"v2"}

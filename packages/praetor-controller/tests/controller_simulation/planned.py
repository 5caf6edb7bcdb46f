# SPDX-License-Identifier: Apache-2.0
"""Random events on a fleet that plans are carried out on: no API and no controller, only the planner and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controller_simulation.trace import Trace
from controller_testing import PlannedDevice, PlannedFleet, device
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Plan, Snapshot

Planner: TypeAlias = Callable[[Snapshot, datetime], Plan]

NAMES = [f"leaf-{number}" for number in range(9)]
VERSIONS = ["v1", "v2", "v3", "bad", "killer"]
NO_DEADLINE_S = 10**7
_NAME = st.sampled_from(NAMES)


class PlannedFleetMachine(RuleBasedStateMachine):
    """One deployment; a subclass says which row() it is, and checks the plans."""

    planner: Planner = staticmethod(plan)

    def start(self, names: Sequence[str], limit: int, min_ready: int) -> None:
        self.fleet = PlannedFleet([], bad=frozenset({"bad"}), killers=frozenset({"killer"}))
        self.fleet.devices = {name: self.new_device(name) for name in names}
        self.limit, self.min_ready = limit, min_ready
        self.version, self.since = "v1", self.fleet.now

    def row(self) -> DeploymentRow:
        raise NotImplementedError

    def new_device(self, name: str) -> PlannedDevice:
        return PlannedDevice(row=device(name))

    def next_plan(self) -> Plan:
        return type(self).planner(self.fleet.snapshot(self.row(), self.since), self.fleet.now)

    @rule()
    def report_all(self) -> None:
        for name in self.fleet.devices:
            self.fleet.report(name)

    @rule(name=_NAME)
    def report(self, name: str) -> None:
        if name in self.fleet.devices:
            self.fleet.report(name)

    @rule(name=_NAME)
    def go_silent(self, name: str) -> None:
        if name in self.fleet.devices:
            self.fleet.disconnect(name)

    @rule(name=_NAME)
    def come_back(self, name: str) -> None:
        if name in self.fleet.devices:
            self.fleet.reconnect(name)

    @rule(seconds=st.sampled_from([1, 10, 60, 3600]))
    def wait(self, seconds: int) -> None:
        self.fleet.advance(seconds)

    @rule(name=_NAME)
    def add_or_remove(self, name: str) -> None:
        if self.fleet.devices.pop(name, None) is None:
            self.fleet.devices[name] = self.new_device(name)

    @invariant()
    def invariants_hold(self) -> None:
        """Check that no more devices are down by our writes than may be, and that no device has two processes."""
        assert self.fleet.down_by_us(self.min_ready) <= self.limit
        devices = [row.device for row in self.fleet.processes.values()]
        assert len(devices) == len(set(devices))


def replay(machine: type[PlannedFleetMachine], trace: Trace) -> None:
    """Make these steps, check the invariants after each, and end as every run does."""
    fleet = machine()
    for name, given in trace:
        getattr(fleet, name)(**given)
        fleet.invariants_hold()
    fleet.teardown()

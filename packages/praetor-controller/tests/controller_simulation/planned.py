"""What may happen to a fleet that plans alone are carried out on: no API, no controller, only the planner and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controller_simulation.trace import Story
from controller_testing import Device, Fleet, device
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Plan, Snapshot

Planner: TypeAlias = Callable[[Snapshot, datetime], Plan]

NAMES = [f"leaf-{number}" for number in range(9)]
VERSIONS = ["v1", "v2", "v3", "bad", "killer"]
FOR_EVER = 10**7
_NAME = st.sampled_from(NAMES)


class PlannedFleet(RuleBasedStateMachine):
    """One deployment; its machine says what row() it is, and looks at the plans."""

    planner: Planner = staticmethod(plan)

    def start(self, names: Sequence[str], limit: int, min_ready: int) -> None:
        self.fleet = Fleet([], bad=frozenset({"bad"}), killers=frozenset({"killer"}))
        self.fleet.devices = {name: self.new_device(name) for name in names}
        self.limit, self.min_ready = limit, min_ready
        self.version, self.since = "v1", self.fleet.now

    def row(self) -> DeploymentRow:
        raise NotImplementedError

    def new_device(self, name: str) -> Device:
        return Device(row=device(name))

    def look(self) -> Plan:
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
    def promises_are_kept(self) -> None:
        """Never more are down by our doing than may be, and never two processes on a device."""
        assert self.fleet.down_by_us(self.min_ready) <= self.limit
        devices = [row.device for row in self.fleet.processes.values()]
        assert len(devices) == len(set(devices))


def tell(machine: type[PlannedFleet], story: Story) -> None:
    """Make these steps, look at the promises after each, and end as every run does."""
    fleet = machine()
    for name, given in story:
        getattr(fleet, name)(**given)
        fleet.promises_are_kept()
    fleet.teardown()

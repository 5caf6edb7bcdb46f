# SPDX-License-Identifier: Apache-2.0
"""A budget binds every deployment that shares the device, also those that declare none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import evolve

from controller_simulation.simulation import Simulation
from controller_testing import START, deployment, device, process
from praetor_api.kube.objects import Budget, LabelSelector, StrategyType
from praetor_controller.model.actions import Update
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow, RolloutPolicy
from praetor_controller.model.selectors import compile_selector
from praetor_controller.reconcile.snapshot_builder import Sources, build_snapshot
from praetor_controller.reconcile.state import ReconcilerState
from praetor_controller.rollout.neighbours import Neighbour
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Moment, Plan

RACK = Budget(group_by=("rack",), max_unavailable=1)
HALF = Budget(group_by=("rack",), max_unavailable="50%")
DEVICES = [device(name, labels={"rack": "r1", "role": "leaf"}) for name in "abcd"]
OLD = [process(name, "v0") for name in "abcd"]


def declaring(budget: Budget = RACK, **policy: Any) -> DeploymentRow:
    """Return another deployment, of leaves, that declares a budget."""
    row = deployment("v1", budgets=(budget,), max_unavailable=4, **policy)
    selector = LabelSelector(match_labels={"role": "leaf"})
    return evolve(
        row,
        name="edge",
        uid="uid-edge",
        policy=evolve(row.policy, selector=selector),
        matches=compile_selector(selector),
    )


def planned(
    other: DeploymentRow,
    devices: list[DeviceRow] = DEVICES,
    theirs: list[ProcessRow] | None = None,
    **policy: Any,
) -> Plan:
    """Return the plan of a deployment without budgets to all *devices*, beside an *other* one."""
    row = deployment("v1", max_unavailable=4, **policy)
    sources = Sources(
        devices=devices,
        processes=OLD[: len(devices)],
        revisions=(),
        find=lambda key: None,
        neighbours=iter([Neighbour(other, iter(theirs or []))]),
    )
    return plan(build_snapshot(row, sources, ReconcilerState(), now=Moment(START)), START)


def updated(made: Plan) -> list[str]:
    return sorted(action.process.device for action in made.actions if isinstance(action, Update))


def test_a_deployment_without_budgets_keeps_those_of_its_neighbours() -> None:
    made = planned(declaring())
    assert updated(made) == ["a"]
    assert str(made.reasons["b"]) == "BudgetExhausted(rack=r1 1/1 of edge)"


def test_a_device_that_the_neighbour_has_down_takes_the_place() -> None:
    down = process("d", name="edge-d", owner="uid-edge", ready_since=None)
    made = planned(declaring(), theirs=[down])
    assert updated(made) == ["d"]  # it is down already


def test_a_percentage_is_of_the_devices_of_the_declaring_deployment() -> None:
    more = [*DEVICES, *(device(f"x{number}", labels={"rack": "r1"}) for number in range(8))]
    made = planned(declaring(HALF), devices=[*more, device("z", labels={"rack": "r1", "role": "leaf"})])
    assert updated(made) == ["a", "b", "c"]  # half of five, rounded up; the others do not count
    assert str(made.reasons["d"]) == "BudgetExhausted(rack=r1 3/3 of edge)"


def test_devices_that_the_neighbour_does_not_match_are_not_bound() -> None:
    spines = [device(name, labels={"rack": "r1", "role": "spine"}) for name in "ab"]
    assert updated(planned(declaring(), devices=[*spines, *DEVICES[2:]])) == ["a", "b"]
    assert updated(planned(declaring(), devices=spines)) == ["a", "b"]


def test_a_device_that_is_down_counts_although_the_neighbour_does_not_match_it() -> None:
    spine = device("a", labels={"rack": "r1", "role": "spine"})
    failing = [process("a", ready_since=None, failure="exit 1"), *OLD[1:]]
    sources = Sources(
        devices=[spine, *DEVICES[1:]],
        processes=failing,
        revisions=(),
        find=lambda key: None,
        neighbours=[Neighbour(declaring(), [])],
    )
    row = deployment("v1", max_unavailable=4)
    assert updated(plan(build_snapshot(row, sources, ReconcilerState(), now=Moment(START)), START)) == []


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(declaring(strategy=StrategyType.RECREATE), id="it-does-not-roll"),
        pytest.param(declaring(fault="spec.selector: no"), id="it-cannot-be-acted-on"),
        pytest.param(evolve(declaring(), terminating=True), id="it-is-being-deleted"),
        pytest.param(declaring(Budget(group_by=("rack",), max_unavailable="ten")), id="not-a-number"),
        pytest.param(evolve(declaring(), policy=RolloutPolicy(selector=LabelSelector())), id="it-has-none"),
    ],
)
def test_a_budget_that_does_not_hold_binds_no_device(other: DeploymentRow) -> None:
    assert updated(planned(other)) == ["a", "b", "c", "d"]


def test_devices_without_the_label_of_a_neighbours_budget_are_one_domain() -> None:
    others = declaring(Budget(group_by=("feed",), max_unavailable=1))
    assert updated(planned(others)) == ["a"]
    spine = device("z", labels={"role": "spine"})
    assert updated(planned(others, devices=[*DEVICES[:1], spine])) == ["a"]


def test_recreate_keeps_no_budget() -> None:
    assert updated(planned(declaring(), strategy=StrategyType.RECREATE)) == ["a", "b", "c", "d"]


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    simulation = Simulation()
    for number, name in enumerate("abcd"):
        simulation.add(name, rack=str(number // 2))
    budgets = [{"groupBy": ["rack"], "maxUnavailable": 1}]
    simulation.deploy("edge", "v1", updateStrategy={"rollingUpdate": {"maxUnavailable": 4, "budgets": budgets}})
    simulation.deploy("tel", "v1", updateStrategy={"rollingUpdate": {"maxUnavailable": 4}})
    simulation.run(4)
    assert simulation.settled()
    yield simulation
    simulation.close()


def count(simulation: Simulation, name: str, version: str) -> int:
    return sum(each == version for each in simulation.stored.versions(name).values())


def ends(simulation: Simulation) -> None:
    simulation.run(6)


def loses_its_budget(simulation: Simulation) -> None:
    simulation.edit("edge", updateStrategy={"rollingUpdate": {"maxUnavailable": 4, "budgets": []}})


@pytest.mark.parametrize("happens", [ends, loses_its_budget])
def test_the_controller_rolls_out_rack_by_rack_under_a_neighbours_budget(
    simulation: Simulation, happens: Callable[[Simulation], None]
) -> None:
    simulation.roll_out("tel", "v2")
    assert count(simulation, "tel", "v2") == 2
    happens(simulation)
    assert count(simulation, "tel", "v2") == 4


def test_two_rollouts_at_once_share_the_racks(simulation: Simulation) -> None:
    simulation.roll_out("edge", "v2")
    simulation.roll_out("tel", "v2")
    assert count(simulation, "edge", "v2") == 2
    assert {name for name, version in simulation.stored.versions("tel").items() if version == "v2"} <= {
        name for name, version in simulation.stored.versions("edge").items() if version == "v2"
    }
    simulation.run(12)
    assert simulation.settled()

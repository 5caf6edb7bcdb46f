# SPDX-License-Identifier: Apache-2.0
"""The invariants of a rollout, on the real controller over a simulated fleet and random events.

A search in a process of its own: Hypothesis draws from the constants of whatever modules are loaded, so that beside
other tests the same seed would search other steps each time. Traces that it found once have tests of their own.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from controller_simulation.invariants import InvariantViolation
from controller_simulation.machine import RolloutMachine, replay
from controller_simulation.simulation import Simulation
from controller_simulation.trace import Trace, as_text, from_text, shortened
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS, DEVICE_PROCESS_DEPLOYMENTS

WAVES = [
    {"name": "w0", "selector": {"matchLabels": {"ring": "0"}}},
    {"name": "w1", "selector": {"matchLabels": {"ring": "1"}}, "approval": "Manual"},
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    """Five devices in three rings: a, b | c, d | e."""
    made = Simulation()
    for number, name in enumerate("abcde"):
        made.add(name, ring=str(number // 2))
    yield made
    made.close()


def deploy(simulation: Simulation, **fields: object) -> None:
    rolling = {"maxUnavailable": 5, "waves": WAVES} | fields
    simulation.deploy("tel", "v1", updateStrategy={"rollingUpdate": rolling})
    simulation.approve("tel", "w1")
    simulation.run(4)
    assert set(simulation.stored.versions("tel").values()) == {"v1"}


EMPTY = {"waves": [each | {"allowEmpty": True} for each in WAVES]}


def test_a_random_search_finds_no_violation() -> None:
    command = [sys.executable, "-m", "controller_simulation.search", "--steps", "3000", "--seed", "1"]
    limits = ["--seconds", "90", "--shorten-seconds", "45"]
    done = subprocess.run([*command, *limits], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_a_revision_that_comes_back_counts_its_waves_again(simulation: Simulation) -> None:
    """A device that got it in the first wave, and is in the second one now, does not stand for the first any more."""
    deploy(simulation, **EMPTY)
    simulation.remove("b")
    simulation.devices["a"].broken = True
    simulation.roll_out("tel", "v2")
    simulation.approve("tel", "w1")
    simulation.run(3)
    assert simulation.stored.versions("tel") == {"a": "v2", "c": "v1", "d": "v1", "e": "v1"}
    simulation.label("a", ring="1")
    simulation.roll_out("tel", "v3")
    simulation.roll_out("tel", "v2")  # no device is in w0 any more, and w1 was approved
    assert simulation.stored.versions("tel") == {"a": "v2", "c": "v2", "d": "v2", "e": "v1"}


@pytest.mark.parametrize("seen", [True, False])
def test_an_edit_that_is_undone_before_the_controller_sees_it_begins_no_rollout(
    simulation: Simulation, seen: bool
) -> None:
    """The rollout goes on with the wave that it has passed, though a device fails there now."""
    deploy(simulation)
    simulation.roll_out("tel", "v2")
    simulation.run(3)
    assert waits(simulation) == {"AwaitingApproval": 3, "UpToDate": 2}
    simulation.cut_watches(*(() if seen else (DEVICE_PROCESS_DEPLOYMENTS,)))
    simulation.devices["a"].broken = True
    simulation.roll_out("tel", "v3")
    simulation.run(1)
    simulation.roll_out("tel", "v2")
    simulation.approve("tel", "w1")
    simulation.cut_watches()
    simulation.run(1)
    versions = simulation.stored.versions("tel")
    assert versions == dict.fromkeys("ab", "v2") | dict.fromkeys("cde", "v1" if seen else "v2")


def test_a_wave_that_was_begun_under_another_strategy_does_not_count_as_open(simulation: Simulation) -> None:
    deploy(simulation)
    simulation.roll_out("tel", "v2")
    simulation.edit("tel", updateStrategy={"type": "Recreate"})
    assert set(simulation.stored.versions("tel").values()) == {"v2"}
    simulation.edit("tel", updateStrategy={"type": "RollingUpdate"})
    simulation.delete_process("tel", "d")
    assert simulation.stored.versions("tel")["d"] == "v1"


def test_a_device_that_comes_into_a_wave_that_was_passed_over_waits_for_its_approval(simulation: Simulation) -> None:
    for name in "cd":
        simulation.label(name, ring="2")
    deploy(simulation, **EMPTY)
    simulation.roll_out("tel", "v2")
    simulation.run(3)
    assert set(simulation.stored.versions("tel").values()) == {"v2"}
    simulation.roll_out("tel", "v3")
    simulation.devices["e"].broken = True  # so that the rollout is not over
    simulation.run(3)
    simulation.label("d", ring="1")
    simulation.delete_process("tel", "d")
    assert simulation.stored.versions("tel")["d"] == "v2"
    simulation.approve("tel", "w1")
    assert simulation.stored.versions("tel")["d"] == "v3"


def begin_bad_canaries(simulation: Simulation) -> None:
    deploy(simulation)
    simulation.roll_out("tel", "bad")
    simulation.approve("tel", "w1")
    simulation.run(2)
    assert simulation.stored.versions("tel") == {"a": "bad", "b": "bad", "c": "v1", "d": "v1", "e": "v1"}


def waits(simulation: Simulation) -> dict[str, int]:
    reasons: dict[str, int] = simulation.stored.status("tel")["reasons"]
    return reasons


@pytest.mark.parametrize(
    ("leave", "held"),
    [
        ("deleted", "WaveLostItsDevices"),
        ("relabelled", "WaveLostItsDevices"),
        ("replaced", "WaveFailed"),
        ("in-maintenance", "WaveFailed"),
    ],
)
def test_what_failed_in_a_wave_is_not_passed_by_taking_the_devices_away(
    simulation: Simulation, leave: str, held: str
) -> None:
    begin_bad_canaries(simulation)
    for name in "ab":
        match leave:
            case "relabelled":
                simulation.label(name, ring="2")
                simulation.delete_process("tel", name)
            case "in-maintenance":
                simulation.maintain(name, on=True)
            case _:
                simulation.remove(name)
    simulation.settle(6)
    simulation.kill()
    simulation.start()
    if leave == "replaced":
        for name in "ab":
            simulation.add(name, ring="0")
    simulation.run(20, 60)
    versions = simulation.stored.versions("tel")
    assert {versions[name] for name in "cde"} == {"v1"}
    assert waits(simulation)[held] >= 3


@pytest.mark.parametrize("leave", ["removed", "maintenance"])
def test_canaries_that_failed_unseen_and_left_are_not_passed_by_the_others(simulation: Simulation, leave: str) -> None:
    deploy(simulation)
    simulation.devices["a"].broken = True
    simulation.roll_out("tel", "v2")
    simulation.approve("tel", "w1")
    simulation.hold_view(held=True)
    simulation.run(2)
    if leave == "removed":
        simulation.remove("a")
    else:
        simulation.maintain("a", on=True)
    simulation.settle(6)
    simulation.hold_view(held=False)
    simulation.run(20, 60)
    versions = simulation.stored.versions("tel")
    assert (versions["b"], {versions[name] for name in "cde"}) == ("v2", {"v1"})
    assert waits(simulation)["WaveFailed"] >= 3


def test_a_wave_that_lost_its_devices_is_passed_when_it_is_approved(simulation: Simulation) -> None:
    begin_bad_canaries(simulation)
    for name in "ab":
        simulation.remove(name)
    simulation.run(2)
    number = max(each["revision"] for each in simulation.stored.objects(CONTROLLER_REVISIONS).values())
    simulation.approve("tel", "w1", f"w0/{number - 1}")
    simulation.run(2)
    assert set(simulation.stored.versions("tel").values()) == {"v1"}
    simulation.approve("tel", "w1", f"w0/{number}")
    simulation.run(2)
    assert simulation.stored.versions("tel") == {"c": "bad", "d": "bad", "e": "v1"}


def test_a_wave_that_was_passed_stays_so_when_it_loses_power(simulation: Simulation) -> None:
    deploy(simulation)
    simulation.roll_out("tel", "v2")
    simulation.run(3)
    assert waits(simulation) == {"AwaitingApproval": 3, "UpToDate": 2}
    for name in "ab":
        simulation.die(name)
    simulation.run(3, 60)
    simulation.kill()
    simulation.start()
    simulation.approve("tel", "w1")
    simulation.run(3)
    assert simulation.stored.versions("tel") == dict.fromkeys("abcde", "v2")


def leave_one_by_one(simulation: Simulation, names: str, seconds: float) -> None:
    for name in names:
        simulation.label(name, role="spine")
        simulation.settle(seconds)


def deploy_to_leaves(simulation: Simulation, name: str = "tel", role: str = "leaf") -> None:
    """Deploy to the devices of *role*: all of them, of which two may be unavailable."""
    if not simulation.checker.deployments:
        for each in "abcde":
            simulation.label(each, role="leaf")
    rolling = {"rollingUpdate": {"maxUnavailable": 2}}
    simulation.deploy(name, "v1", selector={"matchLabels": {"role": role}}, updateStrategy=rolling)
    simulation.run(2)


@pytest.mark.parametrize("change", ["selector", "labels", "deleted"])
def test_a_change_that_unmatches_many_devices_removes_nothing(simulation: Simulation, change: str) -> None:
    deploy_to_leaves(simulation)
    if change == "selector":
        simulation.edit("tel", selector={"matchLabels": {"role": "laef"}})
    elif change == "labels":
        leave_one_by_one(simulation, "abc", 1)
    else:
        for name in "abc":
            simulation.remove(name)
    simulation.settle(60)
    simulation.kill()
    simulation.start()
    simulation.settle(60)
    assert set(simulation.stored.versions("tel")) == set("abcde")
    assert waits(simulation)["RemovalHeld"] == (5 if change == "selector" else 3)


def test_a_selector_that_is_corrected_has_changed_nothing(simulation: Simulation) -> None:
    deploy_to_leaves(simulation)
    before = {row.name: row.uid for row in simulation.stored.processes("tel")}
    simulation.edit("tel", selector={"matchLabels": {"role": "laef"}})
    simulation.settle(60)
    simulation.edit("tel", selector={"matchLabels": {"role": "leaf"}})
    simulation.settle(60)
    assert {row.name: row.uid for row in simulation.stored.processes("tel")} == before
    assert waits(simulation) == {"UpToDate": 5}


def test_devices_that_leave_one_after_the_other_are_let_go(simulation: Simulation) -> None:
    deploy_to_leaves(simulation)
    leave_one_by_one(simulation, "abc", 11)
    assert set(simulation.stored.versions("tel")) == set("de")


def test_a_device_is_handed_from_one_deployment_to_another(simulation: Simulation) -> None:
    deploy_to_leaves(simulation)
    deploy_to_leaves(simulation, "ctl", "spine")
    simulation.label("a", role="spine")
    simulation.settle(2)
    assert ("a" in simulation.stored.versions("tel"), "a" in simulation.stored.versions("ctl")) == (True, False)
    simulation.settle(6)
    assert ("a" in simulation.stored.versions("tel"), "a" in simulation.stored.versions("ctl")) == (False, True)


def test_devices_that_a_version_killed_count_against_the_budget_through_a_recreate(simulation: Simulation) -> None:
    deploy(simulation, maxUnavailable=2, waves=[])
    simulation.roll_out("tel", "killer")
    simulation.run(2)
    simulation.edit("tel", updateStrategy={"type": "Recreate"})
    simulation.settle(60)
    simulation.roll_out("tel", "v2")
    simulation.run(2)
    assert simulation.stored.versions("tel") == {"a": "killer", "b": "killer", "c": "v2", "d": "v2", "e": "v2"}
    simulation.edit("tel", updateStrategy={"type": "RollingUpdate"})
    simulation.roll_out("tel", "v3")
    simulation.run(3)
    assert simulation.stored.versions("tel") == {"a": "killer", "b": "killer", "c": "v2", "d": "v2", "e": "v2"}
    simulation.revive("a")
    simulation.run(5)
    assert simulation.stored.versions("tel") == {"a": "v3", "b": "killer", "c": "v3", "d": "v3", "e": "v3"}


@pytest.mark.parametrize("ahead_s", [0, -18_000], ids=["same-clock", "clock-behind"])
def test_a_device_that_died_of_a_finished_rollout_that_it_was_late_for_counts_against_the_budget(
    simulation: Simulation, ahead_s: float
) -> None:
    """Nor does a controller that finds it dead take it for available before."""
    deploy(simulation, maxUnavailable=1, waves=[])
    simulation.edit("tel", minReadySeconds=20, progressDeadlineSeconds=600)
    simulation.run(1, 21)
    simulation.die("a")
    simulation.run(1)
    simulation.roll_out("tel", "v2")
    simulation.run(5, 21)
    assert simulation.stored.versions("tel") == {"a": "v1"} | dict.fromkeys("bcde", "v2")
    simulation.revive("a")
    simulation.run(1)
    assert simulation.stored.versions("tel")["a"] == "v2"
    simulation.die("a")
    simulation.run(1)
    simulation.kill()
    simulation.set_clock(ahead_s)
    simulation.start()
    simulation.settle(21)
    simulation.roll_out("tel", "v3")
    simulation.run(3, 21)
    assert simulation.stored.versions("tel") == dict.fromkeys("abcde", "v2")
    simulation.settle(600)  # no longer than the deadline
    simulation.run(5, 21)
    assert simulation.stored.versions("tel") == {"a": "v2"} | dict.fromkeys("bcde", "v3")


def test_a_violation_names_its_invariant() -> None:
    assert InvariantViolation("max_unavailable_holds", "what").invariant == "max_unavailable_holds"
    with pytest.raises(ValueError, match="no invariant has the name it"):
        InvariantViolation("it", "what")


def test_a_trace_is_shortened_to_what_it_needs() -> None:
    trace: Trace = [("begin", {}), *((str(number), {}) for number in range(40))]

    def needs(*steps: str) -> Callable[[Trace], bool]:
        return lambda less: {"begin", *steps} <= {name for name, _ in less}

    def short(trace: Trace, fails: Callable[[Trace], bool], *, late: bool = False) -> list[str]:
        return [name for name, _ in shortened(trace, fails, lambda: late)]

    assert short(trace, needs("3", "17", "39")) == ["begin", "3", "17", "39"]
    assert short(trace, needs()) == ["begin"]
    assert len(short(trace, needs("3"), late=True)) == 41


def test_a_trace_can_be_written_and_replayed() -> None:
    begin = {
        "size": 2, "limit": 1, "min_ready": 0, "action": "Pause", "failures": 1, "soak": 0, "first": None,
        "threshold": 100, "rack": 1, "shared": True,
    }  # fmt: skip
    trace: Trace = [("begin", begin), ("die", {"name": "leaf-1"}), ("add_or_remove", {"name": "leaf-0"})]
    assert from_text(f"some words\n{as_text(trace)}and more") == trace
    assert replay(trace) == ()
    assert RolloutMachine.trace == trace
    assert replay([*trace, ("no_such_step", {})]) == ("AttributeError",)

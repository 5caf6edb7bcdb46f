"""The promises of a rollout, on the real controller over a simulated fleet: whatever happens, in whatever order.

A search in a process of its own: Hypothesis draws from the constants of whatever modules are loaded, so that beside
other tests the same seed would search other steps each time. Stories that it found once are told again by name.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from controller_simulation.invariants import Broken
from controller_simulation.machine import Fleet, tell
from controller_simulation.trace import Story, as_text, from_text, shortened
from controller_simulation.world import Simulation

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
def world() -> Iterator[Simulation]:
    """Five devices in three rings: a, b | c, d | e."""
    made = Simulation()
    for number, name in enumerate("abcde"):
        made.add(name, ring=str(number // 2))
    yield made
    made.close()


def deploy(world: Simulation, **fields: object) -> None:
    rolling = {"maxUnavailable": 5, "waves": WAVES} | fields
    world.deploy("tel", "v1", updateStrategy={"rollingUpdate": rolling})
    world.approve("tel", "w1")
    world.run(4)
    assert set(world.versions("tel").values()) == {"v1"}


def test_a_rollout_keeps_its_promises() -> None:
    command = [sys.executable, "-m", "controller_simulation.search", "--steps", "3000", "--seed", "1"]
    limits = ["--seconds", "90", "--shorten-seconds", "45"]
    done = subprocess.run([*command, *limits], capture_output=True, text=True, check=False, timeout=220)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_a_revision_that_comes_back_counts_its_waves_anew(world: Simulation) -> None:
    """A device that got it in the first wave, and is in the second one now, does not stand for the first any more."""
    deploy(world)
    world.remove("b")
    world.devices["a"].broken = True
    world.roll_out("tel", "v2")
    world.approve("tel", "w1")
    world.run(3)
    assert world.versions("tel") == {"a": "v2", "c": "v1", "d": "v1", "e": "v1"}
    world.label("a", ring="1")
    world.roll_out("tel", "v3")
    world.roll_out("tel", "v2")  # nobody is in w0 any more, and w1 was approved
    assert world.versions("tel") == {"a": "v2", "c": "v2", "d": "v2", "e": "v1"}


def test_a_wave_that_was_begun_under_another_strategy_is_not_taken_for_open(world: Simulation) -> None:
    deploy(world)
    world.roll_out("tel", "v2")
    world.edit("tel", updateStrategy={"type": "Recreate"})
    assert set(world.versions("tel").values()) == {"v2"}
    world.edit("tel", updateStrategy={"type": "RollingUpdate"})
    world.delete_process("tel", "d")
    assert world.versions("tel")["d"] == "v1"


def test_a_device_that_comes_into_a_wave_that_was_passed_over_waits_for_its_approval(world: Simulation) -> None:
    for name in "cd":
        world.label(name, ring="2")
    deploy(world)
    world.roll_out("tel", "v2")
    world.run(3)
    assert set(world.versions("tel").values()) == {"v2"}
    world.roll_out("tel", "v3")
    world.devices["e"].broken = True  # so that the rollout is not over
    world.run(3)
    world.label("d", ring="1")
    world.delete_process("tel", "d")
    assert world.versions("tel")["d"] == "v2"
    world.approve("tel", "w1")
    assert world.versions("tel")["d"] == "v3"


def test_devices_that_a_version_killed_are_held_against_the_budget_through_a_recreate(world: Simulation) -> None:
    deploy(world, maxUnavailable=2, waves=[])
    world.roll_out("tel", "killer")
    world.run(2)
    world.edit("tel", updateStrategy={"type": "Recreate"})
    world.rest(60)
    world.roll_out("tel", "v2")
    world.run(2)
    assert world.versions("tel") == {"a": "killer", "b": "killer", "c": "v2", "d": "v2", "e": "v2"}
    world.edit("tel", updateStrategy={"type": "RollingUpdate"})
    world.roll_out("tel", "v3")
    world.run(3)
    assert world.versions("tel") == {"a": "killer", "b": "killer", "c": "v2", "d": "v2", "e": "v2"}
    world.revive("a")
    world.run(5)
    assert world.versions("tel") == {"a": "v3", "b": "killer", "c": "v3", "d": "v3", "e": "v3"}


def test_a_broken_promise_has_a_name() -> None:
    assert Broken("it", "what").promise == "it"


def test_a_story_is_shortened_to_what_it_needs() -> None:
    story: Story = [("begin", {}), *((str(number), {}) for number in range(40))]

    def needs(*steps: str) -> Callable[[Story], bool]:
        return lambda less: {"begin", *steps} <= {name for name, _ in less}

    def short(story: Story, fails: Callable[[Story], bool], *, late: bool = False) -> list[str]:
        return [name for name, _ in shortened(story, fails, lambda: late)]

    assert short(story, needs("3", "17", "39")) == ["begin", "3", "17", "39"]
    assert short(story, needs()) == ["begin"]
    assert len(short(story, needs("3"), late=True)) == 41


def test_a_story_can_be_written_down_and_told_again() -> None:
    begin = {
        "size": 2, "limit": 1, "min_ready": 0, "action": "Pause", "failures": 1, "soak": 0, "first": None,
        "threshold": 100, "rack": 1, "shared": True,
    }  # fmt: skip
    story: Story = [("begin", begin), ("die", {"name": "leaf-1"}), ("add_or_remove", {"name": "leaf-0"})]
    assert from_text(f"some words\n{as_text(story)}and more") == story
    assert tell(story) == ""
    assert Fleet.story == story
    assert tell([*story, ("nobody_can", {})]) == "AttributeError"

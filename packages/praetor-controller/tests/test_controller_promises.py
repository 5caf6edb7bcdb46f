"""The promises of a rollout, on the real controller over a simulated fleet: whatever happens, in whatever order."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from praetor_controller.promises import Broken
from praetor_controller.simulation import Simulation

NAMES = [f"leaf-{number}" for number in range(8)]
VERSIONS = ["v1", "v2", "v3", "bad", "killer"]
WAVES = [
    {"name": "w0", "selector": {"matchLabels": {"ring": "0"}}},
    {"name": "w1", "selector": {"matchLabels": {"ring": "1"}}, "approval": "Manual"},
]
RACKS = [{"groupBy": ["rack"], "maxUnavailable": 1}]
BOTH = ("tel", "ctl")


def labels_of(name: str) -> dict[str, str]:
    number = int(name.removeprefix("leaf-"))
    return {"ring": str(number % 3), "rack": f"r{number // 3}"}


def rolling(limit: int, **fields: Any) -> dict[str, Any]:
    return {"rollingUpdate": {"maxUnavailable": limit, "budgets": RACKS} | fields}


class Fleet(RuleBasedStateMachine):
    """Two deployments share the devices and a budget; the first has waves and a failure policy."""

    @initialize(
        size=st.integers(2, len(NAMES)), limit=st.integers(1, 4), min_ready=st.sampled_from([0, 20]),
        action=st.sampled_from(["Pause", "Rollback"]), soak=st.sampled_from([0, 30]),
    )  # fmt: skip
    def begin(self, size: int, limit: int, min_ready: int, action: str, soak: int) -> None:
        self.world = Simulation()
        for name in NAMES[:size]:
            self.world.add(name, **labels_of(name))
        waves = [{**WAVES[0], "soakSeconds": soak}, WAVES[1]]
        policy = {"maxFailures": 1, "action": action}
        common = {"minReadySeconds": min_ready}
        self.world.deploy("tel", "v1", updateStrategy=rolling(limit, waves=waves), failurePolicy=policy, **common)
        self.world.deploy("ctl", "v1", updateStrategy=rolling(2), **common)
        self.world.approve("tel", "w1")
        self.world.run(4, min_ready + soak / 2 + 1)

    @rule(name=st.sampled_from(BOTH), version=st.sampled_from(VERSIONS))
    def edit_or_undo(self, name: str, version: str) -> None:
        self.world.roll_out(name, version)

    @rule(name=st.sampled_from(BOTH))
    def restart(self, name: str) -> None:
        self.world.roll_out(name, "v1", restarted_at=str(self.world.clock.now()))

    @rule(name=st.sampled_from(BOTH), version=st.sampled_from(VERSIONS), rounds=st.integers(1, 5))
    def roll(self, name: str, version: str, rounds: int) -> None:
        self.world.roll_out(name, version)
        self.world.approve(name, "w1")
        self.world.run(rounds, 21)

    @rule(name=st.sampled_from(BOTH))
    def toggle_pause(self, name: str) -> None:
        self.world.edit(name, paused=not self.world.deployment(name).policy.paused)

    @rule()
    def approve(self) -> None:
        self.world.approve("tel", "w1")

    @rule(name=st.sampled_from(NAMES))
    def add_or_remove(self, name: str) -> None:
        if name in self.world.devices:
            self.world.remove(name)
        else:
            self.world.add(name, **labels_of(name))

    @rule(name=st.sampled_from(NAMES), like=st.sampled_from(NAMES))
    def relabel(self, name: str, like: str) -> None:
        if name in self.world.devices:
            self.world.label(name, **labels_of(like))

    @rule(name=st.sampled_from(NAMES), on=st.booleans())
    def maintain(self, name: str, on: bool) -> None:
        if name in self.world.devices:
            self.world.maintain(name, on=on)

    @rule(name=st.sampled_from(NAMES))
    def break_or_mend(self, name: str) -> None:
        if name in self.world.devices:
            self.world.devices[name].broken ^= True

    @rule(name=st.sampled_from(NAMES))
    def die(self, name: str) -> None:
        if name in self.world.devices:
            self.world.die(name)

    @rule(name=st.sampled_from(NAMES))
    def come_back(self, name: str) -> None:
        if name in self.world.devices:
            self.world.revive(name)

    @rule()
    def notice(self) -> None:
        self.world.notice()

    @rule(name=st.none() | st.sampled_from(NAMES))
    def report(self, name: str | None) -> None:
        self.world.report(*([name] if name else []))

    @rule(name=st.sampled_from(BOTH), device=st.sampled_from(NAMES))
    def delete_by_hand(self, name: str, device: str) -> None:
        self.world.delete_process(name, device)

    @rule(seconds=st.sampled_from([1, 10, 60]))
    def wait(self, seconds: int) -> None:
        self.world.rest(seconds)

    @rule(held=st.booleans())
    def see_late(self, held: bool) -> None:
        self.world.hold_view(held=held)

    @rule(number=st.integers(0, 4), applied=st.booleans())
    def die_at_a_write(self, number: int, applied: bool) -> None:
        self.world.die_at_write(number, applied=applied)

    @rule()
    def restart_the_controller(self) -> None:
        self.world.kill()
        self.world.start()
        self.world.rest()

    @rule(name=st.sampled_from(BOTH))
    def nothing_is_written_while_nothing_changes(self, name: str) -> None:
        self.world.rest(2)
        writes, told = self.world.spec_writes, dict(self.world.status_writes)
        if self.world.client.open.is_set() and self.world.client.dies_after is None:
            self.world.poke(name)
            assert (self.world.spec_writes, dict(self.world.status_writes)) == (writes, told)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            converge(self.world)
        finally:
            self.world.close()


def converge(world: Simulation) -> None:
    """A good template, living devices, approvals and time bring everybody up to date, and then nothing is written."""
    world.hold_view(held=False)
    world.die_at_write(10**6, applied=False)
    for name in BOTH:
        world.edit(name, paused=False, progressDeadlineSeconds=600)
        world.roll_out(name, "v9")
    world.approve("tel", "w1")
    for name, each in world.devices.items():
        each.broken = False
        world.maintain(name, on=False)
        world.revive(name)
    for _ in range(6 * len(world.devices) + 12):
        if world.settled():
            break
        world.run(1, 60)
        for name, each in world.devices.items():
            if not each.alive:  # it met the version that kills devices before the good one reached it
                world.revive(name)
    assert world.settled(), [world.status(name) for name in BOTH]
    writes = world.spec_writes
    world.rest(300)
    assert world.spec_writes == writes


NIGHTLY = os.environ.get("PRAETOR_PROPERTIES") == "nightly"
STEPS = settings(
    max_examples=int(os.environ.get("PRAETOR_EXAMPLES", "2600" if NIGHTLY else "25")),
    stateful_step_count=40,
    deadline=None,
    derandomize=not NIGHTLY,
    database=None,
    phases=(Phase.generate, Phase.shrink) if NIGHTLY else (Phase.generate,),  # shrinking would outlast any gate
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(3600 if NIGHTLY else 150)
def test_a_rollout_keeps_its_promises() -> None:
    # In a process of its own: Hypothesis draws from the constants of whatever modules are loaded, so that beside
    # other tests the same seed would search other steps each time.
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-8000:]


def test_a_broken_promise_has_a_name() -> None:
    assert Broken("it", "what").promise == "it"


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    run_state_machine_as_test(Fleet, settings=STEPS)

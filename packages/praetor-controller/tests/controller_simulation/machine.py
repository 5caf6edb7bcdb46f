"""What may happen to a fleet, in whatever order: Hypothesis draws the steps, the simulation judges them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from controller_simulation.client import RETRIED_S
from controller_simulation.invariants import Broken
from controller_simulation.trace import Step, Story
from controller_simulation.world import Simulation
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, NETWORK_SWITCHES

NAMES = [f"leaf-{number}" for number in range(8)]
VERSIONS = ["v1", "v2", "v3", "bad", "killer"]
BOTH = ("tel", "ctl")
KINDS = {each.plural: each for each in (NETWORK_SWITCHES, DEVICE_PROCESSES, DEVICE_PROCESS_DEPLOYMENTS)}
_W0 = {"name": "w0", "selector": {"matchLabels": {"ring": "0"}}}
_W1 = {"name": "w1", "selector": {"matchLabels": {"ring": "1"}}, "approval": "Manual"}


def labels_of(name: str) -> dict[str, str]:
    number = int(name.removeprefix("leaf-"))
    return {"ring": str(number % 3), "rack": f"r{number // 3}"}


def told(step: Callable[..., None]) -> Callable[..., None]:
    """Have *step* written down before it is made, so that it can be told again."""

    @functools.wraps(step)
    def make(self: Fleet, **given: Any) -> None:
        if step.__name__ == "begin":
            self.story.clear()
        self.story.append((step.__name__, given))
        Fleet.steps += 1
        step(self, **given)

    return make


class Fleet(RuleBasedStateMachine):
    """Two deployments share the devices and a budget, which one of them or both ask for; the first has waves, too, and
    a failure policy.
    """

    story: ClassVar[list[Step]] = []  # of the latest run
    steps: ClassVar[int] = 0  # of all runs

    @initialize(
        size=st.integers(2, len(NAMES)), limit=st.integers(1, 4) | st.sampled_from(["25%", "50%"]),
        min_ready=st.sampled_from([0, 20]), action=st.sampled_from(["Pause", "Rollback"]),
        failures=st.sampled_from([1, "20%"]), soak=st.sampled_from([0, 30]),
        first=st.sampled_from([None, 1, "50%"]), threshold=st.sampled_from([100, 50]),
        rack=st.sampled_from([1, "50%"]), shared=st.booleans(),
    )  # fmt: skip
    @told
    def begin(
        self, size: int, limit: int | str, min_ready: int, action: str, failures: int | str, soak: int,
        first: int | str | None, threshold: int, rack: int | str, shared: bool,
    ) -> None:  # fmt: skip
        self.world = Simulation()
        for name in NAMES[:size]:
            self.world.add(name, **labels_of(name))
        budgets = [{"groupBy": ["rack"], "maxUnavailable": rack}]
        w0 = _W0 | {"soakSeconds": soak, "successThreshold": threshold} | ({"limit": first} if first else {})
        ours = {"maxUnavailable": limit, "budgets": budgets, "waves": [w0, _W1]}
        theirs = {"maxUnavailable": 2} | ({} if shared else {"budgets": budgets})
        policy = {"maxFailures": failures, "action": action}
        self.world.deploy(
            "tel", "v1", updateStrategy={"rollingUpdate": ours}, failurePolicy=policy, minReadySeconds=min_ready
        )
        self.world.deploy("ctl", "v1", updateStrategy={"rollingUpdate": theirs}, minReadySeconds=min_ready)
        self.world.approve("tel", "w1")
        self.world.run(4, min_ready + soak / 2 + 1)

    @rule(name=st.sampled_from(BOTH), version=st.sampled_from(VERSIONS))
    @told
    def edit_or_undo(self, name: str, version: str) -> None:
        self.world.roll_out(name, version)

    @rule(name=st.sampled_from(BOTH))
    @told
    def restart(self, name: str) -> None:
        self.world.restart(name)

    @rule(name=st.sampled_from(BOTH), version=st.sampled_from(VERSIONS), rounds=st.integers(1, 5))
    @told
    def roll(self, name: str, version: str, rounds: int) -> None:
        self.world.roll_out(name, version)
        self.world.approve(name, "w1")
        self.world.run(rounds, 21)

    @rule(rounds=st.integers(1, 3))
    @told
    def go_on(self, rounds: int) -> None:
        self.world.run(rounds, 21)

    @rule(name=st.sampled_from(BOTH), kind=st.sampled_from(["RollingUpdate", "Recreate", "OnDelete"]))
    @told
    def change_the_strategy(self, name: str, kind: str) -> None:
        self.world.edit(name, updateStrategy={"type": kind})

    @rule(name=st.sampled_from(BOTH), limit=st.sampled_from([0, 1, 3, "30%"]))
    @told
    def change_the_limit(self, name: str, limit: int | str) -> None:
        self.world.edit(name, updateStrategy={"rollingUpdate": {"maxUnavailable": limit}})

    @rule(name=st.sampled_from(BOTH))
    @told
    def toggle_pause(self, name: str) -> None:
        self.world.edit(name, paused=not self.world.deployment(name).policy.paused)

    @rule()
    @told
    def approve(self) -> None:
        self.world.approve("tel", "w1")

    @rule(name=st.sampled_from(NAMES))
    @told
    def add_or_remove(self, name: str) -> None:
        if name in self.world.devices:
            self.world.remove(name)
        else:
            self.world.add(name, **labels_of(name))

    @rule(name=st.sampled_from(NAMES), like=st.sampled_from(NAMES))
    @told
    def relabel(self, name: str, like: str) -> None:
        if name in self.world.devices:
            self.world.label(name, **labels_of(like))

    @rule(name=st.sampled_from(NAMES), on=st.booleans())
    @told
    def maintain(self, name: str, on: bool) -> None:
        if name in self.world.devices:
            self.world.maintain(name, on=on)

    @rule(name=st.sampled_from(NAMES))
    @told
    def break_or_mend(self, name: str) -> None:
        if name in self.world.devices:
            self.world.devices[name].broken ^= True

    @rule(name=st.sampled_from(NAMES), held=st.booleans())
    @told
    def hold_updates(self, name: str, held: bool) -> None:
        if name in self.world.devices:
            self.world.devices[name].held = held

    @rule(name=st.sampled_from(NAMES))
    @told
    def die(self, name: str) -> None:
        if name in self.world.devices:
            self.world.die(name)

    @rule(name=st.sampled_from(NAMES))
    @told
    def come_back(self, name: str) -> None:
        if name in self.world.devices:
            self.world.revive(name)

    @rule()
    @told
    def notice(self) -> None:
        self.world.notice()

    @rule(name=st.none() | st.sampled_from(NAMES))
    @told
    def report(self, name: str | None) -> None:
        self.world.report(*([name] if name else []))

    @rule(name=st.sampled_from(BOTH), device=st.sampled_from(NAMES))
    @told
    def delete_by_hand(self, name: str, device: str) -> None:
        self.world.delete_process(name, device)

    @rule(seconds=st.sampled_from([1, 10, 60]))
    @told
    def wait(self, seconds: int) -> None:
        self.world.rest(seconds)

    @rule(held=st.booleans())
    @told
    def see_late(self, held: bool) -> None:
        self.world.hold_view(held=held)

    @rule(kinds=st.lists(st.sampled_from(list(KINDS)), max_size=2, unique=True))
    @told
    def lose_sight(self, kinds: list[str]) -> None:
        self.world.lose_sight(*(KINDS[kind] for kind in kinds))

    @rule(number=st.integers(0, 4), applied=st.booleans())
    @told
    def die_at_a_write(self, number: int, applied: bool) -> None:
        self.world.die_at_write(number, applied=applied)

    @rule(number=st.integers(1, 3), applied=st.booleans())
    @told
    def lose_writes(self, number: int, applied: bool) -> None:
        self.world.fail_writes(number, applied=applied)

    @rule()
    @told
    def restart_the_controller(self) -> None:
        self.world.kill()
        self.world.start()
        self.world.rest()

    @rule(name=st.sampled_from(BOTH))
    @told
    def nothing_is_written_while_nothing_changes(self, name: str) -> None:
        self.world.rest(RETRIED_S if self.world.client.failed else 2)  # what failed is tried again, by and by
        before = self.world.spec_writes, dict(self.world.status_writes)
        client = self.world.client
        if client.open.is_set() and client.dies_after is None and not client.fails and not client.unseen:
            self.world.poke(name)
            if (self.world.spec_writes, dict(self.world.status_writes)) != before:
                raise Broken("nothing_is_written_while_nothing_changes", name)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            converge(self.world)
        finally:
            self.world.close()


def converge(world: Simulation) -> None:
    """A good template, living devices, approvals, patience and time bring everybody up to date, and then nothing is
    written.
    """
    world.hold_view(held=False)
    world.lose_sight()
    world.die_at_write(10**6, applied=False)
    world.fail_writes(0, applied=False)
    for name in BOTH:
        world.edit(name, updateStrategy={"rollingUpdate": {"maxUnavailable": 2}})
        if world.deployment(name).strategy == "OnDelete":
            world.edit(name, updateStrategy={"type": "RollingUpdate"})
        world.edit(name, paused=False, progressDeadlineSeconds=600)
        world.roll_out(name, "v9")
    world.approve("tel", "w1")
    for name, each in world.devices.items():
        each.broken = each.held = False
        world.maintain(name, on=False)
        world.revive(name)
    for _ in range(6 * len(world.devices) + 12):
        if world.settled():
            break
        world.run(1, 60)
        for name in BOTH:
            if "failedRevision" in world.status(
                name
            ):  # the other one's version killed devices, and this one was blamed
                world.restart(name)
                world.approve(name, "w1")
        for name, each in world.devices.items():
            if not each.alive:  # it met the version that kills devices before the good one reached it
                world.revive(name)
                world.rest(2)  # the controller may look a moment later
    if not world.settled():
        raise Broken("every_fair_run_converges", str([world.status(name).get("reasons") for name in BOTH]))
    writes = world.spec_writes
    world.rest(300)
    if world.spec_writes != writes:
        raise Broken("a_converged_fleet_is_left_alone", f"{world.spec_writes - writes} writes")


def tell(story: Story) -> str:
    """Tell *story* again, and return the name of the promise that it breaks; empty when it breaks none."""
    random.seed(0)  # as Hypothesis does: delays have jitter
    fleet = Fleet()
    try:
        try:
            for name, given in story:
                getattr(fleet, name)(**given)
        except BaseException:
            fleet.world.close()
            raise
        fleet.teardown()
    except Broken as e:
        return e.promise
    except Exception as e:
        return type(e).__name__
    return ""

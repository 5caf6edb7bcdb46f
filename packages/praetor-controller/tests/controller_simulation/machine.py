# SPDX-License-Identifier: Apache-2.0
"""Random events on a fleet: Hypothesis draws the steps, and the simulation checks the invariants after each."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from controller_simulation.client import RETRIED_S
from controller_simulation.invariants import InvariantViolation
from controller_simulation.simulation import Simulation
from controller_simulation.trace import Step, Trace
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, NETWORK_SWITCHES
from praetor_api.kube.codec import encode
from praetor_controller.rollout.snapshot import GatewayState

NAMES = [f"leaf-{number}" for number in range(8)]
VERSIONS = ["v1", "v2", "v3", "bad", "killer"]
BOTH = ("tel", "ctl")
EACH = (*BOTH, "spine")
KINDS = {each.plural: each for each in (NETWORK_SWITCHES, DEVICE_PROCESSES, DEVICE_PROCESS_DEPLOYMENTS)}
_W0 = {"name": "w0", "selector": {"matchLabels": {"ring": "0"}}}
_W1 = {"name": "w1", "selector": {"matchLabels": {"ring": "1"}}, "approval": "Manual"}


# What keeps rollouts from going on is drawn less often than what ends that: else most steps would show nothing.
_MAY_BE_EMPTY = ("waves", "budgets")


def labels_of(name: str) -> dict[str, str]:
    number = int(name.removeprefix("leaf-"))
    cpu = "arm64" if number % 2 else "x86_64"
    return {"ring": str(number % 3), "rack": f"r{number // 3}", "role": "leaf", "cpu": cpu}


def recorded(step: Callable[..., None]) -> Callable[..., None]:
    """Record *step* before it is made, so that the trace can be replayed."""

    @functools.wraps(step)
    def make(self: RolloutMachine, **given: Any) -> None:
        if step.__name__ == "begin":
            self.trace.clear()
        self.trace.append((step.__name__, given))
        RolloutMachine.steps += 1
        step(self, **given)

    return make


class RolloutMachine(RuleBasedStateMachine):
    """Two deployments share the devices and a budget, which one of them or both ask for; the first has waves, too, and
    a failure policy, and selects devices by their role. A third one gets those that change their role.
    """

    trace: ClassVar[list[Step]] = []  # of the latest run
    steps: ClassVar[int] = 0  # of all runs

    @initialize(
        size=st.integers(2, len(NAMES)), limit=st.integers(1, 4) | st.sampled_from(["25%", "50%"]),
        min_ready=st.sampled_from([0, 20]), action=st.sampled_from(["Pause", "Rollback"]),
        failures=st.sampled_from([0, 1, "20%"]), soak=st.sampled_from([0, 30]),
        first=st.sampled_from([None, 1, "50%"]), threshold=st.sampled_from([100, 50]),
        rack=st.sampled_from([1, "50%"]), shared=st.booleans(),
    )  # fmt: skip
    @recorded
    def begin(
        self, size: int, limit: int | str, min_ready: int, action: str, failures: int | str, soak: int,
        first: int | str | None, threshold: int, rack: int | str, shared: bool,
    ) -> None:  # fmt: skip
        self.simulation = Simulation()
        for name in NAMES[:size]:
            self.simulation.declare(name, **labels_of(name))
        self.simulation.settle()
        budgets = [{"groupBy": ["rack"], "maxUnavailable": rack}]
        w0 = _W0 | {"soakSeconds": soak, "successThreshold": threshold} | ({"limit": first} if first else {})
        ours = {"maxUnavailable": limit, "budgets": budgets, "waves": [w0, _W1]}
        theirs = {"maxUnavailable": 2} | ({} if shared else {"budgets": budgets})
        policy = {"maxFailures": failures, "action": action}
        self.simulation.deploy(
            "tel", "v1", updateStrategy={"rollingUpdate": ours}, failurePolicy=policy, minReadySeconds=min_ready,
            selector={"matchLabels": {"role": "leaf"}},
        )  # fmt: skip
        self.simulation.deploy("spine", "v1", selector={"matchLabels": {"role": "spine"}})
        self.simulation.deploy("ctl", "v1", updateStrategy={"rollingUpdate": theirs}, minReadySeconds=min_ready)
        self.simulation.approve("tel", "w1")
        self.simulation.run(4, min_ready + soak / 2 + 1)

    @rule(name=st.sampled_from(BOTH), version=st.sampled_from(VERSIONS))
    @recorded
    def edit_or_undo(self, name: str, version: str) -> None:
        self.simulation.roll_out(name, version)

    @rule(name=st.sampled_from(BOTH), arm=st.sampled_from([None, *VERSIONS]), rounds=st.integers(0, 3))
    @recorded
    def override(self, name: str, arm: str | None, rounds: int) -> None:
        """Let devices with one CPU run another program, or the same as all."""
        self.simulation.override(name, arm)
        self.simulation.approve(name, "w1")
        self.simulation.run(rounds, 21)

    @rule(name=st.sampled_from(BOTH), refers=st.sampled_from([True, True, False]), rounds=st.integers(0, 3))
    @recorded
    def refer(self, name: str, refers: bool, rounds: int) -> None:
        """Let a file of all processes have its content from a ConfigMap, or from nowhere again."""
        self.simulation.refer(name, refers=refers)
        self.simulation.approve(name, "w1")
        self.simulation.run(rounds, 21)

    @rule(content=st.sampled_from(["first", "second", "third"]), rounds=st.integers(0, 3))
    @recorded
    def edit_a_content(self, content: str, rounds: int) -> None:
        self.simulation.edit_content(content)
        self.simulation.run(rounds, 21)

    @rule(version=st.sampled_from(["v1", "v2", "v3"]), arm=st.sampled_from(["v1", "v2", "v3", "bad", "killer"]))
    @recorded
    def an_override_changes_no_canary(self, version: str, arm: str) -> None:
        """Roll a version out, and then another one to the devices with a CPU that none of the first wave has."""
        for name in [name for name in self.simulation.devices if labels_of(name)["ring"] == "0"]:
            self.simulation.label(name, cpu="x86_64")
        self.simulation.override("tel", None)
        self.simulation.roll_out("tel", version)
        self.simulation.approve("tel", "w1")
        self.simulation.run(4, 31)
        self.simulation.override("tel", arm)
        self.simulation.approve("tel", "w1")
        self.simulation.run(2, 21)

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=4, unique=True), cpu=st.sampled_from(["arm64", "x86_64"]))
    @recorded
    def relabel_the_cpu(self, names: list[str], cpu: str) -> None:
        for name in names:
            if name in self.simulation.devices:
                self.simulation.label(name, cpu=cpu)

    @rule(name=st.sampled_from(BOTH))
    @recorded
    def restart(self, name: str) -> None:
        self.simulation.restart(name)

    @rule(name=st.sampled_from(BOTH), version=st.sampled_from(VERSIONS), rounds=st.integers(1, 5))
    @recorded
    def roll(self, name: str, version: str, rounds: int) -> None:
        self.simulation.roll_out(name, version)
        self.simulation.approve(name, "w1")
        self.simulation.run(rounds, 21)

    @rule(rounds=st.integers(1, 3))
    @recorded
    def go_on(self, rounds: int) -> None:
        self.simulation.run(rounds, 21)

    @rule(name=st.sampled_from(BOTH), kind=st.sampled_from([*["RollingUpdate"] * 3, "Recreate", "OnDelete"]))
    @recorded
    def change_the_strategy(self, name: str, kind: str) -> None:
        self.simulation.edit(name, updateStrategy={"type": kind})

    @rule(name=st.sampled_from(BOTH), limit=st.sampled_from([0, 1, 3, "30%"]))
    @recorded
    def change_the_limit(self, name: str, limit: int | str) -> None:
        self.simulation.edit(name, updateStrategy={"rollingUpdate": {"maxUnavailable": limit}})

    @rule(name=st.sampled_from(BOTH), paused=st.sampled_from([True, False, False]))
    @recorded
    def pause(self, name: str, paused: bool) -> None:
        self.simulation.edit(name, paused=paused)

    @rule()
    @recorded
    def approve(self) -> None:
        self.simulation.approve("tel", "w1")

    @rule(role=st.sampled_from(["leaf", "leaf", "leaf", "laef"]))
    @recorded
    def edit_the_selector(self, role: str) -> None:
        self.simulation.edit("tel", selector={"matchLabels": {"role": role}})

    @rule(what=st.sampled_from(["waves", "budgets", "", "", ""]))
    @recorded
    def mistype(self, what: str) -> None:
        rolling = self.simulation.stored.deployment("tel").policy.update_strategy.rolling_update
        w0, w1 = (encode(each) for each in rolling.waves)
        budgets = [encode(each) | {"groupBy": ["rakc" if what == "budgets" else "rack"]} for each in rolling.budgets]
        w0["selector"] = {"matchLabels": {"ring": "9" if what == "waves" else "0"}}
        self.simulation.edit("tel", updateStrategy={"rollingUpdate": {"waves": [w0, w1], "budgets": budgets}})

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=4, unique=True), role=st.sampled_from(["leaf", "spine"]))
    @recorded
    def move(self, names: list[str], role: str) -> None:
        for name in names:
            if name in self.simulation.devices:
                self.simulation.label(name, role=role)

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=4, unique=True), seconds=st.sampled_from([None, 0, 10]))
    @recorded
    def replace(self, names: list[str], seconds: int | None) -> None:
        """Remove devices, and declare them again after *seconds*, unless that is None."""
        present = [name for name in names if name in self.simulation.devices]
        for name in present:
            self.simulation.remove(name)
        if seconds is not None:
            self.simulation.settle(seconds)
            for name in present:
                self.simulation.add(name, **labels_of(name))

    @rule(version=st.sampled_from(["v1", "v2", "v3"]), leave=st.sampled_from(["remove", "move", "maintain", "replace"]))
    @recorded
    def a_canary_fails_and_leaves(self, version: str, leave: str) -> None:
        """Let one of the first wave fail, and go, and approve the next one; the others of its wave are well."""
        labels = {name: row.labels for name, row in self.simulation.stored.matching("tel").items()}
        name = next((name for name in sorted(labels) if labels[name].get("ring") == "0"), None)
        if name is None:
            return
        self.simulation.devices[name].broken = True
        self.simulation.roll_out("tel", version)
        self.simulation.run(2, 21)
        match leave:
            case "move":
                self.simulation.label(name, role="spine")
            case "maintain":
                self.simulation.maintain(name, on=True)
            case _:
                self.simulation.remove(name)
        self.simulation.run(2, 21)
        if leave == "replace":
            self.simulation.add(name, **labels_of(name))
            self.simulation.run(2, 21)
        self.simulation.approve("tel", "w1")
        self.simulation.run(1, 21)

    @rule(version=st.sampled_from(["v1", "v2", "v3", "killer"]), rounds=st.integers(0, 2))
    @recorded
    def the_canaries_fail_and_are_repaired(self, version: str, rounds: int) -> None:
        """Let those of the first wave fail until the failure policy stops the revision, which a user approves all the
        same, and then be well."""
        there = [name for name in self.simulation.devices if labels_of(name)["ring"] == "0"]
        for name in there:
            self.simulation.devices[name].broken = True
        self.simulation.roll_out("tel", version)
        self.simulation.run(1, 21)
        self.simulation.approve_held("tel")
        for name in there:
            self.simulation.devices[name].broken = False
            if version == "killer":
                self.simulation.revive(name)
        self.simulation.run(rounds, 21)

    @rule()
    @recorded
    def lose_the_canaries(self) -> None:
        """Remove the devices of the first wave, as they are sent back when they fail."""
        for name in [name for name in self.simulation.devices if labels_of(name)["ring"] == "0"]:
            self.simulation.remove(name)

    @rule()
    @recorded
    def approve_what_is_held(self) -> None:
        self.simulation.approve_held("tel")

    @rule(name=st.sampled_from(BOTH), device=st.sampled_from(NAMES))
    @recorded
    def orphan(self, name: str, device: str) -> None:
        self.simulation.orphan(name, device)

    @rule(name=st.sampled_from(EACH))
    @recorded
    def approve_removal(self, name: str) -> None:
        self.simulation.approve_removal(name)

    @rule(name=st.sampled_from(NAMES))
    @recorded
    def add_or_remove(self, name: str) -> None:
        if name in self.simulation.devices:
            self.simulation.remove(name)
        else:
            self.simulation.add(name, **labels_of(name))

    @rule(name=st.sampled_from(NAMES), like=st.sampled_from(NAMES))
    @recorded
    def relabel(self, name: str, like: str) -> None:
        if name in self.simulation.devices:
            self.simulation.label(name, **labels_of(like))

    @rule(name=st.sampled_from(NAMES), on=st.booleans())
    @recorded
    def maintain(self, name: str, on: bool) -> None:
        if name in self.simulation.devices:
            self.simulation.maintain(name, on=on)

    @rule(name=st.sampled_from(NAMES))
    @recorded
    def break_or_fix(self, name: str) -> None:
        if name in self.simulation.devices:
            self.simulation.devices[name].broken ^= True

    @rule(name=st.sampled_from(NAMES), held=st.booleans())
    @recorded
    def hold_updates(self, name: str, held: bool) -> None:
        if name in self.simulation.devices:
            self.simulation.devices[name].held = held

    @rule(name=st.sampled_from(BOTH), version=st.sampled_from([None, "12", "13"]))
    @recorded
    def require(self, name: str, version: str | None) -> None:
        """Ask for a version of the OS, of which no device says anything before it is upgraded, or for none."""
        wanted = [] if version is None else [{"fact": "os.version", "operator": "Ge", "values": [version]}]
        self.simulation.edit(name, requirements=wanted)

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=6, unique=True), version=st.sampled_from(["11", "12", "13"]))
    @recorded
    def upgrade(self, names: list[str], version: str) -> None:
        for name in names:
            if name in self.simulation.devices:
                self.simulation.upgrade(name, version)

    @rule(name=st.sampled_from(NAMES))
    @recorded
    def die(self, name: str) -> None:
        if name in self.simulation.devices:
            self.simulation.die(name)

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    @recorded
    def fall_silent(self, names: list[str]) -> None:
        self.simulation.fall_silent(*(name for name in names if name in self.simulation.devices))

    @rule(state=st.sampled_from([*[GatewayState.JUDGING] * 3, GatewayState.RETURNING, GatewayState.GONE]))
    @recorded
    def judge(self, state: str) -> None:
        """Let the gateways stop, or judge the devices again."""
        self.simulation.judge(GatewayState(state))

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    @recorded
    def reboot(self, names: list[str]) -> None:
        for name in names:
            if name in self.simulation.devices:
                self.simulation.reboot(name)

    @rule(name=st.sampled_from(NAMES))
    @recorded
    def come_back(self, name: str) -> None:
        if name in self.simulation.devices:
            self.simulation.revive(name)

    @rule()
    @recorded
    def detect_failures(self) -> None:
        self.simulation.detect_failures()

    @rule(name=st.none() | st.sampled_from(NAMES))
    @recorded
    def report(self, name: str | None) -> None:
        self.simulation.report(*([name] if name else []))

    @rule(name=st.sampled_from(BOTH), device=st.sampled_from(NAMES))
    @recorded
    def delete_by_hand(self, name: str, device: str) -> None:
        self.simulation.delete_process(name, device)

    @rule(seconds=st.sampled_from([1, 10, 60]))
    @recorded
    def wait(self, seconds: int) -> None:
        self.simulation.settle(seconds)

    @rule(held=st.sampled_from([True, False, False]))
    @recorded
    def see_late(self, held: bool) -> None:
        self.simulation.hold_view(held=held)

    @rule(kinds=st.lists(st.sampled_from(list(KINDS)), max_size=2, unique=True))
    @recorded
    def cut_watches(self, kinds: list[str]) -> None:
        self.simulation.cut_watches(*(KINDS[kind] for kind in kinds))

    @rule(number=st.integers(0, 4), applied=st.booleans())
    @recorded
    def die_at_a_write(self, number: int, applied: bool) -> None:
        self.simulation.die_at_write(number, applied=applied)

    @rule(number=st.integers(1, 3), applied=st.booleans())
    @recorded
    def lose_writes(self, number: int, applied: bool) -> None:
        self.simulation.fail_writes(number, applied=applied)

    @rule()
    @recorded
    def restart_the_controller(self) -> None:
        self.simulation.kill()
        self.simulation.start()
        self.simulation.settle()

    @rule(hours=st.sampled_from([-5, 0, 5]), restarted=st.booleans())
    @recorded
    def set_the_controllers_clock(self, hours: int, restarted: bool) -> None:
        """Set its clock while it runs, or let another one take over whose clock says otherwise."""
        if restarted:
            self.simulation.kill()
        self.simulation.set_clock(3600 * hours)
        if restarted:
            self.simulation.start()
            self.simulation.settle()

    @rule()
    @recorded
    def back_up(self) -> None:
        self.simulation.back_up()

    @rule()
    @recorded
    def restore_the_backup(self) -> None:
        self.simulation.restore()

    @rule(name=st.sampled_from(BOTH))
    @recorded
    def nothing_is_written_while_nothing_changes(self, name: str) -> None:
        self.simulation.settle(RETRIED_S if self.simulation.client.failed else 2)  # failed writes are retried
        before = self.simulation.checker.writes
        client = self.simulation.client
        if client.open.is_set() and client.dies_after is None and not client.fails and not client.unseen:
            self.simulation.poke(name)
            if self.simulation.checker.writes != before:
                raise InvariantViolation("nothing_is_written_while_nothing_changes", name)

    def teardown(self) -> None:
        if not hasattr(self, "simulation"):
            return
        try:
            converge(self.simulation)
        finally:
            self.simulation.close()


def converge(simulation: Simulation) -> None:
    """Check that every device becomes up to date, and that nothing is written after that.

    For this it needs a good template, living devices, approvals and time.
    """
    simulation.hold_view(held=False)
    simulation.cut_watches()
    simulation.judge(GatewayState.JUDGING)
    simulation.die_at_write(10**6, applied=False)
    simulation.fail_writes(0, applied=False)
    simulation.edit("tel", selector={"matchLabels": {"role": "leaf"}})
    for name in EACH:
        rolling = simulation.stored.deployment(name).policy.update_strategy.rolling_update
        empty = {key: [encode(each) | {"allowEmpty": True} for each in getattr(rolling, key)] for key in _MAY_BE_EMPTY}
        simulation.edit(name, updateStrategy={"rollingUpdate": empty | {"maxUnavailable": 2}})
        if simulation.stored.deployment(name).strategy == "OnDelete":
            simulation.edit(name, updateStrategy={"type": "RollingUpdate"})
        simulation.edit(name, paused=False, progressDeadlineSeconds=600, requirements=[])
        simulation.override(name, "v8" if simulation.stored.deployment(name).template.overrides else None)
        simulation.roll_out(name, "v9")
    simulation.approve("tel", "w1")
    for name, each in simulation.devices.items():
        each.broken = each.held = False
        simulation.maintain(name, on=False)
        simulation.revive(name)
    for _ in range(6 * len(simulation.devices) + 12):
        if simulation.settled():
            break
        simulation.run(1, 60)
        for name in EACH:
            simulation.approve_removal(name)
            if "failedRevision" in simulation.stored.status(
                name
            ):  # the other one's version killed devices, and this one was blamed
                simulation.restart(name)
                simulation.approve(name, "w1")
        for name, each in simulation.devices.items():
            if not each.alive:  # it met the version that kills devices before the good one reached it
                simulation.revive(name)
                simulation.settle(2)  # the controller may check a moment later
    if not simulation.settled():
        raise InvariantViolation(
            "every_fair_run_converges", str([simulation.stored.status(name).get("reasons") for name in EACH])
        )
    writes = simulation.checker.writes
    simulation.settle(300)
    if simulation.checker.writes != writes:
        raise InvariantViolation("a_converged_fleet_is_left_alone", f"{simulation.checker.writes - writes} writes")


def replay(trace: Trace, *, ends: bool = True) -> tuple[str, ...]:
    """Replay *trace* and return the names of the invariants that it violates, the first one first.

    *ends*: let the fleet converge after it, as a search does.
    """
    random.seed(0)  # as Hypothesis does: delays have jitter
    machine = RolloutMachine()
    try:
        try:
            for name, given in trace:
                getattr(machine, name)(**given)
        except BaseException:
            machine.simulation.close()
            raise
        machine.teardown() if ends else machine.simulation.close()
    except InvariantViolation as e:
        return tuple(e.names)
    except Exception as e:
        return (type(e).__name__,)
    return ()

"""Every promise bites: a controller with one fault breaks it, the real one keeps it, in the very same story.

Each fault is one line of a module, compiled from its text; no luck plays a part.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import structlog
from attrs import frozen

from controller_simulation.invariants import PROMISES, Broken
from controller_simulation.world import Simulation
from praetor_api.kube.client.resource import NETWORK_SWITCHES
from praetor_controller.reconcile import reconciler as real

SOURCES = Path(real.__file__).parents[1]
PLACES = {path.stem: path for folder in ("model", "rollout", "reconcile") for path in (SOURCES / folder).glob("*.py")}
REACHED = set(PLACES) - {"__init__"}
WAVES = [
    {"name": "w0", "selector": {"matchLabels": {"ring": "0"}}},
    {"name": "w1", "selector": {"matchLabels": {"ring": "1"}}, "approval": "Manual"},
]
RACKS = [{"groupBy": ["rack"], "maxUnavailable": 1}]


def imports(module: str) -> set[str]:
    text = PLACES[module].read_text()
    return set(re.findall(r"^from praetor_controller\.(?:model|rollout|reconcile)\.(\w+) import", text, re.MULTILINE))


def faulty(module: str, old: str, new: str) -> ModuleType:
    """Return the reconciler's module as it would be if *old* were *new* in *module*, and all between as they are."""
    affected = {module}
    while more := {each for each in REACHED - affected if imports(each) & affected}:
        affected |= more
    prefix = f"faulty_{module}_{abs(hash((old, new)))}_"
    made: dict[str, ModuleType] = {}

    def load(name: str) -> ModuleType:
        if name in made:
            return made[name]
        for needed in imports(name) & affected:
            load(needed)
        text = PLACES[name].read_text()
        if name == module:
            assert text.count(old) == 1, f"{module}.py changed: name the fault anew"
            text = text.replace(old, new)
        text = re.sub(
            r"^from praetor_controller\.(?:model|rollout|reconcile)\.(\w+) import",
            lambda found: f"from {prefix}{found[1]} import" if found[1] in affected else found[0],
            text,
            flags=re.MULTILINE,
        )
        made[name] = sys.modules[prefix + name] = ModuleType(prefix + name)
        exec(compile(text, f"<faulty {name}>", "exec"), made[name].__dict__)  # noqa: S102  # our own text
        return made[name]

    return load("reconciler")


def rolling(limit: int, **fields: object) -> dict[str, object]:
    return {"rollingUpdate": {"maxUnavailable": limit} | fields}


def four(world: Simulation, limit: int = 1, *names: str, **fields: object) -> None:
    """Four devices, each in a ring and a rack with the next one, that run v1."""
    for number, name in enumerate("abcd"):
        world.add(name, ring=str(number // 2), rack=str(number // 2))
    for name in names or ("tel",):
        world.deploy(name, "v1", updateStrategy=rolling(limit, **fields))
    world.run(4)


def a_new_version(world: Simulation) -> None:
    four(world)
    world.roll_out("tel", "v2")
    world.run(2)


def a_version_that_kills(world: Simulation) -> None:
    four(world)
    world.roll_out("tel", "killer")
    world.run(2)


def a_rack_of_two(world: Simulation) -> None:
    four(world, 4, budgets=RACKS)
    world.roll_out("tel", "v2")


def two_deployments_in_a_rack(world: Simulation) -> None:
    four(world, 4, "tel", "ctl", budgets=RACKS)
    world.roll_out("ctl", "v2")
    world.report("a")  # b is next
    world.roll_out("tel", "v2")


def a_rack_that_only_the_other_deployment_knows(world: Simulation) -> None:
    four(world, 4, "tel", budgets=RACKS)
    world.deploy("ctl", "v1", updateStrategy=rolling(4))
    world.run(4)
    world.roll_out("ctl", "v2")


def a_device_that_is_down_in_a_crowded_rack(world: Simulation) -> None:
    four(world, 4, "tel", "ctl", budgets=RACKS)
    world.roll_out("ctl", "v2")  # takes a and c
    world.maintain("a", on=True)
    world.label("c", rack="0")
    world.maintain("a", on=False)
    world.roll_out("tel", "v2")


def a_pause(world: Simulation) -> None:
    four(world)
    world.edit("tel", paused=True)
    world.roll_out("tel", "v2")


def a_device_in_maintenance(world: Simulation) -> None:
    four(world)
    world.maintain("a", on=True)
    world.roll_out("tel", "v2")


def a_device_in_maintenance_that_nobody_could_see(world: Simulation) -> None:
    four(world)
    world.lose_sight(NETWORK_SWITCHES)
    world.maintain("a", on=True)
    world.roll_out("tel", "v2")
    world.lose_sight()
    if "v2" not in world.versions("tel").values():
        raise Broken("every_fair_run_converges", str(world.versions("tel")))


def a_device_that_holds_updates(world: Simulation) -> None:
    four(world)
    world.devices["a"].held = True
    world.run(1)
    world.roll_out("tel", "v2")


def a_device_that_is_offline(world: Simulation) -> None:
    four(world)
    world.die("a")
    world.notice()
    world.rest(60)
    world.roll_out("tel", "v2")


def waves(world: Simulation) -> None:
    four(world, 4, waves=WAVES)
    world.approve("tel", "w1")
    world.run(3)
    world.roll_out("tel", "v2")
    world.approve("tel", "w1")


def a_wave_to_approve(world: Simulation) -> None:
    waves(world)
    world.run(4)
    world.roll_out("tel", "v3")
    world.run(4)


def a_device_that_comes_in_between(world: Simulation) -> None:
    waves(world)
    world.add("e", ring="1")


def waves_that_soak(world: Simulation) -> None:
    four(world, 4, waves=[WAVES[0] | {"soakSeconds": 60}])
    world.run(3, 60)
    world.roll_out("tel", "v2")
    world.run(4)


def a_wave_with_a_limit(world: Simulation) -> None:
    four(world, 4, waves=[{"name": "few", "limit": "50%"}])
    world.run(3)
    world.roll_out("tel", "v2")


def a_wave_that_was_passed(world: Simulation) -> None:
    four(world, 1, waves=WAVES)
    world.approve("tel", "w1")
    world.run(6)
    for name, ring in {"c": "2", "d": "2", "e": "2"}.items():
        world.label(name, ring=ring) if name in world.devices else world.add(name, ring=ring)
    world.roll_out("tel", "v2")
    world.run(3)
    world.label("e", ring="1")
    world.run(3)


def waves_after_everybody_at_once(world: Simulation) -> None:
    waves(world)
    world.run(4)
    world.roll_out("tel", "v3")
    world.edit("tel", updateStrategy={"type": "Recreate"})
    world.edit("tel", updateStrategy={"type": "RollingUpdate"})
    world.delete_process("tel", "d")


def on_delete(world: Simulation) -> None:
    four(world)
    world.edit("tel", updateStrategy={"type": "OnDelete"})
    world.roll_out("tel", "v2")
    world.delete_process("tel", "a")
    world.run(2)
    if world.versions("tel") != {"a": "v2", "b": "v1", "c": "v1", "d": "v1"}:
        raise Broken("what_is_deleted_comes_back_new", str(world.versions("tel")))


def recreate(world: Simulation) -> None:
    four(world)
    world.maintain("a", on=True)
    world.edit("tel", updateStrategy={"type": "Recreate"})
    world.roll_out("tel", "v2")
    if world.versions("tel") != {"a": "v1", "b": "v2", "c": "v2", "d": "v2"}:
        raise Broken("recreate_takes_everybody_at_once", str(world.versions("tel")))


def a_restart(world: Simulation) -> None:
    four(world)
    before = {row.device: row.spec_hash for row in world.stored.processes("tel")}
    world.restart("tel")
    world.run(4)
    after = {row.device: row.spec_hash for row in world.stored.processes("tel")}
    if set(world.versions("tel").values()) != {"v1"} or any(after[each] == before[each] for each in "abcd"):
        raise Broken("a_restart_reaches_everybody", str(world.versions("tel")))


def a_share_of_the_fleet(world: Simulation) -> None:
    four(world, 4)
    world.edit("tel", updateStrategy=rolling(0) | {"rollingUpdate": {"maxUnavailable": "50%"}})
    world.roll_out("tel", "v2")


def failures(world: Simulation) -> None:
    four(world, 2)
    world.edit("tel", failurePolicy={"maxFailures": 1, "action": "Pause"})
    world.roll_out("tel", "bad")
    world.run(2)
    world.delete_process("tel", "d")
    world.maintain("a", on=True)
    world.maintain("b", on=True)
    world.run(2)


def a_busy_fleet(world: Simulation) -> None:
    four(world)
    for number in range(5):
        world.add(f"new-{number}")


def nothing(world: Simulation) -> None:
    four(world)
    world.rest(5)
    told = dict(world.status_writes)
    world.poke("tel")
    world.rest(5)
    if dict(world.status_writes) != told:
        raise Broken("nothing_is_written_while_nothing_changes", str(world.status_writes))


def a_place_that_time_frees(world: Simulation) -> None:
    four(world, 4, "tel", "ctl", budgets=RACKS)
    world.edit("tel", minReadySeconds=30)
    world.rest(40)
    world.roll_out("tel", "v2")
    world.edit("tel", paused=True)
    world.roll_out("ctl", "v2")
    world.report("a", "c")
    world.rest(60)
    if world.versions("ctl") != {"a": "v2", "b": "v2", "c": "v2", "d": "v2"}:
        raise Broken("every_fair_run_converges", str(world.versions("ctl")))


@frozen
class Fault:
    """In *module*, *old* became *new*; *story* shows that *promise* is broken by it."""

    promise: str
    module: str
    old: str
    new: str
    story: Callable[[Simulation], None]


FAULTS = [
    Fault("max_unavailable_holds", "planner", "room = self.pairing.devices, self.limit - self.spent",
          "room = self.pairing.devices, 9", a_new_version),
    Fault("max_unavailable_holds", "availability", "return Standing.SILENT_AFTER_OFFER",
          "return Standing.OFFLINE_BEFORE_OFFER", a_version_that_kills),
    Fault("every_budget_holds", "budgets", "if with_it > self._limit(domain)", "if False", a_rack_of_two),
    Fault("every_budget_holds", "snapshot_builder", "down_elsewhere=elsewhere.down,", "down_elsewhere=(),",
          two_deployments_in_a_rack),
    Fault("every_budget_holds", "snapshot_builder", "shared_budgets=shared,", "shared_budgets=(),",
          a_rack_that_only_the_other_deployment_knows),
    Fault("every_budget_holds", "budgets", "if with_it > self._limit(domain)",
          "if with_it > self._limit(domain) and device.name not in down", a_device_that_is_down_in_a_crowded_rack),
    Fault("one_process_for_each_device", "planner", "if process is None or stands is None:",
          "if process is None or stands is None or process.spec_hash not in self.hashes:", a_new_version),
    Fault("paused_means_no_writes", "planner", "self.frozen = deployment.policy.paused", "self.frozen = False",
          a_pause),
    Fault("on_delete_waits_for_the_deletion", "planner",
          "self.on_delete = deployment.strategy is StrategyType.ON_DELETE", "self.on_delete = False", on_delete),
    Fault("recreate_takes_everybody_at_once", "planner",
          "self.rolling = deployment.strategy is StrategyType.ROLLING_UPDATE", "self.rolling = True", recreate),
    Fault("a_restart_reaches_everybody", "manifests", "return {**template.spec, ",
          "return {**{k: v for k, v in template.spec.items() if k != 'restartedAt'}, ", a_restart),
    Fault("max_unavailable_holds", "amounts", "math.ceil(devices * int(percent) / 100)", "int(percent)",
          a_share_of_the_fleet),
    Fault("maintenance_is_respected", "planner", "if device.in_maintenance and device.maintained(self.at):",
          "if False:", a_device_in_maintenance),
    Fault("maintenance_is_respected", "cache", "return bool(behind)", "return False",
          a_device_in_maintenance_that_nobody_could_see),
    Fault("held_devices_are_deferred", "planner",
          "closed = Reason(ReasonCode.UPDATE_HELD, process.held) if process.held else self._closed(number)",
          "closed = self._closed(number)", a_device_that_holds_updates),
    Fault("offline_devices_are_deferred", "availability", "    if connected:\n", "    if True:\n",
          a_device_that_is_offline),
    Fault("untested_revisions_wait_for_their_wave", "waves",
          "if self.devices and threshold else 0", "if not self.devices else 0", waves),
    Fault("untested_revisions_wait_for_their_wave", "planner", "if closed is None or current is None else",
          "if True else", a_device_that_comes_in_between),
    Fault("untested_revisions_wait_for_their_wave", "manifests", "if action.spec and process.wave and not action.wave:",
          "if False:", waves_after_everybody_at_once),
    Fault("waves_soak", "waves", "ends_at = reached_at + group.wave.soak_seconds if group.devices else 0.0",
          "ends_at = reached_at", waves_that_soak),
    Fault("waves_keep_their_limit", "waves", "room -= 1", "room -= 0", a_wave_with_a_limit),
    Fault("approvals_are_asked_for", "planner", "return stage.passed.get(stage.place[number])", "return None",
          a_wave_that_was_passed),
    Fault("approvals_are_asked_for", "waves", "return None if wanted in deployment.approved else",
          "return None if wanted else", a_wave_to_approve),
    Fault("a_stopped_revision_is_offered_to_nobody", "failure_policy",
          "if len(failed) <= limit:", "if True:", failures),
    Fault("a_stopped_revision_is_offered_to_nobody", "failure_policy",
          "if status.failed_revision != deployment.template.revision:", "if True:", failures),
    Fault("every_device_has_one_reason", "planner", 'map(attrgetter("code"), self.reasons)',
          'map(attrgetter("code"), self.reasons[1:])', a_new_version),
    Fault("no_reconcile_crashes", "reconciler",
          '_log.debug("status written", fields=sorted(patch))', "raise ValueError", a_new_version),
    Fault("status_is_written_once_a_second", "reconciler", "if now < memory.status_due_at:", "if False:", a_busy_fleet),
    Fault("nothing_is_written_while_nothing_changes", "status_patch", "if stored.get(name) != value", "if True",
          nothing),
    Fault("every_fair_run_converges", "neighbours", "changes_at = min(changes_at, until)", "pass",
          a_place_that_time_frees),
]  # fmt: skip
NAMES = [f"{each.promise}-{each.module}-{number}" for number, each in enumerate(FAULTS)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


def tell(fault: Fault, program: ModuleType) -> None:
    world = Simulation(program)
    try:
        fault.story(world)
    finally:
        world.close()


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_the_fault_is_found_out_and_the_real_controller_has_it_not(fault: Fault) -> None:
    tell(fault, real)
    with pytest.raises(Broken) as caught:
        tell(fault, faulty(fault.module, fault.old, fault.new))
    assert caught.value.promise == fault.promise


def test_every_promise_is_shown_to_bite() -> None:
    assert {promise.__name__ for promise in PROMISES} <= {fault.promise for fault in FAULTS}

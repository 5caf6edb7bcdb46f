"""Rollouts of the real controller on a simulated cluster, which checks every invariant at every write."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from controller_simulation.world import Simulation
from praetor_api.kube.client.resource import NETWORK_SWITCHES

WAVES = [
    {"name": "w0", "selector": {"matchLabels": {"ring": "0"}}},
    {"name": "w1", "selector": {"matchLabels": {"ring": "1"}}, "approval": "Manual"},
]
RACKS = [{"groupBy": ["rack"], "maxUnavailable": 1}]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def world() -> Iterator[Simulation]:
    made = Simulation()
    yield made
    made.close()


def rolling(limit: int, **fields: object) -> dict[str, object]:
    return {"rollingUpdate": {"maxUnavailable": limit} | fields}


def deploy_four(world: Simulation, limit: int = 1, *names: str, **fields: object) -> None:
    """Add four devices, two in each ring and rack, that run v1 of the deployments *names* (`tel` by default)."""
    for number, name in enumerate("abcd"):
        world.add(name, ring=str(number // 2), rack=str(number // 2))
    for name in names or ("tel",):
        world.deploy(name, "v1", updateStrategy=rolling(limit, **fields))
    world.run(4)


def roll_out_in_waves(world: Simulation) -> None:
    """Roll v2 out to four devices in two waves, of which the second is approved."""
    deploy_four(world, 4, waves=WAVES)
    world.approve("tel", "w1")
    world.run(3)
    world.roll_out("tel", "v2")
    world.approve("tel", "w1")


def test_a_wave_waits_for_the_wave_before_it(world: Simulation) -> None:
    roll_out_in_waves(world)


def test_a_new_version_keeps_to_max_unavailable(world: Simulation) -> None:
    deploy_four(world)
    world.roll_out("tel", "v2")
    world.run(2)


def test_devices_that_a_version_kills_count_as_unavailable(world: Simulation) -> None:
    deploy_four(world)
    world.roll_out("tel", "killer")
    world.run(2)


def test_a_rack_budget_limits_a_rollout(world: Simulation) -> None:
    deploy_four(world, 4, budgets=RACKS)
    world.roll_out("tel", "v2")


def test_two_deployments_share_a_rack_budget(world: Simulation) -> None:
    deploy_four(world, 4, "tel", "ctl", budgets=RACKS)
    world.roll_out("ctl", "v2")
    world.report("a")  # b is next
    world.roll_out("tel", "v2")


def test_the_budget_of_another_deployment_binds(world: Simulation) -> None:
    deploy_four(world, 4, "tel", budgets=RACKS)
    world.deploy("ctl", "v1", updateStrategy=rolling(4))
    world.run(4)
    world.roll_out("ctl", "v2")


def test_a_device_that_is_down_already_needs_room_in_its_rack(world: Simulation) -> None:
    deploy_four(world, 4, "tel", "ctl", budgets=RACKS)
    world.roll_out("ctl", "v2")  # updates a and c
    world.maintain("a", on=True)
    world.label("c", rack="0")
    world.maintain("a", on=False)
    world.roll_out("tel", "v2")


def test_a_paused_deployment_writes_no_process(world: Simulation) -> None:
    deploy_four(world)
    world.edit("tel", paused=True)
    world.roll_out("tel", "v2")


def test_a_device_in_maintenance_is_left_alone(world: Simulation) -> None:
    deploy_four(world)
    world.maintain("a", on=True)
    world.roll_out("tel", "v2")


def test_a_device_in_maintenance_is_left_alone_when_the_watch_was_interrupted(world: Simulation) -> None:
    deploy_four(world)
    world.lose_sight(NETWORK_SWITCHES)
    world.maintain("a", on=True)
    world.roll_out("tel", "v2")
    world.lose_sight()
    assert "v2" in world.versions("tel").values()


def test_a_device_that_holds_updates_is_deferred(world: Simulation) -> None:
    deploy_four(world)
    world.devices["a"].held = True
    world.run(1)
    world.roll_out("tel", "v2")


def test_an_offline_device_is_deferred(world: Simulation) -> None:
    deploy_four(world)
    world.die("a")
    world.notice()
    world.rest(60)
    world.roll_out("tel", "v2")


def test_a_manual_wave_waits_for_approval_of_each_revision(world: Simulation) -> None:
    roll_out_in_waves(world)
    world.run(4)
    world.roll_out("tel", "v3")
    world.run(4)


def test_a_new_device_of_a_closed_wave_gets_the_current_revision(world: Simulation) -> None:
    roll_out_in_waves(world)
    world.add("e", ring="1")


def test_a_wave_soaks_before_the_next_one_opens(world: Simulation) -> None:
    deploy_four(world, 4, waves=[WAVES[0] | {"soakSeconds": 60}])
    world.run(3, 60)
    world.roll_out("tel", "v2")
    world.run(4)


def test_a_wave_keeps_its_limit(world: Simulation) -> None:
    deploy_four(world, 4, waves=[{"name": "few", "limit": "50%"}])
    world.run(3)
    world.roll_out("tel", "v2")


def test_a_device_that_joins_an_empty_wave_waits_for_its_approval(world: Simulation) -> None:
    deploy_four(world, 1, waves=WAVES)
    world.approve("tel", "w1")
    world.run(6)
    for name, ring in {"c": "2", "d": "2", "e": "2"}.items():
        world.label(name, ring=ring) if name in world.devices else world.add(name, ring=ring)
    world.roll_out("tel", "v2")
    world.run(3)
    world.label("e", ring="1")
    world.run(3)


def test_a_recreate_rollout_opens_no_wave_of_a_later_rolling_update(world: Simulation) -> None:
    roll_out_in_waves(world)
    world.run(4)
    world.roll_out("tel", "v3")
    world.edit("tel", updateStrategy={"type": "Recreate"})
    world.edit("tel", updateStrategy={"type": "RollingUpdate"})
    world.delete_process("tel", "d")


def test_on_delete_updates_a_process_only_after_it_was_deleted(world: Simulation) -> None:
    deploy_four(world)
    world.edit("tel", updateStrategy={"type": "OnDelete"})
    world.roll_out("tel", "v2")
    world.delete_process("tel", "a")
    world.run(2)
    assert world.versions("tel") == {"a": "v2", "b": "v1", "c": "v1", "d": "v1"}


def test_recreate_updates_all_devices_at_once(world: Simulation) -> None:
    deploy_four(world)
    world.maintain("a", on=True)
    world.edit("tel", updateStrategy={"type": "Recreate"})
    world.roll_out("tel", "v2")
    assert world.versions("tel") == {"a": "v1", "b": "v2", "c": "v2", "d": "v2"}


def test_a_restart_reaches_every_device(world: Simulation) -> None:
    deploy_four(world)
    before = {row.device: row.spec_hash for row in world.stored.processes("tel")}
    world.restart("tel")
    world.run(4)
    after = {row.device: row.spec_hash for row in world.stored.processes("tel")}
    assert set(world.versions("tel").values()) == {"v1"}
    assert all(after[each] != before[each] for each in "abcd")


def test_a_percentage_limits_unavailable_devices(world: Simulation) -> None:
    deploy_four(world, 4)
    world.edit("tel", updateStrategy=rolling(0) | {"rollingUpdate": {"maxUnavailable": "50%"}})
    world.roll_out("tel", "v2")


def test_a_stopped_revision_is_offered_to_no_further_device(world: Simulation) -> None:
    deploy_four(world, 2)
    world.edit("tel", failurePolicy={"maxFailures": 1, "action": "Pause"})
    world.roll_out("tel", "bad")
    world.run(2)
    world.delete_process("tel", "d")
    world.maintain("a", on=True)
    world.maintain("b", on=True)
    world.run(2)


def test_status_is_written_at_most_once_a_second(world: Simulation) -> None:
    deploy_four(world)
    for number in range(5):
        world.add(f"new-{number}")


def test_nothing_is_written_when_nothing_changed(world: Simulation) -> None:
    deploy_four(world)
    world.rest(5)
    written = dict(world.status_writes)
    world.poke("tel")
    world.rest(5)
    assert dict(world.status_writes) == written


def test_a_rollout_continues_when_time_frees_a_place_in_the_budget(world: Simulation) -> None:
    deploy_four(world, 4, "tel", "ctl", budgets=RACKS)
    world.edit("tel", minReadySeconds=30)
    world.rest(40)
    world.roll_out("tel", "v2")
    world.edit("tel", paused=True)
    world.roll_out("ctl", "v2")
    world.report("a", "c")
    world.rest(60)
    assert world.versions("ctl") == {"a": "v2", "b": "v2", "c": "v2", "d": "v2"}

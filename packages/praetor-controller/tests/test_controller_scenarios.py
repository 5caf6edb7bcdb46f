# SPDX-License-Identifier: Apache-2.0
"""Rollouts of the real controller on a simulated cluster, which checks every invariant at every write."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from controller_simulation.simulation import Simulation
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
def simulation() -> Iterator[Simulation]:
    made = Simulation()
    yield made
    made.close()


def rolling(limit: int, **fields: object) -> dict[str, object]:
    return {"rollingUpdate": {"maxUnavailable": limit} | fields}


def deploy_four(simulation: Simulation, limit: int = 1, *names: str, **fields: object) -> None:
    """Add four devices, two in each ring and rack, that run v1 of the deployments *names* (`tel` by default)."""
    for number, name in enumerate("abcd"):
        simulation.add(name, ring=str(number // 2), rack=str(number // 2))
    for name in names or ("tel",):
        simulation.deploy(name, "v1", updateStrategy=rolling(limit, **fields))
    simulation.run(4)


def roll_out_in_waves(simulation: Simulation) -> None:
    """Roll v2 out to four devices in two waves, of which the second is approved."""
    deploy_four(simulation, 4, waves=WAVES)
    simulation.approve("tel", "w1")
    simulation.run(3)
    simulation.roll_out("tel", "v2")
    simulation.approve("tel", "w1")


def test_a_wave_waits_for_the_wave_before_it(simulation: Simulation) -> None:
    roll_out_in_waves(simulation)


def test_a_new_version_keeps_to_max_unavailable(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.roll_out("tel", "v2")
    simulation.run(2)


def test_devices_that_a_version_kills_count_as_unavailable(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.roll_out("tel", "killer")
    simulation.run(2)


def test_a_rack_budget_limits_a_rollout(simulation: Simulation) -> None:
    deploy_four(simulation, 4, budgets=RACKS)
    simulation.roll_out("tel", "v2")


def test_two_deployments_share_a_rack_budget(simulation: Simulation) -> None:
    deploy_four(simulation, 4, "tel", "ctl", budgets=RACKS)
    simulation.roll_out("ctl", "v2")
    simulation.report("a")  # b is next
    simulation.roll_out("tel", "v2")


def test_the_budget_of_another_deployment_binds(simulation: Simulation) -> None:
    deploy_four(simulation, 4, "tel", budgets=RACKS)
    simulation.deploy("ctl", "v1", updateStrategy=rolling(4))
    simulation.run(4)
    simulation.roll_out("ctl", "v2")


def test_a_device_that_is_down_already_needs_room_in_its_rack(simulation: Simulation) -> None:
    deploy_four(simulation, 4, "tel", "ctl", budgets=RACKS)
    simulation.roll_out("ctl", "v2")  # updates a and c
    simulation.maintain("a", on=True)
    simulation.label("c", rack="0")
    simulation.maintain("a", on=False)
    simulation.roll_out("tel", "v2")


def test_a_paused_deployment_writes_no_process(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.edit("tel", paused=True)
    simulation.roll_out("tel", "v2")


def test_a_device_in_maintenance_is_left_alone(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.maintain("a", on=True)
    simulation.roll_out("tel", "v2")


def test_a_device_in_maintenance_is_left_alone_when_the_watch_was_interrupted(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.cut_watches(NETWORK_SWITCHES)
    simulation.maintain("a", on=True)
    simulation.roll_out("tel", "v2")
    simulation.cut_watches()
    assert "v2" in simulation.stored.versions("tel").values()


def test_a_device_that_holds_updates_is_deferred(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.devices["a"].held = True
    simulation.run(1)
    simulation.roll_out("tel", "v2")


def test_an_offline_device_is_deferred(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.die("a")
    simulation.detect_failures()
    simulation.settle(60)
    simulation.roll_out("tel", "v2")


def test_a_manual_wave_waits_for_approval_of_each_revision(simulation: Simulation) -> None:
    roll_out_in_waves(simulation)
    simulation.run(4)
    simulation.roll_out("tel", "v3")
    simulation.run(4)


def test_a_new_device_of_a_closed_wave_gets_the_current_revision(simulation: Simulation) -> None:
    roll_out_in_waves(simulation)
    simulation.add("e", ring="1")


def test_a_wave_soaks_before_the_next_one_opens(simulation: Simulation) -> None:
    deploy_four(simulation, 4, waves=[WAVES[0] | {"soakSeconds": 60}])
    simulation.run(3, 60)
    simulation.roll_out("tel", "v2")
    simulation.run(4)


def test_a_wave_keeps_its_limit(simulation: Simulation) -> None:
    deploy_four(simulation, 4, waves=[{"name": "few", "limit": "50%"}])
    simulation.run(3)
    simulation.roll_out("tel", "v2")


def test_a_device_that_joins_an_empty_wave_waits_for_its_approval(simulation: Simulation) -> None:
    deploy_four(simulation, 1, waves=WAVES)
    simulation.approve("tel", "w1")
    simulation.run(6)
    for name, ring in {"c": "2", "d": "2", "e": "2"}.items():
        simulation.label(name, ring=ring) if name in simulation.devices else simulation.add(name, ring=ring)
    simulation.roll_out("tel", "v2")
    simulation.run(3)
    simulation.label("e", ring="1")
    simulation.run(3)


def test_a_recreate_rollout_opens_no_wave_of_a_later_rolling_update(simulation: Simulation) -> None:
    roll_out_in_waves(simulation)
    simulation.run(4)
    simulation.roll_out("tel", "v3")
    simulation.edit("tel", updateStrategy={"type": "Recreate"})
    simulation.edit("tel", updateStrategy={"type": "RollingUpdate"})
    simulation.delete_process("tel", "d")


def test_on_delete_updates_a_process_only_after_it_was_deleted(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.edit("tel", updateStrategy={"type": "OnDelete"})
    simulation.roll_out("tel", "v2")
    simulation.delete_process("tel", "a")
    simulation.run(2)
    assert simulation.stored.versions("tel") == {"a": "v2", "b": "v1", "c": "v1", "d": "v1"}


def test_recreate_updates_all_devices_at_once(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.maintain("a", on=True)
    simulation.edit("tel", updateStrategy={"type": "Recreate"})
    simulation.roll_out("tel", "v2")
    assert simulation.stored.versions("tel") == {"a": "v1", "b": "v2", "c": "v2", "d": "v2"}


def test_a_restart_reaches_every_device(simulation: Simulation) -> None:
    deploy_four(simulation)
    before = {row.device: row.spec_hash for row in simulation.stored.processes("tel")}
    simulation.restart("tel")
    simulation.run(4)
    after = {row.device: row.spec_hash for row in simulation.stored.processes("tel")}
    assert set(simulation.stored.versions("tel").values()) == {"v1"}
    assert all(after[each] != before[each] for each in "abcd")


def test_a_percentage_limits_unavailable_devices(simulation: Simulation) -> None:
    deploy_four(simulation, 4)
    simulation.edit("tel", updateStrategy=rolling(0) | {"rollingUpdate": {"maxUnavailable": "50%"}})
    simulation.roll_out("tel", "v2")


def test_a_stopped_revision_is_offered_to_no_further_device(simulation: Simulation) -> None:
    deploy_four(simulation, 2)
    simulation.edit("tel", failurePolicy={"maxFailures": 1, "action": "Pause"})
    simulation.roll_out("tel", "bad")
    simulation.run(2)
    simulation.delete_process("tel", "d")
    simulation.maintain("a", on=True)
    simulation.maintain("b", on=True)
    simulation.run(2)


def test_status_is_written_at_most_once_a_second(simulation: Simulation) -> None:
    deploy_four(simulation)
    for number in range(5):
        simulation.add(f"new-{number}")


def test_nothing_is_written_when_nothing_changed(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.settle(5)
    written = dict(simulation.checker.status_writes)
    simulation.poke("tel")
    simulation.settle(5)
    assert dict(simulation.checker.status_writes) == written


def test_a_rollout_continues_when_time_frees_a_place_in_the_budget(simulation: Simulation) -> None:
    deploy_four(simulation, 4, "tel", "ctl", budgets=RACKS)
    simulation.edit("tel", minReadySeconds=30)
    simulation.settle(40)
    simulation.roll_out("tel", "v2")
    simulation.edit("tel", paused=True)
    simulation.roll_out("ctl", "v2")
    simulation.report("a", "c")
    simulation.settle(60)
    assert simulation.stored.versions("ctl") == {"a": "v2", "b": "v2", "c": "v2", "d": "v2"}


def test_an_update_begins_as_soon_as_the_status_says_that_removals_are_held(simulation: Simulation) -> None:
    deploy_four(simulation)
    simulation.cut_watches(NETWORK_SWITCHES)
    for name in "ab":
        simulation.remove(name)
    simulation.edit("tel", updateStrategy={"type": "Recreate"}, paused=True)
    simulation.roll_out("tel", "v2")
    simulation.edit("tel", paused=False)
    simulation.kill()
    simulation.start()
    simulation.settle(1)
    assert simulation.stored.versions("tel") == {"a": "v1", "b": "v1", "c": "v2", "d": "v2"}

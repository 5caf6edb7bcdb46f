# SPDX-License-Identifier: Apache-2.0
"""A rollout that users steer while it runs: each step matches `praetorctl plan` and stays within the budgets."""

from __future__ import annotations

from e2e.rollouts.plan_check import manifest
from e2e.stack.kube import conditions
from e2e.stack.waiting import eventually, steadily
from e2e.suite.rollout_fixture import BULK, BULK_SIZE, CANARIES, LAST, RolloutFixture

SLOWLY = {"minReadySeconds": 1}  # so that the commands come in time


def test_a_wave_waits_for_its_approval_and_then_goes_on(rollout: RolloutFixture) -> None:
    rollout.start()
    with rollout.roll_out("2", CANARIES, LAST):
        rollout.await_reasons(UpToDate=4, AwaitingApproval=8)
    assert {device for device, each in rollout.runs().items() if each == "2"} == rollout.having(ring="canary")
    with rollout.present(approved=True) as approved:
        rollout.command("approve")
        rollout.await_done()
    assert {write.device for write in approved.timeline.writes} == rollout.having(ring="other")
    assert rollout.runs() == dict.fromkeys(rollout.devices, "2")
    assert rollout.check().writes[-1].wave == "last"


def test_a_paused_rollout_writes_nothing_until_it_is_resumed(rollout: RolloutFixture) -> None:
    rollout.start(**SLOWLY)
    with rollout.roll_out("2", BULK, LAST, stopped=True):
        eventually(lambda: "2" in rollout.target_revisions().values(), what="the rollout began")
        rollout.command("pause")
        rollout.await_observed()
    reached = {device for device, each in rollout.target_revisions().items() if each == "2"}
    rollout.command("approve")
    eventually(lambda: set(rollout.runs()) == set(rollout.devices), what="what was written before is ready")
    rollout.await_reasons(UpToDate=len(reached), Paused=len(rollout.devices) - len(reached))
    with rollout.present(approved=True) as paused:
        steadily(lambda: list(rollout.runs().values()).count("2"), len(reached).__eq__, what="it is paused", for_s=1)
    assert paused.timeline.writes == []
    assert conditions(rollout.kube.deployment(rollout.name))["Paused"]["status"] == "True"
    with rollout.change(paused=None, approved=True) as resumed:
        rollout.await_done()
    assert {write.device for write in resumed.timeline.writes} == set(rollout.devices) - reached
    rollout.check()


def test_an_edit_during_a_rollout_replaces_the_version_before(rollout: RolloutFixture) -> None:
    rollout.start(**SLOWLY)
    with rollout.roll_out("2", BULK, LAST, stopped=True):
        eventually(lambda: "2" in rollout.target_revisions().values(), what="the rollout began")
    with rollout.roll_out("3", BULK, LAST):
        rollout.await_reasons(UpToDate=8, AwaitingApproval=4)
    with rollout.present(approved=True):
        rollout.command("approve")
        rollout.await_done()
    assert rollout.runs() == dict.fromkeys(rollout.devices, "3")
    writes = [write for write in rollout.check().writes if not write.created]
    edited = writes[-1].revision
    abandoned = [write for write in writes if write.revision != edited]
    assert writes[: len(abandoned)] == abandoned
    assert {write.device for write in abandoned} <= set(rollout.devices[:BULK_SIZE])


def test_undo_during_a_rollout_writes_only_the_devices_that_have_left_the_old_template(rollout: RolloutFixture) -> None:
    rollout.start()
    before = rollout.spec()["template"]
    with rollout.roll_out("2", CANARIES, LAST):
        rollout.await_reasons(UpToDate=4, AwaitingApproval=8)
    with rollout.plan_check.compare(manifest(rollout.name, rollout.spec() | {"template": before})) as undone:
        rollout.command("undo")
        rollout.await_done()
    assert {write.device for write in undone.timeline.writes} == rollout.having(ring="canary")
    assert rollout.runs() == dict.fromkeys(rollout.devices, "1")
    rollout.check()


def test_a_restart_is_a_rollout_of_the_same_template(rollout: RolloutFixture) -> None:
    rollout.start()
    before = rollout.spec()["template"]
    metadata = before["metadata"] | {"annotations": {"azure.com/restarted-at": "2026-01-31T12:00:00Z"}}
    restarted = rollout.spec() | {"template": before | {"metadata": metadata}}
    with rollout.plan_check.compare(manifest(rollout.name, restarted)) as change:
        rollout.command("restart")
        rollout.await_done()
    assert {write.device for write in change.timeline.writes} == set(rollout.devices)
    assert rollout.runs() == dict.fromkeys(rollout.devices, "1")
    assert all(item["spec"].get("restartedAt") for item in rollout.processes().values())
    assert rollout.spec()["template"]["spec"] == before["spec"]
    assert rollout.check().worst() >= 1


def test_a_device_that_enters_maintenance_in_a_rollout_is_left_alone_until_it_is_back(rollout: RolloutFixture) -> None:
    rollout.start()
    with rollout.roll_out("2", CANARIES, LAST):
        rollout.await_reasons(UpToDate=4, AwaitingApproval=8)
    serviced = min(rollout.having(seat="1"))
    with rollout.in_maintenance(serviced):
        rollout.await_reasons(UpToDate=4, AwaitingApproval=7, InMaintenance=1)
        with rollout.present(approved=True) as others:
            rollout.command("approve")
            rollout.await_done()
        assert {write.device for write in others.timeline.writes} == rollout.having(ring="other") - {serviced}
        assert rollout.runs()[serviced] == "1"
    eventually(
        lambda: rollout.runs() == dict.fromkeys(rollout.devices, "2"), what="it gets the version once it is back"
    )
    assert rollout.check().writes[-1].device == serviced

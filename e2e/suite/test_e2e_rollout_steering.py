"""A rollout that people steer under way: each turn goes as `praetorctl plan` foretold, and within the budgets."""

from __future__ import annotations

from e2e.rollouts.plan_check import manifest
from e2e.stack.kube import conditions
from e2e.stack.waiting import eventually, steadily
from e2e.suite.rollout_fixture import BULK, BULK_SIZE, CANARIES, LAST, Scene

SLOWLY = {"minReadySeconds": 1}  # so that people come in time


def test_a_wave_waits_for_its_approval_and_then_goes_on(scene: Scene) -> None:
    scene.start()
    with scene.roll_out("2", CANARIES, LAST):
        scene.await_reasons(UpToDate=4, AwaitingApproval=8)
    assert {device for device, each in scene.runs().items() if each == "2"} == scene.having(ring="canary")
    with scene.present(approved=True) as approved:
        scene.rollout("approve")
        scene.await_done()
    assert {offer.device for offer in approved.timeline.offers} == scene.having(ring="other")
    assert scene.runs() == dict.fromkeys(scene.devices, "2")
    assert scene.judge().offers[-1].wave == "last"


def test_a_rollout_that_is_paused_under_way_writes_nothing_until_it_is_resumed(scene: Scene) -> None:
    scene.start(**SLOWLY)
    with scene.roll_out("2", BULK, LAST, stopped=True):
        eventually(lambda: "2" in scene.offered().values(), what="the rollout began")
        scene.rollout("pause")
        scene.await_observed()
    reached = {device for device, each in scene.offered().items() if each == "2"}
    scene.rollout("approve")
    eventually(lambda: set(scene.runs()) == set(scene.devices), what="what was offered before is ready")
    scene.await_reasons(UpToDate=len(reached), Paused=len(scene.devices) - len(reached))
    with scene.present(approved=True) as paused:
        steadily(lambda: list(scene.runs().values()).count("2"), len(reached).__eq__, what="it is paused", for_s=1)
    assert paused.timeline.offers == []
    assert conditions(scene.kube.deployment(scene.name))["Paused"]["status"] == "True"
    with scene.change(paused=None, approved=True) as resumed:
        scene.await_done()
    assert {offer.device for offer in resumed.timeline.offers} == set(scene.devices) - reached
    scene.judge()


def test_an_edit_under_way_takes_the_place_of_the_version_before(scene: Scene) -> None:
    scene.start(**SLOWLY)
    with scene.roll_out("2", BULK, LAST, stopped=True):
        eventually(lambda: "2" in scene.offered().values(), what="the rollout began")
    with scene.roll_out("3", BULK, LAST):
        scene.await_reasons(UpToDate=8, AwaitingApproval=4)
    with scene.present(approved=True):
        scene.rollout("approve")
        scene.await_done()
    assert scene.runs() == dict.fromkeys(scene.devices, "3")
    offers = [offer for offer in scene.judge().offers if not offer.created]
    edited = offers[-1].revision
    abandoned = [offer for offer in offers if offer.revision != edited]
    assert offers[: len(abandoned)] == abandoned
    assert {offer.device for offer in abandoned} <= set(scene.devices[:BULK_SIZE])


def test_undo_under_way_touches_only_the_devices_that_have_left_the_old_template(scene: Scene) -> None:
    scene.start()
    before = scene.spec()["template"]
    with scene.roll_out("2", CANARIES, LAST):
        scene.await_reasons(UpToDate=4, AwaitingApproval=8)
    with scene.foretold.foretell(manifest(scene.name, scene.spec() | {"template": before})) as undone:
        scene.rollout("undo")
        scene.await_done()
    assert {offer.device for offer in undone.timeline.offers} == scene.having(ring="canary")
    assert scene.runs() == dict.fromkeys(scene.devices, "1")
    scene.judge()


def test_a_restart_is_a_rollout_of_the_same_template(scene: Scene) -> None:
    scene.start()
    before = scene.spec()["template"]
    metadata = before["metadata"] | {"annotations": {"azure.com/restarted-at": "2026-01-31T12:00:00Z"}}
    restarted = scene.spec() | {"template": before | {"metadata": metadata}}
    with scene.foretold.foretell(manifest(scene.name, restarted)) as change:
        scene.rollout("restart")
        scene.await_done()
    assert {offer.device for offer in change.timeline.offers} == set(scene.devices)
    assert scene.runs() == dict.fromkeys(scene.devices, "1")
    assert all(item["spec"].get("restartedAt") for item in scene.processes().values())
    assert scene.spec()["template"]["spec"] == before["spec"]
    assert scene.judge().worst() >= 1


def test_a_device_that_goes_into_maintenance_under_way_is_left_alone_until_it_is_back(scene: Scene) -> None:
    scene.start()
    with scene.roll_out("2", CANARIES, LAST):
        scene.await_reasons(UpToDate=4, AwaitingApproval=8)
    serviced = min(scene.having(seat="1"))
    with scene.in_maintenance(serviced):
        scene.await_reasons(UpToDate=4, AwaitingApproval=7, InMaintenance=1)
        with scene.present(approved=True) as others:
            scene.rollout("approve")
            scene.await_done()
        assert {offer.device for offer in others.timeline.offers} == scene.having(ring="other") - {serviced}
        assert scene.runs()[serviced] == "1"
    eventually(lambda: scene.runs() == dict.fromkeys(scene.devices, "2"), what="it gets the version once it is back")
    assert scene.judge().offers[-1].device == serviced

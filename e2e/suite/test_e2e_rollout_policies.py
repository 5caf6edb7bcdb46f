"""What a spec asks for beside waves: other strategies, a way back by itself, and domains that deployments share."""

from __future__ import annotations

from contextlib import ExitStack

from e2e.rollouts.plan_check import manifest
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, Kube, conditions
from e2e.stack.manifests import deployment
from e2e.stack.waiting import eventually
from e2e.suite.fleet import Fleet
from e2e.suite.rollout_fixture import CANARIES, Scene, rolling
from e2e.suite.workloads import shell, sleeping


def test_a_bad_version_is_taken_back_by_itself(scene: Scene) -> None:
    policy = {"maxFailures": 1, "action": "Rollback"}
    scene.start(failurePolicy=policy, updateStrategy=rolling(CANARIES))
    with scene.roll_out("bad", stopped=True) as failed:
        eventually(
            lambda: conditions(scene.kube.deployment(scene.name)).get("RolledBack", {}).get("status") == "True",
            what="the failure policy takes it back",
        )
        scene.await_reasons(UpToDate=len(scene.devices))
    told = scene.kube.deployment(scene.name)
    bad = told["status"]["failedRevision"]
    hit = {offer.device for offer in failed.timeline.offered(bad)}
    assert len(hit) > 1
    assert hit <= scene.having(ring="canary")
    assert "simulated failure" in conditions(told)["RolledBack"]["message"]
    with scene.present() as afterwards:
        scene.await_reasons(UpToDate=len(scene.devices))
    assert afterwards.timeline.offers == []
    assert set(scene.runs().values()) == {"1"}
    assert len(scene.runs()) == len(scene.devices)
    back = [offer.device for offer in scene.judge().offers if not offer.created and offer.revision != bad]
    assert sorted(back) == sorted(hit)


def test_a_first_version_that_keeps_ending_is_stopped_long_before_its_deadline(fleet: Fleet, kube: Kube) -> None:
    first, second = fleet.add(2)
    policy = {"maxFailures": 0, "action": "Pause"}
    kube.apply(deployment("crashing", shell("exit 7"), max_unavailable=1, failurePolicy=policy))
    told = eventually(
        lambda: kube.deployment("crashing"),
        lambda found: conditions(found).get("Paused", {}).get("reason") == "FailurePolicy",
        what="the failure policy stops it",
    )
    assert "ended 3 times: the process ended with exit code 7" in conditions(told)["Paused"]["message"]
    assert set(kube.processes()) == {first, second}  # a first version takes nothing down: both were given it at once


def test_two_deployments_keep_within_one_budget_of_the_racks_that_they_share(scene: Scene) -> None:
    # each begins with another device of a rack, so that they would meet there if they did not know of each other
    seats = {f"{scene.name}-{seat}": {"matchLabels": {"seat": seat}} for seat in ("0", "2")}
    scene.start(*seats, minReadySeconds=1)
    template = {"metadata": {"labels": {"app": "sleeper"}}, "spec": sleeping("2")}
    wanted = {
        name: scene.spec(name)
        | {"template": template, "updateStrategy": rolling({"name": "first", "selector": selector})}
        for name, selector in seats.items()
    }
    with ExitStack() as changes:
        for each in wanted.items():
            changes.enter_context(scene.foretold.foretell(manifest(*each)))
        for name, spec in wanted.items():
            scene.kube.patch(DEPLOYMENTS, name, {"spec": spec})
        for name in wanted:
            scene.await_done(name)
    assert scene.judge(*wanted).worst() >= 2
    assert all(scene.runs(name) == dict.fromkeys(scene.devices, "2") for name in wanted)


def test_what_one_deployment_has_down_holds_another_up_in_the_racks_that_they_share(scene: Scene) -> None:
    stuck, name = f"{scene.name}-stuck", scene.name
    scene.start(stuck, name, updateStrategy=rolling(CANARIES))
    with scene.foretold.template(stuck, sleeping("bad"), stopped=True):
        eventually(lambda: len(scene.runs(stuck)) == 8, what="one device of each rack is down")
    with scene.roll_out("2"):
        scene.await_reasons(UpToDate=4, BudgetExhausted=8)
    updated = {device for device, each in scene.runs().items() if each == "2"}
    assert updated == scene.having(ring="canary")  # they were down already
    with scene.foretold.template(stuck, sleeping("1"), stopped=True):
        scene.await_done(stuck)
        scene.await_done()
    assert scene.runs() == dict.fromkeys(scene.devices, "2")
    scene.judge(stuck, name)


def test_recreate_takes_all_down_at_once(scene: Scene) -> None:
    scene.start(updateStrategy={"type": "Recreate"})
    with scene.roll_out("2") as good:
        scene.await_done()
    assert [len(step["update"]) for step in good.forecast["steps"]] == [len(scene.devices)]
    with scene.roll_out("bad", stopped=True) as failed:
        scene.await_reasons(Failing=len(scene.devices))
    assert failed.timeline.worst() == len(scene.devices)
    with scene.roll_out("3"):
        scene.await_done()
    assert set(scene.runs().values()) == {"3"}


def test_on_delete_waits_for_somebody_to_delete_each_process(scene: Scene) -> None:
    scene.start(updateStrategy={"type": "OnDelete"})
    with scene.roll_out("2") as change:
        scene.await_reasons(WaitingForDeletion=len(scene.devices))
    assert change.timeline.offers == []
    chosen = sorted(scene.devices)[:2]
    names = [scene.processes()[device]["metadata"]["name"] for device in chosen]
    for name in names:
        scene.kube.delete(PROCESSES, name)
    left = {"WaitingForDeletion": len(scene.devices) - len(chosen), "UpToDate": len(chosen)}
    scene.await_reasons(**left)
    with scene.present():
        scene.await_reasons(**left)
    assert {device for device, each in scene.runs().items() if each == "2"} == set(chosen)
    seen = scene.judge()
    assert sorted(seen.deleted) == names
    assert {offer.device for offer in seen.offers[-2:]} == set(chosen)

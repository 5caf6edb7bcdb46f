# SPDX-License-Identifier: Apache-2.0
"""What a spec asks for beside waves: other strategies, a way back by itself, and domains that deployments share."""

from __future__ import annotations

from contextlib import ExitStack

from e2e.rollouts.plan_check import manifest
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, Kube, conditions
from e2e.stack.manifests import deployment
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.rollout_fixture import CANARIES, RolloutFixture, rolling
from e2e.suite.workloads import shell, sleeping


def test_a_bad_version_is_rolled_back_without_a_user(rollout: RolloutFixture) -> None:
    policy = {"maxFailures": 1, "action": "Rollback"}
    rollout.start(failurePolicy=policy, updateStrategy=rolling(CANARIES))
    with rollout.roll_out("bad", stopped=True) as failed:
        eventually(
            lambda: conditions(rollout.kube.deployment(rollout.name)).get("RolledBack", {}).get("status") == "True",
            what="the failure policy takes it back",
        )
        rollout.await_reasons(UpToDate=len(rollout.devices))
    stored = rollout.kube.deployment(rollout.name)
    bad = stored["status"]["failedRevision"]
    hit = {write.device for write in failed.timeline.writes_of(bad)}
    assert len(hit) > 1
    assert hit <= rollout.having(ring="canary")
    assert "simulated failure" in conditions(stored)["RolledBack"]["message"]
    with rollout.present() as afterwards:
        rollout.await_reasons(UpToDate=len(rollout.devices))
    assert afterwards.timeline.writes == []
    assert set(rollout.runs().values()) == {"1"}
    assert len(rollout.runs()) == len(rollout.devices)
    back = [write.device for write in rollout.check().writes if not write.created and write.revision != bad]
    assert sorted(back) == sorted(hit)


def test_a_first_version_that_keeps_ending_is_stopped_long_before_its_deadline(fleet: AgentFleet, kube: Kube) -> None:
    first, second = fleet.add(2)
    policy = {"maxFailures": 0, "action": "Pause"}
    kube.apply(deployment("crashing", shell("exit 7"), max_unavailable=1, failurePolicy=policy))
    stored = eventually(
        lambda: kube.deployment("crashing"),
        lambda found: conditions(found).get("Paused", {}).get("reason") == "FailurePolicy",
        what="the failure policy stops it",
    )
    assert "ended 3 times: the process ended with exit code 7" in conditions(stored)["Paused"]["message"]
    assert set(kube.processes()) == {first, second}  # a first version disrupts nothing: both got it at once


def test_two_deployments_keep_within_one_budget_of_the_racks_that_they_share(rollout: RolloutFixture) -> None:
    # each begins with another device of a rack, so that they would meet there if they did not know of each other
    seats = {f"{rollout.name}-{seat}": {"matchLabels": {"seat": seat}} for seat in ("0", "2")}
    rollout.start(*seats, minReadySeconds=1)
    template = {"metadata": {"labels": {"app": "sleeper"}}, "spec": sleeping("2")}
    wanted = {
        name: rollout.spec(name)
        | {"template": template, "updateStrategy": rolling({"name": "first", "selector": selector})}
        for name, selector in seats.items()
    }
    with ExitStack() as changes:
        for each in wanted.items():
            changes.enter_context(rollout.plan_check.compare(manifest(*each)))
        for name, spec in wanted.items():
            rollout.kube.patch(DEPLOYMENTS, name, {"spec": spec})
        for name in wanted:
            rollout.await_done(name)
    assert rollout.check(*wanted).worst() >= 2
    assert all(rollout.runs(name) == dict.fromkeys(rollout.devices, "2") for name in wanted)


def test_devices_that_one_deployment_has_down_count_in_the_budgets_of_another(rollout: RolloutFixture) -> None:
    stuck, name = f"{rollout.name}-stuck", rollout.name
    rollout.start(stuck, name, updateStrategy=rolling(CANARIES))
    with rollout.plan_check.template(stuck, sleeping("bad"), stopped=True):
        eventually(lambda: len(rollout.runs(stuck)) == 8, what="one device of each rack is down")
    with rollout.roll_out("2"):
        rollout.await_reasons(UpToDate=4, BudgetExhausted=8)
    updated = {device for device, each in rollout.runs().items() if each == "2"}
    assert updated == rollout.having(ring="canary")  # they were down already
    with rollout.plan_check.template(stuck, sleeping("1"), stopped=True):
        rollout.await_done(stuck)
        rollout.await_done()
    assert rollout.runs() == dict.fromkeys(rollout.devices, "2")
    rollout.check(stuck, name)


def test_recreate_takes_all_down_at_once(rollout: RolloutFixture) -> None:
    rollout.start(updateStrategy={"type": "Recreate"})
    with rollout.roll_out("2") as good:
        rollout.await_done()
    assert [len(step["update"]) for step in good.forecast["steps"]] == [len(rollout.devices)]
    with rollout.roll_out("bad", stopped=True) as failed:
        rollout.await_reasons(Failing=len(rollout.devices))
    assert failed.timeline.worst() == len(rollout.devices)
    with rollout.roll_out("3"):
        rollout.await_done()
    assert set(rollout.runs().values()) == {"3"}


def test_on_delete_updates_a_process_only_when_it_is_deleted(rollout: RolloutFixture) -> None:
    rollout.start(updateStrategy={"type": "OnDelete"})
    with rollout.roll_out("2") as change:
        rollout.await_reasons(WaitingForDeletion=len(rollout.devices))
    assert change.timeline.writes == []
    chosen = sorted(rollout.devices)[:2]
    names = [rollout.processes()[device]["metadata"]["name"] for device in chosen]
    for name in names:
        rollout.kube.delete(PROCESSES, name)
    left = {"WaitingForDeletion": len(rollout.devices) - len(chosen), "UpToDate": len(chosen)}
    rollout.await_reasons(**left)
    with rollout.present():
        rollout.await_reasons(**left)
    assert {device for device, each in rollout.runs().items() if each == "2"} == set(chosen)
    seen = rollout.check()
    assert sorted(seen.deleted) == names
    assert {write.device for write in seen.writes[-2:]} == set(chosen)


def test_a_device_that_does_not_meet_a_requirement_keeps_its_version_and_says_why(rollout: RolloutFixture) -> None:
    rollout.start()
    met = sorted(rollout.devices)[:4]
    before = rollout.processes()
    needs = {"requirements": [{"fact": "hostname", "operator": "In", "values": met}]}
    with rollout.roll_out("2", **needs):
        rollout.await_done()
    rollout.await_reasons(UpToDate=4, RequirementNotMet=8)
    status = rollout.kube.deployment(rollout.name)["status"]
    assert (status["desiredNumberScheduled"], status["numberUnavailable"]) == (12, 0)
    runs, after = rollout.runs(), rollout.processes()
    assert {device for device, each in runs.items() if each == "2"} == set(met)
    kept = sorted(set(rollout.devices) - set(met))
    assert [after[each] for each in kept] == [before[each] for each in kept]
    said = rollout.ctl("explain", kept[0])
    assert f"hostname {kept[0]} is not in {met[0]}, {met[1]}" in said
    with rollout.change(requirements=[{"fact": "features", "operator": "Exists"}]):  # which all of them report
        rollout.await_reasons(UpToDate=12)
    assert rollout.runs() == dict.fromkeys(rollout.devices, "2")
    rollout.check()

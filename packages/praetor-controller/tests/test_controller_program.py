"""The whole program on an API in memory and a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller_testing import PatchingKube
from kube_testing import FakeClock, Request
from praetor_api.kube.client.api import PatchType
from praetor_api.kube.client.errors import ServerError, Unreachable, api_error
from praetor_api.kube.client.resource import (
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    EVENTS,
    LEASES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_api.kube.runtime.times import time
from praetor_controller.journal.replay import replay
from praetor_controller.main import Program
from praetor_controller.model.revisions import template_of
from praetor_controller.settings import Recording, Settings

TEL = Key("lab", "tel")


class World:
    """An API, a clock, and a controller that runs."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kube = PatchingKube(self.clock)

    async def switch(self, name: str, **labels: str) -> None:
        body = {"metadata": {"name": name, "labels": {"role": "leaf"} | labels}, "spec": {}}
        await self.kube.create(NETWORK_SWITCHES, "lab", body)

    async def deploy(self, name: str = "tel", **spec: Any) -> None:
        body: dict[str, Any] = {
            "selector": {"matchLabels": {"role": "leaf"}},
            "template": {"metadata": {"labels": {"app": "tel"}}, "spec": {"execution": {"command": ["v1"]}}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        }
        await self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", {"metadata": {"name": name}, "spec": body | spec})

    async def edit(self, **spec: Any) -> None:
        await self.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"spec": spec})

    async def change_template(self, command: str, **metadata: Any) -> None:
        await self.edit(template={"metadata": metadata, "spec": {"execution": {"command": [command]}}})

    async def report_ready(self, *names: str) -> None:
        for key, obj in self.kube.objects(DEVICE_PROCESSES).items():
            if names and key.name not in names:
                continue
            now = time(self.clock.now())
            types = ("AgentConnected", "SpecObserved", "ProcessStarted", "Healthy")
            conditions = [{"type": each, "status": "True", "lastTransitionTime": now} for each in types]
            generation = obj["metadata"]["generation"]
            status = {"phase": "Running", "observedGeneration": generation, "conditions": conditions}
            await self.kube.patch(DEVICE_PROCESSES, key, {"status": status}, subresource="status")

    def processes(self) -> dict[str, dict[str, Any]]:
        return {key.name: obj for key, obj in self.kube.objects(DEVICE_PROCESSES).items()}

    def commands(self) -> dict[str, str]:
        return {name: obj["spec"]["execution"]["command"][0] for name, obj in self.processes().items()}

    def history(self) -> dict[int, str]:
        rows = self.kube.objects(CONTROLLER_REVISIONS).values()
        return {each["revision"]: template_of(each)["spec"]["execution"]["command"][0] for each in rows}

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL].get("status") or {}
        return status

    def condition(self, type_: str) -> tuple[str, str]:
        found = next(each for each in self.status()["conditions"] if each["type"] == type_)
        return found["status"], found["reason"]

    def writes(self) -> list[str]:
        verbs = ("create", "patch", "delete")
        return [each.verb for each in self.kube.requests if each.verb in verbs and each.resource == DEVICE_PROCESSES]

    def requests(self) -> list[Request]:
        return [each for each in self.kube.requests if each.resource != LEASES and each.verb not in ("list", "watch")]

    @asynccontextmanager
    async def controller(
        self, recording: Recording | None = None, namespaces: tuple[str, ...] = ()
    ) -> AsyncIterator[None]:
        settings = Settings(metrics=None, probes=None, recording=recording, namespaces=namespaces)
        program = Program(self.kube, self.clock, settings)
        stop = asyncio.Event()
        with program.recording():
            async with self._running(program, stop):
                yield

    @asynccontextmanager
    async def _running(self, program: Program, stop: asyncio.Event) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(program.run(stop), name="controller")
            await self.clock.advance(5)
            assert not program.unready()
            yield
            stop.set()
            await self.clock.advance(10)
            await running


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    for name in ("a", "b", "c"):
        await world.switch(name)
    await world.deploy()
    async with world.controller():
        yield world


async def test_every_matching_device_gets_a_process(world: World) -> None:
    assert set(world.processes()) == {"tel-a", "tel-b", "tel-c"}
    made = world.processes()["tel-a"]
    owner = world.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["metadata"]["uid"]
    assert made["spec"]["deviceRef"] == {"kind": "NetworkSwitch", "name": "a", "namespace": "lab"}
    assert made["metadata"]["labels"] == {"app": "tel", "azure.com/deployment": "tel"}
    (reference,) = made["metadata"]["ownerReferences"]
    assert (reference["uid"], reference["controller"], reference["blockOwnerDeletion"]) == (owner, True, True)


async def test_the_status_counts_and_says_why(world: World) -> None:
    assert world.status()["desiredNumberScheduled"] == 3
    assert world.condition("Available") == ("False", "TooManyUnavailable")
    await world.report_ready()
    await world.clock.advance(2)
    status = world.status()
    assert status["numberAvailable"] == status["updatedNumberScheduled"] == status["numberReady"] == 3
    assert status["reasons"] == {"UpToDate": 3}
    assert status["observedGeneration"] == 1
    assert world.condition("Available") == ("True", "MinimumDevicesAvailable")
    assert world.condition("Progressing") == ("True", "NewRevisionRolledOut")


async def test_a_changed_template_reaches_one_device_at_a_time(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    await world.change_template("v2")
    await world.clock.advance(5)
    assert world.commands() == {"tel-a": "v2", "tel-b": "v1", "tel-c": "v1"}
    assert world.status()["reasons"] == {"Updating": 1, "BudgetExhausted": 2}
    await world.report_ready("tel-a")
    await world.clock.advance(5)
    assert world.commands() == {"tel-a": "v2", "tel-b": "v2", "tel-c": "v1"}
    await world.report_ready("tel-b")
    await world.clock.advance(5)
    await world.report_ready("tel-c")
    await world.clock.advance(5)
    assert set(world.commands().values()) == {"v2"}
    assert world.condition("Progressing") == ("True", "NewRevisionRolledOut")
    assert world.writes().count("patch") == 3 + 3 + 3  # one update each; the rest are this test's reports


async def test_quick_changes_do_not_add_up(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    for version in ("v2", "v3", "v4"):
        await world.change_template(version)
        await world.clock.advance(3)
    assert sorted(world.commands().values()) == ["v1", "v1", "v4"]


async def test_keys_of_others_stay_and_keys_of_the_template_go(world: World) -> None:
    await world.report_ready()
    labels = {"metadata": {"labels": {"mine": "1"}, "annotations": {"note": "keep"}}}
    await world.kube.patch(DEVICE_PROCESSES, Key("lab", "tel-a"), labels)
    await world.change_template("v1", labels={"app": None, "tier": "edge"}, annotations={"why": "x"})
    await world.clock.advance(5)
    metadata = world.processes()["tel-a"]["metadata"]
    assert metadata["labels"] == {"azure.com/deployment": "tel", "tier": "edge", "mine": "1"}
    assert metadata["annotations"]["note"] == "keep"
    assert metadata["annotations"]["why"] == "x"
    assert metadata["generation"] == 1


async def test_drift_made_by_hand_is_corrected(world: World) -> None:
    await world.report_ready()
    await world.kube.patch(DEVICE_PROCESSES, Key("lab", "tel-b"), {"spec": {"execution": {"command": ["evil"]}}})
    await world.clock.advance(5)
    assert world.commands()["tel-b"] == "v1"


async def test_a_device_that_no_longer_matches_loses_its_process(world: World) -> None:
    await world.kube.patch(NETWORK_SWITCHES, Key("lab", "a"), {"metadata": {"labels": {"role": "spine"}}})
    await world.kube.delete(NETWORK_SWITCHES, Key("lab", "b"))
    await world.switch("d")
    await world.clock.advance(5)
    assert set(world.processes()) == {"tel-c", "tel-d"}


async def test_a_paused_deployment_writes_no_process(world: World) -> None:
    await world.edit(paused=True)
    await world.clock.advance(5)
    before = world.writes()
    await world.change_template("v2")
    await world.switch("d")
    await world.kube.delete(NETWORK_SWITCHES, Key("lab", "a"))
    await world.clock.advance(60)
    assert world.writes() == before
    assert world.condition("Paused") == ("True", "DeploymentPaused")
    await world.edit(paused=False)
    await world.clock.advance(5)
    assert set(world.processes()) == {"tel-b", "tel-c", "tel-d"}
    assert all(each["type"] != "Paused" for each in world.status()["conditions"])


async def test_a_name_of_somebody_else_is_left_alone(world: World) -> None:
    await world.kube.create(
        DEVICE_PROCESSES, "lab", {"metadata": {"name": "tel-z"}, "spec": {"deviceRef": {"name": "q"}}}
    )
    await world.clock.advance(1)
    await world.switch("z")
    await world.clock.advance(5)
    ours = [name for name, obj in world.processes().items() if obj["spec"]["deviceRef"]["name"] == "z"]
    assert len(ours) == 1
    assert ours[0].startswith("tel-z-")
    assert world.processes()["tel-z"]["spec"] == {"deviceRef": {"name": "q"}}


async def test_a_write_without_an_answer_is_read_back(world: World) -> None:
    world.kube.fail_next(Unreachable("cut off"), verb="create", resource=DEVICE_PROCESSES)
    await world.switch("d")
    await world.clock.advance(10)
    assert "tel-d" in world.processes()


async def test_a_refused_process_does_not_stop_the_others(world: World) -> None:
    refusal = api_error(422, "Invalid", "spec.execution: no", {"causes": [{}]})
    world.kube.fail_next(refusal, verb="create", resource=DEVICE_PROCESSES)
    await world.switch("d")
    await world.switch("e")
    await world.clock.advance(5)
    assert len(world.processes()) == 4
    assert world.status()["reasons"]["CannotConverge"] == 1
    await world.clock.advance(400)
    assert len(world.processes()) == 5


async def test_a_forbidden_process_is_told_and_not_asked_for_again_at_once(world: World) -> None:
    going = api_error(403, "Forbidden", "namespace lab is being terminated", {"causes": [{}]})
    world.kube.fail_next(going, verb="create", resource=DEVICE_PROCESSES, times=100)
    await world.switch("d")
    await world.clock.advance(200)
    assert world.writes().count("create") == 3 + 1
    assert world.status()["reasons"]["CannotConverge"] == 1


async def test_what_a_webhook_denies_without_a_code_of_its_own_is_told_and_stops_nobody_else(world: World) -> None:
    denial = api_error(400, "", 'admission webhook "p.example.com" denied the request: label team is required')
    world.kube.fail_next(denial, verb="create", resource=DEVICE_PROCESSES, times=3)
    for name in "defgh":
        await world.switch(name)
    await world.clock.advance(5)
    assert len(world.processes()) == 3 + 2
    assert world.status()["reasons"]["CannotConverge"] == 3


async def test_a_refused_deletion_is_told_and_not_asked_for_again_at_once(world: World) -> None:
    refusal = api_error(403, "Forbidden", "policy says no")
    world.kube.fail_next(refusal, verb="delete", resource=DEVICE_PROCESSES)
    await world.kube.patch(NETWORK_SWITCHES, Key("lab", "a"), {"metadata": {"labels": {"role": "spine"}}})
    await world.clock.advance(200)
    assert world.writes().count("delete") == 1
    assert any(each["reason"] == "WriteRefused" for each in world.kube.objects(EVENTS).values())
    await world.clock.advance(200)
    assert "tel-a" not in world.processes()


async def test_a_device_whose_change_was_refused_still_loses_its_process_at_once(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    refusal = api_error(422, "Invalid", "spec.execution: no")
    world.kube.fail_next(refusal, verb="patch", resource=DEVICE_PROCESSES, times=3)
    await world.change_template("v2")
    await world.clock.advance(5)
    await world.kube.patch(NETWORK_SWITCHES, Key("lab", "a"), {"metadata": {"labels": {"role": "spine"}}})
    await world.clock.advance(5)
    assert "tel-a" not in world.processes()


async def test_a_label_that_was_asked_for_mends_a_refusal_at_once(world: World) -> None:
    refusal = api_error(403, "Forbidden", "label team is required")
    world.kube.fail_next(refusal, verb="create", resource=DEVICE_PROCESSES)
    await world.switch("d")
    await world.clock.advance(5)
    assert "tel-d" not in world.processes()
    await world.change_template("v1", labels={"app": "tel", "team": "x"})
    await world.clock.advance(5)
    assert "tel-d" in world.processes()


async def test_history_that_cannot_be_trimmed_hides_no_status(world: World) -> None:
    await world.edit(revisionHistoryLimit=0)
    await world.report_ready()
    await world.clock.advance(5)
    refusal = api_error(403, "Forbidden", "no")
    world.kube.fail_next(refusal, verb="delete", resource=CONTROLLER_REVISIONS, times=1000)
    await world.change_template("v2")
    for _ in range(6):
        await world.clock.advance(5)
        await world.report_ready()
    await world.clock.advance(60)
    assert world.status()["numberReady"] == world.status()["updatedNumberScheduled"] == 3


async def test_a_namespace_that_cannot_be_followed_holds_up_itself_alone() -> None:
    world = World()
    for namespace in ("lab", "gone"):
        for name in ("a", "b", "c", "d", "e"):  # more deployments than workers
            body = {"metadata": {"name": name, "labels": {"role": "leaf"}}, "spec": {}}
            await world.kube.create(NETWORK_SWITCHES, namespace, body)
            spec = {"selector": {}, "template": {"spec": {"execution": {"command": ["v1"]}}}}
            await world.kube.create(DEVICE_PROCESS_DEPLOYMENTS, namespace, {"metadata": {"name": name}, "spec": spec})
    watch, forbidden = world.kube.watch, []

    async def guarded(resource: Resource, namespace: str | None, **options: Any) -> AsyncIterator[Any]:
        if namespace in forbidden:
            raise api_error(403, "Forbidden", "no")
        async with aclosing(watch(resource, namespace, **options)) as events:
            async for event in events:
                yield event

    world.kube.watch = guarded  # type: ignore[method-assign, assignment]
    async with world.controller(namespaces=("lab", "gone")):
        forbidden.append("gone")
        world.kube.end_watches()
        await world.clock.advance(5)
        for namespace in ("gone", "lab"):
            template = {"spec": {"execution": {"command": ["v2"]}}}
            for name in ("a", "b", "c", "d", "e"):
                await world.kube.patch(
                    DEVICE_PROCESS_DEPLOYMENTS, Key(namespace, name), {"spec": {"template": template}}
                )
        await world.clock.advance(60)
        seen = {
            key.namespace
            for key, obj in world.kube.objects(DEVICE_PROCESS_DEPLOYMENTS).items()
            if obj["status"]["observedGeneration"] == 2
        }
        assert seen == {"lab"}


async def test_a_conflict_is_read_back_and_planned_again(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    world.kube.fail_next(api_error(409, "Conflict", "changed"), verb="patch", resource=DEVICE_PROCESSES)
    await world.change_template("v2")
    await world.clock.advance(5)
    assert sorted(world.commands().values()) == ["v1", "v1", "v2"]


async def test_a_label_that_somebody_removed_at_the_same_moment_is_no_refusal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    patch = world.kube.patch

    async def meddled(resource: Resource, key: Key, body: Any, **options: Any) -> dict[str, Any]:
        if resource == DEVICE_PROCESSES and options.get("patch_type") is PatchType.JSON:
            monkeypatch.undo()
            await patch(resource, key, {"metadata": {"labels": {"app": None}}})
        return await patch(resource, key, body, **options)

    monkeypatch.setattr(world.kube, "patch", meddled)
    await world.change_template("v2", labels={"app": None, "tier": "edge"})
    await world.clock.advance(5)
    assert sorted(world.commands().values()) == ["v1", "v1", "v2"]
    assert "CannotConverge" not in world.status()["reasons"]


async def test_a_change_that_is_refused_for_what_it_says_is_told(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    world.kube.fail_next(api_error(422, "Invalid", "spec.execution: no"), verb="patch", resource=DEVICE_PROCESSES)
    await world.change_template("v2")
    await world.clock.advance(5)
    assert world.status()["reasons"]["CannotConverge"] == 1


async def test_nothing_is_written_while_nothing_changes(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(60)
    before = world.requests()
    await world.clock.advance(120)
    assert world.requests() == before


async def test_a_bad_selector_is_told_and_mended(world: World) -> None:
    await world.edit(selector={"matchExpressions": [{"key": "a", "operator": "In", "values": []}]})
    await world.clock.advance(5)
    assert world.condition("Progressing") == ("False", "InvalidSpec")
    assert len(world.processes()) == 3
    await world.edit(selector={"matchExpressions": None})
    await world.clock.advance(5)
    assert world.condition("Progressing")[1] != "InvalidSpec"


async def test_a_rollout_that_stands_still_is_told(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    await world.change_template("v2")
    await world.clock.advance(700)
    assert world.condition("Progressing") == ("False", "ProgressDeadlineExceeded")
    reasons = [event["reason"] for event in world.kube.objects(EVENTS).values()]
    assert "ProgressDeadlineExceeded" in reasons
    assert "CreatedProcesses" in reasons


async def test_nothing_is_decided_while_the_switches_of_before_an_outage_are_all_that_is_known(world: World) -> None:
    world.kube.unreachable = True
    world.kube.end_watches(Unreachable("cut"))
    await world.clock.advance(1)
    others = world.kube.another_client()
    body = {"metadata": {"name": "new", "labels": {"role": "edge"}}, "spec": {}}
    await others.create(NETWORK_SWITCHES, "lab", body)
    spec = {"selector": {"matchLabels": {"role": "edge"}}, "template": {"spec": {"execution": {"command": ["v1"]}}}}
    await others.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", {"metadata": {"name": "edge"}, "spec": spec})
    world.kube.heal()
    world.kube.fail_next(ServerError(500), verb="watch", resource=NETWORK_SWITCHES, times=4)
    edge = Key("lab", "edge")
    while "status" not in (stored := world.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[edge]):
        await world.clock.advance(0.1)
    assert stored["status"]["desiredNumberScheduled"] == 1
    assert "edge-new" in world.processes()


async def test_a_deleted_deployment_is_not_acted_on(world: World) -> None:
    await world.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"metadata": {"finalizers": ["keep"]}})
    await world.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
    await world.kube.delete(DEVICE_PROCESSES, Key("lab", "tel-a"))
    await world.clock.advance(5)
    assert set(world.processes()) == {"tel-b", "tel-c"}


async def test_a_deployment_that_is_gone_gets_nothing_however_recently_its_status_was_written(world: World) -> None:
    await world.report_ready()
    while world.status().get("numberAvailable") != 3:
        await world.clock.advance(0.05)
    await world.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
    for resource in (DEVICE_PROCESSES, CONTROLLER_REVISIONS):  # as the garbage collector does
        for key in world.kube.objects(resource):
            await world.kube.delete(resource, key)
    await world.clock.advance(30)
    assert (world.processes(), world.history()) == ({}, {})


async def test_a_new_leader_changes_nothing_and_the_lease_is_released(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(5)
    before = world.processes()
    async with world.controller():
        await world.clock.advance(60)
    assert world.processes() == before


async def test_stopping_releases_the_lease() -> None:
    world = World()
    async with world.controller():
        lease = world.kube.objects(LEASES)[Key("praetor-system", "praetor-controller")]
        assert lease["spec"]["holderIdentity"]
    lease = world.kube.objects(LEASES)[Key("praetor-system", "praetor-controller")]
    assert lease["spec"]["holderIdentity"] == ""


async def test_a_deployment_made_anew_waits_for_its_predecessors_processes(world: World) -> None:
    await world.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
    await world.clock.advance(1)
    await world.deploy()
    await world.clock.advance(5)
    assert world.status()["reasons"] == {"Terminating": 3}
    before = {name: obj["metadata"]["uid"] for name, obj in world.processes().items()}
    for name in before:  # as the garbage collector does
        await world.kube.delete(DEVICE_PROCESSES, Key("lab", name))
    await world.clock.advance(2)
    after = {name: obj["metadata"]["uid"] for name, obj in world.processes().items()}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


async def test_a_busy_api_is_asked_again_when_it_said(world: World) -> None:
    busy = api_error(429, "TooManyRequests", "slow down", retry_after=30.0)
    world.kube.fail_next(busy, verb="create", resource=DEVICE_PROCESSES)
    await world.switch("d")
    await world.clock.advance(20)
    assert "tel-d" not in world.processes()
    await world.clock.advance(15)
    assert "tel-d" in world.processes()


async def test_a_status_conflict_is_no_trouble(world: World) -> None:
    world.kube.fail_next(
        api_error(409, "Conflict", "changed"), verb="patch", resource=DEVICE_PROCESS_DEPLOYMENTS, times=3
    )
    await world.switch("d")
    await world.clock.advance(10)
    assert world.status()["desiredNumberScheduled"] == 4


async def test_another_owners_process_in_another_namespace_is_not_ours(world: World) -> None:
    owner = world.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["metadata"]["uid"]
    metadata = {"name": "tel-a", "ownerReferences": [{"uid": owner, "controller": True}]}
    await world.kube.create(DEVICE_PROCESSES, "other", {"metadata": metadata, "spec": {"deviceRef": {"name": "a"}}})
    await world.clock.advance(10)
    assert Key("other", "tel-a") in world.kube.objects(DEVICE_PROCESSES)


async def test_a_process_that_disappears_is_made_again(world: World) -> None:
    await world.kube.delete(DEVICE_PROCESSES, Key("lab", "tel-a"))
    await world.clock.advance(5)
    assert set(world.processes()) == {"tel-a", "tel-b", "tel-c"}


async def test_a_new_leader_that_meets_an_unseen_process_takes_it_over(world: World) -> None:
    taken = api_error(409, "AlreadyExists", "exists")
    world.kube.fail_next(taken, verb="create", resource=DEVICE_PROCESSES)
    await world.switch("d")
    await world.clock.advance(5)
    assert "tel-d" in world.processes()


async def test_each_template_has_a_revision_and_an_old_one_is_renumbered(world: World) -> None:
    assert world.history() == {1: "v1"}
    await world.report_ready()
    await world.change_template("v2")
    await world.clock.advance(2)
    assert world.history() == {1: "v1", 2: "v2"}
    await world.change_template("v1", labels={"app": "tel"})
    await world.clock.advance(2)
    assert world.history() == {2: "v2", 3: "v1"}
    assert set(world.commands().values()) == {"v1"}
    assert (
        world.status()["updateRevision"] == world.processes()["tel-b"]["metadata"]["annotations"]["azure.com/revision"]
    )


async def test_no_more_revisions_are_kept_than_asked_for(world: World) -> None:
    await world.edit(revisionHistoryLimit=1)
    await world.report_ready()
    await world.clock.advance(2)
    for version in ("v2", "v3", "v4"):
        await world.change_template(version)
        await world.clock.advance(2)
    assert set(world.history().values()) == {"v1", "v3", "v4"}  # v1 runs, v4 is rolled out
    await world.clock.advance(60)
    assert set(world.history().values()) == {"v1", "v3", "v4"}


async def test_a_revision_of_a_predecessor_is_left_alone(world: World) -> None:
    await world.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
    await world.clock.advance(1)
    await world.deploy()
    await world.clock.advance(5)
    uid = world.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["metadata"]["uid"]
    owners = [
        each["metadata"]["ownerReferences"][0]["uid"] for each in world.kube.objects(CONTROLLER_REVISIONS).values()
    ]
    assert len(owners) == 2
    assert owners.count(uid) == 1


async def test_a_new_leader_writes_no_new_revision_and_its_deadline_goes_on(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    await world.change_template("v2")
    await world.clock.advance(500)
    before = world.history()
    async with world.controller():
        await world.clock.advance(150)
        assert world.condition("Progressing") == ("False", "ProgressDeadlineExceeded")
    assert world.history() == before


@pytest.mark.parametrize("error", [api_error(409, "AlreadyExists", "exists"), Unreachable("cut off")])
async def test_a_revision_whose_write_failed_is_made_before_anything_is_rolled_out(
    world: World, error: Exception
) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    world.kube.fail_next(error, verb="create", resource=CONTROLLER_REVISIONS)  # type: ignore[arg-type]
    await world.change_template("v2")
    await world.clock.advance(10)
    assert world.history() == {1: "v1", 2: "v2"}
    assert sorted(world.commands().values()) == ["v1", "v1", "v2"]


async def test_a_renumbering_that_conflicts_is_done_again(world: World) -> None:
    await world.change_template("v2")
    await world.clock.advance(2)
    world.kube.fail_next(api_error(409, "Conflict", "changed"), verb="patch", resource=CONTROLLER_REVISIONS)
    await world.change_template("v1", labels={"app": "tel"})
    await world.clock.advance(10)
    assert world.history() == {2: "v2", 3: "v1"}


async def test_restarting_is_a_rollout(world: World) -> None:
    await world.report_ready()
    await world.clock.advance(2)
    when = "2026-01-01T00:00:00Z"
    await world.change_template("v1", labels={"app": "tel"}, annotations={"azure.com/restarted-at": when})
    await world.clock.advance(3)
    restarted = [name for name, obj in world.processes().items() if obj["spec"].get("restartedAt") == when]
    assert restarted == ["tel-a"]


async def test_a_recorded_program_is_replayed_without_a_difference(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "flight.jsonl"
    for name in ("a", "b", "c"):
        await world.switch(name)
    await world.deploy()
    recording = Recording(path=path, max_bytes=1 << 20, files=2)
    async with world.controller(recording):
        await world.report_ready()
        await world.change_template("v2")
        for _ in range(4):
            await world.clock.advance(5)
            await world.report_ready()
        await world.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
        await world.clock.advance(5)
    *_, done = replay(path.read_bytes().splitlines(keepends=True))
    assert done.decisions > 5
    assert done.difference is None

# SPDX-License-Identifier: Apache-2.0
"""The whole program on an API in memory and a clock that the test moves."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from controller_testing import runs
from kube_testing import body_of
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
from praetor_api.names import hashed_process_name
from praetor_controller.journal.replay import replay
from praetor_controller.settings import Recording
from program_testing import TEL, ProgramFixture


@pytest.fixture
async def fixture() -> AsyncIterator[ProgramFixture]:
    fixture = ProgramFixture()
    for name in ("a", "b", "c"):
        await fixture.switch(name)
    await fixture.deploy()
    async with fixture.controller():
        yield fixture


async def test_every_matching_device_gets_a_process(fixture: ProgramFixture) -> None:
    assert set(fixture.processes()) == {"tel-a", "tel-b", "tel-c"}
    made = fixture.processes()["tel-a"]
    owner = fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["metadata"]["uid"]
    assert made["spec"]["deviceRef"] == {"kind": "NetworkSwitch", "name": "a", "namespace": "lab"}
    revision = made["metadata"]["annotations"]["azure.com/revision"]
    assert made["metadata"]["labels"] == {
        "app": "tel", "azure.com/deployment": "tel", "azure.com/revision": revision,
    }  # fmt: skip
    (reference,) = made["metadata"]["ownerReferences"]
    assert (reference["uid"], reference["controller"], reference["blockOwnerDeletion"]) == (owner, True, True)


async def test_a_finalizer_of_another_holds_one_device_and_not_the_fleet(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    kept = Key("lab", "tel-a")
    await fixture.kube.patch(DEVICE_PROCESSES, kept, {"metadata": {"finalizers": ["example.com/audit"]}})
    await fixture.kube.delete(DEVICE_PROCESSES, kept)
    await fixture.change_template("v2")
    await fixture.clock.advance(20)
    assert set(fixture.commands().values()) == {"v1"}, "it may be ending"
    await fixture.clock.advance(15)
    assert "v2" in fixture.commands().values()
    for _ in range(4):
        await fixture.report_ready("tel-b", "tel-c")
        await fixture.clock.advance(5)
    assert fixture.commands() == {"tel-a": "v1", "tel-b": "v2", "tel-c": "v2"}
    (progressing,) = (each for each in fixture.status()["conditions"] if each["type"] == "Progressing")
    assert "a: kept by the finalizer example.com/audit" in progressing["message"]
    await fixture.kube.patch(DEVICE_PROCESSES, kept, {"metadata": {"finalizers": []}})
    await fixture.clock.advance(5)
    assert fixture.commands()["tel-a"] == "v2"


async def test_the_duration_of_a_rollout_is_counted_once_all_devices_have_it() -> None:
    fixture = ProgramFixture()
    for name in ("a", "b", "c"):
        await fixture.switch(name)
    await fixture.deploy()
    async with fixture.controller() as program:
        await fixture.report_ready()
        await fixture.clock.advance(5)
        sample = program.metrics.registry.get_sample_value
        name = "praetor_controller_rollout_duration_seconds"
        before = sample(f"{name}_count") or 0.0
        await fixture.change_template("v2")
        for _ in range(3):
            assert sample(f"{name}_count") == before
            await fixture.clock.advance(20)
            await fixture.report_ready()
            await fixture.clock.advance(5)
        assert sample(f"{name}_count") == before + 1
        assert 60 <= (sample(f"{name}_sum") or 0.0) <= 90
        await fixture.clock.advance(600)
        assert sample(f"{name}_count") == before + 1


EMPTY: dict[str, Any] = {"env": [], "args": []}


async def test_a_template_that_only_gained_empty_lists_is_no_change(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    before, history, writes = fixture.processes(), fixture.history(), fixture.writes()
    spec = {"execution": {"backend": "process", "command": ["v1"]} | EMPTY}
    template = {"metadata": {"labels": {"app": "tel"}, "annotations": {}}, "spec": spec}
    await fixture.edit(template=template)
    await fixture.clock.advance(10)
    assert (fixture.processes(), fixture.history(), fixture.writes()) == (before, history, writes)
    status = fixture.status()
    assert (status["observedGeneration"], status["reasons"]) == (2, {"UpToDate": 3})
    await fixture.change_template("v2")
    await fixture.clock.advance(5)
    assert "v2" in fixture.commands().values(), "it differs by more"


async def test_what_was_stored_with_empty_lists_keeps_its_hash() -> None:
    fixture = ProgramFixture()
    await fixture.switch("a")
    spec = {"execution": {"backend": "process", "command": ["v1"]} | EMPTY}
    await fixture.deploy(template={"spec": spec})
    async with fixture.controller():
        await fixture.report_ready()
        await fixture.clock.advance(2)
        stored = fixture.processes()
        assert stored["tel-a"]["spec"]["execution"]["env"] == []
        await fixture.edit(template={"spec": {"execution": {"env": None, "args": None}}})
        await fixture.clock.advance(10)
        assert fixture.processes() == stored
    async with fixture.controller():
        await fixture.clock.advance(10)
        assert fixture.processes() == stored, "also after a restart"


async def test_deployments_that_run_one_command_on_the_same_devices_both_say_so(fixture: ProgramFixture) -> None:
    def overlaps() -> dict[str, str]:
        stored = fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS).items()
        conditions = ((key.name, each) for key, obj in stored for each in obj["status"]["conditions"])
        return {name: each["message"] for name, each in conditions if each["type"] == "Overlap"}

    await fixture.report_ready()
    await fixture.clock.advance(2)
    await fixture.switch("d", site="x")
    await fixture.deploy("edge", selector={"matchLabels": {"site": "x"}})
    await fixture.deploy("other", template={"spec": runs("v9")})
    await fixture.clock.advance(5)
    assert overlaps() == {
        "edge": "the same command is run by tel on 1 device; let the selectors share no device",
        "tel": "the same command is run by edge on 1 device; let the selectors share no device",
    }
    notes = [each["note"] for each in fixture.kube.objects(EVENTS).values() if each["reason"] == "Overlap"]
    assert sorted(notes) == sorted(overlaps().values())
    await fixture.kube.patch(NETWORK_SWITCHES, Key("lab", "d"), {"metadata": {"labels": {"role": "spine"}}})
    await fixture.clock.advance(5)
    assert overlaps() == {}
    await fixture.kube.patch(NETWORK_SWITCHES, Key("lab", "d"), {"metadata": {"labels": {"role": "leaf"}}})
    await fixture.clock.advance(5)
    assert set(overlaps()) == {"edge", "tel"}
    await fixture.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, Key("lab", "edge"))
    await fixture.clock.advance(5)
    assert overlaps() == {}


async def test_processes_from_before_the_label_get_it_with_their_next_spec(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    for name in fixture.processes():
        labels = {"labels": {"azure.com/revision": None}}
        await fixture.kube.patch(DEVICE_PROCESSES, Key("lab", name), {"metadata": labels})
    await fixture.clock.advance(5)
    before = fixture.writes()
    async with fixture.controller():
        await fixture.clock.advance(70)
    assert fixture.writes() == before, "an upgrade writes nothing"
    await fixture.edit(template={"metadata": {"labels": {"tier": "edge"}}})
    await fixture.clock.advance(5)
    assert all("azure.com/revision" not in each["metadata"]["labels"] for each in fixture.processes().values())
    await fixture.change_template("v2")
    for _ in range(4):
        await fixture.clock.advance(5)
        await fixture.report_ready()
    revisions = {each["metadata"]["labels"]["azure.com/revision"] for each in fixture.processes().values()}
    assert revisions == {fixture.status()["updateRevision"]}


async def test_the_longest_names_work() -> None:
    fixture = ProgramFixture()
    name, device = "n" * 240, "d" * 250
    await fixture.switch(device)
    await fixture.deploy(name)
    async with fixture.controller():
        await fixture.report_ready()
        await fixture.clock.advance(2)
        (made,) = fixture.processes().values()
        assert len(made["metadata"]["name"]) <= 253
        assert made["spec"]["deviceRef"]["name"] == device
        status = fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[Key("lab", name)]["status"]
        assert status["reasons"] == {"UpToDate": 1}


async def test_a_revision_is_marked_once_when_it_was_rolled_out(fixture: ProgramFixture) -> None:
    def marks() -> dict[int, str | None]:
        rows = fixture.kube.objects(CONTROLLER_REVISIONS).values()
        return {each["revision"]: each["metadata"]["annotations"].get("azure.com/rolled-out") for each in rows}

    assert marks() == {1: None}
    await fixture.report_ready()
    await fixture.clock.advance(2)
    assert marks() == {1: "1"}
    (first,) = fixture.kube.objects(CONTROLLER_REVISIONS).values()
    assert first["metadata"]["annotations"]["azure.com/rolled-out-before"] > max(
        each["metadata"]["annotations"]["azure.com/offered-at"] for each in fixture.processes().values()
    )
    await fixture.change_template("v2")
    await fixture.clock.advance(5)
    assert marks() == {1: "1", 2: None}
    await fixture.change_template("v1")
    for _ in range(4):
        await fixture.clock.advance(5)
        await fixture.report_ready()
    await fixture.clock.advance(5)
    assert fixture.condition("Progressing") == ("True", "NewRevisionRolledOut")
    assert marks() == {2: None, 3: "1"}


@pytest.mark.parametrize("hashed", [False, True], ids=["plain-name", "hashed-name"])
async def test_processes_that_a_deployment_left_behind_are_adopted_by_the_next_of_its_name(
    fixture: ProgramFixture, hashed: bool
) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    name = hashed_process_name("tel", "a") if hashed else "tel-a"
    other = {"apiVersion": "v1", "kind": "Secret", "name": "s", "uid": "u"}
    await fixture.orphan("tel", {"tel-a": name}, [other])
    assert "tel" not in {key.name for key in fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)}
    before = {name: each["metadata"]["uid"] for name, each in fixture.processes().items()}
    generations = {name: each["metadata"]["generation"] for name, each in fixture.processes().items()}
    await fixture.deploy()
    await fixture.clock.advance(5)
    after = fixture.processes()
    assert {name: each["metadata"]["uid"] for name, each in after.items()} == before
    assert {name: each["metadata"]["generation"] for name, each in after.items()} == generations, "nothing restarts"
    owner = fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["metadata"]["uid"]
    for each in after.values():
        foreign, ours = each["metadata"]["ownerReferences"]
        assert (foreign, ours["uid"], ours["controller"]) == (other, owner, True)
    assert fixture.status()["reasons"] == {"UpToDate": 3}
    assert any(each["reason"] == "AdoptedProcesses" for each in fixture.kube.objects(EVENTS).values())


async def test_a_process_of_a_users_own_is_never_adopted_and_none_is_made_beside_it() -> None:
    fixture = ProgramFixture()
    await fixture.switch("a")
    ref = {"kind": "NetworkSwitch", "name": "a", "namespace": "lab"}
    await fixture.kube.create(
        DEVICE_PROCESSES, "lab", body_of(DEVICE_PROCESSES, "tel-a", spec={**runs("mine"), "deviceRef": ref})
    )
    await fixture.deploy()
    async with fixture.controller():
        assert fixture.commands() == {"tel-a": "mine"}
        assert "ownerReferences" not in fixture.processes()["tel-a"]["metadata"]
        assert fixture.status()["reasons"] == {"NameTaken": 1}
        label = {"azure.com/deployment": "tel"}
        await fixture.kube.patch(DEVICE_PROCESSES, Key("lab", "tel-a"), {"metadata": {"labels": label}})
        await fixture.clock.advance(15)
        assert fixture.commands() == {"tel-a": "v1"}, "the label asks for it"


async def test_a_process_whose_adoption_is_refused_is_left_alone(fixture: ProgramFixture) -> None:
    await fixture.orphan("tel", {})
    fixture.kube.fail_next(api_error(403, "Forbidden", "quota"), verb="patch", resource=DEVICE_PROCESSES, times=3)
    await fixture.deploy()
    await fixture.clock.advance(3)
    assert set(fixture.processes()) == {"tel-a", "tel-b", "tel-c"}
    assert fixture.status()["reasons"] == {"CannotConverge": 3}


async def test_the_status_counts_and_says_why(fixture: ProgramFixture) -> None:
    assert fixture.status()["desiredNumberScheduled"] == 3
    assert fixture.condition("Available") == ("False", "TooManyUnavailable")
    await fixture.report_ready()
    await fixture.clock.advance(2)
    status = fixture.status()
    assert status["numberAvailable"] == status["updatedNumberScheduled"] == status["numberReady"] == 3
    assert status["reasons"] == {"UpToDate": 3}
    assert status["observedGeneration"] == 1
    assert fixture.condition("Available") == ("True", "MinimumDevicesAvailable")
    assert fixture.condition("Progressing") == ("True", "NewRevisionRolledOut")


async def test_a_changed_template_reaches_one_device_at_a_time(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    await fixture.change_template("v2")
    await fixture.clock.advance(5)
    assert fixture.commands() == {"tel-a": "v2", "tel-b": "v1", "tel-c": "v1"}
    assert fixture.status()["reasons"] == {"Updating": 1, "BudgetExhausted": 2}
    await fixture.report_ready("tel-a")
    await fixture.clock.advance(5)
    assert fixture.commands() == {"tel-a": "v2", "tel-b": "v2", "tel-c": "v1"}
    await fixture.report_ready("tel-b")
    await fixture.clock.advance(5)
    await fixture.report_ready("tel-c")
    await fixture.clock.advance(5)
    assert set(fixture.commands().values()) == {"v2"}
    assert fixture.condition("Progressing") == ("True", "NewRevisionRolledOut")
    assert fixture.writes().count("patch") == 3 + 3 + 3  # one update each; the rest are this test's reports


async def test_quick_changes_do_not_add_up(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    for version in ("v2", "v3", "v4"):
        await fixture.change_template(version)
        await fixture.clock.advance(3)
    assert sorted(fixture.commands().values()) == ["v1", "v1", "v4"]


async def test_keys_of_others_stay_and_keys_of_the_template_go(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    labels = {"metadata": {"labels": {"mine": "1"}, "annotations": {"note": "keep"}}}
    await fixture.kube.patch(DEVICE_PROCESSES, Key("lab", "tel-a"), labels)
    await fixture.change_template("v1", labels={"app": None, "tier": "edge"}, annotations={"why": "x"})
    await fixture.clock.advance(5)
    metadata = fixture.processes()["tel-a"]["metadata"]
    revision = metadata["annotations"]["azure.com/revision"]
    expected = {"azure.com/deployment": "tel", "azure.com/revision": revision, "tier": "edge", "mine": "1"}
    assert metadata["labels"] == expected
    assert metadata["annotations"]["note"] == "keep"
    assert metadata["annotations"]["why"] == "x"
    assert metadata["generation"] == 1


async def test_drift_made_by_hand_is_corrected(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.kube.patch(DEVICE_PROCESSES, Key("lab", "tel-b"), {"spec": runs("evil")})
    await fixture.clock.advance(5)
    assert fixture.commands()["tel-b"] == "v1"


@pytest.mark.parametrize("change", ["relabelled", "deleted"])
async def test_a_device_that_no_longer_matches_loses_its_process(fixture: ProgramFixture, change: str) -> None:
    if change == "deleted":
        await fixture.kube.delete(NETWORK_SWITCHES, Key("lab", "a"))
    else:
        await fixture.kube.patch(NETWORK_SWITCHES, Key("lab", "a"), {"metadata": {"labels": {"role": "spine"}}})
    await fixture.switch("d")
    await fixture.clock.advance(3)
    assert set(fixture.processes()) == {"tel-a", "tel-b", "tel-c", "tel-d"}
    await fixture.clock.advance(5)
    assert set(fixture.processes()) == {"tel-b", "tel-c", "tel-d"}


async def test_a_paused_deployment_writes_no_process(fixture: ProgramFixture) -> None:
    await fixture.edit(paused=True)
    await fixture.clock.advance(5)
    before = fixture.writes()
    await fixture.change_template("v2")
    await fixture.switch("d")
    await fixture.kube.delete(NETWORK_SWITCHES, Key("lab", "a"))
    await fixture.clock.advance(60)
    assert fixture.writes() == before
    assert fixture.condition("Paused") == ("True", "DeploymentPaused")
    await fixture.edit(paused=False)
    await fixture.clock.advance(5)
    assert set(fixture.processes()) == {"tel-b", "tel-c", "tel-d"}
    assert all(each["type"] != "Paused" for each in fixture.status()["conditions"])


async def test_a_process_of_another_owner_is_left_alone(fixture: ProgramFixture) -> None:
    spec = runs("other") | {"deviceRef": {"name": "q"}}
    theirs = await fixture.kube.create(DEVICE_PROCESSES, "lab", body_of(DEVICE_PROCESSES, "tel-z", spec=spec))
    await fixture.clock.advance(1)
    await fixture.switch("z")
    await fixture.clock.advance(5)
    ours = [name for name, obj in fixture.processes().items() if obj["spec"]["deviceRef"]["name"] == "z"]
    assert len(ours) == 1
    assert ours[0].startswith("tel-z-")
    assert fixture.processes()["tel-z"]["spec"] == theirs["spec"]


async def test_a_write_without_an_answer_is_read_back(fixture: ProgramFixture) -> None:
    fixture.kube.fail_next(Unreachable("cut off"), verb="create", resource=DEVICE_PROCESSES)
    await fixture.switch("d")
    await fixture.clock.advance(10)
    assert "tel-d" in fixture.processes()


async def test_a_refused_process_does_not_stop_the_others(fixture: ProgramFixture) -> None:
    refusal = api_error(422, "Invalid", "spec.execution: no", {"causes": [{}]})
    fixture.kube.fail_next(refusal, verb="create", resource=DEVICE_PROCESSES)
    await fixture.switch("d")
    await fixture.switch("e")
    await fixture.clock.advance(3)
    assert len(fixture.processes()) == 4
    assert fixture.status()["reasons"]["CannotConverge"] == 1
    await fixture.clock.advance(400)
    assert len(fixture.processes()) == 5


async def test_a_refused_write_is_tried_again_with_a_backoff_of_up_to_a_minute(fixture: ProgramFixture) -> None:
    quota = api_error(403, "Forbidden", "exceeded quota: processes", {"causes": [{}]})
    fixture.kube.fail_next(quota, verb="create", resource=DEVICE_PROCESSES, times=1000)
    await fixture.switch("d")
    attempts = []
    for second in range(300):
        before = fixture.writes().count("create")
        await fixture.clock.advance(1)
        attempts += [second] * (fixture.writes().count("create") - before)
    pauses = [after - before for before, after in itertools.pairwise(attempts)]
    assert pauses[:4] == pytest.approx([5, 10, 20, 40], abs=2)
    assert pauses[4:] == pytest.approx([60] * 3, abs=2)
    assert fixture.status()["reasons"]["CannotConverge"] == 1
    (refused,) = (each for each in fixture.status()["conditions"] if each["type"] == "WritesRefused")
    assert (refused["status"], refused["reason"]) == ("True", "RefusedByAPI")
    assert refused["message"].startswith("the API refuses 1 write: exceeded quota: processes; next attempt at 2026-")
    (progressing,) = (each for each in fixture.status()["conditions"] if each["type"] == "Progressing")
    assert "exceeded quota: processes" in progressing["message"]
    notes = [each["note"] for each in fixture.kube.objects(EVENTS).values() if each["reason"] == "WriteRefused"]
    assert notes
    assert all("exceeded quota: processes" in each for each in notes)

    fixture.kube.heal()
    await fixture.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"metadata": {"annotations": {"azure.com/retry": "now"}}})
    await fixture.clock.advance(2)
    assert "tel-d" in fixture.processes(), "a user asked for it"
    assert all(each["type"] != "WritesRefused" for each in fixture.status()["conditions"])


async def test_a_refused_revision_is_shown_and_tried_again_like_a_process(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    quota = api_error(403, "Forbidden", "exceeded quota: controllerrevisions", {"causes": [{}]})
    fixture.kube.fail_next(quota, verb="create", resource=CONTROLLER_REVISIONS, times=1000)
    await fixture.change_template("v2")
    await fixture.clock.advance(200)
    attempts = [
        each for each in fixture.kube.requests if (each.verb, each.resource) == ("create", CONTROLLER_REVISIONS)
    ]
    assert 5 <= len(attempts) - 1 <= 7
    (refused,) = (each for each in fixture.status()["conditions"] if each["type"] == "WritesRefused")
    assert refused["message"].startswith("the API refuses 1 write: exceeded quota: controllerrevisions; next attempt")
    fixture.kube.heal()
    await fixture.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"metadata": {"annotations": {"azure.com/retry": "now"}}})
    await fixture.clock.advance(2)
    assert "v2" in fixture.commands().values()
    assert all(each["type"] != "WritesRefused" for each in fixture.status()["conditions"])


async def test_of_many_refused_writes_a_few_are_tried_again_and_all_when_these_succeed(fixture: ProgramFixture) -> None:
    quota = api_error(403, "Forbidden", "exceeded quota", {"causes": [{}]})
    fixture.kube.fail_next(quota, verb="create", resource=DEVICE_PROCESSES, times=1000)
    names = [f"d{number}" for number in range(50)]
    for name in names:
        await fixture.switch(name)
    await fixture.clock.advance(3)
    first = fixture.writes().count("create")
    assert first == 3 + 50
    await fixture.clock.advance(5)
    assert fixture.writes().count("create") == first + 10
    fixture.kube.heal()
    await fixture.clock.advance(12)
    assert len(fixture.processes()) == 3 + 50


async def test_a_new_template_does_not_wait_for_the_attempt_of_the_refused_one(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    invalid = api_error(422, "Invalid", "metadata.labels: Invalid value: 'x y'", {"causes": [{}]})
    fixture.kube.fail_next(invalid, verb="patch", resource=DEVICE_PROCESSES, times=100)
    await fixture.change_template("v2")
    await fixture.clock.advance(60)
    assert fixture.status()["reasons"]["CannotConverge"] >= 1
    fixture.kube.heal()
    await fixture.change_template("v3")
    await fixture.clock.advance(2)
    assert "v3" in fixture.commands().values()


async def test_a_denial_of_a_webhook_without_a_code_is_shown_and_stops_no_other_device(fixture: ProgramFixture) -> None:
    denial = api_error(400, "", 'admission webhook "p.example.com" denied the request: label team is required')
    fixture.kube.fail_next(denial, verb="create", resource=DEVICE_PROCESSES, times=3)
    for name in "defgh":
        await fixture.switch(name)
    await fixture.clock.advance(3)
    assert len(fixture.processes()) == 3 + 2
    assert fixture.status()["reasons"]["CannotConverge"] == 3


async def test_a_refused_deletion_is_shown_and_not_retried_at_once(fixture: ProgramFixture) -> None:
    refusal = api_error(403, "Forbidden", "policy says no")
    fixture.kube.fail_next(refusal, verb="delete", resource=DEVICE_PROCESSES)
    await fixture.kube.patch(NETWORK_SWITCHES, Key("lab", "a"), {"metadata": {"labels": {"role": "spine"}}})
    await fixture.clock.advance(7)
    assert fixture.writes().count("delete") == 1
    assert any(each["reason"] == "WriteRefused" for each in fixture.kube.objects(EVENTS).values())
    await fixture.clock.advance(200)
    assert "tel-a" not in fixture.processes()


async def test_a_device_whose_change_was_refused_still_loses_its_process_at_once(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    refusal = api_error(422, "Invalid", "spec.execution: no")
    fixture.kube.fail_next(refusal, verb="patch", resource=DEVICE_PROCESSES, times=3)
    await fixture.change_template("v2")
    await fixture.clock.advance(5)
    await fixture.kube.patch(NETWORK_SWITCHES, Key("lab", "a"), {"metadata": {"labels": {"role": "spine"}}})
    await fixture.clock.advance(5)
    assert "tel-a" not in fixture.processes()


async def test_a_template_with_the_required_label_ends_a_refusal_at_once(fixture: ProgramFixture) -> None:
    refusal = api_error(403, "Forbidden", "label team is required")
    fixture.kube.fail_next(refusal, verb="create", resource=DEVICE_PROCESSES)
    await fixture.switch("d")
    await fixture.clock.advance(3)
    assert "tel-d" not in fixture.processes()
    await fixture.change_template("v1", labels={"app": "tel", "team": "x"})
    await fixture.clock.advance(3)
    assert "tel-d" in fixture.processes()


async def test_history_that_cannot_be_trimmed_hides_no_status(fixture: ProgramFixture) -> None:
    await fixture.edit(revisionHistoryLimit=0)
    await fixture.report_ready()
    await fixture.clock.advance(5)
    refusal = api_error(403, "Forbidden", "no")
    fixture.kube.fail_next(refusal, verb="delete", resource=CONTROLLER_REVISIONS, times=1000)
    await fixture.change_template("v2")
    for _ in range(6):
        await fixture.clock.advance(5)
        await fixture.report_ready()
    await fixture.clock.advance(60)
    assert fixture.status()["numberReady"] == fixture.status()["updatedNumberScheduled"] == 3


async def test_a_namespace_that_cannot_be_followed_holds_up_itself_alone() -> None:
    fixture = ProgramFixture()
    for namespace in ("lab", "other"):
        for name in ("a", "b", "c", "d", "e"):  # more deployments than workers
            body = body_of(NETWORK_SWITCHES, name, {"labels": {"role": "leaf"}}, spec={})
            await fixture.kube.create(NETWORK_SWITCHES, namespace, body)
            spec = {"selector": {}, "template": {"spec": runs("v1")}}
            deployment = body_of(DEVICE_PROCESS_DEPLOYMENTS, name, spec=spec)
            await fixture.kube.create(DEVICE_PROCESS_DEPLOYMENTS, namespace, deployment)
    watch, forbidden = fixture.kube.watch, []

    async def guarded(resource: Resource, namespace: str | None, **options: Any) -> AsyncIterator[Any]:
        if namespace in forbidden:
            raise api_error(403, "Forbidden", "no")
        async with aclosing(watch(resource, namespace, **options)) as events:
            async for event in events:
                yield event

    fixture.kube.watch = guarded  # type: ignore[method-assign, assignment]
    async with fixture.controller(namespaces=("lab", "other")):
        forbidden.append("other")
        fixture.kube.end_watches()
        await fixture.clock.advance(5)
        for namespace in ("other", "lab"):
            template = {"spec": runs("v2")}
            for name in ("a", "b", "c", "d", "e"):
                await fixture.kube.patch(
                    DEVICE_PROCESS_DEPLOYMENTS, Key(namespace, name), {"spec": {"template": template}}
                )
        await fixture.clock.advance(60)
        seen = {
            key.namespace
            for key, obj in fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS).items()
            if obj["status"]["observedGeneration"] == 2
        }
        assert seen == {"lab"}


async def test_a_conflict_is_read_back_and_planned_again(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    fixture.kube.fail_next(api_error(409, "Conflict", "changed"), verb="patch", resource=DEVICE_PROCESSES)
    await fixture.change_template("v2")
    await fixture.clock.advance(5)
    assert sorted(fixture.commands().values()) == ["v1", "v1", "v2"]


async def test_a_label_that_a_user_removed_at_the_same_moment_is_no_refusal(
    fixture: ProgramFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    patch = fixture.kube.patch

    async def meddled(resource: Resource, key: Key, body: Any, **options: Any) -> dict[str, Any]:
        if resource == DEVICE_PROCESSES and options.get("patch_type") is PatchType.JSON:
            monkeypatch.undo()
            await patch(resource, key, {"metadata": {"labels": {"app": None}}})
        return await patch(resource, key, body, **options)

    monkeypatch.setattr(fixture.kube, "patch", meddled)
    await fixture.change_template("v2", labels={"app": None, "tier": "edge"})
    await fixture.clock.advance(5)
    assert sorted(fixture.commands().values()) == ["v1", "v1", "v2"]
    assert "CannotConverge" not in fixture.status()["reasons"]


async def test_a_change_that_the_api_refuses_as_invalid_is_shown(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    fixture.kube.fail_next(api_error(422, "Invalid", "spec.execution: no"), verb="patch", resource=DEVICE_PROCESSES)
    await fixture.change_template("v2")
    await fixture.clock.advance(3)
    assert fixture.status()["reasons"]["CannotConverge"] == 1


async def test_nothing_is_written_while_nothing_changes(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(60)
    before = fixture.requests()
    await fixture.clock.advance(120)
    assert fixture.requests() == before


async def test_a_bad_selector_is_shown_until_it_is_fixed(fixture: ProgramFixture) -> None:
    await fixture.kube.loosen(DEVICE_PROCESS_DEPLOYMENTS)
    await fixture.edit(selector={"matchExpressions": [{"key": "a", "operator": "In", "values": []}]})
    await fixture.clock.advance(5)
    assert fixture.condition("Progressing") == ("False", "InvalidSpec")
    assert len(fixture.processes()) == 3
    await fixture.edit(selector={"matchExpressions": None})
    await fixture.clock.advance(5)
    assert fixture.condition("Progressing")[1] != "InvalidSpec"


async def test_a_rollout_that_makes_no_progress_is_shown(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    await fixture.change_template("v2")
    await fixture.clock.advance(700)
    assert fixture.condition("Progressing") == ("False", "ProgressDeadlineExceeded")
    reasons = [event["reason"] for event in fixture.kube.objects(EVENTS).values()]
    assert "ProgressDeadlineExceeded" in reasons
    assert "CreatedProcesses" in reasons


async def test_nothing_is_decided_while_only_switches_from_before_an_outage_are_known(
    fixture: ProgramFixture,
) -> None:
    fixture.kube.unreachable = True
    fixture.kube.end_watches(Unreachable("cut"))
    await fixture.clock.advance(1)
    others = fixture.kube.another_client()
    body = body_of(NETWORK_SWITCHES, "new", {"labels": {"role": "edge"}}, spec={})
    await others.create(NETWORK_SWITCHES, "lab", body)
    spec = {"selector": {"matchLabels": {"role": "edge"}}, "template": {"spec": runs("v1")}}
    await others.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", body_of(DEVICE_PROCESS_DEPLOYMENTS, "edge", spec=spec))
    fixture.kube.heal()
    fixture.kube.fail_next(ServerError(500), verb="watch", resource=NETWORK_SWITCHES, times=4)
    edge = Key("lab", "edge")
    while "status" not in (stored := fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[edge]):
        await fixture.clock.advance(0.1)
    assert stored["status"]["desiredNumberScheduled"] == 1
    assert "edge-new" in fixture.processes()


async def test_a_leader_whose_connections_were_swallowed_writes_nothing_until_it_can_read_again(
    fixture: ProgramFixture,
) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(5)
    fixture.kube.silence_watches()
    fixture.kube.hang_next(verb="watch", resource=DEVICE_PROCESSES, times=1000)
    fixture.kube.hang_next(verb="patch", resource=LEASES)
    await fixture.clock.advance(5)
    await fixture.change_template("v2")
    before = fixture.writes()
    await fixture.clock.advance(25)
    assert fixture.writes() == before  # deployments are followed again, processes are not
    fixture.kube.heal()
    await fixture.clock.advance(20)
    assert sorted(fixture.commands().values()) == ["v1", "v1", "v2"]


async def test_a_deleted_deployment_is_not_acted_on(fixture: ProgramFixture) -> None:
    await fixture.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"metadata": {"finalizers": ["example.com/keep"]}})
    await fixture.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
    await fixture.kube.delete(DEVICE_PROCESSES, Key("lab", "tel-a"))
    await fixture.clock.advance(5)
    assert set(fixture.processes()) == {"tel-b", "tel-c"}


async def test_a_deleted_deployment_gets_nothing_even_right_after_its_status_was_written(
    fixture: ProgramFixture,
) -> None:
    await fixture.report_ready()
    while fixture.status().get("numberAvailable") != 3:
        await fixture.clock.advance(0.05)
    await fixture.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
    for resource in (DEVICE_PROCESSES, CONTROLLER_REVISIONS):  # as the garbage collector does
        for key in fixture.kube.objects(resource):
            await fixture.kube.delete(resource, key)
    await fixture.clock.advance(30)
    assert (fixture.processes(), fixture.history()) == ({}, {})


async def test_a_new_leader_changes_nothing_and_the_lease_is_released(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(5)
    before = fixture.processes()
    async with fixture.controller():
        await fixture.clock.advance(60)
    assert fixture.processes() == before


async def test_stopping_releases_the_lease() -> None:
    fixture = ProgramFixture()
    async with fixture.controller():
        lease = fixture.kube.objects(LEASES)[Key("praetor-system", "praetor-controller")]
        assert lease["spec"]["holderIdentity"]
    lease = fixture.kube.objects(LEASES)[Key("praetor-system", "praetor-controller")]
    assert lease["spec"]["holderIdentity"] == ""


async def test_a_recreated_deployment_waits_for_the_processes_of_its_predecessor(fixture: ProgramFixture) -> None:
    await fixture.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
    await fixture.clock.advance(1)
    await fixture.deploy()
    await fixture.clock.advance(5)
    assert fixture.status()["reasons"] == {"Terminating": 3}
    before = {name: obj["metadata"]["uid"] for name, obj in fixture.processes().items()}
    for name in before:  # as the garbage collector does
        await fixture.kube.delete(DEVICE_PROCESSES, Key("lab", name))
    await fixture.clock.advance(2)
    after = {name: obj["metadata"]["uid"] for name, obj in fixture.processes().items()}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


async def test_a_busy_api_is_retried_after_the_time_that_it_names(fixture: ProgramFixture) -> None:
    busy = api_error(429, "TooManyRequests", "slow down", retry_after=30.0)
    fixture.kube.fail_next(busy, verb="create", resource=DEVICE_PROCESSES)
    await fixture.switch("d")
    await fixture.clock.advance(20)
    assert "tel-d" not in fixture.processes()
    await fixture.clock.advance(15)
    assert "tel-d" in fixture.processes()


async def test_a_status_conflict_is_retried(fixture: ProgramFixture) -> None:
    fixture.kube.fail_next(
        api_error(409, "Conflict", "changed"), verb="patch", resource=DEVICE_PROCESS_DEPLOYMENTS, times=3
    )
    await fixture.switch("d")
    await fixture.clock.advance(10)
    assert fixture.status()["desiredNumberScheduled"] == 4


async def test_a_process_in_another_namespace_does_not_belong_to_the_deployment(fixture: ProgramFixture) -> None:
    owner = fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["metadata"]["uid"]
    reference = {"apiVersion": "azure.com/v1alpha1", "kind": "DeviceProcessDeployment", "name": "tel", "uid": owner}
    metadata = {"ownerReferences": [reference | {"controller": True}]}
    spec = runs("v1") | {"deviceRef": {"name": "a"}}
    await fixture.kube.create(DEVICE_PROCESSES, "other", body_of(DEVICE_PROCESSES, "tel-a", metadata, spec=spec))
    await fixture.clock.advance(10)
    assert Key("other", "tel-a") in fixture.kube.objects(DEVICE_PROCESSES)


async def test_a_deleted_process_is_created_again(fixture: ProgramFixture) -> None:
    await fixture.kube.delete(DEVICE_PROCESSES, Key("lab", "tel-a"))
    await fixture.clock.advance(5)
    assert set(fixture.processes()) == {"tel-a", "tel-b", "tel-c"}


async def test_a_new_leader_that_meets_an_unseen_process_takes_it_over(fixture: ProgramFixture) -> None:
    taken = api_error(409, "AlreadyExists", "exists")
    fixture.kube.fail_next(taken, verb="create", resource=DEVICE_PROCESSES)
    await fixture.switch("d")
    await fixture.clock.advance(5)
    assert "tel-d" in fixture.processes()


async def test_each_template_has_a_revision_and_an_old_one_is_renumbered(fixture: ProgramFixture) -> None:
    assert fixture.history() == {1: "v1"}
    await fixture.report_ready()
    await fixture.change_template("v2")
    await fixture.clock.advance(2)
    assert fixture.history() == {1: "v1", 2: "v2"}
    await fixture.change_template("v1", labels={"app": "tel"})
    await fixture.clock.advance(2)
    assert fixture.history() == {2: "v2", 3: "v1"}
    assert set(fixture.commands().values()) == {"v1"}
    assert (
        fixture.status()["updateRevision"]
        == fixture.processes()["tel-b"]["metadata"]["annotations"]["azure.com/revision"]
    )


async def test_no_more_revisions_are_kept_than_asked_for(fixture: ProgramFixture) -> None:
    await fixture.edit(revisionHistoryLimit=1)
    await fixture.report_ready()
    await fixture.clock.advance(2)
    for version in ("v2", "v3", "v4"):
        await fixture.change_template(version)
        await fixture.clock.advance(2)
    assert set(fixture.history().values()) == {"v1", "v3", "v4"}  # v1 runs, v4 is rolled out
    await fixture.clock.advance(60)
    assert set(fixture.history().values()) == {"v1", "v3", "v4"}


async def test_a_revision_of_a_predecessor_is_left_alone(fixture: ProgramFixture) -> None:
    await fixture.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
    await fixture.clock.advance(1)
    await fixture.deploy()
    await fixture.clock.advance(5)
    uid = fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["metadata"]["uid"]
    owners = [
        each["metadata"]["ownerReferences"][0]["uid"] for each in fixture.kube.objects(CONTROLLER_REVISIONS).values()
    ]
    assert len(owners) == 2
    assert owners.count(uid) == 1


async def test_a_new_leader_writes_no_new_revision_and_its_deadline_goes_on(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    await fixture.change_template("v2")
    await fixture.clock.advance(500)
    before = fixture.history()
    async with fixture.controller():
        await fixture.clock.advance(150)
        assert fixture.condition("Progressing") == ("False", "ProgressDeadlineExceeded")
    assert fixture.history() == before


@pytest.mark.parametrize("error", [api_error(409, "AlreadyExists", "exists"), Unreachable("cut off")])
async def test_a_revision_whose_write_failed_is_written_before_anything_is_rolled_out(
    fixture: ProgramFixture, error: Exception
) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    fixture.kube.fail_next(error, verb="create", resource=CONTROLLER_REVISIONS)  # type: ignore[arg-type]
    await fixture.change_template("v2")
    await fixture.clock.advance(10)
    assert fixture.history() == {1: "v1", 2: "v2"}
    assert sorted(fixture.commands().values()) == ["v1", "v1", "v2"]


async def test_a_renumbering_that_conflicts_is_retried(fixture: ProgramFixture) -> None:
    await fixture.change_template("v2")
    await fixture.clock.advance(2)
    fixture.kube.fail_next(api_error(409, "Conflict", "changed"), verb="patch", resource=CONTROLLER_REVISIONS)
    await fixture.change_template("v1", labels={"app": "tel"})
    await fixture.clock.advance(10)
    assert fixture.history() == {2: "v2", 3: "v1"}


async def test_restarting_is_a_rollout(fixture: ProgramFixture) -> None:
    await fixture.report_ready()
    await fixture.clock.advance(2)
    when = "2026-01-01T00:00:00Z"
    await fixture.change_template("v1", labels={"app": "tel"}, annotations={"azure.com/restarted-at": when})
    await fixture.clock.advance(3)
    restarted = [name for name, obj in fixture.processes().items() if obj["spec"].get("restartedAt") == when]
    assert restarted == ["tel-a"]


async def test_a_recorded_program_is_replayed_without_a_difference(tmp_path: Path) -> None:
    fixture, path = ProgramFixture(), tmp_path / "flight.jsonl"
    for name in ("a", "b", "c"):
        await fixture.switch(name)
    await fixture.deploy()
    recording = Recording(path=path, max_bytes=1 << 20, files=2)
    async with fixture.controller(recording):
        await fixture.report_ready()
        await fixture.change_template("v2")
        for _ in range(4):
            await fixture.clock.advance(5)
            await fixture.report_ready()
        await fixture.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, TEL)
        await fixture.clock.advance(5)
    *_, done = replay(path.read_bytes().splitlines(keepends=True))
    assert done.decisions > 5
    assert done.difference is None

# SPDX-License-Identifier: Apache-2.0
"""Rows, manifests, status patches and events: what is read, and what is written."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from attrs import evolve

from controller_testing import NAMESPACE, START, deployment, process
from kube_testing import copied
from praetor_api.canonical import spec_hash
from praetor_api.kube.client.resource import Key
from praetor_api.kube.codec import encode
from praetor_api.kube.objects import Condition, ConditionStatus
from praetor_controller.model.actions import Create, Update
from praetor_controller.model.annotations import ManagedKeys, deployment_label, managed_keys, parse_managed_keys
from praetor_controller.model.manifests import process_manifest, process_patch
from praetor_controller.model.projection import project_deployment, project_device, project_process
from praetor_controller.reconcile.events import transition_events, write_events
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import Counts, RolloutStatus
from praetor_controller.rollout.status import status_patch

KEY = Key(NAMESPACE, "tel-a")
NOON = "2026-01-01T12:00:00Z"
NOON_EPOCH = START.timestamp() + 12 * 3600


def condition(type_: str, status: str = "True", **fields: str) -> dict[str, str]:
    return {"type": type_, "status": status, "lastTransitionTime": NOON} | fields


def raw_process(status: dict[str, Any], **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "tel-a", "namespace": NAMESPACE, "generation": 2, "annotations": annotations},
        "spec": {"deviceRef": {"name": "a"}, "execution": {"command": ["x"]}},
        "status": status,
    }


READY = {
    "phase": "Running",
    "observedGeneration": 2,
    "conditions": [condition("AgentConnected"), condition("SpecObserved"), condition("Healthy")],
}


@pytest.mark.parametrize(
    ("status", "ready_since"),
    [
        pytest.param(READY, NOON_EPOCH, id="ready"),
        pytest.param(READY | {"phase": "Succeeded"}, NOON_EPOCH, id="ran-to-completion"),
        pytest.param(READY | {"phase": "Pending"}, None, id="pending"),
        pytest.param(READY | {"observedGeneration": 1}, None, id="speaks-of-an-older-spec"),
        pytest.param(READY | {"conditions": [condition("AgentConnected")]}, None, id="conditions-missing"),
        pytest.param({}, None, id="nothing-reported"),
    ],
)
def test_ready_is_what_the_status_says_of_the_current_spec(status: dict[str, Any], ready_since: float | None) -> None:
    assert project_process(raw_process(status)).ready_since == ready_since


def test_a_condition_that_stayed_true_is_no_older_than_the_offer() -> None:
    row = project_process(raw_process(READY, **{"azure.com/offered-at": "2026-01-01T13:00:00Z"}))
    assert row.ready_since == row.settled_since == NOON_EPOCH + 3600


def test_an_annotation_that_a_user_broke_is_ignored() -> None:
    assert project_process(raw_process(READY, **{"azure.com/offered-at": "yesterday"})).offered_at is None


EXITED = {
    "phase": "Pending",
    "startTime": "2026-01-01T11:59:58Z",
    "observedGeneration": 2,
    "conditions": [
        condition("ProcessStarted", "False", reason="Exited", message="exit code 1"),
        condition("Healthy", "False"),
    ],
}


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        pytest.param(READY | {"phase": "Failed"}, "phase Failed", id="failed"),
        pytest.param(
            READY | {"phase": "Failed", "lastTerminationReason": "exit 1\x1b[2J"},
            "phase Failed: exit 1\ufffd[2J",
            id="failed-why",
        ),
        pytest.param(
            READY
            | {
                "phase": "Failed",
                "conditions": [
                    condition("ProcessStarted", "False", message="no such file"),
                    condition("Healthy", "False"),
                ],
            },
            "phase Failed: no such file",
            id="never-started",
        ),
        pytest.param(
            READY | {"conditions": [condition("RolledBack", message="no start")]},
            "RolledBack: no start",
            id="rolled-back",
        ),
        pytest.param(
            READY | {"conditions": [condition("Healthy", "False", reason="Probe"), condition("ProcessStarted")]},
            "not healthy: Probe",
            id="not-healthy",
        ),
        pytest.param(READY | {"conditions": [condition("Healthy", "False")]}, "", id="starting"),
        pytest.param(EXITED | {"restartCount": 2}, "ended 3 times: exit code 1", id="keeps-ending"),
        pytest.param(EXITED | {"restartCount": 1}, "", id="ended"),
        pytest.param(READY, "", id="well"),
    ],
)
def test_a_failure_is_described(status: dict[str, Any], failure: str) -> None:
    assert project_process(raw_process(status)).failure == failure


@pytest.mark.parametrize(("generation", "failure"), [(2, "RolledBack: it ended 3 times"), (1, "")])
def test_a_device_that_rolled_the_current_spec_back_fails_though_it_runs_an_older_one(
    generation: int, failure: str
) -> None:
    gave_up: dict[str, Any] = condition("RolledBack", reason="CrashLoop", message="it ended 3 times")
    conditions = [condition("AgentConnected"), condition("Healthy"), gave_up | {"observedGeneration": generation}]
    row = project_process(raw_process({"phase": "Running", "observedGeneration": 1, "conditions": conditions}))
    assert (row.observed, row.ready_since, row.failure) == (False, None, failure)


@pytest.mark.parametrize(
    ("status", "settled"),
    [
        pytest.param(READY | {"phase": "Unknown"}, NOON_EPOCH, id="went-silent"),
        pytest.param(READY | {"conditions": [condition("Healthy", "Unknown")]}, 0.0, id="health-unknown"),
        pytest.param(READY | {"phase": "Failed"}, None, id="failed"),
        pytest.param(READY | {"conditions": [condition("Healthy", "False")]}, None, id="unhealthy"),
    ],
)
def test_readiness_is_known_after_the_device_went_silent(status: dict[str, Any], settled: float | None) -> None:
    assert project_process(raw_process(status)).settled_since == settled


@pytest.mark.parametrize(
    ("ref", "device"),
    [
        pytest.param({"kind": "BMC", "name": "a"}, "BMC/a", id="another-kind"),
        pytest.param({"kind": "Toaster", "name": "a"}, "", id="no-kind-of-ours"),
        pytest.param({"name": "a", "namespace": "elsewhere"}, "", id="another-namespace"),
        pytest.param({"kind": "NetworkSwitch"}, "", id="no-name"),
    ],
)
def test_a_process_belongs_to_the_device_of_its_namespace_that_it_names(ref: dict[str, str], device: str) -> None:
    obj = raw_process({})
    obj["spec"]["deviceRef"] = ref
    assert project_process(obj).device == device


@pytest.mark.parametrize("argument", ["x", pytest.param("x" * 10_000, id="long")])
def test_processes_are_told_apart_by_all_of_their_specs_but_the_device(argument: str) -> None:
    def hash_of(device: str, **fields: Any) -> str:
        spec = {"deviceRef": {"name": device}, "execution": {"command": [argument]} | fields}
        return project_process(raw_process({}) | {"spec": spec}).spec_hash

    own = spec_hash({"execution": {"command": [argument], "later": 1}})
    assert hash_of("a", later=1) == hash_of("b", later=1) == own
    assert len({hash_of("a", later=later) for later in (1, True, 1.0, "1", None)}) == 5


def test_only_the_controlling_owner_counts() -> None:
    obj = raw_process({})
    obj["metadata"]["ownerReferences"] = [{"uid": "1"}, {"uid": "2", "controller": True}]
    assert project_process(obj).owner == "2"


def test_a_device_row_shows_connection_and_maintenance() -> None:
    obj: dict[str, Any] = {
        "metadata": {"name": "a", "namespace": NAMESPACE},
        "spec": {"maintenance": {"until": NOON}},
        "status": {"conditions": [condition("AgentConnected", "False")]},
    }
    row = project_device(obj)
    assert (row.connected, row.connected_since) == (False, NOON_EPOCH)
    assert (row.in_maintenance, row.maintenance_until) == (True, NOON_EPOCH)
    assert project_device({"metadata": {"name": "b"}}).in_maintenance is False


@pytest.mark.parametrize(
    ("status", "observed", "fetched"),
    [
        ("False", 3, True),
        ("False", 2, False),
        ("False", 0, False),
        pytest.param("False", None, None, id="a-replica-that-answered-is-lost"),
        pytest.param("True", 3, None, id="connected"),
    ],
)
def test_a_silent_device_had_fetched_the_spec_or_not(status: str, observed: int | None, fetched: bool | None) -> None:
    obj = raw_process({"conditions": [condition("AgentConnected", status) | {"observedGeneration": observed}]})
    obj["metadata"]["generation"] = 3
    assert project_process(obj).fetched is fetched


def test_a_spec_that_cannot_be_read_names_the_field() -> None:
    spec = {"selector": {"matchLabels": []}, "updateStrategy": {"type": "Surprise"}}
    row = project_deployment({"metadata": {"name": "tel"}, "spec": spec, "status": {"conditions": "?"}})
    assert "spec.selector.matchLabels" in row.fault
    assert "spec.updateStrategy.type: must be one of RollingUpdate" in row.fault
    assert row.matches({}) is False


def test_a_deployment_with_an_invalid_selector_matches_no_device_and_names_the_field() -> None:
    spec = {"selector": {"matchExpressions": [{"key": "site", "operator": "In"}]}}
    row = project_deployment({"metadata": {"name": "tel"}, "spec": spec})
    assert row.fault == "spec.selector.matchExpressions[0].values: In needs at least one value"
    assert row.matches({"site": "a"}) is False


def test_fields_of_a_newer_api_survive() -> None:
    spec = {"selector": {}, "template": {"spec": {"execution": {}, "new": {"deep": [1]}}}}
    row = project_deployment({"metadata": {"name": "tel", "namespace": NAMESPACE, "uid": "u"}, "spec": spec})
    assert process_manifest(row, Create("a", "tel-a", row.template), START)["spec"]["new"] == {"deep": [1]}


def test_a_patch_names_only_our_keys() -> None:
    row = deployment("v2")
    wanted = evolve(row.template, labels=frozenset({("a/b", "1"), ("same", "1")}), managed="m")
    old = process(
        "a",
        labels=frozenset({("same", "1"), ("left~", "1"), ("theirs", "1")}),
        annotations=frozenset(),
        annotated=False,
        managed=managed_keys(["same", "left~", "never-there"], []),
        resource_version="7",
    )
    patch = process_patch(row, Update(old, wanted), START)
    assert patch[0] == {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}
    assert patch[1]["path"] == "/spec"
    assert {"op": "add", "path": "/metadata/labels/a~1b", "value": "1"} in patch
    assert {"op": "remove", "path": "/metadata/labels/left~0"} in patch
    assert [each["path"] for each in patch[2:]] == [
        "/metadata/labels/a~1b",
        "/metadata/labels/azure.com~1revision",
        "/metadata/labels/left~0",
        "/metadata/annotations",
    ]


def test_a_change_of_metadata_is_no_offer() -> None:
    patch = process_patch(deployment(), Update(process("a", annotated=True), deployment().template, spec=False), START)
    paths = [each["path"] for each in patch]
    assert "/spec" not in paths
    assert not any("offered-at" in path for path in paths)
    assert "/metadata/annotations/azure.com~1revision" in paths


def test_a_new_spec_says_how_long_its_version_is_on_trial() -> None:
    row, key = deployment("v2"), "azure.com/min-ready-seconds"
    row = evolve(row, policy=evolve(row.policy, min_ready_seconds=45))
    made = process_manifest(row, Create("a", "tel-a", row.template), START)
    assert made["metadata"]["annotations"][key] == "45"
    assert (
        key not in process_manifest(deployment(), Create("a", "tel-a", row.template), START)["metadata"]["annotations"]
    )
    added = {"op": "add", "path": "/metadata/annotations/azure.com~1min-ready-seconds", "value": "45"}
    old = process("a", annotated=True)
    assert added in process_patch(row, Update(old, row.template), START)
    assert added not in process_patch(row, Update(old, row.template, spec=False), START)
    ready_at_once = process_patch(deployment("v2"), Update(evolve(old, min_ready="45"), row.template), START)
    assert {**added, "value": "0"} in ready_at_once


def test_an_update_without_a_wave_clears_the_annotation_of_an_earlier_one() -> None:
    old, gone = (
        process("a", wave="w1", annotated=True),
        {"op": "add", "path": "/metadata/annotations/azure.com~1wave", "value": ""},
    )
    assert gone in process_patch(deployment(), Update(old, deployment("v2").template), START)
    assert gone not in process_patch(deployment(), Update(old, deployment("v2").template, wave="w0"), START)
    assert gone not in process_patch(deployment(), Update(old, deployment().template, spec=False), START)


def test_a_patch_for_a_process_without_labels_brings_all_of_them() -> None:
    wanted = evolve(deployment().template, labels=frozenset({("a", "1")}))
    patch = process_patch(deployment(), Update(process("a"), wanted), START)
    assert {"op": "add", "path": "/metadata/labels", "value": {"a": "1", "azure.com/revision": "rev-v1"}} in patch


@pytest.mark.parametrize("note", ["", "{", "[]", '{"labels": 1}', '"x"'])
def test_a_broken_annotation_of_managed_keys_removes_nothing(note: str) -> None:
    assert parse_managed_keys(note) == ManagedKeys()


def test_a_long_deployment_name_is_hashed_into_its_label() -> None:
    assert deployment_label("tel") == "tel"
    long = deployment_label("x" * 100)
    assert len(long) == 63
    assert long != deployment_label("x" * 101)


PROGRESSING = Condition(type="Progressing", status=ConditionStatus.TRUE, reason="RolloutInProgress", message="m")
STATUS = RolloutStatus(
    observed_generation=2,
    counts=Counts(desired=3, current=3, updated=1, ready=2, available=1),
    current_revision=None,
    update_revision="r2",
    reasons={ReasonCode.UP_TO_DATE: 1, ReasonCode.UPDATING: 2},
    conditions=(PROGRESSING,),
)


def test_only_what_changed_is_written() -> None:
    full = status_patch({}, STATUS)
    assert full["numberUnavailable"] == 2
    assert full["conditions"] == [encode(PROGRESSING)]
    assert "currentRevision" not in full
    assert status_patch(full, STATUS) == {}
    later = evolve(STATUS, reasons={ReasonCode.UP_TO_DATE: 3}, current_revision="r2")
    assert status_patch(full, later) == {"reasons": {"UpToDate": 3, "Updating": None}, "currentRevision": "r2"}


def test_a_transition_makes_one_event() -> None:
    done = evolve(PROGRESSING, reason="NewRevisionRolledOut")
    assert [each.reason for each in transition_events((PROGRESSING,), (done,))] == ["RolloutComplete"]
    assert transition_events((done,), (done,)) == ()
    assert transition_events((), ()) == ()
    assert transition_events((), (evolve(PROGRESSING, reason="WaitingForDeletion"),)) == ()


def test_a_round_of_writes_makes_one_event_of_each_kind() -> None:
    events = write_events(5, 1, 0, "no room")
    assert [each.note for each in events] == [
        "created 5 processes",
        "updated 1 process",
        "the API refused a process: no room",
    ]


def test_texts_of_devices_are_shared_and_not_interned() -> None:
    said = "fact that a device says"
    rows = [
        project_device(copied({"metadata": {"name": name}, "status": {"facts": {"os": said}}})) for name in ("a", "b")
    ]
    first, second = (row.facts["os"] for row in rows if row.facts is not None)
    assert first is second
    assert sys.intern(copied(said)) is not first

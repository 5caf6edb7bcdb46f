# SPDX-License-Identifier: Apache-2.0
"""Leases, and Events as both of their groups see them."""

from __future__ import annotations

from typing import Any

import pytest

from contract.rawapi import STRATEGIC
from contract.widgets import VERSION, Collection, InNamespace, brief

LEASES = "coordination.k8s.io/v1"
EVENTS = "events.k8s.io/v1"


def lease(name: str = "l", **spec: Any) -> dict[str, Any]:
    held = {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:00.000000Z",
        "renewTime": "2026-01-01T00:00:00.123456Z",
        "leaseTransitions": 0,
    }
    return {"apiVersion": LEASES, "kind": "Lease", "metadata": {"name": name}, "spec": {**held, **spec}}


@pytest.fixture
def leases(in_namespace: InNamespace) -> Collection:
    """Leases in the test's namespace."""
    return in_namespace(LEASES, "leases")


@pytest.fixture
def events(in_namespace: InNamespace) -> Collection:
    """Events of the newer group in the test's namespace."""
    return in_namespace(EVENTS, "events")


@pytest.fixture
def core_events(in_namespace: InNamespace) -> Collection:
    """Events of the core group in the test's namespace."""
    return in_namespace("v1", "events")


def test_a_lease_keeps_microseconds(leases: Collection) -> None:
    made = leases.made(lease())
    assert made["spec"] == lease()["spec"]
    assert "generation" not in made["metadata"]
    assert leases.read("l") == made


def test_a_lease_is_renewed_by_replacing_what_was_read(leases: Collection) -> None:
    made = leases.made(lease())
    renewed = {**made, "spec": {**made["spec"], "renewTime": "2026-01-01T00:00:02.000000Z"}}
    answer = leases.put("l", renewed)
    assert (answer.status, answer.body["spec"]["renewTime"]) == (200, "2026-01-01T00:00:02.000000Z")
    lost = leases.put("l", {**made, "spec": {**made["spec"], "holderIdentity": "another"}})
    assert (lost.status, lost.reason) == (409, "Conflict")
    assert leases.read("l")["spec"]["holderIdentity"] == "me"


def test_a_lease_is_renewed_by_a_patch_with_the_version_it_read(leases: Collection) -> None:
    made = leases.made(lease())
    version = made["metadata"]["resourceVersion"]
    body = {"metadata": {"resourceVersion": version}, "spec": {"renewTime": "2026-01-01T00:00:02.000000Z"}}
    assert leases.patch("l", body).status == 200
    assert leases.patch("l", body).status == 409


def test_two_cannot_both_create_a_lease(leases: Collection) -> None:
    leases.made(lease())
    assert leases.create(lease(holderIdentity="another")).reason == "AlreadyExists"


def test_a_lease_is_released_with_an_empty_holder(leases: Collection) -> None:
    leases.made(lease())
    # an empty identity can be an error of its own since 1.31
    answer = leases.patch("l", {"spec": {"holderIdentity": ""}})
    assert answer.status in {200, 422}
    assert "holderIdentity" not in leases.patch("l", {"spec": {"holderIdentity": None}}).body["spec"]


def test_an_empty_lease_waits_for_a_holder(leases: Collection) -> None:
    body = {"apiVersion": LEASES, "kind": "Lease", "metadata": {"name": "l"}, "spec": {}}
    assert leases.made(body)["spec"] == {}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param({"leaseDurationSeconds": 0}, "spec.leaseDurationSeconds", id="no-duration"),
        pytest.param({"leaseTransitions": -1}, "spec.leaseTransitions", id="negative-transitions"),
    ],
)
def test_a_lease_is_validated(leases: Collection, spec: dict[str, Any], field: str) -> None:
    answer = leases.create(lease(**spec))
    assert (answer.status, brief(answer)) == (422, [(field, "FieldValueInvalid")])
    assert answer.body["details"]["kind"] == "Lease"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"leaseDurationSeconds": "15"}, id="duration-is-text"),
        pytest.param({"renewTime": "now"}, id="time-is-nonsense"),
        pytest.param({"holderIdentity": 5}, id="holder-is-a-number"),
    ],
)
def test_a_lease_that_cannot_be_read_is_a_bad_request(leases: Collection, spec: dict[str, Any]) -> None:
    assert leases.create(lease(**spec)).status == 400


def test_unknown_fields_of_built_in_kinds_are_dropped(leases: Collection) -> None:
    made = leases.made(lease(bogus=1))
    assert "bogus" not in made["spec"]


def test_a_replaced_lease_is_created_if_it_is_not_there(leases: Collection) -> None:
    assert leases.put("l", lease()).status == 201
    assert leases.read("l")["spec"]["holderIdentity"] == "me"


def test_a_lease_takes_every_kind_of_patch(leases: Collection) -> None:
    leases.made(lease())
    assert leases.patch("l", {"spec": {"leaseTransitions": 1}}, STRATEGIC).body["spec"]["leaseTransitions"] == 1
    applied = leases.apply("l", {**lease(), "spec": {"leaseTransitions": 2}}, force="true")
    assert applied.body["spec"]["leaseTransitions"] == 2
    assert applied.body["spec"]["holderIdentity"] == "me"


def core_event(namespace: str, name: str = "e", **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name},
        "involvedObject": {"apiVersion": VERSION, "kind": "Widget", "namespace": namespace, "name": "a", "uid": "u1"},
        "reason": "Made",
        "message": "it was made",
        "type": "Normal",
        "count": 2,
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:01:00Z",
        "source": {"component": "tester"},
        **fields,
    }


def event(namespace: str, name: str = "n", **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": EVENTS,
        "kind": "Event",
        "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/tester",
        "reportingInstance": "tester-1",
        "action": "Making",
        "reason": "Made",
        "regarding": {"apiVersion": VERSION, "kind": "Widget", "namespace": namespace, "name": "b", "uid": "u2"},
        "note": "it was made",
        "type": "Normal",
        **fields,
    }


def test_an_event_of_the_core_group_shows_in_the_other(
    events: Collection, core_events: Collection, namespace: str
) -> None:
    made = core_events.made(core_event(namespace))
    seen = events.read("e")
    assert (seen["apiVersion"], seen["metadata"]["uid"]) == (EVENTS, made["metadata"]["uid"])
    assert seen["regarding"] == made["involvedObject"]
    assert (seen["note"], seen["reason"], seen["type"]) == ("it was made", "Made", "Normal")
    assert (seen["deprecatedCount"], seen["deprecatedSource"]) == (2, {"component": "tester"})
    assert (seen["deprecatedFirstTimestamp"], seen["deprecatedLastTimestamp"]) == (
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:01:00Z",
    )


def test_an_event_of_the_newer_group_shows_in_the_core_group(
    events: Collection, core_events: Collection, namespace: str
) -> None:
    made = events.made(event(namespace))
    seen = core_events.read("n")
    assert (seen["apiVersion"], seen["kind"]) == ("v1", "Event")
    assert seen["involvedObject"] == made["regarding"]
    assert (seen["message"], seen["action"]) == ("it was made", "Making")
    assert (seen["reportingComponent"], seen["reportingInstance"]) == ("example.com/tester", "tester-1")
    assert seen["eventTime"] == "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("field", "cause"),
    [
        ("eventTime", "eventTime"),
        ("reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance"),
        ("action", "action"),
        ("reason", "reason"),
        ("type", "type"),
        ("regarding", "involvedObject.namespace"),
    ],
)
def test_an_event_of_the_newer_group_needs_all_of_these(
    events: Collection, namespace: str, field: str, cause: str
) -> None:
    body = event(namespace)
    del body[field]
    answer = events.create(body)
    assert answer.status == 422
    assert cause in {cause_field for cause_field, _ in brief(answer)}


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [
        pytest.param("type", "Odd", "type", id="type"),
        pytest.param("note", "x" * 1025, "message", id="long-note"),
        pytest.param("reason", "x" * 129, "reason", id="long-reason"),
        pytest.param("action", "x" * 129, "action", id="long-action"),
        pytest.param("reportingInstance", "x" * 129, "reportingInstance", id="long-instance"),
        pytest.param("reportingController", "not a name", "reportingController", id="controller"),
    ],
)
def test_an_event_of_the_newer_group_is_validated(
    events: Collection, namespace: str, field: str, value: str, cause: str
) -> None:
    answer = events.create(event(namespace, **{field: value}))
    assert answer.status == 422
    assert {(cause_field.split(".")[-1]) for cause_field, _ in brief(answer)} == {cause}


def test_an_event_belongs_into_the_namespace_of_its_object(core_events: Collection, namespace: str) -> None:
    answer = core_events.create(core_event("elsewhere"))
    assert (answer.status, brief(answer)) == (422, [("involvedObject.namespace", "FieldValueInvalid")])


def test_an_event_becomes_a_series(events: Collection, namespace: str) -> None:
    events.made(event(namespace))
    series = {"count": 2, "lastObservedTime": "2026-01-01T00:05:00.000000Z"}
    assert events.patch("n", {"series": series}).body["series"] == series
    more = {"count": 3, "lastObservedTime": "2026-01-01T00:06:00.000000Z"}
    assert events.patch("n", {"series": more}).body["series"] == more


@pytest.mark.parametrize(
    ("selector", "core", "newer"),
    [
        ("reason=Made", ["e", "n"], ["e", "n"]),
        ("type=Warning", [], []),
        ("involvedObject.name=a", ["e"], None),
        ("involvedObject.uid=u2", ["n"], None),
        ("involvedObject.kind=Widget,type=Normal", ["e", "n"], None),
        ("regarding.name=b", None, ["n"]),
        ("source=tester", ["e"], None),
    ],
)
def test_events_are_selected_by_field(
    events: Collection,
    core_events: Collection,
    namespace: str,
    selector: str,
    core: list[str] | None,
    newer: list[str] | None,
) -> None:
    core_events.made(core_event(namespace))
    events.made(event(namespace))
    for collection, names in ((core_events, core), (events, newer)):
        answer = collection.listing(fieldSelector=selector)
        if names is None:
            assert (answer.status, answer.reason) == (400, "BadRequest")
        else:
            assert [item["metadata"]["name"] for item in answer.body["items"]] == names

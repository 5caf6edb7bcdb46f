# SPDX-License-Identifier: Apache-2.0
"""What a schema forbids is refused with 422, and every fault is named by its field.

Reasons became finer in later versions (type, length, count), so that each case lists all that were ever given.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from contract.rawapi import Answer
from contract.widgets import GROUP, VERSION, Collection, InNamespace, brief, widget

REQUIRED = {"FieldValueRequired"}
INVALID = {"FieldValueInvalid"}
UNSUPPORTED = {"FieldValueNotSupported"}
DUPLICATE = {"FieldValueDuplicate"}
TYPE = {"FieldValueInvalid", "FieldValueTypeInvalid"}  # the latter since 1.21
TOO_LONG = {"FieldValueInvalid", "FieldValueTooLong"}  # the latter since 1.23
TOO_MANY = {"FieldValueInvalid", "FieldValueTooMany"}  # the latter since 1.23


def assert_refused(answer: Answer, field: str, reasons: set[str]) -> None:
    assert (answer.status, answer.reason) == (422, "Invalid"), answer
    # one more cause, without a field, says that rules were not evaluated
    causes = [(cause_field, reason in reasons) for cause_field, reason in brief(answer) if cause_field != "<nil>"]
    assert causes == [(field, True)], answer


@pytest.mark.parametrize(
    ("spec", "field", "reasons"),
    [
        pytest.param({"size": None}, "spec.size", REQUIRED, id="required-field-is-null"),
        pytest.param({"size": 0}, "spec.size", INVALID, id="below-minimum"),
        pytest.param({"size": 101}, "spec.size", INVALID, id="above-maximum"),
        pytest.param({"ratio": 1}, "spec.ratio", INVALID, id="at-exclusive-maximum"),
        pytest.param({"size": "5"}, "spec.size", TYPE, id="string-for-integer"),
        pytest.param({"size": 1.5}, "spec.size", TYPE, id="fraction-for-integer"),
        pytest.param({"size": True}, "spec.size", TYPE, id="boolean-for-integer"),
        pytest.param({"enabled": "yes"}, "spec.enabled", TYPE, id="string-for-boolean"),
        pytest.param({"nested": []}, "spec.nested", TYPE, id="list-for-object"),
        pytest.param({"steps": {}}, "spec.steps", TYPE, id="object-for-list"),
        pytest.param({"color": "pink"}, "spec.color", UNSUPPORTED, id="not-of-the-enum"),
        pytest.param({"label": "a"}, "spec.label", INVALID, id="too-short"),
        pytest.param({"label": "a" * 11}, "spec.label", TOO_LONG, id="too-long"),
        pytest.param({"label": "A1"}, "spec.label", INVALID, id="pattern"),
        pytest.param({"when": "yesterday"}, "spec.when", TYPE, id="format"),
        pytest.param({"tags": ["a", "b", "c", "d"]}, "spec.tags", TOO_MANY, id="too-many-items"),
        pytest.param({"tags": ["a", "a"]}, "spec.tags", DUPLICATE, id="set-with-duplicate"),
        pytest.param({"tags": ["a", 1]}, "spec.tags", TYPE, id="type-of-an-item"),
        pytest.param({"steps": [None]}, "spec.steps", TYPE, id="null-item"),
        pytest.param({"ports": [{"name": "a"}]}, "spec.ports.port", REQUIRED, id="required-in-an-item"),
        pytest.param({"ports": [{"port": 1}]}, "spec.ports.name", REQUIRED, id="list-key-missing"),
        pytest.param(
            {"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]},
            "spec.ports",
            DUPLICATE,
            id="list-key-twice",
        ),
        pytest.param({"limits": {"a": "1", "b": "2", "c": "3"}}, "spec.limits", TOO_MANY, id="too-many-properties"),
        pytest.param({"limits": {"a": 1}}, "spec.limits.a", TYPE, id="type-of-a-map-value"),
    ],
)
def test_a_fault_is_named(widgets: Collection, spec: dict[str, Any], field: str, reasons: set[str]) -> None:
    assert_refused(widgets.create(widget("a", **spec)), field, reasons)
    assert widgets.names() == []


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"size": 1}, id="minimum"),
        pytest.param({"size": 100}, id="maximum"),
        pytest.param({"size": 2.0}, id="whole-float-is-an-integer"),
        pytest.param({"ratio": 0}, id="integer-is-a-number"),
        pytest.param({"label": "ab"}, id="shortest"),
        pytest.param({"label": "a" * 10}, id="longest"),
        pytest.param({"when": "2026-01-02T03:04:05Z"}, id="format"),
        pytest.param({"when": "2026-01-02T03:04:05.123456+01:00"}, id="format-with-offset"),
        pytest.param({"tags": []}, id="empty-list"),
        pytest.param({"steps": ["a", "a"]}, id="duplicates-in-a-plain-list"),
    ],
)
def test_what_the_schema_allows_is_accepted(widgets: Collection, spec: dict[str, Any]) -> None:
    made = widgets.made(widget("a", **spec))["spec"]
    assert {key: made[key] for key in spec} == spec


@pytest.mark.parametrize("count", [5, "5%", -1, 0])
def test_int_or_string_takes_either(gauges: Collection, count: int | str) -> None:
    made = gauges.made({"apiVersion": VERSION, "kind": "Gauge", "metadata": {"name": "a"}, "spec": {"count": count}})
    assert made["spec"] == {"count": count}


@pytest.mark.parametrize("count", [1.5, [], {}, True])
def test_int_or_string_takes_nothing_else(gauges: Collection, count: Any) -> None:
    body = {"apiVersion": VERSION, "kind": "Gauge", "metadata": {"name": "a"}, "spec": {"count": count}}
    assert_refused(gauges.create(body), "spec.count", TYPE)


@pytest.mark.parametrize(
    ("spec", "reasons"),
    [
        pytest.param(None, REQUIRED, id="null"),
        pytest.param("text", TYPE, id="a-string"),
        pytest.param([], TYPE, id="a-list"),
    ],
)
def test_the_spec_itself_is_validated(widgets: Collection, spec: Any, reasons: set[str]) -> None:
    assert_refused(widgets.create({**widget("a"), "spec": spec}), "spec", reasons)


def test_a_missing_spec_is_named(widgets: Collection) -> None:
    body = {key: value for key, value in widget("a").items() if key != "spec"}
    assert_refused(widgets.create(body), "spec", REQUIRED)


def test_all_faults_are_reported_at_once(widgets: Collection) -> None:
    answer = widgets.create(widget("a", size=0, color="pink", label="A1"))
    assert [field for field, _ in brief(answer)] == ["spec.color", "spec.label", "spec.size"]
    assert answer.message.startswith(f'Widget.{GROUP} "a" is invalid: [')


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(
            {"color": "pink"},
            'spec.color: Unsupported value: "pink": supported values: "red", "green", "blue"',
            id="enum",
        ),
        pytest.param(
            {"size": 0},
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            id="minimum",
        ),
        pytest.param({"size": None}, "spec.size: Required value", id="required"),
        pytest.param(
            {"size": "5"},
            'spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"',
            id="type",
        ),
        pytest.param(
            {"label": "A1"},
            "spec.label: Invalid value: \"A1\": spec.label in body should match '^[a-z]+$'",
            id="pattern",
        ),
    ],
)
def test_a_fault_is_reported_in_these_words(widgets: Collection, spec: dict[str, Any], message: str) -> None:
    answer = widgets.create(widget("a", **spec))
    assert answer.message == f'Widget.{GROUP} "a" is invalid: {message}'
    assert [f"{cause['field']}: {cause['message']}" for cause in answer.causes] == [message]
    assert answer.body["details"]["name"] == "a"
    assert (answer.body["details"]["group"], answer.body["details"]["kind"]) == (GROUP, "Widget")


def test_changes_are_validated_as_creations_are(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    assert_refused(widgets.patch("a", {"spec": {"size": 0}}), "spec.size", INVALID)
    assert_refused(widgets.put("a", {**made, "spec": {"size": 0}}), "spec.size", INVALID)
    assert widgets.read("a") == made


def test_a_status_is_validated(widgets: Collection) -> None:
    widgets.made(widget("a"))
    body = {"status": {"phase": "Nonsense", "conditions": [{"type": "A"}]}}
    answer = widgets.patch("a", body, subresource="status")
    assert answer.status == 422
    assert brief(answer) == [
        ("status.conditions.status", "FieldValueRequired"),
        ("status.phase", "FieldValueNotSupported"),
    ]


@pytest.mark.parametrize(("kind", "field"), [("ConfigMap", "[]"), ("Secret", "data")])
def test_all_values_of_an_object_have_at_most_1_mib_together(in_namespace: InNamespace, kind: str, field: str) -> None:
    objects = in_namespace("v1", f"{kind.lower()}s")
    half = "x" * (512 * 1024)
    if kind == "Secret":
        half = base64.b64encode(half.encode()).decode()
    body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "large"}}
    objects.made({**body, "data": {"a": half, "b": half}})  # names of keys do not count
    one_more = "eA==" if kind == "Secret" else "x"
    assert_refused(objects.patch("large", {"data": {"c": one_more}}), field, {"FieldValueTooLong"})
    if kind == "ConfigMap":
        assert_refused(objects.patch("large", {"binaryData": {"c": "eA=="}}), field, {"FieldValueTooLong"})


def test_system_fields_are_immutable(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    answer = widgets.patch("a", {"metadata": {"uid": "another"}})
    # a precondition since 1.21
    assert (answer.status, answer.reason) in {(422, "Invalid"), (409, "Conflict")}
    quiet = {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 9}}
    assert widgets.patch("a", quiet).status == 200
    assert widgets.read("a") == made


@pytest.mark.parametrize(
    ("owners", "field"),
    [
        pytest.param([{"name": "", "uid": "1"}], "metadata.ownerReferences.name", id="no-name"),
        pytest.param([{"name": "a", "uid": ""}], "metadata.ownerReferences.uid", id="no-uid"),
        pytest.param(
            [{"name": "a", "uid": "1", "controller": True}, {"name": "b", "uid": "2", "controller": True}],
            "metadata.ownerReferences",
            id="two-controllers",
        ),
    ],
)
def test_owner_references_are_validated(widgets: Collection, owners: list[dict[str, Any]], field: str) -> None:
    references = [{"apiVersion": VERSION, "kind": "Widget", **owner} for owner in owners]
    assert_refused(widgets.create(widget("a", metadata={"ownerReferences": references})), field, INVALID)

# SPDX-License-Identifier: Apache-2.0
"""Rules in CEL (`x-kubernetes-validations`), where the cluster knows them."""

from __future__ import annotations

from typing import Any

import pytest

from contract.widgets import INTEGER, STRING, VERSION, Collection, Define, brief, definition

pytestmark = pytest.mark.needs("cel")

SPEC: dict[str, Any] = {
    "type": "object",
    "properties": {
        "low": INTEGER,
        "high": INTEGER,
        "target": {
            "type": "string",
            "maxLength": 20,
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "target is immutable"}],
        },
        "steps": {"type": "array", "maxItems": 5, "items": {**STRING, "maxLength": 10}},
    },
    "x-kubernetes-validations": [
        {"rule": "!has(self.low) || !has(self.high) || self.low <= self.high", "message": "low must not exceed high"},
        {
            "rule": "!has(self.steps) || self.steps.all(s, s.startsWith('x'))",
            "messageExpression": "size(self.steps) == 2 ? 'both steps must begin with x' : 'steps must begin with x'",
            "reason": "FieldValueForbidden",
            "fieldPath": ".steps",
        },
        {"rule": "has(self.target) == has(oldSelf.target)", "message": "target stays as it is"},
    ],
}


@pytest.fixture(scope="session")
def ranges_path(define: Define) -> str:
    """Where Ranges are served, whose definition has rules."""
    schema = {"type": "object", "properties": {"spec": SPEC}}
    return define(definition("Range", schema, plural="ranges"))


@pytest.fixture
def ranges(ranges_path: str, widgets: Collection, namespace: str) -> Collection:
    """Ranges in the test's namespace."""
    return Collection(widgets.api, ranges_path.replace("/ranges", f"/namespaces/{namespace}/ranges"))


def range_of(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": VERSION, "kind": "Range", "metadata": {"name": "a"}, "spec": spec}


@pytest.mark.parametrize(
    "spec", [{}, {"low": 1}, {"low": 1, "high": 1}, {"steps": ["x1", "x2"]}, {"steps": []}, {"target": "t"}]
)
def test_what_keeps_the_rules_is_accepted(ranges: Collection, spec: dict[str, Any]) -> None:
    assert ranges.made(range_of(**spec))["spec"] == spec


def test_a_broken_rule_is_reported_with_its_message(ranges: Collection) -> None:
    answer = ranges.create(range_of(low=2, high=1))
    assert (answer.status, brief(answer)) == (422, [("spec", "FieldValueInvalid")])
    assert answer.causes[0]["message"].endswith(": low must not exceed high")


def test_a_rule_can_name_field_reason_and_message(ranges: Collection) -> None:
    answer = ranges.create(range_of(steps=["x", "y"]))
    assert (answer.status, brief(answer)) == (422, [("spec.steps", "FieldValueForbidden")])
    assert answer.causes[0]["message"].endswith("both steps must begin with x")


def test_a_transition_rule_binds_changes_only(ranges: Collection) -> None:
    ranges.made(range_of(target="one"))
    answer = ranges.patch("a", {"spec": {"target": "two"}})
    assert (answer.status, brief(answer)) == (422, [("spec.target", "FieldValueInvalid")])
    assert answer.causes[0]["message"].endswith(": target is immutable")
    assert ranges.patch("a", {"spec": {"low": 1}}).status == 200


def test_a_transition_rule_of_the_whole_sees_a_removal(ranges: Collection) -> None:
    ranges.made(range_of(target="one"))
    answer = ranges.patch("a", {"spec": {"target": None}})
    assert (answer.status, brief(answer)) == (422, [("spec", "FieldValueInvalid")])


def test_rules_wait_for_a_valid_structure(ranges: Collection) -> None:
    answer = ranges.create(range_of(low="text", high=1))
    assert answer.status == 422
    # a second cause without a field says that rules were not looked at
    assert {field for field, _ in brief(answer)} - {"<nil>"} == {"spec.low"}


def test_a_rule_that_cannot_be_compiled_is_refused(ranges: Collection) -> None:
    schema = {
        "type": "object",
        "x-kubernetes-validations": [{"rule": "self.nonsense >", "message": "never"}],
        "properties": {"spec": {"type": "object"}},
    }
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    answer = ranges.api.post(path, definition("Broken", schema, plural="brokens"))
    assert (answer.status, answer.reason) == (422, "Invalid")

# SPDX-License-Identifier: Apache-2.0
"""Defaulting, pruning and validation by structural schemas, and rules in CEL."""

from __future__ import annotations

from typing import Any

import pytest

from kubeplane.schema.cel import Rules, program
from kubeplane.schema.quantities import parse_quantity
from kubeplane.schema.structural import default, prune
from kubeplane.schema.validation import duplicates, has_format, validate

STRING = {"type": "string"}
INTEGER = {"type": "integer"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "default": 3, "minimum": 1, "maximum": 9},
        "note": {"type": "string", "nullable": True},
        "plain": STRING,
        "nested": {"type": "object", "default": {}, "properties": {"mode": {"type": "string", "default": "auto"}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"n": INTEGER}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"n": INTEGER}},
        "either": {"x-kubernetes-int-or-string": True},
    },
}


def test_a_default_is_not_shared_between_objects() -> None:
    one: dict[str, Any] = {}
    other: dict[str, Any] = {}
    default(one, SCHEMA)
    one["nested"]["mode"] = "changed"
    default(other, SCHEMA)
    assert other["nested"]["mode"] == "auto"


def test_unknown_fields_are_pruned_and_named() -> None:
    value = {
        "apiVersion": "v1",
        "odd": 1,
        "nested": {"odd": 1, "mode": "x"},
        "list": [{"n": 1}, {"odd": 2}],
        "map": {"a": {"odd": 1, "n": 2}},
        "free": {"anything": {"goes": 1}},
    }
    gone = prune(value, SCHEMA, root=True)
    assert gone == ["odd", "nested.odd", "list[1].odd", "map.a.odd"]
    assert value["list"] == [{"n": 1}, {}]
    assert value["map"] == {"a": {"n": 2}}
    assert value["free"] == {"anything": {"goes": 1}}
    assert value["apiVersion"] == "v1"


def found(value: Any, schema: dict[str, Any]) -> list[tuple[str, str]]:
    return [(cause.field, cause.reason) for cause in validate(value, schema)]


@pytest.mark.parametrize(
    ("value", "schema", "faults"),
    [
        pytest.param(True, INTEGER, [("", "FieldValueInvalid")], id="a-boolean-is-no-integer"),
        pytest.param(2.0, INTEGER, [], id="a-whole-float-is-an-integer"),
        pytest.param(1, {"type": "number"}, [], id="an-integer-is-a-number"),
        pytest.param(None, STRING, [("", "FieldValueInvalid")], id="null"),
        pytest.param(None, STRING | {"nullable": True}, [], id="nullable"),
        pytest.param("x", {"type": "string", "enum": ["a"]}, [("", "FieldValueNotSupported")], id="enum"),
        pytest.param("a\n", {"type": "string", "pattern": "^a$"}, [("", "FieldValueInvalid")], id="end-is-the-end"),
        pytest.param(5, {"x-kubernetes-int-or-string": True}, [], id="int-or-string"),
        pytest.param(1.5, {"x-kubernetes-int-or-string": True}, [("", "FieldValueInvalid")], id="neither"),
        pytest.param({}, {"type": "object", "required": ["a"]}, [("a", "FieldValueRequired")], id="required"),
        pytest.param(
            [{}],
            {"type": "array", "items": {"type": "object", "required": ["a"]}},
            [("a", "FieldValueRequired")],
            id="in-an-item",
        ),
        pytest.param(
            1,
            {"type": "integer", "anyOf": [{"minimum": 2}, {"maximum": 0}]},
            [("", "FieldValueInvalid")],
            id="any-of",
        ),
        pytest.param(
            1, {"type": "integer", "oneOf": [{"minimum": 0}, {"maximum": 2}]}, [("", "FieldValueInvalid")], id="one-of"
        ),
        pytest.param(1, {"type": "integer", "not": {"minimum": 0}}, [("", "FieldValueInvalid")], id="not"),
        pytest.param(5, {"type": "integer", "multipleOf": 2}, [("", "FieldValueInvalid")], id="multiple"),
        pytest.param([], {"type": "array", "minItems": 1}, [("", "FieldValueInvalid")], id="too-few"),
    ],
)
def test_faults_are_found(value: Any, schema: dict[str, Any], faults: list[tuple[str, str]]) -> None:
    assert found(value, schema) == faults


@pytest.mark.parametrize(
    ("value", "name", "holds"),
    [
        ("2026-01-02T03:04:05Z", "date-time", True),
        ("2026-01-02", "date-time", False),
        ("10.0.0.1", "ipv4", True),
        ("10.0.0", "ipv4", False),
        ("::1", "ipv6", True),
        ("10.0.0.0/8", "cidr", True),
        ("https://a/b", "uri", True),
        ("nothing", "uri", False),
        ("no-uuid", "uuid", False),
        ("2026-01-02T03:04:05.000000Z", "micro-time", True),
        ("2026-01-02T03:04:05Z", "micro-time", False),
        ("anything", "unheard-of", True),
    ],
)
def test_formats(value: str, name: str, holds: bool) -> None:
    assert has_format(value, name) is holds


def test_sets_and_maps_hold_an_item_once() -> None:
    items = {"type": "object", "properties": {"name": STRING, "kind": {"type": "string", "default": "x"}}}
    schema = {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": STRING},
            "ports": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name", "kind"],
                "items": items,
            },
        },
    }
    value = {"tags": ["a", "b", "a"], "ports": [{"name": "a"}, {"name": "a", "kind": "x"}, {"name": "a", "kind": "y"}]}
    assert [cause.field for cause in duplicates(value, schema)] == ["tags[2]", "ports[1]"]


RULED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "x-kubernetes-validations": [
                {"rule": "!has(self.high) || self.low <= self.high", "message": "low is above high"},
                {"rule": "self.low > 0", "fieldPath": ".low", "reason": "FieldValueForbidden", "message": "no"},
            ],
            "properties": {
                "low": INTEGER,
                "high": INTEGER,
                "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]},
                "items": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "properties": {"name": STRING, "n": INTEGER},
                        "x-kubernetes-validations": [
                            {"rule": "self.n >= oldSelf.n", "messageExpression": "'n went below ' + string(oldSelf.n)"}
                        ],
                    },
                },
            },
        }
    },
}


def broken(spec: dict[str, Any], old: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    before = None if old is None else {"spec": old}
    return [(cause.field, cause.message) for cause in Rules(RULED).check({"spec": spec}, before)]


def test_what_an_update_leaves_as_it_was_is_checked_by_transition_rules_only() -> None:
    old = {"low": 0, "items": [{"name": "a", "n": 5}]}
    assert broken(dict(old), old) == []  # an older definition allowed it
    assert broken({**old, "fixed": "a"}, old) == [("spec.low", "Forbidden: no")]
    grow: dict[str, Any] = {"type": "object", "x-kubernetes-validations": [{"rule": "self.n > oldSelf.n"}]}
    assert [cause.field for cause in Rules(grow).check({"n": 1}, {"n": 1})] == ["<nil>"]


def test_items_are_compared_with_their_former_selves() -> None:
    old = {"low": 1, "items": [{"name": "a", "n": 5}, {"name": "b", "n": 1}]}
    new = {"low": 1, "items": [{"name": "b", "n": 2}, {"name": "a", "n": 4}, {"name": "c", "n": 0}]}
    assert broken(new, old) == [("spec.items[1]", 'Invalid value: "object": n went below 5')]


def test_results_are_cached_by_the_fields_that_the_rule_reads() -> None:
    rule = program("self.a > 1")
    assert bool(rule({"a": 2, "b": 1}, None))
    assert not bool(rule({"a": 1, "b": 1}, None))
    assert bool(rule({"a": 2, "b": "else"}, None))


@pytest.mark.parametrize(
    ("text", "number"), [("100m", 0.1), ("1.5Gi", 1.5 * 2**30), ("2e3", 2000), ("5", 5), ("-1k", -1000)]
)
def test_quantities(text: str, number: float) -> None:
    assert parse_quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "x", "1x", "1 Gi", "1e3Ki"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        parse_quantity(text)

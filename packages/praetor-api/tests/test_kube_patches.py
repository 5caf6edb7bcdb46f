# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praetor_api.kube.client.patches import apply_json_patch, apply_merge_patch, diff_merge_patch, json_pointer

leaves = st.integers(0, 3) | st.sampled_from(["a", "b"]) | st.lists(st.integers(0, 1), max_size=2)
trees = st.recursive(
    st.dictionaries(st.sampled_from("xyz"), leaves, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), leaves | inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(old=trees, new=trees)
def test_the_difference_of_two_objects_turns_one_into_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    patch = diff_merge_patch(old, new)
    assert apply_merge_patch(old, json.loads(json.dumps(patch))) == new
    assert diff_merge_patch(new, new) == {}


def test_a_difference_names_only_what_changed() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 1, "e": {}}
    assert diff_merge_patch(old, {"a": {"b": 1, "c": [1]}, "e": {"f": 2}}) == {
        "a": {"c": [1]},
        "d": None,
        "e": {"f": 2},
    }


def test_a_merge_patch_merges_objects_replaces_lists_and_removes_with_null() -> None:
    obj = {"a": {"b": 1, "c": 2}, "d": [1]}
    patch = {"a": {"b": None, "e": {"f": 1}}, "d": [2]}
    assert apply_merge_patch(obj, patch) == {"a": {"c": 2, "e": {"f": 1}}, "d": [2]}
    assert obj == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_a_merge_patch_drops_null_members_of_what_it_adds() -> None:
    assert apply_merge_patch({"a": 1}, {"a": {"b": None, "c": 1}}) == {"a": {"c": 1}}
    assert apply_merge_patch(None, {"a": {"b": None}}) == {"a": {}}


def test_json_patch_operations_change_members_of_a_copy() -> None:
    obj = {"metadata": {"labels": {"a/b": "1", "c": "2"}}}
    operations: list[dict[str, Any]] = [
        {"op": "replace", "path": "/metadata/labels/a~1b", "value": "3"},
        {"op": "remove", "path": "/metadata/labels/c"},
        {"op": "add", "path": "/metadata/annotations", "value": {"x": "y"}},
    ]
    assert apply_json_patch(obj, operations) == {"metadata": {"labels": {"a/b": "3"}, "annotations": {"x": "y"}}}
    assert obj == {"metadata": {"labels": {"a/b": "1", "c": "2"}}}


@pytest.mark.parametrize("name", ["plain", "a/b", "a~b", "a~1b", "~0/~1"])
def test_a_json_pointer_reaches_the_member_that_it_names(name: str) -> None:
    operations = [{"op": "add", "path": json_pointer("metadata", "labels", name), "value": "1"}]
    assert apply_json_patch({}, operations) == {"metadata": {"labels": {name: "1"}}}


def test_json_pointers_escape_slashes_and_tildes() -> None:
    assert json_pointer("metadata", "annotations", "a/b~c") == "/metadata/annotations/a~1b~0c"

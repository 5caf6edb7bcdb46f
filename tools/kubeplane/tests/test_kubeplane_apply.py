"""Patches, sets of fields, and server-side apply."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeplane.errors import ApiError
from kubeplane.registry import fields
from kubeplane.registry.apply import Writer, apply, read_entries, track
from kubeplane.registry.patches import json_patch, merge_patch, strategic_merge

STRING = {"type": "string"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "a": STRING,
                "b": STRING,
                "atomic": {"type": "array", "items": STRING},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": STRING},
                "ports": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": STRING, "port": {"type": "integer"}}},
                },
                "labels": {"type": "object", "additionalProperties": STRING},
            },
        }
    },
}
ONE, TWO = (Writer(name, "Apply", "x/v1") for name in ("one", "two"))
EMPTY: dict[str, Any] = {"metadata": {}}


def applied(live: dict[str, Any], writer: Writer, spec: dict[str, Any], *, force: bool = False) -> dict[str, Any]:
    return apply(live, {"metadata": {}, "spec": spec}, SCHEMA, writer, force=force, now="t")


def test_what_is_applied_is_owned() -> None:
    made = applied(EMPTY, ONE, {"a": "1", "ports": [{"name": "x", "port": 1}]})
    (entry,) = made["metadata"]["managedFields"]
    item: dict[str, Any] = {"k:" + '{"name":"x"}': {".": {}, "f:name": {}, "f:port": {}}}
    assert entry["fieldsV1"] == {"f:spec": {"f:a": {}, "f:ports": item}}
    assert (entry["manager"], entry["operation"]) == ("one", "Apply")


def test_two_managers_share_what_they_agree_on() -> None:
    made = applied(applied(EMPTY, ONE, {"a": "1"}), TWO, {"a": "1", "b": "2"})
    assert made["spec"] == {"a": "1", "b": "2"}
    assert len(made["metadata"]["managedFields"]) == 2


def test_a_conflict_names_manager_and_field() -> None:
    made = applied(EMPTY, ONE, {"a": "1", "ports": [{"name": "x", "port": 1}]})
    with pytest.raises(ApiError) as refused:
        applied(made, TWO, {"a": "2", "ports": [{"name": "x", "port": 2}]})
    assert refused.value.code == 409
    assert refused.value.details is not None
    assert [cause["field"] for cause in refused.value.details["causes"]] == [".spec.a", '.spec.ports[name="x"].port']
    assert refused.value.message.startswith(
        'Apply failed with 2 conflicts: conflicts with "one" using x/v1:\n- .spec.a'
    )


def test_force_takes_the_field_over() -> None:
    made = applied(applied(EMPTY, ONE, {"a": "1", "b": "1"}), TWO, {"a": "2"}, force=True)
    assert made["spec"] == {"a": "2", "b": "1"}
    owners = {e.writer.manager: e.paths for e in read_entries(made["metadata"])}
    assert owners == {"one": {("f:spec", "f:b")}, "two": {("f:spec", "f:a")}}


def test_what_is_no_longer_applied_is_removed_unless_another_owns_it() -> None:
    both = applied(applied(EMPTY, ONE, {"a": "1", "b": "1", "set": ["x", "y"]}), TWO, {"a": "1", "set": ["x"]})
    left = applied(both, ONE, {})
    assert left["spec"] == {"a": "1", "set": ["x"]}
    assert "spec" not in applied(left, TWO, {}) or applied(left, TWO, {})["spec"] == {}


def test_lists_merge_by_their_keys_and_atomic_ones_do_not() -> None:
    made = applied(EMPTY, ONE, {"ports": [{"name": "x", "port": 1}], "set": ["a"], "atomic": ["a"]})
    more = applied(made, TWO, {"ports": [{"name": "y", "port": 2}], "set": ["b"], "atomic": ["b"]}, force=True)
    assert more["spec"] == {
        "ports": [{"name": "x", "port": 1}, {"name": "y", "port": 2}],
        "set": ["a", "b"],
        "atomic": ["b"],
    }


def test_applying_again_changes_nothing() -> None:
    once = applied(EMPTY, ONE, {"a": "1", "labels": {"k": "v"}})
    again = apply(
        once, {"metadata": {}, "spec": {"a": "1", "labels": {"k": "v"}}}, SCHEMA, ONE, force=False, now="later"
    )
    assert again == once


def test_an_update_takes_what_it_changes() -> None:
    old = {**applied(EMPTY, ONE, {"a": "1", "b": "1"})}
    old["metadata"]["uid"] = "u"
    new = {**old, "spec": {"a": "2", "b": "1"}}
    entries = read_entries({"managedFields": track(old, new, SCHEMA, Writer("edit", "Update", "x/v1"), "t2")})
    assert {e.writer.manager: e.paths for e in entries} == {"one": {("f:spec", "f:b")}, "edit": {("f:spec", "f:a")}}


def test_an_object_can_be_removed_from_tracking() -> None:
    old = {"metadata": {"uid": "u"}, "spec": {}}
    assert track(old, {"metadata": {"managedFields": [{}]}}, SCHEMA, ONE, "t") == []
    assert track(old, {"metadata": {"uid": "u"}, "spec": {"a": "1"}}, SCHEMA, ONE, "t") is None


def test_fields_that_were_not_tracked_belong_to_before_first_apply() -> None:
    live = {"metadata": {"uid": "u"}, "spec": {"a": "1", "b": "1"}}
    with pytest.raises(ApiError, match="before-first-apply"):
        applied(live, ONE, {"a": "2"})
    made = applied(live, ONE, {"a": "1"})
    assert {entry["manager"] for entry in made["metadata"]["managedFields"]} == {"one", "before-first-apply"}


steps = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"'])


@given(st.frozensets(st.lists(steps, min_size=1, max_size=4).map(tuple), max_size=8))
def test_sets_of_fields_survive_their_encoding(paths: frozenset[tuple[str, ...]]) -> None:
    assert fields.decode(fields.encode(paths)) == paths


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        ({"b": 2}, {"a": {"x": 1}, "b": 2}),
        ({"a": {"x": None, "y": 2}}, {"a": {"y": 2}}),
        ({"a": None}, {}),
        ({"a": [1]}, {"a": [1]}),
    ],
)
def test_merge_patches(patch: dict[str, Any], result: dict[str, Any]) -> None:
    assert merge_patch({"a": {"x": 1}}, patch) == result


def test_a_json_patch_that_does_not_fit_is_refused_whole() -> None:
    obj = {"a": 1}
    assert json_patch(obj, [{"op": "replace", "path": "/a", "value": 2}]) == {"a": 2}
    assert obj == {"a": 1}
    with pytest.raises(ApiError) as refused:
        json_patch(obj, [{"op": "test", "path": "/a", "value": 5}])
    assert refused.value.code == 422
    with pytest.raises(ApiError) as unread:
        json_patch(obj, {"op": "test"})
    assert unread.value.code == 400


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        pytest.param(
            {"containers": [{"name": "a", "image": "2"}]},
            [{"name": "a", "image": "2", "x": 1}, {"name": "b"}],
            id="merges",
        ),
        pytest.param({"containers": [{"name": "a", "$patch": "delete"}]}, [{"name": "b"}], id="deletes"),
        pytest.param({"containers": [{"$patch": "replace"}, {"name": "c"}]}, [{"name": "c"}], id="replaces"),
        pytest.param({"$retainKeys": []}, None, id="retains"),
    ],
)
def test_strategic_merge_knows_the_lists_with_keys(patch: dict[str, Any], result: Any) -> None:
    obj = {"containers": [{"name": "a", "image": "1", "x": 1}, {"name": "b"}]}
    assert strategic_merge(obj, patch).get("containers") == result


def test_strategic_merge_of_plain_lists() -> None:
    obj = {"finalizers": ["a", "b"], "args": ["x"]}
    assert strategic_merge(obj, {"finalizers": ["c"], "args": ["y"]}) == {"finalizers": ["c", "a", "b"], "args": ["y"]}
    assert strategic_merge(obj, {"$deleteFromPrimitiveList/finalizers": ["a"]})["finalizers"] == ["b"]

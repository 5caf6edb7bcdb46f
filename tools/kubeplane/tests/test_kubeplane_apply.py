# SPDX-License-Identifier: Apache-2.0
"""Strategic merge patches, sets of fields, and applying to what was not tracked; the contract states the rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeplane.errors import ApiError
from kubeplane.registry import fields
from kubeplane.registry.apply import Writer, apply
from kubeplane.registry.patches import strategic_merge

STRING = {"type": "string"}
SPEC = {"type": "object", "properties": {"a": STRING, "b": STRING}}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"spec": SPEC}}


def test_fields_that_were_not_tracked_belong_to_before_first_apply() -> None:
    live = {"metadata": {"uid": "u"}, "spec": {"a": "1", "b": "1"}}

    def applied(value: str) -> dict[str, Any]:
        writer = Writer("one", "Apply", "x/v1")
        return apply(live, {"metadata": {}, "spec": {"a": value}}, SCHEMA, writer, force=False, now="t")

    with pytest.raises(ApiError, match="before-first-apply"):
        applied("2")
    made = applied("1")
    assert {entry["manager"] for entry in made["metadata"]["managedFields"]} == {"one", "before-first-apply"}


steps = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"'])


@given(st.frozensets(st.lists(steps, min_size=1, max_size=4).map(tuple), max_size=8))
def test_sets_of_fields_survive_their_encoding(paths: frozenset[tuple[str, ...]]) -> None:
    assert fields.decode(fields.encode(paths)) == paths


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

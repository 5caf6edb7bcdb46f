# SPDX-License-Identifier: Apache-2.0
"""Merge, JSON and strategic merge patches; the status subresource keeps its side of an object apart from the rest."""

from __future__ import annotations

from typing import Any

import pytest

from contract.rawapi import JSON_PATCH, MERGE, STRATEGIC
from contract.widgets import VERSION, Collection, InNamespace, brief, widget


@pytest.fixture
def made(widgets: Collection) -> dict[str, Any]:
    """A widget with something in every corner."""
    labels = {"x": "1", "y": "2"}
    return widgets.made(widget("a", color="blue", tags=["p", "q"], limits={"k": "v"}, metadata={"labels": labels}))


@pytest.mark.parametrize(
    ("patch", "spec"),
    [
        pytest.param({"size": 2}, {"size": 2}, id="sets-a-value"),
        pytest.param({"tags": ["r"]}, {"tags": ["r"]}, id="replaces-a-list"),
        pytest.param({"limits": {"l": "w"}}, {"limits": {"k": "v", "l": "w"}}, id="merges-an-object"),
        pytest.param({"limits": {"k": None}}, {"limits": {}}, id="null-removes"),
        pytest.param({"limits": {"nope": None}}, {}, id="null-for-nothing-is-nothing"),
        pytest.param({"nested": {"mode": "x"}}, {"nested": {"mode": "x", "retries": 3}}, id="keeps-neighbours"),
        pytest.param({}, {}, id="empty"),
    ],
)
def test_a_merge_patch(widgets: Collection, made: dict[str, Any], patch: dict[str, Any], spec: dict[str, Any]) -> None:
    answer = widgets.patch("a", {"spec": patch})
    assert (answer.status, answer.body["spec"]) == (200, {**made["spec"], **spec})
    assert answer.body["metadata"]["generation"] == (2 if spec else 1)
    assert widgets.read("a") == answer.body


def test_a_patch_that_changes_nothing_writes_nothing(widgets: Collection, made: dict[str, Any]) -> None:
    answer = widgets.patch("a", {"spec": {"size": 1, "color": "blue"}})
    assert answer.body["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_metadata_is_patched_without_a_new_generation(widgets: Collection, made: dict[str, Any]) -> None:
    answer = widgets.patch("a", {"metadata": {"labels": {"x": None, "z": "3"}, "annotations": {"n": "o"}}})
    metadata = answer.body["metadata"]
    assert (metadata["labels"], metadata["annotations"]) == ({"y": "2", "z": "3"}, {"n": "o"})
    assert metadata["generation"] == 1
    assert metadata["resourceVersion"] != made["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("type_", "patch"),
    [
        pytest.param(
            MERGE, lambda version: {"metadata": {"resourceVersion": version}, "spec": {"size": 2}}, id="merge"
        ),
        pytest.param(
            JSON_PATCH,
            lambda version: [
                {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
                {"op": "replace", "path": "/spec/size", "value": 2},
            ],
            id="json",
        ),
    ],
)
def test_a_version_in_a_patch_is_a_lock(widgets: Collection, made: dict[str, Any], type_: str, patch: Any) -> None:
    current = made["metadata"]["resourceVersion"]
    answer = widgets.patch("a", patch("1"), type_)
    assert (answer.status, answer.reason) == (409, "Conflict")
    assert "the object has been modified" in answer.message
    assert widgets.read("a") == made
    assert widgets.patch("a", patch(current), type_).body["spec"]["size"] == 2


def test_the_lock_holds_on_the_status_too(widgets: Collection, made: dict[str, Any]) -> None:
    for version, status in (("1", 409), (made["metadata"]["resourceVersion"], 200)):
        body = {"metadata": {"resourceVersion": version}, "status": {"ready": 1}}
        assert widgets.patch("a", body, subresource="status").status == status


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        pytest.param({"metadata": {"name": "b"}}, {400}, id="name"),
        pytest.param({"metadata": {"namespace": "b"}}, {400}, id="namespace"),
        # another kind or version became a matter of the request itself in later versions
        pytest.param({"kind": "Other"}, {400, 422}, id="kind"),
        pytest.param({"apiVersion": "contract.example.com/v2"}, {400, 422}, id="version"),
        # the server's own error before 1.22
        pytest.param(b"{", {400, 500}, id="malformed"),
        pytest.param([], {400, 422}, id="a-list"),
        pytest.param({"spec": None}, {422}, id="removes-what-is-required"),
    ],
)
def test_a_merge_patch_that_cannot_be_meant(
    widgets: Collection, made: dict[str, Any], body: Any, statuses: set[int]
) -> None:
    assert widgets.patch("a", body).status in statuses
    assert widgets.read("a") == made


def test_patching_what_is_not_there_is_not_found(widgets: Collection) -> None:
    assert (widgets.patch("nope", {}).status, widgets.patch("nope", {}).reason) == (404, "NotFound")


@pytest.mark.parametrize("type_", [STRATEGIC, "application/json", "text/plain"])
def test_custom_resources_know_no_other_patches(widgets: Collection, made: dict[str, Any], type_: str) -> None:
    answer = widgets.patch("a", {"spec": {"size": 2}}, type_)
    assert (answer.status, answer.reason) == (415, "UnsupportedMediaType")
    assert "application/merge-patch+json" in answer.message
    assert widgets.read("a") == made


@pytest.mark.parametrize(
    ("operations", "spec"),
    [
        pytest.param([{"op": "replace", "path": "/spec/size", "value": 7}], {"size": 7}, id="replace"),
        pytest.param([{"op": "add", "path": "/spec/label", "value": "abc"}], {"label": "abc"}, id="add"),
        pytest.param([{"op": "add", "path": "/spec/tags/-", "value": "z"}], {"tags": ["p", "q", "z"]}, id="append"),
        pytest.param([{"op": "add", "path": "/spec/tags/0", "value": "z"}], {"tags": ["z", "p", "q"]}, id="insert"),
        pytest.param([{"op": "remove", "path": "/spec/tags/0"}], {"tags": ["q"]}, id="remove"),
        pytest.param([{"op": "copy", "from": "/spec/color", "path": "/spec/note"}], {"note": "blue"}, id="copy"),
        pytest.param(
            [{"op": "move", "from": "/spec/limits/k", "path": "/spec/limits/l"}], {"limits": {"l": "v"}}, id="move"
        ),
        pytest.param(
            [{"op": "add", "path": "/spec/limits/a~1b~0c", "value": "e"}],
            {"limits": {"k": "v", "a/b~c": "e"}},
            id="esc",
        ),
        pytest.param(
            [{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 2}],
            {"size": 2},
            id="test-passes",
        ),
    ],
)
def test_a_json_patch(
    widgets: Collection, made: dict[str, Any], operations: list[dict[str, Any]], spec: dict[str, Any]
) -> None:
    answer = widgets.patch("a", operations, JSON_PATCH)
    assert (answer.status, answer.body["spec"]) == (200, {**made["spec"], **spec})
    assert answer.body["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("operations", "status"),
    [
        pytest.param([{"op": "test", "path": "/spec/size", "value": 9}], 422, id="test-fails"),
        pytest.param([{"op": "replace", "path": "/spec/label", "value": "x"}], 422, id="replaces-nothing"),
        pytest.param([{"op": "remove", "path": "/spec/label"}], 422, id="removes-nothing"),
        pytest.param([{"op": "add", "path": "/spec/nope/deep", "value": "x"}], 422, id="adds-below-nothing"),
        pytest.param([{"op": "replace", "path": "/spec/size", "value": 0}], 422, id="makes-it-invalid"),
        pytest.param([{"op": "frobnicate", "path": "/spec/size"}], 422, id="unknown-operation"),
        pytest.param({"op": "replace", "path": "/spec/size", "value": 2}, 400, id="not-a-list"),
    ],
)
def test_a_json_patch_that_fails_leaves_all_as_it_was(
    widgets: Collection, made: dict[str, Any], operations: Any, status: int
) -> None:
    first = {"op": "replace", "path": "/spec/size", "value": 50}
    sent = [first, *operations] if isinstance(operations, list) and operations[0]["op"] != "test" else operations
    assert widgets.patch("a", sent, JSON_PATCH).status == status
    assert widgets.read("a") == made


def test_the_status_is_written_through_its_subresource_only(widgets: Collection, made: dict[str, Any]) -> None:
    ignored = widgets.patch("a", {"status": {"phase": "Running"}})
    assert ignored.status == 200
    assert "status" not in ignored.body
    written = widgets.patch("a", {"status": {"phase": "Running"}}, subresource="status")
    assert (written.status, written.body["status"]) == (200, {"phase": "Running"})
    assert written.body["metadata"]["generation"] == 1
    assert widgets.get("a/status").body == widgets.read("a") == written.body


def test_the_subresource_writes_nothing_but_the_status(widgets: Collection, made: dict[str, Any]) -> None:
    body = {"spec": {"size": 50}, "metadata": {"labels": {"z": "1"}, "annotations": {"z": "1"}}, "status": {"ready": 1}}
    answer = widgets.patch("a", body, subresource="status")
    assert (answer.body["spec"], answer.body["status"]) == (made["spec"], {"ready": 1})
    assert answer.body["metadata"]["labels"] == made["metadata"]["labels"]
    assert "annotations" not in answer.body["metadata"]


def test_replacing_each_side_keeps_the_other(widgets: Collection, made: dict[str, Any]) -> None:
    status = widgets.put("a", {**made, "spec": {"size": 9}, "status": {"ready": 1}}, "status").body
    assert (status["spec"], status["status"]) == (made["spec"], {"ready": 1})
    spec = widgets.put("a", {**status, "spec": {"size": 9}, "status": {"ready": 5}}).body
    assert (spec["spec"]["size"], spec["status"]) == (9, {"ready": 1})
    assert spec["metadata"]["generation"] == 2


def test_replacing_without_a_status_keeps_it(widgets: Collection, made: dict[str, Any]) -> None:
    status = widgets.patch("a", {"status": {"ready": 1}}, subresource="status").body
    replaced = widgets.put("a", {key: value for key, value in status.items() if key != "status"})
    assert replaced.body["status"] == {"ready": 1}


def test_a_status_is_patched_by_operations(widgets: Collection, made: dict[str, Any]) -> None:
    operations = [{"op": "add", "path": "/status", "value": {"ready": 4}}]
    assert widgets.patch("a", operations, JSON_PATCH, subresource="status").body["status"] == {"ready": 4}


def test_a_merge_patch_replaces_all_conditions(widgets: Collection, made: dict[str, Any]) -> None:
    for type_ in ("A", "B"):
        body = {"status": {"conditions": [{"type": type_, "status": "True"}]}}
        answer = widgets.patch("a", body, subresource="status")
    assert answer.body["status"]["conditions"] == [{"type": "B", "status": "True"}]


def test_built_in_kinds_take_strategic_merge_patches(in_namespace: InNamespace) -> None:
    configmaps = in_namespace("v1", "configmaps")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}
    configmaps.made(body)
    answer = configmaps.patch("c", {"data": {"a": None, "b": "2"}}, STRATEGIC)
    assert (answer.status, answer.body["data"]) == (200, {"b": "2"})
    assert configmaps.patch("c", {"data": {"c": "3"}}, MERGE).body["data"] == {"b": "2", "c": "3"}


def test_owner_references_are_a_plain_list_to_a_merge_patch(widgets: Collection, made: dict[str, Any]) -> None:
    """The owners exist, or the garbage collector would take the references away."""
    for name in ("x", "y"):
        uid = widgets.made(widget(name))["metadata"]["uid"]
        owner = {"apiVersion": VERSION, "kind": "Widget", "name": name, "uid": uid}
        answer = widgets.patch("a", {"metadata": {"ownerReferences": [owner]}})
    assert [reference["name"] for reference in answer.body["metadata"]["ownerReferences"]] == ["y"]
    assert brief(answer) == []

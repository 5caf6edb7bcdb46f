# SPDX-License-Identifier: Apache-2.0
"""Answers in the forms that kubectl asks for: tables, and objects with nothing but metadata."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contract.widgets import VERSION, Collection, InNamespace, widget

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


@pytest.fixture
def two(widgets: Collection) -> Collection:
    """Two widgets, one of them ready."""
    widgets.made(widget("a", color="blue", note="hi"))
    widgets.made(widget("b", size=2))
    body = {"status": {"conditions": [{"type": "Other", "status": "No"}, {"type": "Ready", "status": "True"}]}}
    widgets.patch("a", body, subresource="status")
    return widgets


def cells(table: dict[str, Any]) -> list[list[Any]]:
    """Return the cells of each row without the last one, the age."""
    return [row["cells"][:-1] for row in table["rows"]]


def test_a_list_as_a_table(two: Collection) -> None:
    answer = two.listing(accept=TABLE)
    table = answer.body
    assert (answer.status, table["kind"], table["apiVersion"]) == (200, "Table", "meta.k8s.io/v1")
    columns = [(column["name"], column["type"], column["priority"]) for column in table["columnDefinitions"]]
    assert columns == [
        ("Name", "string", 0),
        ("Size", "integer", 0),
        ("Color", "string", 0),
        ("Ready", "string", 0),
        ("Note", "string", 1),
        ("Age", "date", 0),
    ]
    assert cells(table) == [["a", 1, "blue", "True", "hi"], ["b", 2, "red", None, None]]
    assert all(isinstance(row["cells"][-1], str) for row in table["rows"])
    assert table["metadata"]["resourceVersion"].isdigit()


def test_columns_are_described(two: Collection) -> None:
    columns = {column["name"]: column for column in two.listing(accept=TABLE).body["columnDefinitions"]}
    assert columns["Name"]["format"] == "name"
    assert columns["Size"]["description"] == "How large it is."
    assert columns["Color"]["description"] == "Custom resource definition column (in JSONPath format): .spec.color"


def test_one_object_as_a_table(two: Collection) -> None:
    table = two.get("b", accept=TABLE).body
    assert cells(table) == [["b", 2, "red", None, None]]


def test_an_empty_table_has_columns(two: Collection) -> None:
    table = two.listing(accept=TABLE, labelSelector="no=such").body
    assert (table["rows"], len(table["columnDefinitions"])) == ([], 6)


def test_a_table_in_pages(two: Collection) -> None:
    first = two.listing(accept=TABLE, limit=1).body
    assert (len(first["rows"]), first["metadata"]["remainingItemCount"]) == (1, 1)
    second = two.listing(accept=TABLE, limit=1, **{"continue": first["metadata"]["continue"]}).body
    assert cells(second)[0][0] == "b"


@pytest.mark.parametrize(
    ("include", "kind"), [(None, "PartialObjectMetadata"), ("Metadata", "PartialObjectMetadata"), ("Object", "Widget")]
)
def test_rows_carry_as_much_of_their_object_as_was_requested(two: Collection, include: str | None, kind: str) -> None:
    row = two.listing(accept=TABLE, includeObject=include).body["rows"][0]
    assert (row["object"]["kind"], row["object"]["metadata"]["name"]) == (kind, "a")
    assert ("spec" in row["object"]) == (kind == "Widget")


def test_rows_can_come_without_their_object(two: Collection) -> None:
    assert not two.listing(accept=TABLE, includeObject="None").body["rows"][0].get("object")


def test_there_is_no_other_way_to_include_objects(two: Collection) -> None:
    assert two.listing(accept=TABLE, includeObject="Half").status == 400


def test_an_error_is_no_table(two: Collection) -> None:
    answer = two.get("nope", accept=TABLE)
    assert (answer.status, answer.body["kind"], answer.reason) == (404, "Status", "NotFound")


def test_a_watch_of_tables_sends_the_columns_once(two: Collection) -> None:
    version = two.listing().body["metadata"]["resourceVersion"]
    two.patch("a", {"spec": {"size": 5}})
    two.delete("b")
    answer = two.listing(accept=TABLE, watch="true", timeoutSeconds=1, resourceVersion=version, text=True)
    first, second = (json.loads(line) for line in answer.body.splitlines())
    assert (first["type"], first["object"]["kind"], cells(first["object"])[0][:2]) == ("MODIFIED", "Table", ["a", 5])
    assert len(first["object"]["columnDefinitions"]) == 6
    assert (second["type"], cells(second["object"])[0][0]) == ("DELETED", "b")
    assert not second["object"].get("columnDefinitions")


def test_metadata_alone(two: Collection) -> None:
    one = two.get("a", accept=PARTIAL).body
    assert (one["kind"], one["apiVersion"], one["metadata"]["name"]) == ("PartialObjectMetadata", "meta.k8s.io/v1", "a")
    assert set(one) == {"kind", "apiVersion", "metadata"}
    many = two.listing(accept=PARTIAL_LIST).body
    assert (many["kind"], [item["metadata"]["name"] for item in many["items"]]) == (
        "PartialObjectMetadataList",
        ["a", "b"],
    )
    assert all(set(item) <= {"kind", "apiVersion", "metadata"} for item in many["items"])


def test_a_kind_without_columns_shows_name_and_age(gauges: Collection) -> None:
    gauges.made({"apiVersion": VERSION, "kind": "Gauge", "metadata": {"name": "a"}})
    table = gauges.listing(accept=TABLE).body
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Age"]
    assert cells(table) == [["a"]]


@pytest.mark.parametrize(
    ("group_version", "plural", "body", "columns", "row"),
    [
        pytest.param(
            "coordination.k8s.io/v1",
            "leases",
            {"kind": "Lease", "spec": {"holderIdentity": "me"}},
            ["Name", "Holder", "Age"],
            ["a", "me"],
            id="lease",
        ),
        pytest.param(
            "apps/v1",
            "controllerrevisions",
            {"kind": "ControllerRevision", "data": {}, "revision": 3},
            ["Name", "Controller", "Revision", "Age"],
            ["a", "<none>", 3],
            id="controller-revision",
        ),
        pytest.param("v1", "configmaps", {"kind": "ConfigMap", "data": {"x": "y"}}, None, ["a", 1], id="configmap"),
    ],
)
def test_built_in_kinds_have_columns_too(
    in_namespace: InNamespace,
    group_version: str,
    plural: str,
    body: dict[str, Any],
    columns: list[str] | None,
    row: list[Any],
) -> None:
    collection = in_namespace(group_version, plural)
    collection.made({"apiVersion": group_version, "metadata": {"name": "a"}, **body})
    table = collection.listing(accept=TABLE, fieldSelector="metadata.name=a").body
    assert columns in (None, [column["name"] for column in table["columnDefinitions"]])
    assert cells(table) == [row]

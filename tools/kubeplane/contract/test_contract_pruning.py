# SPDX-License-Identifier: Apache-2.0
"""What a schema does not know is dropped, except where it says to keep it."""

from __future__ import annotations

from contract.widgets import VERSION, Collection, widget


def test_unknown_fields_are_dropped_at_every_depth(widgets: Collection) -> None:
    body = widget("a", bogus=1, nested={"mode": "x", "bogus": 1}, ports=[{"name": "a", "port": 1, "bogus": 1}])
    made = widgets.made({**body, "bogus": 1})
    assert "bogus" not in made
    assert "bogus" not in made["spec"]
    assert made["spec"]["nested"] == {"mode": "x", "retries": 3}
    assert made["spec"]["ports"] == [{"name": "a", "port": 1, "protocol": "TCP"}]


def test_unknown_fields_are_dropped_from_patches(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    patched = widgets.patch("a", {"spec": {"bogus": 1}})
    assert (patched.status, patched.body["spec"]) == (200, made["spec"])
    assert patched.body["metadata"]["generation"] == 1


def test_unknown_fields_of_a_status_are_dropped(widgets: Collection) -> None:
    widgets.made(widget("a"))
    patched = widgets.patch("a", {"status": {"phase": "Running", "bogus": 1}}, subresource="status")
    assert patched.body["status"] == {"phase": "Running"}


def test_fields_that_are_to_be_preserved_stay(widgets: Collection) -> None:
    free = {"any": {"deep": [1, None, {"x": "y"}]}, "null": None}
    assert widgets.made(widget("a", free=free))["spec"]["free"] == free


def test_a_schema_that_preserves_all_keeps_all(depots: Collection, namespace: str) -> None:
    body = {"apiVersion": VERSION, "kind": "Depot", "metadata": {"name": namespace}, "spec": {"a": [1, None]}, "x": "y"}
    made = depots.made(body)
    assert (made["spec"], made["x"]) == ({"a": [1, None]}, "y")
    depots.delete(namespace)


def test_keys_of_a_map_are_not_fields(widgets: Collection) -> None:
    assert widgets.made(widget("a", limits={"anything": "goes"}))["spec"]["limits"] == {"anything": "goes"}


def test_null_stays_where_it_is_allowed_and_goes_where_it_is_not(widgets: Collection) -> None:
    spec = widgets.made(widget("a", note=None))["spec"]
    assert spec["note"] is None
    # null where the schema does not allow it and has no default is an error on newer apiservers, dropped on 1.20
    answer = widgets.create(widget("b", label=None))
    assert answer.status in {201, 422}
    if answer.status == 201:
        assert "label" not in answer.body["spec"]


def test_a_status_at_creation_is_dropped(widgets: Collection) -> None:
    made = widgets.made({**widget("a"), "status": {"phase": "Running"}})
    assert "status" not in made
    assert "status" not in widgets.read("a")


def test_an_invalid_status_at_creation_is_dropped_before_validation(widgets: Collection) -> None:
    assert "status" not in widgets.made({**widget("a"), "status": {"phase": "Nonsense"}})


def test_a_kind_without_the_subresource_takes_a_status_at_creation(depots: Collection, namespace: str) -> None:
    body = {"apiVersion": VERSION, "kind": "Depot", "metadata": {"name": namespace}, "status": {"a": 1}}
    assert depots.made(body)["status"] == {"a": 1}
    assert depots.patch(namespace, {"status": {"a": 2}}).body["status"] == {"a": 2}
    assert depots.get(f"{namespace}/status").status == 404
    depots.delete(namespace)

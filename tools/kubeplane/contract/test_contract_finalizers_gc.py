# SPDX-License-Identifier: Apache-2.0
"""Finalizers hold a deletion up; owner references make one deletion follow another."""

from __future__ import annotations

from typing import Any

import pytest

from contract.widgets import VERSION, Collection, Eventually, brief, widget

HOLD = "example.com/hold"


def owner(made: dict[str, Any], **more: Any) -> dict[str, Any]:
    metadata = made["metadata"]
    return {"apiVersion": VERSION, "kind": "Widget", "name": metadata["name"], "uid": metadata["uid"], **more}


def child(name: str, *parents: dict[str, Any]) -> dict[str, Any]:
    return widget(name, metadata={"ownerReferences": [owner(parent, blockOwnerDeletion=True) for parent in parents]})


@pytest.fixture
def held(widgets: Collection) -> dict[str, Any]:
    """A widget whose deletion was asked for and is held up."""
    widgets.made(widget("a", metadata={"finalizers": [HOLD]}))
    answer = widgets.delete("a")
    assert answer.status == 200
    return dict(answer.body)


def test_a_finalizer_turns_a_deletion_into_a_mark(widgets: Collection, held: dict[str, Any]) -> None:
    assert held["kind"] == "Widget"
    assert held["metadata"]["deletionTimestamp"].endswith("Z")
    assert held["metadata"]["deletionGracePeriodSeconds"] == 0
    assert held["metadata"]["finalizers"] == [HOLD]
    assert held["metadata"]["generation"] == 2
    assert widgets.read("a") == held


def test_a_second_deletion_changes_nothing(widgets: Collection, held: dict[str, Any]) -> None:
    assert widgets.delete("a").status == 200
    assert widgets.read("a") == held


@pytest.mark.parametrize("finalizers", [[], None])
def test_the_last_finalizer_takes_the_object_along(
    widgets: Collection, held: dict[str, Any], finalizers: list[str] | None
) -> None:
    answer = widgets.patch("a", {"metadata": {"finalizers": finalizers}})
    assert answer.status == 200
    assert "finalizers" not in answer.body["metadata"]
    assert widgets.get("a").status == 404


def test_no_finalizer_is_added_during_a_deletion(widgets: Collection, held: dict[str, Any]) -> None:
    answer = widgets.patch("a", {"metadata": {"finalizers": [HOLD, "example.com/more"]}})
    assert answer.status == 422
    assert set(brief(answer)) == {("metadata.finalizers", "FieldValueForbidden")}


def test_a_deletion_cannot_be_undone(widgets: Collection, held: dict[str, Any]) -> None:
    assert widgets.patch("a", {"metadata": {"deletionTimestamp": None}}).status == 200
    assert widgets.read("a")["metadata"]["deletionTimestamp"] == held["metadata"]["deletionTimestamp"]


def test_an_object_under_deletion_can_still_be_written(widgets: Collection, held: dict[str, Any]) -> None:
    assert widgets.patch("a", {"spec": {"size": 9}}).body["spec"]["size"] == 9
    assert widgets.patch("a", {"status": {"ready": 1}}, subresource="status").body["status"] == {"ready": 1}


def test_its_name_is_in_use_until_it_is_gone(widgets: Collection, held: dict[str, Any]) -> None:
    answer = widgets.create(widget("a"))
    assert (answer.status, answer.reason) == (409, "AlreadyExists")
    assert answer.message.startswith("object is being deleted: ")


def test_a_finalizer_of_an_object_that_stays_is_just_a_field(widgets: Collection) -> None:
    widgets.made(widget("a", metadata={"finalizers": [HOLD]}))
    assert widgets.patch("a", {"metadata": {"finalizers": None}}).status == 200
    assert widgets.get("a").status == 200


@pytest.mark.parametrize(
    ("options", "field"),
    [
        pytest.param({"propagationPolicy": "Sideways"}, "propagationPolicy", id="unknown-policy"),
        pytest.param(
            {"propagationPolicy": "Foreground", "orphanDependents": True}, "propagationPolicy", id="both-ways"
        ),
    ],
)
def test_a_deletion_that_cannot_be_meant(widgets: Collection, options: dict[str, Any], field: str) -> None:
    widgets.made(widget("a"))
    answer = widgets.delete("a", options)
    assert (answer.status, [cause_field for cause_field, _ in brief(answer)]) == (422, [field])
    assert widgets.get("a").status == 200


@pytest.mark.parametrize(("policy", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
def test_a_policy_is_left_to_the_garbage_collector_as_a_finalizer(
    widgets: Collection, policy: str, finalizer: str
) -> None:
    widgets.made(widget("a", metadata={"finalizers": [HOLD]}))
    answer = widgets.delete("a", {"propagationPolicy": policy})
    assert finalizer in answer.body["metadata"]["finalizers"]


@pytest.mark.needs("gc")
@pytest.mark.parametrize("policy", [None, "Background"])
def test_background_deletion_takes_the_owner_first(
    widgets: Collection, eventually: Eventually, policy: str | None
) -> None:
    parent = widgets.made(widget("parent"))
    widgets.made(child("child", parent))
    widgets.delete("parent", policy and {"propagationPolicy": policy})
    assert widgets.get("parent").status == 404
    eventually(lambda: widgets.get("child").status == 404)


@pytest.mark.needs("gc")
def test_foreground_deletion_takes_the_owner_last(widgets: Collection, eventually: Eventually) -> None:
    parent = widgets.made(widget("parent"))
    held_child = child("child", parent)
    held_child["metadata"]["finalizers"] = [HOLD]
    widgets.made(held_child)
    answer = widgets.delete("parent", {"propagationPolicy": "Foreground"})
    assert answer.body["metadata"]["finalizers"] == ["foregroundDeletion"]
    eventually(lambda: "deletionTimestamp" in widgets.read("child")["metadata"])
    assert widgets.get("parent").status == 200
    widgets.patch("child", {"metadata": {"finalizers": None}})
    eventually(lambda: widgets.get("parent").status == 404)


@pytest.mark.needs("gc")
def test_orphans_stay_without_their_owner(widgets: Collection, eventually: Eventually) -> None:
    parent = widgets.made(widget("parent"))
    widgets.made(child("child", parent))
    widgets.delete("parent", {"propagationPolicy": "Orphan"})
    eventually(lambda: widgets.get("parent").status == 404)
    assert "ownerReferences" not in widgets.read("child")["metadata"]


@pytest.mark.needs("gc")
def test_a_child_of_an_owner_that_never_was_is_collected(widgets: Collection, eventually: Eventually) -> None:
    ghost = {"metadata": {"name": "ghost", "uid": "00000000-0000-0000-0000-000000000000"}}
    widgets.made(child("child", ghost))
    eventually(lambda: widgets.get("child").status == 404)


@pytest.mark.needs("gc")
def test_an_owner_of_the_same_name_with_another_uid_is_another(widgets: Collection, eventually: Eventually) -> None:
    parent = widgets.made(widget("parent"))
    widgets.delete("parent")
    widgets.made(widget("parent"))
    widgets.made(child("child", parent))
    eventually(lambda: widgets.get("child").status == 404)
    assert widgets.get("parent").status == 200


@pytest.mark.needs("gc")
def test_a_child_stays_while_one_of_its_owners_does(widgets: Collection, eventually: Eventually) -> None:
    one, two = (widgets.made(widget(name)) for name in ("one", "two"))
    widgets.made(child("child", one, two))
    widgets.delete("one")
    eventually(lambda: len(widgets.read("child")["metadata"]["ownerReferences"]) == 1)
    widgets.delete("two")
    eventually(lambda: widgets.get("child").status == 404)


@pytest.mark.needs("gc")
def test_garbage_is_collected_over_generations(widgets: Collection, eventually: Eventually) -> None:
    grandparent = widgets.made(widget("grandparent"))
    parent = widgets.made(child("parent", grandparent))
    widgets.made(child("child", parent))
    widgets.delete("grandparent")
    eventually(lambda: widgets.names() == [])

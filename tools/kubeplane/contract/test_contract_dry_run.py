# SPDX-License-Identifier: Apache-2.0
"""`dryRun=All` answers as the real request would, and stores nothing."""

from __future__ import annotations

import pytest

from contract.widgets import Collection, widget


def test_a_dry_creation_is_answered_but_not_stored(widgets: Collection) -> None:
    answer = widgets.create(widget("a"), dryRun="All")
    assert (answer.status, answer.body["metadata"]["name"], answer.body["spec"]["color"]) == (201, "a", "red")
    assert answer.body["metadata"]["uid"]
    assert widgets.get("a").status == 404


def test_a_dry_creation_is_validated(widgets: Collection) -> None:
    widgets.made(widget("a"))
    assert widgets.create(widget("a"), dryRun="All").status == 409
    assert widgets.create(widget("b", size=0), dryRun="All").status == 422


def test_a_dry_change_is_answered_but_not_stored(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    patched = widgets.patch("a", {"spec": {"size": 2}}, dryRun="All")
    assert (patched.status, patched.body["spec"]["size"]) == (200, 2)
    assert patched.body["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert widgets.put("a", {**made, "spec": {"size": 3}}, dryRun="All").body["spec"]["size"] == 3
    assert widgets.patch("a", {"status": {"ready": 1}}, subresource="status", dryRun="All").body["status"] == {
        "ready": 1
    }
    assert widgets.read("a") == made


def test_a_dry_change_is_validated(widgets: Collection) -> None:
    widgets.made(widget("a"))
    assert widgets.patch("a", {"spec": {"size": 0}}, dryRun="All").status == 422
    assert widgets.patch("a", {"metadata": {"resourceVersion": "1"}}, dryRun="All").status == 409


def test_a_dry_apply_is_answered_but_not_stored(widgets: Collection) -> None:
    answer = widgets.apply("a", widget("a", size=4), dryRun="All")
    assert (answer.status, answer.body["spec"]["size"]) == (201, 4)
    assert widgets.names() == []


@pytest.mark.parametrize("in_body", [True, False])
def test_a_dry_deletion_deletes_nothing(widgets: Collection, in_body: bool) -> None:
    made = widgets.made(widget("a"))
    answer = widgets.delete("a", {"dryRun": ["All"]}) if in_body else widgets.delete("a", dryRun="All")
    assert answer.status == 200
    assert widgets.read("a") == made


def test_a_dry_deletion_of_a_collection_deletes_nothing(widgets: Collection) -> None:
    widgets.made(widget("a"))
    assert widgets.api.delete(widgets.path, dryRun="All").status == 200
    assert widgets.names() == ["a"]


def test_there_is_no_other_dry_run(widgets: Collection) -> None:
    answer = widgets.create(widget("a"), dryRun="Some")
    assert (answer.status, answer.reason) == (422, "Invalid")
    assert [(cause["field"], cause["reason"]) for cause in answer.causes] == [("dryRun", "FieldValueNotSupported")]

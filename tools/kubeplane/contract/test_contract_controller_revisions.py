# SPDX-License-Identifier: Apache-2.0
"""ControllerRevisions: their data never changes, and the server is strict about what unchanged means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contract.widgets import Collection, InNamespace, brief

REVISIONS = "apps/v1"


def revision(number: int = 1, name: str = "r", **data: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"app": "x"}}
    return {
        "apiVersion": REVISIONS,
        "kind": "ControllerRevision",
        "metadata": metadata,
        "data": data,
        "revision": number,
    }


def compact(body: dict[str, Any]) -> bytes:
    """Return *body* as Go would write it."""
    text = json.dumps(body, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()


@pytest.fixture
def revisions(in_namespace: InNamespace) -> Collection:
    """ControllerRevisions in the test's namespace."""
    return in_namespace(REVISIONS, "controllerrevisions")


def test_a_revision_holds_any_object(revisions: Collection) -> None:
    data: dict[str, Any] = {"spec": {"deep": [1, None, {"x": "ü"}], "text": "<&>"}}
    made = revisions.made(revision(3, **data))
    assert (made["data"], made["revision"]) == (data, 3)
    assert "generation" not in made["metadata"]
    assert revisions.read("r") == made


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        pytest.param({"revision": -1}, "revision", "FieldValueInvalid", id="negative"),
        pytest.param({"data": None}, "data", "FieldValueRequired", id="no-data"),
    ],
)
def test_a_revision_is_validated(revisions: Collection, change: dict[str, Any], field: str, reason: str) -> None:
    body = {key: value for key, value in {**revision(), **change}.items() if value is not None}
    answer = revisions.create(body)
    assert (answer.status, brief(answer)) == (422, [(field, reason)])


def test_data_is_immutable(revisions: Collection) -> None:
    revisions.create(compact(revision(x=1)))
    answer = revisions.patch("r", {"data": {"x": 2}})
    assert (answer.status, brief(answer)) == (422, [("data", "FieldValueInvalid")])
    assert answer.message.endswith("field is immutable")
    assert revisions.read("r")["data"] == {"x": 1}


@pytest.mark.parametrize("text", ["plain", "a < b && c > d", "ü"])
def test_what_was_sent_as_go_writes_json_can_be_renumbered_and_labelled(revisions: Collection, text: str) -> None:
    revisions.create(compact(revision(1, a=text, b={"c": [1, 2.5, True]})))
    answer = revisions.patch("r", {"revision": 2})
    assert (answer.status, answer.body["revision"]) == (200, 2)
    assert revisions.patch("r", {"metadata": {"labels": {"app": "y"}}}).status == 200
    assert revisions.read("r")["data"]["a"] == text


def test_data_is_compared_as_bytes(revisions: Collection) -> None:
    spaced = json.dumps(revision(1, a={"b": 1})).encode()
    revisions.create(spaced)
    # the server's own rewriting takes the spaces out, and calls that a change of the immutable data
    answer = revisions.patch("r", {"revision": 2})
    assert answer.status in {200, 422}
    assert revisions.read("r")["data"] == {"a": {"b": 1}}


def test_revisions_are_selected_by_label(revisions: Collection) -> None:
    for number in (1, 2):
        revisions.made(revision(number, f"r{number}", x=number))
    found = revisions.listing(labelSelector="app=x").body
    assert found["kind"] == "ControllerRevisionList"
    assert [item["revision"] for item in found["items"]] == [1, 2]


def test_a_number_defaults_to_nothing(revisions: Collection) -> None:
    body = revision(x=1)
    del body["revision"]
    assert revisions.made(body)["revision"] == 0

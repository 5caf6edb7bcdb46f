# SPDX-License-Identifier: Apache-2.0
"""Server-side apply: who owns which field, and what happens when two want the same one."""

from __future__ import annotations

from typing import Any

import pytest

from contract.rawapi import APPLY
from contract.widgets import VERSION, Collection, brief, widget

CONFLICT = "FieldManagerConflict"


def owned(made: dict[str, Any], manager: str, operation: str = "Apply") -> Any:
    """Return the fields of *made* that *manager* owns, or None."""
    entries = made["metadata"].get("managedFields", [])
    fields = [entry["fieldsV1"] for entry in entries if (entry["manager"], entry["operation"]) == (manager, operation)]
    return fields[0] if fields else None


def partial(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": VERSION, "kind": "Widget", "metadata": {"name": name}, "spec": spec}


def conditions(*types: str) -> dict[str, Any]:
    entries = [{"type": type_, "status": "True"} for type_ in types]
    return {"apiVersion": VERSION, "kind": "Widget", "metadata": {"name": "a"}, "status": {"conditions": entries}}


def test_applying_what_is_not_there_creates_it(widgets: Collection) -> None:
    answer = widgets.apply("a", widget("a", color="blue"), "one")
    assert (answer.status, answer.body["spec"]["color"], answer.body["spec"]["enabled"]) == (201, "blue", True)
    assert owned(answer.body, "one") == {"f:spec": {"f:color": {}, "f:size": {}}} or owned(answer.body, "one") == {
        "f:spec": {".": {}, "f:color": {}, "f:size": {}}  # before 1.21, of an object that apply made
    }


def test_applying_the_same_again_writes_nothing(widgets: Collection) -> None:
    first = widgets.apply("a", widget("a")).body
    second = widgets.apply("a", widget("a"))
    assert (second.status, second.body["metadata"]["resourceVersion"]) == (200, first["metadata"]["resourceVersion"])


def test_two_managers_share_what_they_agree_on(widgets: Collection) -> None:
    widgets.apply("a", widget("a", color="blue"), "one")
    answer = widgets.apply("a", widget("a", color="blue", label="abc"), "two")
    assert answer.status == 200
    assert "f:color" in owned(answer.body, "one")["f:spec"]
    assert "f:color" in owned(answer.body, "two")["f:spec"]


def test_a_field_of_another_manager_is_a_conflict(widgets: Collection) -> None:
    widgets.apply("a", widget("a", color="blue", label="abc"), "one")
    answer = widgets.apply("a", widget("a", color="green", label="xyz"), "two")
    assert (answer.status, answer.reason) == (409, "Conflict")
    assert brief(answer) == [(".spec.color", CONFLICT), (".spec.label", CONFLICT)]
    assert all(cause["message"].startswith('conflict with "one"') for cause in answer.causes)
    assert answer.message.startswith('Apply failed with 2 conflicts: conflicts with "one"')
    assert widgets.read("a")["spec"]["color"] == "blue"


def test_force_takes_the_field_over(widgets: Collection) -> None:
    widgets.apply("a", widget("a", color="blue"), "one")
    answer = widgets.apply("a", widget("a", color="green"), "two", force="true")
    assert (answer.status, answer.body["spec"]["color"]) == (200, "green")
    assert "f:color" not in owned(answer.body, "one")["f:spec"]
    assert "f:color" in owned(answer.body, "two")["f:spec"]


def test_a_field_that_its_only_manager_leaves_out_is_removed(widgets: Collection) -> None:
    widgets.apply("a", widget("a", label="abc", limits={"x": "1"}), "one")
    widgets.apply("a", partial(limits={"y": "2"}), "two")
    answer = widgets.apply("a", widget("a"), "one")
    assert "label" not in answer.body["spec"]
    assert answer.body["spec"]["limits"] == {"y": "2"}


def test_a_field_with_a_default_returns_to_it(widgets: Collection) -> None:
    widgets.apply("a", widget("a", color="blue"), "one")
    assert widgets.apply("a", widget("a"), "one").body["spec"]["color"] == "red"


def test_a_field_that_another_manager_holds_too_stays(widgets: Collection) -> None:
    widgets.apply("a", widget("a", label="abc"), "one")
    widgets.apply("a", widget("a", label="abc"), "two")
    assert widgets.apply("a", widget("a"), "one").body["spec"]["label"] == "abc"


def test_entries_of_a_keyed_list_have_managers_of_their_own(widgets: Collection) -> None:
    widgets.apply("a", widget("a", ports=[{"name": "x", "port": 1}]), "one")
    answer = widgets.apply("a", partial(ports=[{"name": "y", "port": 2}]), "two")
    assert answer.status == 200
    assert [port["name"] for port in answer.body["spec"]["ports"]] == ["x", "y"]
    assert set(owned(answer.body, "one")["f:spec"]["f:ports"]) == {'k:{"name":"x"}'}
    left = widgets.apply("a", widget("a"), "one")
    assert [port["name"] for port in left.body["spec"]["ports"]] == ["y"]


def test_an_entry_of_a_keyed_list_can_conflict(widgets: Collection) -> None:
    widgets.apply("a", widget("a", ports=[{"name": "x", "port": 1}]), "one")
    answer = widgets.apply("a", partial(ports=[{"name": "x", "port": 2}]), "two")
    assert brief(answer) == [('.spec.ports[name="x"].port', CONFLICT)]


def test_a_set_is_merged_by_value(widgets: Collection) -> None:
    widgets.apply("a", widget("a", tags=["x"]), "one")
    answer = widgets.apply("a", partial(tags=["y"]), "two")
    assert (answer.status, answer.body["spec"]["tags"]) == (200, ["x", "y"])
    assert owned(answer.body, "two")["f:spec"]["f:tags"] == {'v:"y"': {}}
    assert widgets.apply("a", widget("a"), "one").body["spec"]["tags"] == ["y"]


def test_a_plain_list_is_one_value(widgets: Collection) -> None:
    widgets.apply("a", widget("a", steps=["x"]), "one")
    answer = widgets.apply("a", partial(steps=["y"]), "two")
    assert brief(answer) == [(".spec.steps", CONFLICT)]


def test_labels_are_owned_one_by_one(widgets: Collection) -> None:
    widgets.apply("a", widget("a", metadata={"labels": {"x": "1"}}), "one")
    answer = widgets.apply("a", widget("a", metadata={"labels": {"y": "2"}}), "two")
    assert answer.body["metadata"]["labels"] == {"x": "1", "y": "2"}
    assert set(owned(answer.body, "two")["f:metadata"]["f:labels"]) - {"."} == {"f:y"}


def test_each_component_applies_its_own_conditions(widgets: Collection) -> None:
    widgets.made(widget("a"))
    widgets.apply("a", conditions("A"), "one", "status")
    answer = widgets.apply("a", conditions("B"), "two", "status")
    assert [condition["type"] for condition in answer.body["status"]["conditions"]] == ["A", "B"]
    left = widgets.apply("a", conditions(), "two", "status")
    assert [condition["type"] for condition in left.body["status"]["conditions"]] == ["A"]


def test_a_status_cannot_be_applied_to_nothing(widgets: Collection) -> None:
    assert widgets.apply("a", conditions("A"), "one", "status").status == 404


def test_plain_writes_own_what_they_change(widgets: Collection) -> None:
    widgets.made(widget("a"), fieldManager="creator")
    patched = widgets.patch("a", {"spec": {"size": 5}}, fieldManager="patcher").body
    assert owned(patched, "patcher", "Update") == {"f:spec": {"f:size": {}}}
    assert "f:size" not in owned(patched, "creator", "Update")["f:spec"]
    assert brief(widgets.apply("a", widget("a", size=6), "one")) == [(".spec.size", CONFLICT)]
    forced = widgets.apply("a", widget("a", size=6), "one", force="true").body
    assert forced["spec"]["size"] == 6
    assert owned(forced, "patcher", "Update") is None


def test_a_plain_write_takes_a_field_from_its_applier(widgets: Collection) -> None:
    widgets.apply("a", widget("a", color="blue"), "one")
    patched = widgets.patch("a", {"spec": {"color": "green"}}, fieldManager="patcher").body
    assert "f:color" not in owned(patched, "one")["f:spec"]
    assert "f:color" in owned(patched, "patcher", "Update")["f:spec"]


def test_a_manager_without_a_name_is_named_after_its_client(widgets: Collection) -> None:
    made = widgets.create(widget("a"), headers={"User-Agent": "mytool/1.0 (linux)"}).body
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == ["mytool"]


def test_managed_fields_record_manager_time_and_operation(widgets: Collection) -> None:
    (entry,) = widgets.apply("a", widget("a"), "one").body["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("one", "Apply", VERSION)
    assert entry["fieldsType"] == "FieldsV1"
    assert entry["time"].endswith("Z")


def test_field_tracking_of_an_object_can_be_cleared(widgets: Collection) -> None:
    widgets.made(widget("a"))
    answer = widgets.patch("a", {"metadata": {"managedFields": [{}]}})
    assert answer.status == 200
    assert "managedFields" not in answer.body["metadata"]


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        pytest.param({"kind": "Widget", "metadata": {"name": "a"}}, {400}, id="no-version"),
        # the server's own error before 1.22, as the stored object cannot be converted
        pytest.param({**widget("a"), "kind": "Gadget"}, {400, 422, 500}, id="other-kind"),
        pytest.param(widget("b"), {400}, id="other-name"),
        pytest.param(widget("a", metadata={"managedFields": [{"manager": "x"}]}), {400}, id="managed-fields"),
        pytest.param(widget("a", metadata={"resourceVersion": "1"}), {409}, id="older-version"),
        pytest.param(widget("a", size=0), {422}, id="invalid"),
        pytest.param(b"\t: {", {400}, id="not-yaml"),
    ],
)
def test_an_apply_that_cannot_be_meant(widgets: Collection, body: Any, statuses: set[int]) -> None:
    widgets.made(widget("a"))
    made = widgets.read("a")
    assert widgets.apply("a", body, "one", force="true").status in statuses
    assert widgets.read("a") == made


def test_an_applier_must_have_a_name(widgets: Collection) -> None:
    answer = widgets.patch("a", widget("a"), APPLY)
    assert (answer.status, brief(answer)) == (422, [("fieldManager", "FieldValueRequired")])


def test_force_is_for_apply_only(widgets: Collection) -> None:
    widgets.made(widget("a"))
    answer = widgets.patch("a", {}, force="true")
    assert (answer.status, brief(answer)) == (422, [("force", "FieldValueForbidden")])


def test_yaml_can_be_applied(widgets: Collection) -> None:
    text = b"apiVersion: contract.example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n  size: 2\n"
    assert widgets.apply("a", text).body["spec"]["size"] == 2

# SPDX-License-Identifier: Apache-2.0
"""Create, read, replace and delete: what is stored, what is refused, and with which words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from contract.rawapi import RawApi
from contract.widgets import GROUP, VERSION, Collection, brief, widget

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def without(body: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != field}


def test_a_created_object_gets_its_system_fields(widgets: Collection, namespace: str) -> None:
    answer = widgets.create(widget("a"))
    assert answer.status == 201
    metadata = answer.body["metadata"]
    assert (metadata["name"], metadata["namespace"], metadata["generation"]) == ("a", namespace, 1)
    assert UUID.fullmatch(metadata["uid"])
    assert SECONDS.fullmatch(metadata["creationTimestamp"])
    assert metadata["resourceVersion"].isdigit()
    assert "selfLink" not in metadata
    assert widgets.read("a") == answer.body


def test_the_system_fields_of_a_new_object_are_not_the_clients_to_set(widgets: Collection) -> None:
    given = {
        "uid": "mine",
        "creationTimestamp": "2001-01-01T00:00:00Z",
        "deletionTimestamp": "2001-01-01T00:00:00Z",
        "generation": 7,
        "selfLink": "/x",
        "unheardOf": 1,
    }
    made = widgets.made(widget("a", metadata=given))["metadata"]
    assert UUID.fullmatch(made["uid"])
    assert made["creationTimestamp"] > "2020"
    assert made["generation"] == 1
    assert not {"deletionTimestamp", "selfLink", "unheardOf"} & set(made)


def test_a_list_holds_whole_objects_and_its_own_version(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    answer = widgets.listing()
    assert (answer.status, answer.body["kind"], answer.body["apiVersion"]) == (200, "WidgetList", VERSION)
    assert answer.body["items"] == [made]
    assert int(answer.body["metadata"]["resourceVersion"]) >= int(made["metadata"]["resourceVersion"])


def test_a_list_is_ordered_by_name(widgets: Collection) -> None:
    for name in ("b", "a-1", "a.1", "a", "c"):
        widgets.made(widget(name))
    assert widgets.names() == ["a", "a-1", "a.1", "b", "c"]


def test_a_list_of_all_namespaces_holds_the_objects_of_each(widgets: Collection, api: RawApi, namespace: str) -> None:
    widgets.made(widget("a"))
    answer = api.get(f"/apis/{GROUP}/v1/widgets")
    assert (namespace, "a") in {
        (item["metadata"]["namespace"], item["metadata"]["name"]) for item in answer.body["items"]
    }


def test_a_list_of_a_namespace_that_is_not_there_is_empty(api: RawApi, widgets: Collection) -> None:
    answer = api.get(f"/apis/{GROUP}/v1/namespaces/nowhere/widgets")
    assert (answer.status, answer.body["items"]) == (200, [])


def test_creating_in_a_namespace_that_is_not_there_is_not_found(api: RawApi, widgets: Collection) -> None:
    answer = api.post(f"/apis/{GROUP}/v1/namespaces/nowhere/widgets", widget("a"))
    assert (answer.status, answer.reason) == (404, "NotFound")
    assert answer.body["details"] == {"name": "nowhere", "kind": "namespaces"}
    assert answer.message == 'namespaces "nowhere" not found'


def test_a_status_names_its_object(widgets: Collection) -> None:
    answer = widgets.get("nope")
    assert (answer.status, answer.reason) == (404, "NotFound")
    assert answer.body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f'widgets.{GROUP} "nope" not found',
        "reason": "NotFound",
        "details": {"name": "nope", "group": GROUP, "kind": "widgets"},
        "code": 404,
    }


def test_a_name_is_given_once(widgets: Collection) -> None:
    widgets.made(widget("a"))
    answer = widgets.create(widget("a"))
    assert (answer.status, answer.reason) == (409, "AlreadyExists")
    assert answer.body["details"] == {"name": "a", "group": GROUP, "kind": "widgets"}
    assert answer.message == f'widgets.{GROUP} "a" already exists'


def test_generate_name_adds_five_letters(widgets: Collection) -> None:
    first, second = (widgets.made(widget(metadata={"generateName": "gen-"}))["metadata"] for _ in range(2))
    assert re.fullmatch(r"gen-[bcdfghjklmnpqrstvwxz2456789]{5}", first["name"])
    assert first["generateName"] == "gen-"
    assert first["name"] != second["name"]


@pytest.mark.parametrize(
    ("metadata", "field", "reason"),
    [
        pytest.param({}, "metadata.name", "FieldValueRequired", id="none"),
        pytest.param({"name": "Upper"}, "metadata.name", "FieldValueInvalid", id="upper-case"),
        pytest.param({"name": "under_score"}, "metadata.name", "FieldValueInvalid", id="underscore"),
        pytest.param({"name": "-dash"}, "metadata.name", "FieldValueInvalid", id="leading-dash"),
        pytest.param({"name": "a..b"}, "metadata.name", "FieldValueInvalid", id="two-dots"),
        pytest.param({"name": "a" * 254}, "metadata.name", "FieldValueInvalid", id="too-long"),
        pytest.param({"name": "a", "labels": {"a b": ""}}, "metadata.labels", "FieldValueInvalid", id="label-key"),
        pytest.param({"name": "a", "labels": {"a": "b!"}}, "metadata.labels", "FieldValueInvalid", id="label-value"),
        pytest.param({"name": "a", "labels": {"a": "b" * 64}}, "metadata.labels", "FieldValueInvalid", id="label-long"),
        pytest.param(
            {"name": "a", "annotations": {"!": ""}}, "metadata.annotations", "FieldValueInvalid", id="annotation"
        ),
        pytest.param(
            {"name": "a", "finalizers": ["no good"]}, "metadata.finalizers", "FieldValueInvalid", id="finalizer"
        ),
    ],
)
def test_metadata_is_validated(widgets: Collection, metadata: dict[str, Any], field: str, reason: str) -> None:
    answer = widgets.create(widget(metadata=metadata))
    assert (answer.status, answer.reason) == (422, "Invalid")
    assert (field, reason) in brief(answer)
    assert answer.body["details"]["kind"] == "Widget"
    assert answer.message.startswith(f'Widget.{GROUP} "{metadata.get("name", "")}" is invalid: ')


def test_names_of_253_characters_with_dots_are_fine(widgets: Collection) -> None:
    name = ".".join(["a" * 49, "b" * 49, "c" * 49, "d" * 49, "e" * 53])
    assert widgets.create(widget(name)).status == 201
    assert widgets.read(name)["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        pytest.param(b'{"apiVersion":', {400}, id="cut-off"),
        pytest.param(b"", {400}, id="empty"),
        pytest.param(b"[]", {400}, id="a-list"),
        pytest.param(without(widget("a"), "kind"), {400}, id="no-kind"),
        # an error of the server's own before 1.22
        pytest.param(without(widget("a"), "apiVersion"), {400, 500}, id="no-apiversion"),
        pytest.param({**widget("a"), "apiVersion": f"{GROUP}/v2"}, {400}, id="other-version"),
        pytest.param({**widget("a"), "apiVersion": "other.example.com/v1"}, {400}, id="other-group"),
        # a validation error before the version check learned to look at kinds
        pytest.param({**widget("a"), "kind": "Gadget"}, {400, 422}, id="other-kind"),
        pytest.param(widget("a", metadata={"namespace": "elsewhere"}), {400}, id="other-namespace"),
        pytest.param(widget("a", metadata={"labels": {"a": 5}}), {400}, id="label-is-a-number"),
        pytest.param(widget("a", metadata={"resourceVersion": "5"}), {400, 500}, id="with-a-version"),
    ],
)
def test_a_body_that_cannot_be_meant_is_refused(widgets: Collection, body: Any, statuses: set[int]) -> None:
    answer = widgets.create(body)
    assert answer.status in statuses
    assert (answer.body["kind"], answer.body["status"], answer.body["code"]) == ("Status", "Failure", answer.status)
    assert widgets.names() == []


def test_the_mismatch_of_a_version_is_explained(widgets: Collection) -> None:
    answer = widgets.create({**widget("a"), "apiVersion": f"{GROUP}/v2"})
    assert answer.message == (
        f"the API version in the data ({GROUP}/v2) does not match the expected API version ({VERSION})"
    )


def test_an_unknown_content_type_is_unsupported(widgets: Collection) -> None:
    answer = widgets.create(b"x", content_type="text/plain")
    assert (answer.status, answer.reason) == (415, "UnsupportedMediaType")


def test_an_answer_in_a_form_that_the_server_lacks_is_not_acceptable(widgets: Collection) -> None:
    widgets.made(widget("a"))
    answer = widgets.get("a", accept="text/html")
    assert (answer.status, answer.reason) == (406, "NotAcceptable")


def test_yaml_is_understood(widgets: Collection) -> None:
    text = b"apiVersion: contract.example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n  size: 2\n"
    assert widgets.create(text, content_type="application/yaml").status == 201
    assert widgets.read("a")["spec"]["size"] == 2


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(f"/apis/{GROUP}/v1/gizmos", id="kind"),
        pytest.param(f"/apis/{GROUP}/v9/widgets", id="version"),
        pytest.param("/apis/unheard.example.com/v1/widgets", id="group"),
        pytest.param("/api/v1/gizmos", id="core-kind"),
    ],
)
def test_what_is_not_served_is_not_found(widgets: Collection, api: RawApi, path: str) -> None:
    assert api.get(path).status == 404


def test_an_unknown_subresource_is_not_found(widgets: Collection) -> None:
    widgets.made(widget("a"))
    assert widgets.get("a/scale").status == 404
    assert widgets.get("a/nonsense").status == 404


def test_post_to_a_subresource_that_is_only_read_and_replaced_is_not_allowed(widgets: Collection) -> None:
    widgets.made(widget("a"))
    answer = widgets.api.post(widgets.at("a", "status"), widget("a"))
    assert (answer.status, answer.reason) == (405, "MethodNotAllowed")


def test_replacing_with_the_same_content_writes_nothing(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    answer = widgets.put("a", made)
    assert answer.status == 200
    assert answer.body["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_replacing_raises_version_and_generation(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    answer = widgets.put("a", {**made, "spec": {"size": 9}})
    assert (answer.status, answer.body["metadata"]["generation"]) == (200, 2)
    assert int(answer.body["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert answer.body["metadata"]["uid"] == made["metadata"]["uid"]


def test_metadata_does_not_raise_the_generation(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    made["metadata"]["labels"] = {"a": "b"}
    made["metadata"]["annotations"] = {"a": "b"}
    answer = widgets.put("a", made)
    assert (answer.status, answer.body["metadata"]["generation"]) == (200, 1)


def test_replacing_an_older_version_conflicts(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    widgets.put("a", {**made, "spec": {"size": 2}})
    answer = widgets.put("a", {**made, "spec": {"size": 3}})
    assert (answer.status, answer.reason) == (409, "Conflict")
    assert answer.body["details"] == {"name": "a", "group": GROUP, "kind": "widgets"}
    assert answer.message == (
        f'Operation cannot be fulfilled on widgets.{GROUP} "a": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    assert widgets.read("a")["spec"]["size"] == 2


def test_replacing_needs_a_version(widgets: Collection) -> None:
    widgets.made(widget("a"))
    answer = widgets.put("a", widget("a", size=2))
    assert (answer.status, brief(answer)) == (422, [("metadata.resourceVersion", "FieldValueInvalid")])


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        pytest.param({"name": "b"}, 400, id="name"),
        pytest.param({"namespace": "elsewhere"}, 400, id="namespace"),
        pytest.param({"name": None}, 400, id="no-name"),
        pytest.param({"uid": "00000000-0000-0000-0000-000000000000"}, 409, id="uid"),
    ],
)
def test_replacing_as_another_object_is_refused(widgets: Collection, metadata: dict[str, Any], status: int) -> None:
    made = widgets.made(widget("a"))
    changed = {key: value for key, value in {**made["metadata"], **metadata}.items() if value is not None}
    assert widgets.put("a", {**made, "metadata": changed}).status == status


def test_replacing_what_is_not_there_is_not_found(widgets: Collection) -> None:
    assert widgets.put("nope", widget("nope", metadata={"resourceVersion": "1"})).status == 404


def test_a_deleted_object_is_gone(widgets: Collection) -> None:
    made = widgets.made(widget("a"))
    answer = widgets.delete("a")
    assert (answer.status, answer.body["kind"], answer.body["status"]) == (200, "Status", "Success")
    details = {"name": "a", "group": GROUP, "kind": "widgets", "uid": made["metadata"]["uid"]}
    assert answer.body["details"] == details
    assert widgets.get("a").status == 404
    assert widgets.delete("a").status == 404


def test_a_name_can_be_used_again_with_another_uid(widgets: Collection) -> None:
    first = widgets.made(widget("a"))
    widgets.delete("a")
    second = widgets.made(widget("a"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert second["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("preconditions", "status"),
    [
        pytest.param(lambda made: {"uid": made["uid"]}, 200, id="uid"),
        pytest.param(lambda made: {"resourceVersion": made["resourceVersion"]}, 200, id="version"),
        pytest.param(lambda made: {"uid": "another"}, 409, id="another-uid"),
        pytest.param(lambda made: {"resourceVersion": "1"}, 409, id="another-version"),
    ],
)
def test_a_deletion_holds_to_its_preconditions(widgets: Collection, preconditions: Any, status: int) -> None:
    made = widgets.made(widget("a"))
    answer = widgets.delete("a", {"preconditions": preconditions(made["metadata"])})
    assert answer.status == status
    assert answer.reason == (None if status == 200 else "Conflict")
    assert widgets.get("a").status == (404 if status == 200 else 200)


def test_a_collection_is_deleted_by_selector(widgets: Collection) -> None:
    for name, app in (("a", "x"), ("b", "x"), ("c", "y")):
        widgets.made(widget(name, metadata={"labels": {"app": app}}))
    answer = widgets.api.delete(widgets.path, labelSelector="app=x")
    assert (answer.status, answer.body["kind"]) == (200, "WidgetList")
    assert sorted(item["metadata"]["name"] for item in answer.body["items"]) == ["a", "b"]
    assert widgets.names() == ["c"]


def test_a_whole_collection_is_deleted(widgets: Collection) -> None:
    for name in ("a", "b"):
        widgets.made(widget(name))
    assert widgets.api.delete(widgets.path).status == 200
    assert widgets.names() == []


def test_cluster_scoped_objects_have_no_namespace(depots: Collection, namespace: str) -> None:
    made = depots.made({"apiVersion": VERSION, "kind": "Depot", "metadata": {"name": namespace}})
    assert "namespace" not in made["metadata"]
    assert depots.read(namespace) == made
    assert depots.delete(namespace).status == 200


def test_a_namespaced_kind_is_not_created_without_a_namespace(widgets: Collection, api: RawApi) -> None:
    answer = api.post(f"/apis/{GROUP}/v1/widgets", widget("a"))
    # the whole path is unknown to custom resources, the verb to built-in kinds
    assert answer.status in {404, 405}


def test_without_a_token_every_request_is_unauthorized(api: RawApi, widgets: Collection) -> None:
    answer = widgets.listing(headers={"Authorization": "Bearer wrong"})
    assert (answer.status, answer.reason) == (401, "Unauthorized")

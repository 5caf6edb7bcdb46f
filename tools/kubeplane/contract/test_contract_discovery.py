# SPDX-License-Identifier: Apache-2.0
"""What is served: groups, versions, resources, schemas, health."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contract.rawapi import RawApi
from contract.widgets import GROUP, VERSION, Collection, Eventually

ALL_VERBS = {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}


def resources(api: RawApi, path: str) -> dict[str, dict[str, Any]]:
    answer = api.get(path)
    assert (answer.status, answer.body["kind"]) == (200, "APIResourceList")
    return {resource["name"]: resource for resource in answer.body["resources"]}


def test_the_core_group_has_one_version(api: RawApi) -> None:
    found = api.get("/api").body
    assert (found["kind"], found["versions"]) == ("APIVersions", ["v1"])


def test_groups_are_listed(api: RawApi, widgets: Collection) -> None:
    found = api.get("/apis").body
    assert found["kind"] == "APIGroupList"
    groups = {group["name"]: group for group in found["groups"]}
    wanted = {"apps", "events.k8s.io", "coordination.k8s.io", "apiextensions.k8s.io", GROUP}
    assert wanted <= set(groups)
    version = {"groupVersion": VERSION, "version": "v1"}
    assert groups[GROUP]["versions"] == [version]
    assert groups[GROUP]["preferredVersion"] == version


def test_a_group_has_a_document_of_its_own(api: RawApi, widgets: Collection) -> None:
    found = api.get(f"/apis/{GROUP}").body
    assert (found["kind"], found["name"]) == ("APIGroup", GROUP)
    assert found["preferredVersion"]["groupVersion"] == VERSION


def test_a_custom_resource_is_described(api: RawApi, widgets: Collection) -> None:
    found = resources(api, f"/apis/{VERSION}")
    one = found["widgets"]
    assert (one["kind"], one["namespaced"], one["singularName"]) == ("Widget", True, "widget")
    assert (one["shortNames"], one["categories"]) == (["wd"], ["contract"])
    assert set(one["verbs"]) == ALL_VERBS
    status = found["widgets/status"]
    assert (status["kind"], set(status["verbs"])) == ("Widget", {"get", "patch", "update"})
    assert found["depots"]["namespaced"] is False
    assert "depots/status" not in found


@pytest.mark.parametrize(
    ("path", "name", "kind", "namespaced"),
    [
        ("/api/v1", "namespaces", "Namespace", False),
        ("/api/v1", "events", "Event", True),
        ("/api/v1", "configmaps", "ConfigMap", True),
        ("/apis/apps/v1", "controllerrevisions", "ControllerRevision", True),
        ("/apis/coordination.k8s.io/v1", "leases", "Lease", True),
        ("/apis/events.k8s.io/v1", "events", "Event", True),
        ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", False),
    ],
)
def test_the_built_in_kinds_that_we_rest_on(api: RawApi, path: str, name: str, kind: str, namespaced: bool) -> None:
    one = resources(api, path)[name]
    assert (one["kind"], one["namespaced"]) == (kind, namespaced)
    assert {"create", "delete", "get", "list", "patch", "update", "watch"} <= set(one["verbs"])


@pytest.mark.parametrize("path", ["/readyz", "/livez", "/healthz"])
def test_health_is_a_word(api: RawApi, path: str) -> None:
    answer = api.get(path, accept="*/*")
    assert (answer.status, answer.body) == (200, "ok")


def test_the_version_is_served(api: RawApi) -> None:
    found = api.get("/version").body
    assert found["gitVersion"].startswith(f"v{found['major']}.")
    assert {"major", "minor", "gitVersion", "platform"} <= set(found)


def test_schemas_are_published(api: RawApi, widgets: Collection, eventually: Eventually) -> None:
    def published() -> dict[str, Any]:
        return dict(json.loads(api.get("/openapi/v2", text=True).body)["definitions"])

    eventually(lambda: "com.example.contract.v1.Widget" in published())
    definitions = published()
    one = definitions["com.example.contract.v1.Widget"]
    assert one["description"] == "A thing to test with."
    assert one["x-kubernetes-group-version-kind"] == [{"group": GROUP, "kind": "Widget", "version": "v1"}]
    assert one["properties"]["spec"]["properties"]["size"]["description"] == "How large it is, in millimetres."
    assert "ObjectMeta" in json.dumps(one["properties"]["metadata"])
    assert "com.example.contract.v1.WidgetList" in definitions


def test_access_reviews_are_answered(api: RawApi, namespace: str) -> None:
    attributes = {"namespace": namespace, "verb": "list", "group": GROUP, "resource": "widgets"}
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    answer = api.post(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {**kind, "spec": {"resourceAttributes": attributes}}
    )
    assert (answer.status, answer.body["status"]["allowed"]) == (201, True)

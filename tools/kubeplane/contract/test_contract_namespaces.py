# SPDX-License-Identifier: Apache-2.0
"""The life of a namespace: deleting it empties it first."""

from __future__ import annotations

import pytest

from contract.rawapi import RawApi
from contract.widgets import Collection, Eventually, InNamespace, widget

NAMESPACES = "/api/v1/namespaces"


def test_a_namespace_is_active_from_the_start(api: RawApi, namespace: str) -> None:
    found = api.get(f"{NAMESPACES}/{namespace}").body
    assert (found["kind"], found["apiVersion"]) == ("Namespace", "v1")
    assert found["spec"] == {"finalizers": ["kubernetes"]}
    assert found["status"] == {"phase": "Active"}


def test_the_usual_namespaces_are_there(api: RawApi) -> None:
    names = {item["metadata"]["name"] for item in api.get(NAMESPACES).body["items"]}
    assert {"default", "kube-system"} <= names


@pytest.mark.parametrize("name", ["Upper", "a.b", "a" * 64])
def test_names_of_namespaces_are_labels(api: RawApi, name: str) -> None:
    answer = api.post(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    assert (answer.status, answer.causes[0]["field"]) == (422, "metadata.name")


def test_there_is_no_deleting_of_all_namespaces(api: RawApi) -> None:
    assert api.delete(NAMESPACES, dryRun="All").status == 405


@pytest.mark.needs("gc")
def test_deleting_a_namespace_deletes_what_is_in_it(
    api: RawApi, widgets: Collection, namespace: str, in_namespace: InNamespace, eventually: Eventually
) -> None:
    widgets.made(widget("a"))
    configmaps = in_namespace("v1", "configmaps")
    configmaps.made({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})
    widgets.made(widget("held", metadata={"finalizers": ["example.com/hold"]}))
    answer = api.delete(f"{NAMESPACES}/{namespace}")
    assert (answer.status, answer.body["status"]["phase"]) == (200, "Terminating")
    assert "deletionTimestamp" in answer.body["metadata"]
    eventually(lambda: widgets.names() == ["held"] and "c" not in configmaps.names())
    # built-in kinds are refused at once, custom resources after the admission plugin has heard of it
    refused = configmaps.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}})
    assert (refused.status, refused.reason) == (403, "Forbidden")
    assert [cause["reason"] for cause in refused.causes] == ["NamespaceTerminating"]
    assert api.get(f"{NAMESPACES}/{namespace}").status == 200
    widgets.patch("held", {"metadata": {"finalizers": None}})
    eventually(lambda: widgets.names() == [])

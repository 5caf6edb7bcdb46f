# SPDX-License-Identifier: Apache-2.0
"""The admission policies of deploy/components, evaluated by a CEL of our own on requests of each kind."""

from __future__ import annotations

from typing import Any

import celpy
import pytest
import yaml
from celpy.adapter import json_to_cel
from celpy.celtypes import MapType, StringType

from e2e.clusters.cluster import CONTROLLER, GATEWAY, SYSTEM_NAMESPACE, account
from e2e.release.build import ROOT
from e2e.release.manifests import Object

COMPONENTS = ROOT / "deploy" / "components"


def documents(path: str) -> list[Object]:
    return list(yaml.safe_load_all((COMPONENTS / path).read_text(encoding="utf-8")))


def allows(path: str, obj: Object | None, old: Object | None, **request: Any) -> bool:
    """Return whether the policy in the file allows the *request* that makes *obj* of *old*."""
    policy, binding = documents(path)
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    environment = celpy.Environment()
    operation = "CREATE" if old is None else "DELETE" if obj is None else "UPDATE"
    values = {"object": json_to_cel(obj), "oldObject": json_to_cel(old)}
    values["request"] = json_to_cel({"operation": operation, **request})

    def value_of(given: Object) -> Any:
        return environment.program(environment.compile(given["expression"])).evaluate(values)

    if not all(value_of(each) for each in policy["spec"].get("matchConditions", ())):
        return True
    values["variables"] = variables = MapType()
    for each in policy["spec"].get("variables", ()):
        variables[StringType(each["name"])] = value_of(each)
    return all(value_of(each) for each in policy["spec"]["validations"])


def process(namespace: str | None, **more: Any) -> Object:
    ref = {"name": "leaf-1"} | ({"namespace": namespace} if namespace else {})
    return {"metadata": {"name": "p", "namespace": "lab"}, "spec": {"deviceRef": ref, **more}}


@pytest.mark.parametrize(
    ("obj", "old", "allowed"),
    [
        pytest.param(process(None), None, True, id="no-namespace"),
        pytest.param(process("lab"), None, True, id="own-namespace"),
        pytest.param(process("other"), None, False, id="foreign"),
        pytest.param(process("other"), process("lab"), False, id="becomes-foreign"),
        pytest.param(process("lab"), process("other"), True, id="becomes-its-own"),
        pytest.param(process("other", args=["x"]), process("other"), True, id="stored-already"),
    ],
)
def test_a_process_may_name_a_device_of_its_own_namespace_only(obj: Object, old: Object | None, allowed: bool) -> None:
    assert allows("tenancy/deviceref.yaml", obj, old) is allowed


@pytest.mark.parametrize("path", ["deletionguard/definitions.yaml", "deletionguard/namespaces.yaml"])
@pytest.mark.parametrize(
    ("annotations", "allowed"),
    [
        (None, False),
        ({}, False),
        ({"azure.com/allow-deletion": "no"}, False),
        ({"azure.com/allow-deletion": "true"}, True),
    ],
)
def test_a_guarded_object_is_deleted_only_when_it_is_annotated(
    path: str, annotations: dict[str, str] | None, allowed: bool
) -> None:
    metadata = {"name": "x"} if annotations is None else {"name": "x", "annotations": annotations}
    assert allows(path, None, {"metadata": metadata}) is allowed


def test_the_guard_covers_each_of_our_definitions_and_no_namespace_that_is_not_labelled() -> None:
    names = {yaml.safe_load(path.read_text())["metadata"]["name"] for path in (ROOT / "crds").glob("*.yaml")}
    [rule] = documents("deletionguard/definitions.yaml")[0]["spec"]["matchConstraints"]["resourceRules"]
    assert (set(rule["resourceNames"]), rule["operations"]) == (names, ["DELETE"])
    matched = documents("deletionguard/namespaces.yaml")[0]["spec"]["matchConstraints"]
    assert matched["objectSelector"] == {"matchLabels": {"azure.com/guarded": "true"}}


ARBITER = {"metadata": {"name": "praetor-gateway-arbiter"}}


@pytest.mark.parametrize(
    ("group", "resource", "more", "allowed"),
    [
        pytest.param("azure.com", "deviceprocesses", {"subResource": "status"}, True, id="status"),
        pytest.param("azure.com", "deviceprocesses", {}, False, id="spec"),
        pytest.param("azure.com", "deviceprocesses", {"subResource": "scale"}, False, id="scale"),
        pytest.param("azure.com", "deviceprocessdeployments", {"subResource": "status"}, False, id="rollout"),
        pytest.param("apps", "deployments", {"subResource": "status"}, False, id="status-of-others"),
        pytest.param("", "events", {}, True, id="event"),
        pytest.param("events.k8s.io", "events", {}, True, id="newer-event"),
        pytest.param("coordination.k8s.io", "leases", {}, True, id="its-lease"),
        pytest.param("coordination.k8s.io", "leases", {"namespace": "kube-system"}, False, id="lease-elsewhere"),
        pytest.param("", "configmaps", {}, False, id="other-name"),
        pytest.param("", "secrets", {}, False, id="secret"),
        pytest.param("", "namespaces", {"namespace": None}, False, id="without-namespace"),
    ],
)
@pytest.mark.parametrize("old", [ARBITER, None], ids=["change", "create"])
def test_the_gateway_is_pinned_to_what_it_writes_and_no_other_account_is(
    group: str, resource: str, more: Object, allowed: bool, old: Object | None
) -> None:
    given = {"namespace": SYSTEM_NAMESPACE, "resource": {"group": group, "resource": resource}, **more}
    asked = {
        key: value for key, value in given.items() if value is not None
    }  # as the apiserver leaves out what is empty

    def may(program: str) -> bool:
        user = {"username": account(program)}
        return allows("gatewaypin/policy.yaml", ARBITER, old, userInfo=user, **asked)

    statuses_are_never_created = old is None and asked.get("subResource") == "status"
    assert (may(GATEWAY), may(CONTROLLER)) == (allowed and not statuses_are_never_created, True)

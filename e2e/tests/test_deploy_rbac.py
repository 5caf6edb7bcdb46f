# SPDX-License-Identifier: Apache-2.0
"""The roles of deploy/base grant exactly what is written down in e2e.release.permissions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.release.manifests import BASE, Object, rbac, read
from e2e.release.permissions import ALLOWED, DEVICES, AccessRequest, is_allowed, questions

USERS_ROLES = ("praetor-view", "praetor-edit")
KINDS = {*DEVICES, "deviceprocesses", "deviceprocessdeployments"}


def rule_covers(rule: Mapping[str, Any], request: AccessRequest) -> bool:
    """Return whether a rule grants a request, as the apiserver's RBAC does."""
    named = rule.get("resourceNames", [])
    return (
        request.verb in rule["verbs"]
        and request.group in rule["apiGroups"]
        and request.resource in rule["resources"]
        and (not named or request.name in named)
    )


def granted(objects: Iterable[Object], request: AccessRequest) -> bool:
    """Return whether the bindings and roles among *objects* grant a program's request."""
    objects = tuple(objects)
    roles = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    return any(
        any(
            rule_covers(rule, request)
            for rule in roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]["rules"]
        )
        for binding in objects
        if binding["kind"].endswith("Binding")
        and any(subject["name"] == request.program for subject in binding["subjects"])
        and binding["metadata"].get("namespace", request.namespace) == request.namespace
    )


def test_every_program_may_do_what_it_does_and_nothing_else() -> None:
    objects = rbac()
    wrong = [request for request in questions() if granted(objects, request) != is_allowed(request)]
    assert wrong == []


def test_the_questions_ask_for_all_that_is_allowed() -> None:
    assert {request for request in questions() if is_allowed(request)} >= ALLOWED


def test_no_role_uses_a_wildcard_or_grants_a_url() -> None:
    rules = [rule for item in read(BASE) if item["kind"] in ("Role", "ClusterRole") for rule in item["rules"]]
    assert not [rule for rule in rules if "*" in (*rule["verbs"], *rule["apiGroups"], *rule["resources"])]
    assert not [rule for rule in rules if "nonResourceURLs" in rule]


def test_roles_of_leases_can_be_put_into_another_namespace() -> None:
    moved = rbac("lab")
    places = {item["metadata"]["namespace"] for item in moved if item["kind"] in ("Role", "RoleBinding")}
    assert places == {"lab"}


def test_service_accounts_of_the_system_namespace_are_the_only_subjects() -> None:
    subjects = [subject for item in read(BASE) for subject in item.get("subjects", ())]
    assert {(subject["kind"], subject["namespace"]) for subject in subjects} == {("ServiceAccount", SYSTEM_NAMESPACE)}


@pytest.mark.parametrize("name", USERS_ROLES)
def test_users_get_our_kinds_through_the_built_in_roles_but_never_a_status(name: str) -> None:
    [role] = [item for item in read(BASE) if item["metadata"]["name"] == name]
    assert role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert [(rule["apiGroups"], set(rule["resources"])) for rule in role["rules"]] == [(["azure.com"], KINDS)]


def test_only_readers_verbs_are_given_to_viewers() -> None:
    roles = {item["metadata"]["name"]: item for item in read(BASE) if item["kind"] == "ClusterRole"}
    aggregated = [
        role for role in roles.values() if "rbac.authorization.k8s.io/aggregate-to-view" in role["metadata"]["labels"]
    ]
    assert [(role["metadata"]["name"], role["rules"][0]["verbs"]) for role in aggregated] == [
        ("praetor-view", ["get", "list", "watch"])
    ]

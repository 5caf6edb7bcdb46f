# SPDX-License-Identifier: Apache-2.0
"""Who may do what: a user can do what its Role grants, and a refusal names what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contract.cluster import Cluster
from contract.rawapi import RawApi
from contract.widgets import GROUP, Collection, Eventually, InNamespace, widget

pytestmark = pytest.mark.needs("rbac")

RBAC = "rbac.authorization.k8s.io/v1"


@pytest.fixture
def limited(cluster: Cluster, unprivileged_user: str) -> Iterator[RawApi]:
    """Raw HTTP as the unprivileged user."""
    with RawApi.from_kubeconfig(cluster.kubeconfig_for(unprivileged_user)) as client:
        yield client


@pytest.fixture
def theirs(limited: RawApi, widgets: Collection) -> Collection:
    """The test's widgets as the unprivileged user sees them."""
    return Collection(limited, widgets.path)


Grant = Callable[[list[dict[str, Any]]], None]


@pytest.fixture
def grant(unprivileged_user: str, in_namespace: InNamespace) -> Grant:
    """Let the unprivileged user do in the test's namespace what the given rules say."""

    def bind(rules: list[dict[str, Any]]) -> None:
        role = {"apiVersion": RBAC, "kind": "Role", "metadata": {"name": "r"}, "rules": rules}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": unprivileged_user}
        binding = {"kind": "RoleBinding", "metadata": {"name": "b"}, "roleRef": reference, "subjects": [subject]}
        in_namespace(RBAC, "roles").made(role)
        in_namespace(RBAC, "rolebindings").made({"apiVersion": RBAC, **binding})

    return bind


def test_nothing_is_allowed_without_a_grant(theirs: Collection, namespace: str, unprivileged_user: str) -> None:
    answer = theirs.listing()
    assert (answer.status, answer.reason) == (403, "Forbidden")
    assert answer.body["details"] == {"group": GROUP, "kind": "widgets"}
    assert answer.message == (
        f'widgets.{GROUP} is forbidden: User "{unprivileged_user}" cannot list resource "widgets" '
        f'in API group "{GROUP}" in the namespace "{namespace}"'
    )


def test_a_grant_covers_its_verbs_and_subresources_only(
    widgets: Collection, theirs: Collection, grant: Grant, eventually: Eventually
) -> None:
    widgets.made(widget("a"))
    grant(
        [
            {"apiGroups": [GROUP], "resources": ["widgets"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [GROUP], "resources": ["widgets/status"], "verbs": ["patch"]},
        ],
    )
    eventually(lambda: theirs.listing().status == 200)
    assert theirs.get("a").status == 200
    assert theirs.patch("a", {"status": {"ready": 1}}, subresource="status").status == 200
    refused = [
        theirs.patch("a", {"spec": {"size": 2}}),
        theirs.get("a/status"),
        theirs.delete("a"),
        theirs.create(widget("b")),
    ]
    assert {answer.status for answer in refused} == {403}
    assert widgets.read("a")["spec"]["size"] == 1


def test_a_grant_by_name_covers_that_object_only(
    limited: RawApi, in_namespace: InNamespace, grant: Grant, eventually: Eventually
) -> None:
    leases = in_namespace("coordination.k8s.io/v1", "leases")
    for name in ("ours", "others"):
        leases.made({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}})
    verbs = ["get", "list", "watch", "update", "patch"]
    rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}
    grant([{**rule, "resourceNames": ["ours"]}])
    seen = Collection(limited, leases.path)
    eventually(lambda: seen.get("ours").status == 200)
    assert seen.patch("ours", {"spec": {"holderIdentity": "me"}}).status == 200
    assert seen.get("others").status == 403
    assert seen.listing().status == 403
    assert seen.listing(fieldSelector="metadata.name=others").status == 403
    chosen = seen.listing(fieldSelector="metadata.name=ours")
    assert [item["metadata"]["name"] for item in chosen.body["items"]] == ["ours"]


def test_blocking_the_deletion_of_an_owner_needs_its_finalizers(
    widgets: Collection, theirs: Collection, grant: Grant, eventually: Eventually
) -> None:
    # admission of blockOwnerDeletion is off unless the cluster turns it on: both answers are right
    parent = widgets.made(widget("parent"))["metadata"]
    grant([{"apiGroups": [GROUP], "resources": ["widgets"], "verbs": ["get", "list", "create"]}])
    eventually(lambda: theirs.listing().status == 200)
    owner = {"apiVersion": f"{GROUP}/v1", "kind": "Widget", "name": parent["name"], "uid": parent["uid"]}
    plain = theirs.create(widget("plain", metadata={"ownerReferences": [owner]}))
    assert plain.status == 201
    blocking = theirs.create(widget("b", metadata={"ownerReferences": [{**owner, "blockOwnerDeletion": True}]}))
    assert blocking.status in {201, 403}

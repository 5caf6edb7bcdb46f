# SPDX-License-Identifier: Apache-2.0
"""The apiserver's own answer to what each program may do, with the roles of deploy/base bound to its user."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
from contract.rawapi import RawApi

from e2e.clusters.cluster import GATEWAY, SYSTEM_NAMESPACE, Capability, account
from e2e.release.manifests import COMPONENTS, install, rbac, read
from e2e.release.permissions import READ, VERBS, AccessRequest, is_allowed, questions
from e2e.stack.kube import Kube, accepted
from e2e.stack.waiting import eventually

REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
AT_A_TIME = 8
REFERRED = ("configmaps", "secrets")
"""What processes may refer to."""


def review(api: RawApi, request: AccessRequest) -> bool:
    """Return whether the apiserver's authorizer allows *request*."""
    resource, _, subresource = request.resource.partition("/")
    attributes = {
        "verb": request.verb,
        "group": request.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": request.namespace,
        "name": request.name,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account(request.program), "resourceAttributes": attributes},
    }
    return bool(accepted(api.post(REVIEWS, body))["status"]["allowed"])


@pytest.mark.needs(Capability.RBAC)
def test_programs_may_do_exactly_what_their_roles_list(api: RawApi) -> None:
    Kube(api, SYSTEM_NAMESPACE).create_namespace()
    install(api, rbac())
    asked = tuple(questions())
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        answers = tuple(pool.map(lambda request: review(api, request), asked))
    wrong = [request for request, allowed in zip(asked, answers, strict=True) if allowed != is_allowed(request)]
    assert wrong == []
    assert any(answers)


@pytest.mark.needs(Capability.RBAC)
def test_the_gateway_reads_config_maps_and_secrets_only_in_namespaces_with_the_component(api: RawApi) -> None:
    Kube(api, SYSTEM_NAMESPACE).create_namespace()
    install(api, rbac())
    named, other = (Kube(api, f"references-{secrets.token_hex(4)}").create_namespace().namespace for _ in range(2))
    asked = [
        AccessRequest(GATEWAY, verb, "", resource, namespace, name)
        for verb, resource, namespace, name in product(
            VERBS, ("configmaps", "secrets"), (named, other, "default"), ("", "settings")
        )
    ]
    assert [each for each in asked if review(api, each) and each.namespace == named] == []
    role = read(COMPONENTS / "references")
    install(api, ({**each, "metadata": each["metadata"] | {"namespace": named}} for each in role))
    expected = [each for each in asked if each.namespace == named and each.verb in READ and each.resource in REFERRED]
    # an authorizer follows Roles and bindings as any other client does: a moment later
    eventually(
        lambda: [each for each in asked if review(api, each)],
        lambda allowed: allowed == expected,
        what="the gateway reads ConfigMaps and Secrets of this namespace alone",
    )

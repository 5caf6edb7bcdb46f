# SPDX-License-Identifier: Apache-2.0
"""The apiserver's own answer to what each program may do, with the roles of deploy/base bound to its user."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from contract.rawapi import RawApi

from e2e.clusters.cluster import SYSTEM_NAMESPACE, Capability, account
from e2e.release.manifests import install, rbac
from e2e.release.permissions import AccessRequest, is_allowed, questions
from e2e.stack.kube import Kube, accepted

REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
AT_A_TIME = 8


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

# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a manifest is said before it is applied: by `praetorctl plan` on every API, and by newer ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.clusters.cluster import Capability
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, Kube, Object
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.suite.workloads import shell


def with_execution(**fields: Any) -> Object:
    spec = shell("sleep infinity & wait")
    spec["execution"] |= fields
    return deployment("app", spec)


def with_file(**fields: Any) -> Object:
    return with_execution(files=[{"path": "etc/a", "content": "x", **fields}])


FORMS = [
    pytest.param(with_file(path="a//b"), "write one without //, a / at its end", id="path"),
    pytest.param(with_file(mode="0888"), "write permissions in octal and in quotes", id="mode"),
    pytest.param(with_file(owner="a b"), "write user or user:group", id="owner"),
    pytest.param(
        with_execution(env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "A", "key": "a"}}}]),
        "is no name of a ConfigMap; write small letters",
        id="name",
    ),
    pytest.param(
        with_execution(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "a b"}}}]),
        "is no key of a ConfigMap or a Secret; write letters",
        id="key",
    ),
]


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_a_misspelt_field_is_named_with_the_one_that_was_meant(kube: Kube, stack: Stack, there: bool) -> None:
    if there:
        kube.apply(with_file())
    manifest = json.dumps(with_file(onchange="Signal"))
    ended = Ctl(stack.cluster.kubeconfig, kube.namespace).run("plan", "-f", "-", text=manifest)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "Error: -f: app: spec.template.spec.execution.files[0].onchange: is no field of the API; write onChange\n"
    )


@pytest.mark.parametrize(("manifest", "words"), FORMS)
def test_a_value_of_another_form_is_refused_by_plan_with_what_to_write(
    kube: Kube, stack: Stack, manifest: Object, words: str
) -> None:
    ended = Ctl(stack.cluster.kubeconfig, kube.namespace).run("plan", "-f", "-", text=json.dumps(manifest))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert words in ended.stderr


@pytest.mark.needs(Capability.CEL)
@pytest.mark.parametrize(("manifest", "words"), FORMS)
def test_a_value_of_another_form_is_refused_by_the_api_with_what_to_write(
    kube: Kube, manifest: Object, words: str
) -> None:
    answer = kube.api.post(kube.path(DEPLOYMENTS), manifest, dryRun="All")
    assert answer.status == 422
    assert words in answer.body["message"]

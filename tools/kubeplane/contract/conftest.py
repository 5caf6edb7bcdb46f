# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the contract: the tests' own kinds, and a namespace for each test.

The cluster comes from a plugin, which provides the fixtures `cluster`, `api` and `unprivileged_user`, and skips the
tests whose `needs` mark names a capability that the cluster lacks: contract.given for a kubeconfig, or one's own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contract.cluster import Cluster
from contract.rawapi import RawApi
from contract.widgets import (
    GROUP,
    Collection,
    Define,
    Eventually,
    InNamespace,
    depot_definition,
    gauge_definition,
    widget_definition,
)

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WAIT_S = 45  # the real garbage collector looks for new kinds every 30 s


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Wait until something that the control plane does by itself has happened."""

    def wait(happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not happened():
            assert time.monotonic() < deadline, "did not happen"
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def define(api: RawApi, cluster: Cluster, eventually: Eventually) -> Iterator[Define]:
    """Create a definition and return the path at which its objects are served; removed at the end."""
    made: list[str] = []

    def create(body: dict[str, Any]) -> str:
        answer = api.post(DEFINITIONS, body)
        assert answer.status == 201, answer
        made.append(body["metadata"]["name"])
        path = f"/apis/{body['spec']['group']}/v1/{body['spec']['names']['plural']}"
        eventually(lambda: api.get(path).status == 200)
        return path

    yield create
    for name in () if cluster.disposable else made:
        api.delete(f"{DEFINITIONS}/{name}")


@pytest.fixture(scope="session")
def _kinds(define: Define) -> None:
    define(widget_definition())
    define(depot_definition())
    define(gauge_definition())


@pytest.fixture(scope="session")
def _namespaces(api: RawApi, cluster: Cluster) -> Iterator[list[str]]:
    made: list[str] = []
    yield made
    for name in () if cluster.disposable else made:
        api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def namespace(api: RawApi, _namespaces: list[str]) -> str:
    """A namespace of the test's own."""
    # not generateName: before 1.32 a name that is taken is an error, and hundreds of names of five letters meet one
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"contract-{uuid.uuid4()}"}}
    answer = api.post("/api/v1/namespaces", body)
    assert answer.status == 201, answer
    _namespaces.append(answer.body["metadata"]["name"])
    return _namespaces[-1]


@pytest.fixture
def widgets(api: RawApi, namespace: str, _kinds: None) -> Collection:
    """Widgets in the test's namespace."""
    return Collection(api, f"/apis/{GROUP}/v1/namespaces/{namespace}/widgets")


@pytest.fixture
def gauges(api: RawApi, namespace: str, _kinds: None) -> Collection:
    """Gauges in the test's namespace."""
    return Collection(api, f"/apis/{GROUP}/v1/namespaces/{namespace}/gauges")


@pytest.fixture
def depots(api: RawApi, _kinds: None) -> Collection:
    """Depots, which are cluster-scoped: choose names of the test's own."""
    return Collection(api, f"/apis/{GROUP}/v1/depots")


@pytest.fixture
def in_namespace(api: RawApi, namespace: str) -> InNamespace:
    """Collections of built-in kinds in the test's namespace, by group version (`v1` for the core) and plural."""

    def collection(group_version: str, plural: str) -> Collection:
        root = "/api/v1" if group_version == "v1" else f"/apis/{group_version}"
        return Collection(api, f"{root}/namespaces/{namespace}/{plural}")

    return collection

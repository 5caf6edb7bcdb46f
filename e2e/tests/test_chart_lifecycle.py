# SPDX-License-Identifier: Apache-2.0
"""The life of a release with Helm's own engine: installed, upgraded, rolled back, uninstalled, installed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http import HTTPStatus

import helm_python
import pytest
from contract.rawapi import RawApi

from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.clusters.embedded import Embedded
from e2e.clusters.envtest import ASSETS_VARIABLES, Envtest
from e2e.release.chart import Release
from e2e.stack.kube import accepted
from e2e.stack.manifests import network_switch

SECRETS = (("praetor-device-tokens", "secrets"), ("praetor-gateway-peers", "token"))
LEVELS = "/apis/flowcontrol.apiserver.k8s.io/v1"
SWITCHES = "/apis/azure.com/v1alpha1/namespaces/default/networkswitches"


@pytest.fixture(params=["embedded", "envtest"], scope="module")
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RawApi, Release]]:
    if request.param == "envtest" and not any(map(os.environ.get, ASSETS_VARIABLES)):
        pytest.skip("no kube-apiserver is installed")
    kind = Embedded if request.param == "embedded" else Envtest
    with kind(tmp_path_factory.mktemp(request.param)) as cluster, RawApi.from_kubeconfig(cluster.kubeconfig) as api:
        yield api, Release(cluster.kubeconfig, api)


def gateways(api: RawApi) -> int | None:
    """Return the replicas of the gateways' Deployment, None when there is none."""
    answer = api.get(f"/apis/apps/v1/namespaces/{SYSTEM_NAMESPACE}/deployments/praetor-gateway")
    return None if answer.status == HTTPStatus.NOT_FOUND else int(accepted(answer)["spec"]["replicas"])


def secrets(release: Release) -> list[str]:
    return [release.secret(name, key) for name, key in SECRETS]


def test_a_release_keeps_its_secrets_and_devices_over_its_whole_life(api: tuple[RawApi, Release]) -> None:
    cluster, release = api
    notes = release.install({})
    assert "kubectl -n praetor-system rollout status deploy/praetor-gateway" in notes
    assert max(map(len, notes.splitlines())) <= 80
    made = secrets(release)
    assert [len(bytes.fromhex(value)) for value in made] == [32, 32]
    assert len(set(made)) == len(made)
    accepted(cluster.post(SWITCHES, network_switch("leaf-1")))

    release.upgrade({"gateway": {"replicas": 3}})
    assert (gateways(cluster), secrets(release)) == (3, made)
    release.rollback()
    assert (gateways(cluster), secrets(release)) == (2, made)

    kept = release.uninstall()
    assert gateways(cluster) is None
    assert [name for name, _ in SECRETS if name not in kept] == []
    assert cluster.get(f"{SWITCHES}/leaf-1").status == HTTPStatus.OK

    release.install({})
    assert (gateways(cluster), secrets(release)) == (2, made), "the devices' tokens are valid again"
    release.uninstall()


def test_what_the_cluster_is_too_old_for_is_refused_with_a_sentence(api: tuple[RawApi, Release]) -> None:
    cluster, release = api
    if cluster.get(LEVELS).status == HTTPStatus.OK:
        pytest.skip("this cluster has what the values need")
    with pytest.raises(helm_python.HelmError, match=r"flowSchemas\.enabled needs Kubernetes 1\.29 or later, and this"):
        release.install({"flowSchemas": {"enabled": True}})

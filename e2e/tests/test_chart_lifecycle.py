# SPDX-License-Identifier: Apache-2.0
"""The life of a release with Helm's own engine: installed, upgraded, rolled back, uninstalled, installed again."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import helm_python
import pytest
from contract.rawapi import RawApi

from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.clusters.embedded import Embedded
from e2e.clusters.envtest import ASSETS_VARIABLES, Envtest
from e2e.clusters.local import LocalCluster
from e2e.release.build import ROOT
from e2e.release.chart import CHART, NAME
from e2e.release.manifests import install, read
from e2e.stack.kube import accepted
from e2e.stack.manifests import network_switch

SECRETS = ("praetor-device-tokens", "secrets"), ("praetor-gateway-peers", "token")
LEVELS = "/apis/flowcontrol.apiserver.k8s.io/v1"


class Release:
    """One release of the chart on a cluster, and what it left in the API."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.api = RawApi.from_kubeconfig(cluster.kubeconfig)
        self._config = helm_python.Config(kubeconfig_path=cluster.kubeconfig, namespace=SYSTEM_NAMESPACE)
        # Helm validates what it sends, and a cluster of before 1.25 does not know the rules in our CRDs
        self.with_crds = int(self.api.get("/version").body["minor"].rstrip("+")) >= 25
        if not self.with_crds:
            install(self.api, read(ROOT / "crds"))

    def install(self, **values: Any) -> Mapping[str, Any]:
        """Install the chart; nothing runs Pods here, so that only hooks are waited for."""
        chosen = {"crds": {"install": self.with_crds}, **values}
        return self._config.install(
            CHART, NAME, chosen, namespace=SYSTEM_NAMESPACE, create_namespace=True, wait="hookOnly"
        )

    def upgrade(self, **values: Any) -> None:
        """Upgrade it to other values."""
        chosen = {"crds": {"install": self.with_crds}, **values}
        self._config.upgrade(CHART, NAME, chosen, namespace=SYSTEM_NAMESPACE, wait="hookOnly")

    def rollback(self) -> None:
        """Go back to the revision before."""
        self._config.rollback(NAME, wait="hookOnly")

    def uninstall(self) -> str:
        """Remove it; return what Helm says was kept."""
        return str(self._config.uninstall(NAME)["info"])

    def secrets(self) -> dict[str, bytes]:
        """Return the values of the generated Secrets."""
        path = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets"
        return {name: base64.b64decode(accepted(self.api.get(f"{path}/{name}"))["data"][key]) for name, key in SECRETS}

    def gateways(self) -> int | None:
        """Return the replicas of the gateways' Deployment, None when there is none."""
        answer = self.api.get(f"/apis/apps/v1/namespaces/{SYSTEM_NAMESPACE}/deployments/praetor-gateway")
        return None if answer.status == HTTPStatus.NOT_FOUND else int(accepted(answer)["spec"]["replicas"])

    def close(self) -> None:
        """Close the connections."""
        self.api.close()
        self._config.close()


@pytest.fixture(params=["embedded", "envtest"], scope="module")
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    if request.param == "envtest" and not any(map(os.environ.get, ASSETS_VARIABLES)):
        pytest.skip("no kube-apiserver is installed")
    kind = Embedded if request.param == "embedded" else Envtest
    with kind(tmp_path_factory.mktemp(request.param)) as cluster:
        release = Release(cluster)
        yield release
        release.close()


def test_a_release_keeps_its_secrets_and_devices_over_its_whole_life(release: Release) -> None:
    notes = release.install()["notes"]
    assert "kubectl -n praetor-system rollout status deploy/praetor-gateway" in notes
    assert max(map(len, notes.splitlines())) <= 80
    made = release.secrets()
    assert all(len(bytes.fromhex(value.decode())) == 32 for value in made.values())
    assert len(set(made.values())) == 2
    switches = "/apis/azure.com/v1alpha1/namespaces/default/networkswitches"
    accepted(release.api.post(switches, network_switch("leaf-1")))

    release.upgrade(gateway={"replicas": 3})
    assert (release.gateways(), release.secrets()) == (3, made)
    release.rollback()
    assert (release.gateways(), release.secrets()) == (2, made)

    kept = release.uninstall()
    assert release.gateways() is None
    assert [name for name, _ in SECRETS if name not in kept] == []
    assert release.api.get(f"{switches}/leaf-1").status == HTTPStatus.OK

    release.install()
    assert (release.gateways(), release.secrets()) == (2, made), "the devices' tokens are valid again"
    release.uninstall()


def test_what_the_cluster_is_too_old_for_is_refused_with_a_sentence(release: Release) -> None:
    if release.api.get(LEVELS).status == HTTPStatus.OK:
        pytest.skip("this cluster has what the values need")
    with pytest.raises(helm_python.HelmError, match=r"flowSchemas\.enabled needs Kubernetes 1\.29 or later, and this"):
        release.install(flowSchemas={"enabled": True})

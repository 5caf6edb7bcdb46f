# SPDX-License-Identifier: Apache-2.0
"""Controller and gateways as a cluster runs them: the chart with several gateways, in Pods of a kubelet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
from attrs import frozen
from contract.rawapi import RawApi

from e2e.clusters.api.kubectl import output_of
from e2e.clusters.cluster import SYSTEM_NAMESPACE
from e2e.clusters.remote import PodCluster
from e2e.release.chart import CHART, Release
from e2e.release.manifests import BASE, Object, install, read
from e2e.stack.kube import accepted
from e2e.stack.waiting import eventually
from praetor_api.tokens import device_token

# silence of 30 s disconnects: less than a restart of all takes
VALUES = {"gateway": {"replicas": 3, "extraArgs": ["--default-heartbeat-seconds=10"]}}
PROGRAMS = ("controller", "gateway")
PROBES = 8081
WITHIN_S = 600.0


@frozen(kw_only=True, eq=False)
class Version:
    """What is installed: the folder of a *chart*, and *values*."""

    chart: Path = CHART
    values: Mapping[str, Any] = VALUES


CURRENT = Version()


def secret(name: str, namespace: str, **data: str) -> Object:
    """Return a Secret with *data*."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


class System:
    """The installation on *node*, and what an operator does with it."""

    def __init__(self, node: PodCluster, api: RawApi) -> None:
        self.node = node
        self.api = api
        self.release = Release(node.kubeconfig, api)
        self.version: Version | None = None

    def token(self, device: str) -> str:
        """Return the token of *device*."""
        return device_token(self.release.secret("praetor-device-tokens", "secrets").encode(), device)

    def install(self, version: Version) -> None:
        """Install *version*, whose images the node has, or upgrade to it; returns when every replica is available."""
        if self.version is None:
            [namespace] = (item for item in read(BASE) if item["kind"] == "Namespace")
            install(self.api, (namespace,))  # with the labels that restrict its Pods
            self.release.install(version.values, version.chart)
        elif self.version is not version:
            self.release.upgrade(version.values, version.chart)
        self.version = version
        self.await_rollouts()

    def roll_back(self, version: Version) -> None:
        """Go back to *version*, which was installed before; returns when every replica is available."""
        self.release.rollback()
        self.version = version
        self.await_rollouts()

    def gateway_url(self) -> str:
        """Return the URL of the gateways' Service, by its cluster address."""
        service = accepted(self.api.get(f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/services/praetor-gateway"))
        return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"

    def pods(self, program: str) -> tuple[Object, ...]:
        """Return the Pods of *program* that are not being deleted."""
        query = {"labelSelector": f"app.kubernetes.io/name=praetor-{program}"}
        items = accepted(self.api.get(pods_path(), **query))["items"]
        return tuple(item for item in items if "deletionTimestamp" not in item["metadata"])

    def await_rollout(self, program: str) -> None:
        """Return when every replica of *program* is of the newest version and available."""
        self.kubectl("rollout", "status", f"deployment/praetor-{program}")

    def uninstall(self) -> str:
        """Remove the release; return what Helm says was kept."""
        self.version = None
        return self.release.uninstall()

    def await_rollouts(self) -> None:
        """Return when every replica of all programs is of the newest version and available."""
        for program in PROGRAMS:
            self.await_rollout(program)

    def restart(self, program: str) -> None:
        """Replace the Pods of *program* one after another; returns when all are available."""
        self.kubectl("rollout", "restart", f"deployment/praetor-{program}")
        self.await_rollout(program)

    def lose(self, program: str, *pods: str) -> None:
        """Delete *pods* of *program* at once, without a grace period; returns when others are available."""
        self.kubectl("delete", "pod", *pods, "--grace-period=0", "--force")
        self.await_rollout(program)

    def evict(self, program: str, pod: str) -> None:
        """Evict *pod* of *program*, as `kubectl drain` does, once the PodDisruptionBudget allows it, and await others.

        The node stays open for them: it is the only one.
        """
        metadata = {"name": pod, "namespace": SYSTEM_NAMESPACE}
        older = self.api.get("/apis/policy/v1").status == HTTPStatus.NOT_FOUND  # before Kubernetes 1.21
        body = {"apiVersion": f"policy/v1{'beta1' if older else ''}", "kind": "Eviction", "metadata": metadata}
        path = f"{pods_path()}/{pod}/eviction"
        eventually(lambda: self.api.post(path, body).status < HTTPStatus.BAD_REQUEST, what=f"{pod} may go")
        self.await_rollout(program)

    def lease_holder(self, name: str) -> str:
        """Return who holds the Lease *name*."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases/{name}"
        return str(accepted(self.api.get(path))["spec"]["holderIdentity"])

    def probe(self, pod: Mapping[str, Any], path: str) -> requests.Response:
        """Return what a Pod answers on its probe port."""
        return requests.get(f"http://{pod['status']['podIP']}:{PROBES}{path}", timeout=60)

    def run_in(self, pod: Mapping[str, Any], code: str) -> Any:
        """Run Python *code* in the container of a Pod and return what it prints, decoded as JSON."""
        return json.loads(self.kubectl("exec", _name(pod), "--", "/opt/praetor/bin/python3", "-c", code))

    def kubectl(self, *words: str) -> str:
        """Run kubectl, in the system namespace unless *words* name another, and return what it prints."""
        argv = [str(self.node.kubectl), f"--kubeconfig={self.node.kubeconfig}", f"--namespace={SYSTEM_NAMESPACE}"]
        return output_of([*argv, *words], timeout_s=WITHIN_S)

    def logs(self) -> str:
        """Return what every Pod is about and the end of its log."""
        selector = "--selector=app.kubernetes.io/part-of=praetor"
        return "\n".join(
            (
                self.kubectl("get", "pods", "--all-namespaces", "--output=wide"),
                self.kubectl("get", "events", "--all-namespaces"),
                self.kubectl("logs", selector, "--prefix", "--tail=40"),
            )
        )


def pods_path(namespace: str = SYSTEM_NAMESPACE) -> str:
    """Return the path of the Pods of *namespace*."""
    return f"/api/v1/namespaces/{namespace}/pods"


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])

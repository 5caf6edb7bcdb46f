"""deploy/base on a cluster with nodes, whose kubelets run it; the images are brought to the nodes first."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.clusters.api.rawapi import RawApi
from e2e.clusters.cluster import Cluster
from e2e.clusters.errors import ClusterError
from e2e.release.images import Image
from e2e.release.manifests import BASE, SYSTEM_NAMESPACE, Object, collection_of, install, read
from e2e.stack.kube import accepted
from e2e.stack.waiting import eventually

TOKENS = "praetor-device-tokens"
ROLLOUT_S = 180.0
FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


def token_secret(secret: str) -> Object:
    """Return the Secret that the gateway's pod mounts."""
    metadata = {"name": TOKENS, "namespace": SYSTEM_NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"secrets": secret}}


def install_base(cluster: Cluster, api: RawApi, images: tuple[Image, ...], secret: str) -> None:
    """Bring the images to the nodes, apply deploy/base, and return when every replica is available."""
    cluster.load([image.name for image in images])
    objects = read(BASE)
    namespaces = [item for item in objects if item["kind"] == "Namespace"]
    install(api, (*namespaces, token_secret(secret), *objects))
    for item in objects:
        if item["kind"] == "Deployment":
            _await_rollout(api, item)


@contextmanager
def gateway_url(kubectl: str | None, kubeconfig: Path) -> Iterator[str]:
    """Make the gateway's Service reachable from this machine within the block, and yield its URL."""
    if kubectl is None:
        raise ClusterError("kubectl is needed to reach a Service of the cluster; install it")
    argv = [kubectl, f"--kubeconfig={kubeconfig}", f"--namespace={SYSTEM_NAMESPACE}"]
    argv += ["port-forward", "--address=127.0.0.1", "service/praetor-gateway", ":8080"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            first = forward.stdout.readline() if forward.stdout else ""
            yield f"http://127.0.0.1:{forwarded_port(first)}"
        finally:
            forward.terminate()


def forwarded_port(line: str) -> int:
    """Return the local port that kubectl says it chose."""
    found = FORWARDED.search(line)
    if found is None:
        raise ClusterError(f"kubectl port-forward failed: {line.strip() or 'it ended'}")
    return int(found[1])


def available(deployment: Object) -> bool:
    """Tell whether every replica of an apps/v1 Deployment, as it is written now, is available."""
    status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
    counts: list[Any] = [status.get(name, 0) for name in ("updatedReplicas", "availableReplicas", "replicas")]
    return status.get("observedGeneration", 0) >= deployment["metadata"]["generation"] and counts == [wanted] * 3


def _await_rollout(api: RawApi, item: Object) -> None:
    path = f"{collection_of(item)}/{item['metadata']['name']}"
    name = item["metadata"]["name"]
    eventually(lambda: accepted(api.get(path)), available, what=f"{name} is rolled out", within_s=ROLLOUT_S)

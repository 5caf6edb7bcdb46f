"""What is known of pods that a cluster's own kubelets run: when they are there, and how they are reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e2e.clusters.errors import ClusterError
from e2e.release.incluster import available, forwarded_port, gateway_url, token_secret
from e2e.release.pods import deployment_of

KUBECTL = """#!/bin/sh
echo "$@" > {folder}/arguments
echo "{line}"
exec sleep 60
"""


def kubectl_that_prints(line: str, folder: Path) -> str:
    program = folder / "kubectl"
    program.write_text(KUBECTL.format(folder=folder, line=line), encoding="utf-8")
    program.chmod(0o755)
    return str(program)


def test_the_service_is_reached_at_the_port_that_kubectl_chose(tmp_path: Path) -> None:
    kubectl = kubectl_that_prints("Forwarding from 127.0.0.1:43211 -> 8080", tmp_path)
    with gateway_url(kubectl, tmp_path) as url:
        assert url == "http://127.0.0.1:43211"
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8")
    assert "--namespace=praetor-system port-forward --address=127.0.0.1 service/praetor-gateway :8080" in arguments


def test_what_kubectl_complains_of_is_told(tmp_path: Path) -> None:
    kubectl = kubectl_that_prints("error: services praetor-gateway not found", tmp_path)
    with pytest.raises(ClusterError, match="services praetor-gateway not found"), gateway_url(kubectl, tmp_path):
        pytest.fail("there is no gateway")


def test_a_machine_without_kubectl_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="kubectl is needed"), gateway_url(None, tmp_path):
        pytest.fail("there is no kubectl")


def test_a_port_forward_that_ends_at_once_is_an_error() -> None:
    with pytest.raises(ClusterError, match="it ended"):
        forwarded_port("")


DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("status", "there"),
    [
        pytest.param(DONE, True, id="done"),
        pytest.param({}, False, id="not-seen-yet"),
        pytest.param(DONE | {"observedGeneration": 1}, False, id="status-of-an-older-spec"),
        pytest.param(DONE | {"availableReplicas": 1}, False, id="one-not-available"),
        pytest.param(DONE | {"updatedReplicas": 1}, False, id="one-of-the-old-version"),
        pytest.param(DONE | {"replicas": 3}, False, id="an-old-one-still-there"),
    ],
)
def test_a_rollout_is_done_when_every_replica_is_new_and_available(status: dict[str, Any], there: bool) -> None:
    deployment = {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}
    assert available(deployment) is there


def test_the_secret_is_what_the_gateways_pod_mounts() -> None:
    secret = token_secret("s3cret")
    pod = deployment_of("gateway")["spec"]["template"]["spec"]
    [volume] = pod["volumes"]
    [path] = [word for word in pod["containers"][0]["args"] if word.startswith("--device-token-secret-file=")]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    assert [path.rpartition("/")[2]] == list(secret["stringData"])

# SPDX-License-Identifier: Apache-2.0
"""Manifests with nothing but the original system's fields apply unchanged and mean what they meant."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.clusters.cluster import Capability, Cluster
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, Kube, condition, conditions
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready
from e2e.suite.running import argv_of, directory_of, environment_of, user_of
from praetor_agent.host import Backends
from praetor_api.spec import Backend

SAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "samples" / "original.yaml"

# as a user of the original wrote it; {folder} is a folder of the device, {checksum} that of the file in it
MANIFEST = """
apiVersion: azure.com/v1alpha1
kind: DeviceProcessDeployment
metadata:
  name: exporter
  labels: {{team: fabric}}
spec:
  selector:
    matchLabels: {{role: leaf}}
  updateStrategy:
    type: RollingUpdate
    rollingUpdate: {{maxUnavailable: 1}}
  template:
    metadata:
      labels: {{app: exporter}}
    spec:
      artifact:
        type: file
        url: file://{folder}/exporter
        checksumSHA256: {checksum}
      execution:
        backend: process
        command: [exporter]
        args: [--listen, "127.0.0.1:9100", "two words", "$HOME %n"]
        env:
        - {{name: LOG_LEVEL, value: info}}
        - {{name: ODD, value: "a=b 'c' \\"d\\" $E"}}
        workingDir: {folder}
        user: "{user}"
      restartPolicy: Always
      healthCheck:
        exec:
          command: [/usr/bin/test, -e, {folder}/exporter]
        periodSeconds: 30
        timeoutSeconds: 5
        successThreshold: 1
        failureThreshold: 3
"""
PROGRAM = "#!/bin/sh\nwhile :; do sleep 1; done\n"


def test_the_originals_fields_reach_the_process_as_they_were_written(
    fleet: AgentFleet, kube: Kube, tmp_path: Path
) -> None:
    (device,) = fleet.add(labels={"role": "leaf"})
    (tmp_path / "exporter").write_text(PROGRAM)
    checksum = hashlib.sha256(PROGRAM.encode()).hexdigest()
    manifest = yaml.safe_load(MANIFEST.format(folder=tmp_path, checksum=checksum, user=os.geteuid()))
    kube.apply(manifest)
    process = await_ready(kube, [device])[device]
    assert process["metadata"]["labels"]["app"] == "exporter"
    pid = process["status"]["pid"]
    assert argv_of(pid)[2:] == ("--listen", "127.0.0.1:9100", "two words", "$HOME %n")
    environment = environment_of(pid)
    assert (environment["LOG_LEVEL"], environment["ODD"]) == ("info", "a=b 'c' \"d\" $E")
    assert (directory_of(pid), user_of(pid)) == (tmp_path, os.geteuid())
    for kind in ("ArtifactDownloaded", "ArtifactVerified", "ProcessStarted", "Healthy"):
        assert condition(process, kind) == "True"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes as another user")
def test_a_process_runs_as_the_user_of_its_spec(fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add(labels={"role": "leaf"})
    execution = {"backend": "process", "command": ["/bin/sleep"], "args": ["infinity"], "user": "nobody"}
    manifest = yaml.safe_load(MANIFEST.format(folder="/", checksum="0" * 64, user="nobody"))
    manifest["spec"]["template"]["spec"] = {"execution": execution}
    kube.apply(manifest)
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    assert user_of(pid) not in (0, os.geteuid())


def test_the_samples_apply_and_what_they_say_is_stored(cluster: Cluster, kube: Kube) -> None:
    """The tenancy component refuses those that name a device of another namespace, which the gateway would ignore."""
    guarded = Capability.POLICIES in cluster.capabilities
    objects: list[dict[str, Any]] = [item for item in yaml.safe_load_all(SAMPLE.read_text()) if item]
    for item in objects:
        plural = PROCESSES if item["kind"] == "DeviceProcess" else DEPLOYMENTS
        if guarded and item["spec"].get("deviceRef", {}).get("namespace", kube.namespace) != kube.namespace:
            post = partial(kube.api.post, kube.path(plural), item, dryRun="All")
            refused = eventually(
                post, lambda answer: answer.status >= HTTPStatus.BAD_REQUEST, what="the policy is in force"
            )
            assert "must be the process's own namespace" in refused.message
            continue
        kube.apply(item)
        stored = kube.get(plural, item["metadata"]["name"])
        assert stored is not None
        assert _contains(stored["spec"], item["spec"]), item["metadata"]["name"]


def test_a_backend_that_the_device_lacks_is_reported_and_no_other_is_used(
    fleet: AgentFleet, kube: Kube, tmp_path: Path
) -> None:
    lacking = Backends("leaf-1", tmp_path, "boot").unavailable.keys() - {
        Backend.CONTAINER
    }  # which is only found out with an image
    if not lacking:
        pytest.skip("this host has every backend")
    backend = min(lacking)
    (device,) = fleet.add(labels={"role": "leaf"})
    manifest = yaml.safe_load(MANIFEST.format(folder="/", checksum="0" * 64, user=os.geteuid()))
    manifest["spec"]["template"]["spec"] = {"execution": {"backend": backend.value, "command": ["/bin/true"]}}
    kube.apply(manifest)
    process = eventually(
        lambda: kube.processes().get(device, {}),
        lambda item: condition(item, "ProcessStarted") == "False",
        what="reported",
    )
    assert backend.value in conditions(process)["ProcessStarted"]["message"]


def _contains(stored: Any, wanted: Any) -> bool:
    """Return whether *stored* has every field of *wanted*; defaults may have been added."""
    if isinstance(wanted, dict):
        return all(key in stored and _contains(stored[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(stored) == len(wanted) and all(map(_contains, stored, wanted))
    return bool(stored == wanted)

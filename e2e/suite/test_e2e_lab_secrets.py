# SPDX-License-Identifier: Apache-2.0
"""What a container runtime keeps of a Secret: readable for root alone, and gone with the container."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import pytest
from contract.rawapi import RawApi

from e2e.lab.podman import OPTIONS, PODMAN, kept_in_storage, made_image, podman
from e2e.stack.kube import DEPLOYMENTS, Kube
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.delivered import put_secret, reading_gateway
from e2e.suite.readiness import await_ready
from e2e.suite.running import environment_of
from e2e.suite.workloads import probed

pytestmark = pytest.mark.lab

LABEL = "azure.com/praetor-device"
SECRET = {"secretKeyRef": {"name": "login", "key": "password"}}


def test_what_podman_keeps_of_a_secret_root_alone_can_read_and_it_goes_with_the_container(
    stack: Stack, kube: Kube, api: RawApi, tmp_path: Path
) -> None:
    if os.geteuid() != 0 or not all(map(shutil.which, ("podman", "runc", "busybox"))):
        pytest.skip("needs root, podman, runc and busybox-static")
    name, marker = f"{kube.namespace}-c", f"hunter2-{secrets.token_hex(8)}"
    image = made_image(f"localhost/{name}", tmp_path)
    put_secret(api, kube, password=marker.encode())
    kube.apply(network_switch(name))
    runtime = {"PRAETOR_AGENT_CONTAINER_RUNTIME": " ".join(PODMAN), "PRAETOR_AGENT_CONTAINER_OPTIONS": OPTIONS}
    execution = {
        "args": ["-c", "while :; do sleep 0.2; done"],
        "env": [{"name": "PASSWORD", "valueFrom": SECRET}],
        "files": [{"path": "etc/key", "onChange": "None", **SECRET}],
        "terminationGracePeriodSeconds": 1,
    }
    spec = process_spec(["/bin/sh"], backend="container", execution=execution) | {
        "artifact": {"type": "oci", "url": image},
        "healthCheck": probed(["/bin/sh", "-c", "test -n $PASSWORD"]),
    }
    with reading_gateway(stack, kube, api) as gateway:
        try:
            agent = stack.add_agent(name, gateway=gateway, variables=runtime)
            kube.apply(deployment("container", spec))
            process = await_ready(kube, [name])[name]
            assert environment_of(process["status"]["pid"])["PASSWORD"] == marker
            kept = kept_in_storage([marker])
            print("podman keeps a Secret of a running container in", *sorted(map(str, kept)), sep="\n  ")
            assert kept, "the search is not blind"
            assert not [path for path, is_open in kept.items() if is_open]
            assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if marker in _read(each)]
            kube.delete(DEPLOYMENTS, "container")
            eventually(
                lambda: podman("ps", "-aq", "--filter", f"label={LABEL}={name}"),
                "".__eq__,
                what="the container is gone",
            )
            left = kept_in_storage([marker])
            print("and after it is removed in", *sorted(map(str, left)), sep="\n  ")
            assert not [path for path, is_open in left.items() if is_open]
            eventually(
                lambda: [path for path in agent.home.rglob("*") if path.is_file() and marker in _read(path)],
                [].__eq__,
                what="nor does the agent keep it",
            )
        finally:
            stack.remove_agents([name])
            for container in podman("ps", "-aq", "--filter", f"label={LABEL}={name}").split():
                podman("rm", "-f", "-t", "0", container)
            podman("rmi", "-f", f"localhost/{name}:1")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""

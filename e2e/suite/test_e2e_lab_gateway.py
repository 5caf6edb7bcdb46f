# SPDX-License-Identifier: Apache-2.0
"""A gateway outside the cluster, as a hardened systemd service on a host of its own: devices stay connected."""

from __future__ import annotations

import base64
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.clusters.cluster import GATEWAY
from e2e.lab.device import LabDevice, rootfs, why_unavailable
from e2e.lab.requirements import required
from e2e.stack.kube import DEPLOYMENTS, Kube
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.readiness import await_ready

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "praetor-gateway.service"
ETC = "/etc/praetor-gateway"
EXPOSURE = 20
"""Maximum exposure in tenths, of 100, as `systemd-analyze security` counts it; a service without hardening has 96."""
PROGRAM = """#!/bin/sh
export PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=/opt/praetor/src/praetor-gateway/src:/opt/praetor/src/praetor-api/src:/opt/praetor/lib
exec /usr/bin/python3 -c 'from praetor_gateway.cli import main; main()' "$@"
"""


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LabDevice]:
    """A booted host that has the gateway's program in /opt/praetor, as an environment of its own would."""
    root = required(request, rootfs(), why_unavailable(rootfs()))
    shared = {"/opt/praetor/lib": Path(sysconfig.get_path("purelib")), "/opt/praetor/src": ROOT / "packages"}
    with LabDevice("gateway-host", root, workdir=tmp_path, shared=shared) as booted:
        booted.run("mkdir", "-p", "/opt/praetor/bin", ETC)
        booted.write("/opt/praetor/bin/praetor-gateway", PROGRAM)
        booted.run("chmod", "755", "/opt/praetor/bin/praetor-gateway")
        yield booted


def test_a_gateway_as_a_hardened_service_takes_over_and_serves_devices(
    host: LabDevice, stack: Stack, kube: Kube
) -> None:
    name = f"{kube.namespace}-outside"
    kube.apply(network_switch(name), deployment("before", process_spec(["/bin/sleep", "infinity"])))
    stack.add_agent(name)
    await_ready(kube, [name])
    _install(host, stack)
    stack.gateway.program.stop()
    host.run("systemctl", "enable", "--now", UNIT.name)
    kube.apply(deployment("after", process_spec(["/bin/sleep", "infinity"])))
    eventually(
        lambda: {each["metadata"]["name"]: each for each in kube.list("deviceprocesses")}.get(f"after-{name}", {}),
        lambda each: each.get("status", {}).get("phase") == "Running",
        what="a process runs that only the service can have offered",
    )
    state = host.unit(UNIT.name, "ActiveState", "NRestarts", "User")
    assert state == {"ActiveState": "active", "NRestarts": "0", "User": "praetor-gateway"}
    said = host.run("systemd-analyze", "security", "--no-pager", UNIT.name)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found, said
    assert float(found[1]) * 10 <= EXPOSURE, said
    host.run("systemctl", "stop", UNIT.name)
    assert host.unit(UNIT.name, "Result") == {"Result": "success"}
    for each in ("before", "after"):
        kube.delete(DEPLOYMENTS, each)


def _install(host: LabDevice, stack: Stack) -> None:
    """Do what deploy/README.md says."""
    host.run("useradd", "--system", "--no-create-home", "--shell=/usr/sbin/nologin", "praetor-gateway")
    host.write(f"{ETC}/kubeconfig", _embedded(stack.cluster.kubeconfig_for(GATEWAY)))
    host.write(f"{ETC}/secrets", f"{stack.secret}\n")
    variables = {
        "ADDR": f"127.0.0.1:{stack.gateway.ports[0]}",
        "PROBE_ADDR": f"127.0.0.1:{stack.gateway.ports[-1]}",
        "LEASE_NAMESPACE": stack.settings.system_namespace,
        "HEARTBEAT_S": str(stack.settings.heartbeat),
    }
    host.write(f"{ETC}/gateway.env", "".join(f"PRAETOR_GATEWAY_{key}={value}\n" for key, value in variables.items()))
    host.run("chown", "-R", "root:praetor-gateway", ETC)
    host.run("chmod", "-R", "u=rwX,g=rX,o=", ETC)
    host.write(f"/etc/systemd/system/{UNIT.name}", UNIT.read_text())
    host.run("systemctl", "daemon-reload")


def _embedded(kubeconfig: Path) -> str:
    """Return the text of *kubeconfig* with the certificate in it, as `kubectl config --embed-certs` writes it."""
    config = yaml.safe_load(kubeconfig.read_text())
    for each in config["clusters"]:
        if authority := each["cluster"].pop("certificate-authority", None):
            data = (kubeconfig.parent / authority).read_bytes()
            each["cluster"]["certificate-authority-data"] = base64.b64encode(data).decode()
    return yaml.safe_dump(config)

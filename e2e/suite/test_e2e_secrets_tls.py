# SPDX-License-Identifier: Apache-2.0
"""Secrets over the gateway's own TLS, on both servers; and to whom they are refused, with real agents."""

from __future__ import annotations

import secrets

import pytest
from contract.rawapi import RawApi

from e2e.clusters.cluster import Capability
from e2e.scale.certificate import CertificateFiles, write_certificate
from e2e.stack.kube import Kube, Object, conditions
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually, steadily
from e2e.suite.delivered import put_secret, reading_gateway
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import is_ready
from e2e.suite.running import environment_of
from e2e.suite.workloads import shell

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

PASSWORD = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}
SHARED = "shared-by-all"
STEADY_S = 3.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return write_certificate(tmp_path_factory.mktemp("tls"))


def tls_of(certificate: CertificateFiles) -> tuple[str, ...]:
    return f"--tls-cert={certificate.served}", f"--tls-key={certificate.key}"


def declared(fleet: AgentFleet) -> str:
    """Declare a device that can be selected alone; return its name."""
    name = fleet.declare()
    fleet.label(name, {"only": name})
    return name


def secretive(device: str) -> Object:
    """Return a deployment to *device* alone whose process needs a Secret."""
    spec = shell("sleep infinity & wait")
    spec["execution"]["env"] = [PASSWORD]
    return deployment(f"of-{device}", spec, match={"only": device})


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_a_secret_reaches_a_device_over_the_gateways_own_tls(
    server: str, fleet: AgentFleet, kube: Kube, api: RawApi, stack: Stack, certificate: CertificateFiles
) -> None:
    marker = f"hunter2-{secrets.token_hex(8)}"
    put_secret(api, kube, password=marker.encode())
    flags = (f"--server={server}", f"--device-token={SHARED}")
    with reading_gateway(stack, kube, api, *flags, name=f"gateway-{server}", tls=tls_of(certificate)) as gateway:
        url, trusting = f"https://127.0.0.1:{gateway.ports[0]}", {"PRAETOR_AGENT_CA_BUNDLE": str(certificate.authority)}
        device, other = declared(fleet), declared(fleet)
        fleet.power_on(device, url=url, variables=trusting)
        fleet.power_on(other, url=url, variables=trusting, token=SHARED)
        for each in (device, other):
            fleet.await_connected(each)
        kube.apply(secretive(device), secretive(other))
        process = eventually(
            lambda: kube.processes()[device], is_ready, what="it is given to a device with its own token"
        )
        assert environment_of(process["status"]["pid"])["PASSWORD"] == marker
        refused(kube, other, "SharedToken")
        put_secret(api, kube, password=b"another")
        eventually(
            lambda: conditions(kube.processes()[device]).get("ValuesOutdated", {}).get("status"),
            lambda status: status == "True",
            what="a held poll over TLS brings what changed",
        )
        holds_nothing(fleet, other, marker)


def test_a_secret_is_refused_over_a_connection_that_is_not_encrypted(
    fleet: AgentFleet, kube: Kube, api: RawApi, stack: Stack
) -> None:
    marker = f"hunter2-{secrets.token_hex(8)}"
    put_secret(api, kube, password=marker.encode())
    with reading_gateway(stack, kube, api, name="gateway-plain", tls=()) as gateway:
        device = declared(fleet)
        fleet.power_on(device, gateway)
        fleet.await_connected(device)
        kube.apply(secretive(device))
        refused(kube, device, "PlainText")
        holds_nothing(fleet, device, marker)


def refused(kube: Kube, device: str, why: str) -> None:
    """Return when the process of *device* is held because a Secret is refused to it, and stays so."""

    def held() -> str:
        process = kube.processes().get(device)
        return "" if process is None else conditions(process).get("UpdateHeld", {}).get("message", "")

    begin = f"ReferenceRefused({why}): "
    eventually(held, lambda said: said.startswith(begin), what=f"the Secret is refused with {why}")
    steadily(held, lambda said: said.startswith(begin), for_s=STEADY_S, what="and stays so")
    assert kube.processes()[device]["status"].get("pid") is None


def holds_nothing(fleet: AgentFleet, device: str, marker: str) -> None:
    """Check that nothing on *device* holds *marker*."""
    home = fleet.agent(device).home
    assert not [path for path in home.rglob("*") if path.is_file() and marker.encode() in path.read_bytes()]

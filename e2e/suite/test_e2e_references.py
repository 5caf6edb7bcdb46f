# SPDX-License-Identifier: Apache-2.0
"""Values of ConfigMaps on devices, and a rollout whose values are not there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from contract.rawapi import RawApi

from e2e.clusters.cluster import Capability
from e2e.release.manifests import COMPONENTS, install, read
from e2e.stack.kube import DEPLOYMENTS, Kube, accepted, conditions
from e2e.stack.manifests import deployment
from e2e.stack.server import Server
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually, steadily
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready
from e2e.suite.running import argv_of, environment_of, is_alive
from e2e.suite.workloads import shell

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

DELIVERED = {"azure.com/deliver": "true"}
LEVEL = {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}
STEADY_S = 3.0


@pytest.fixture
def gateway(stack: Stack, kube: Kube, api: RawApi) -> Iterator[Server]:
    """The only gateway, which may read the ConfigMaps of the test's namespace."""
    role = read(COMPONENTS / "references")
    install(api, ({**each, "metadata": each["metadata"] | {"namespace": kube.namespace}} for each in role))
    stack.gateway.program.stop()
    server = stack.new_gateway("gateway-references", f"--references-namespace={kube.namespace}")
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.program.stop()


def put_config_map(api: RawApi, kube: Kube, **data: str) -> None:
    path = f"/api/v1/namespaces/{kube.namespace}/configmaps"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "labels": DELIVERED}}
    answer = api.patch(f"{path}/settings", {"data": data})
    if answer.status == 404:
        accepted(api.post(path, body | {"data": data}))
    else:
        accepted(answer)


def power_on(fleet: AgentFleet, gateway: Server, count: int) -> list[str]:
    devices = [fleet.declare() for _ in range(count)]
    for device in devices:
        fleet.power_on(device, gateway)
    for device in devices:
        fleet.await_connected(device)
    return devices


def test_processes_start_with_values_of_a_config_map_and_say_when_it_changed(
    fleet: AgentFleet, kube: Kube, api: RawApi, gateway: Server
) -> None:
    put_config_map(api, kube, level="info")
    (device,) = power_on(fleet, gateway, 1)
    spec = shell("sleep infinity & wait", "--level=$(LEVEL)")
    spec["execution"] |= {"env": [LEVEL], "expandVariables": True}
    kube.apply(deployment("agent", spec))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    assert (environment_of(pid)["LEVEL"], argv_of(pid)[-1]) == ("info", "--level=info")

    began = time.monotonic()
    put_config_map(api, kube, level="debug")
    eventually(
        lambda: conditions(kube.processes()[device]).get("ValuesOutdated", {}).get("status"),
        lambda status: status == "True",
        what="the process says that it runs with the older value",
    )
    print(f"a changed ConfigMap was shown as ValuesOutdated after {time.monotonic() - began:.2f} s")
    assert is_alive(pid)
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"template": {"spec": {"restartedAt": "2026-01-31T12:00:00Z"}}}})
    eventually(
        lambda: kube.processes()[device]["status"].get("pid"),
        lambda new: new not in (None, pid) and environment_of(new)["LEVEL"] == "debug",
        what="a restart gives it the new one",
    )


def test_a_rollout_offers_no_device_but_the_first_what_the_namespace_lacks(
    fleet: AgentFleet, kube: Kube, api: RawApi, gateway: Server
) -> None:
    devices = power_on(fleet, gateway, 3)
    kube.apply(deployment("agent", shell("sleep infinity & wait", "old"), rolling={"maxUnavailable": 1}))
    ready = await_ready(kube, devices)
    pids = {device: ready[device]["status"]["pid"] for device in devices}
    spec = shell("sleep infinity & wait", "--level=$(LEVEL)")
    spec["execution"] |= {"env": [LEVEL], "expandVariables": True}
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"template": {"spec": spec}}})

    def reasons() -> dict[str, int]:
        found: dict[str, int] = kube.deployment("agent").get("status", {}).get("reasons") or {}
        return found

    eventually(reasons, lambda found: found == {"ReferenceMissing": 3}, what="the rollout says what is missing")
    steadily(reasons, lambda found: found == {"ReferenceMissing": 3}, for_s=STEADY_S, what="and stays so")
    refer = [each for each in kube.processes().values() if "env" in each["spec"]["execution"]]
    assert len(refer) == 1
    assert conditions(refer[0])["UpdateHeld"]["message"].startswith("ReferenceMissing(configmap/settings key level): ")
    assert all(map(is_alive, pids.values()))

    put_config_map(api, kube, level="info")
    after = eventually(
        lambda: {device: process["status"].get("pid") for device, process in kube.processes().items()},
        lambda found: all(found.get(name) not in (None, pid) for name, pid in pids.items()),
        what="all devices have the new version",
    )
    await_ready(kube, devices)
    assert {argv_of(pid)[-1] for pid in after.values() if pid} == {"--level=info"}

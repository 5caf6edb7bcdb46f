# SPDX-License-Identifier: Apache-2.0
"""Values of ConfigMaps and Secrets on devices, and a rollout whose values are not there."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.rawapi import RawApi

from e2e.clusters.cluster import Capability
from e2e.release.manifests import COMPONENTS, install, read
from e2e.stack.ctl import Ctl
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
    """The only gateway, which may read ConfigMaps and Secrets of the test's namespace, as if behind a proxy."""
    role = read(COMPONENTS / "references")
    install(api, ({**each, "metadata": each["metadata"] | {"namespace": kube.namespace}} for each in role))
    stack.gateway.program.stop()
    flags = (f"--references-namespace={kube.namespace}", "--tls-terminated")
    server = stack.new_gateway("gateway-references", *flags)
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
    kube.apply(deployment("agent", shell("sleep infinity & wait", "old"), max_unavailable=1))
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


PASSWORD = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}
KINDS = (
    "apis/azure.com/v1alpha1/{}/networkswitches",
    "apis/azure.com/v1alpha1/{}/deviceprocesses",
    "apis/azure.com/v1alpha1/{}/deviceprocessdeployments",
    "apis/apps/v1/{}/controllerrevisions",
    "apis/events.k8s.io/v1/{}/events",
    "apis/coordination.k8s.io/v1/{}/leases",
    "api/v1/{}/configmaps",
)


def forms(text: str) -> tuple[bytes, ...]:
    """Return *text*, and what could stand for it without being it."""
    raw = text.encode()
    made = [hashlib.new(name, raw, usedforsecurity=False).digest() for name in ("sha256", "sha1", "md5")]
    encoded = [base64.b64encode(each).rstrip(b"=") for each in (raw, *made)]
    return (raw, *encoded, *(each.hex().encode() for each in made))


def test_a_secret_is_in_the_process_and_in_files_of_the_agents_user_alone(
    fleet: AgentFleet, kube: Kube, api: RawApi, stack: Stack, gateway: Server
) -> None:
    marker = f"hunter2-{secrets.token_hex(8)}"
    found = forms(marker)
    path = f"/api/v1/namespaces/{kube.namespace}/secrets"
    metadata = {"name": "login", "labels": DELIVERED}
    data = {"password": base64.b64encode(marker.encode()).decode()}
    accepted(api.post(path, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}))
    (device,) = power_on(fleet, gateway, 1)
    spec = shell("sleep infinity & wait", "--of=$(USER_NAME)")
    url = {"name": "URL", "value": "https://u:$(PASSWORD)@host"}
    env = [PASSWORD, url, {"name": "USER_NAME", "value": "u"}]
    spec["execution"] |= {"env": env, "expandVariables": True}
    kube.apply(deployment("agent", spec))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    environment = environment_of(pid)
    assert (environment["PASSWORD"], environment["URL"]) == (marker, f"https://u:{marker}@host")

    ctl = Ctl(stack.cluster.kubeconfig, kube.namespace)
    manifest = json.dumps(deployment("agent", spec | {"restartPolicy": "OnFailure"}))
    said = {
        "render": ctl("render", "agent", device),
        "explain": ctl("explain", device),
        "plan": ctl("plan", "-f", "-", text=manifest),
        "agent status": json.dumps(fleet.agent(device).status()),
        "metrics": gateway.metrics(),
    }
    assert "(of secret/login key password)" in said["render"]
    accepted(api.patch(f"{path}/login", {"data": {"password": base64.b64encode(b"another").decode()}}))
    eventually(
        lambda: conditions(kube.processes()[device]).get("ValuesOutdated", {}).get("status"),
        lambda status: status == "True",
        what="the process says that it runs with the older value",
    )
    for collection in KINDS:
        said[collection] = json.dumps(accepted(api.get("/" + collection.format(f"namespaces/{kube.namespace}"))))
    shown = {name: [form for form in found if form in text.encode()] for name, text in said.items()}
    assert not any(shown.values()), shown
    arguments = [each.read_bytes() for each in Path("/proc").glob("[0-9]*/cmdline") if _readable(each)]
    assert not [each for each in arguments if any(form in each for form in found)]
    files = {
        each: stat.S_IMODE(each.stat().st_mode)
        for each in stack.workdir.rglob("*")
        if each.is_file() and any(form in each.read_bytes() for form in found)
    }
    assert files, "the agent keeps what it starts processes with"
    assert all(mode == 0o600 and each.is_relative_to(fleet.agent(device).state_dir) for each, mode in files.items())


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def test_a_secret_in_an_argument_is_an_invalid_spec(fleet: AgentFleet, kube: Kube, gateway: Server) -> None:
    power_on(fleet, gateway, 1)
    spec = shell("sleep infinity & wait", "--password=$(PASSWORD)")
    spec["execution"] |= {"env": [PASSWORD], "expandVariables": True}
    kube.apply(deployment("agent", spec))
    eventually(
        lambda: conditions(kube.deployment("agent")).get("Progressing", {}),
        lambda said: said.get("reason") == "InvalidSpec" and "args[3] names the secret" in said.get("message", ""),
        what="the deployment says that its arguments would show a Secret",
    )
    assert kube.processes() == {}

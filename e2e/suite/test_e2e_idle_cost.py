# SPDX-License-Identifier: Apache-2.0
"""Heartbeats without a change cost the apiserver no request, by its own count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.clusters.cluster import Capability, Cluster, Request
from e2e.stack.kube import GROUP_VERSION, Kube, accepted
from e2e.stack.manifests import deployment, network_switch
from e2e.stack.request_counts import LEASES, ours, settled
from e2e.stack.stack import Stack, StackSettings
from e2e.stack.waiting import eventually
from e2e.suite.device_api import DeviceApi
from e2e.suite.heartbeats import Beats
from e2e.suite.readiness import await_ready
from e2e.suite.workloads import sleeping

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

DEVICES = 200
ROUNDS = 50
WATCHERS = 2  # the controller and the gateway, each of which watches a kind once


@pytest.fixture
def own_gateway(stack: Stack, kube: Kube, tmp_path: Path) -> Iterator[Stack]:
    """A gateway for the test's namespace alone, at a real fleet's pace but for how often a device may report."""
    stack.gateway.program.terminate()
    settings = StackSettings(namespace=kube.namespace, heartbeat=15, gateway_flags=("--device-rate=1000",))
    own = Stack(stack.cluster, tmp_path / "own-gateway", settings)
    own.gateway.start()
    yield own
    own.stop()


@pytest.mark.needs("counts")
def test_ten_thousand_heartbeats_without_a_change_cause_no_request(
    cluster: Cluster, own_gateway: Stack, kube: Kube, record_testsuite_property: Any
) -> None:
    devices = [f"{kube.namespace}-{number}" for number in range(DEVICES)]
    kube.apply(*map(network_switch, devices), deployment("sleeper", sleeping()))
    eventually(kube.processes, lambda found: len(found) == DEVICES, what="every device has a process")
    observations = {device: [_started(own_gateway, device)] for device in devices}
    beats = Beats(own_gateway.gateway_url, {device: own_gateway.token(device) for device in devices})
    beats.send(1, observations.__getitem__)
    await_ready(kube, devices)
    # counts know no namespaces, and those of earlier tests are not waited for when they are deleted
    eventually(lambda: _deployed(kube), lambda found: found == {kube.namespace}, what="earlier deployments are gone")
    before = settled(cluster)
    sent = beats.send(ROUNDS - 1) + beats.send(1, observations.__getitem__)
    caused = ours(cluster) - before
    renewals = sum(count for request, count in caused.items() if request.resource == LEASES)
    beyond = {request: count for request, count in caused.items() if not _is_periodic(request, count)}
    record_testsuite_property("lease requests meanwhile", renewals)
    print(f"{sent} heartbeats; requests for Leases meanwhile: {renewals}")
    assert sent == DEVICES * ROUNDS
    assert beyond == {}


def _is_periodic(request: Request, count: int) -> bool:
    """Return whether the requests happen without heartbeats: Leases, and watches after minutes, are renewed."""
    return request.resource == LEASES or (request.verb == "WATCH" and count <= WATCHERS)


def _started(stack: Stack, device: str) -> dict[str, Any]:
    """Return the observation of the device's process, running as it shall."""
    (item,) = DeviceApi.of(stack, device).desired().json()["items"]
    observation = {"observedSpecHash": item["specHash"], "processStarted": True, "healthy": True}
    observation |= {"pid": 42, "startTime": "2026-01-01T00:00:00Z"}
    return {key: item[key] for key in ("namespace", "name", "uid")} | observation


def _deployed(kube: Kube) -> set[str]:
    """Return the namespaces that hold deployments."""
    items = accepted(kube.api.get(f"/apis/{GROUP_VERSION}/deviceprocessdeployments"))["items"]
    return {item["metadata"]["namespace"] for item in items}

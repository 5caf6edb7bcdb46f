# SPDX-License-Identifier: Apache-2.0
"""The cluster goes back to a backup while controller and gateway run on: they follow it, and nothing is restarted."""

from __future__ import annotations

import pytest

from e2e.clusters.cluster import Capability
from e2e.stack.kube import Kube
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.device_api import DeviceApi
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready, await_revision
from e2e.suite.workloads import change_template, prompt

pytestmark = pytest.mark.needs(Capability.RESTORE)
HEALED_S = 150


def test_what_a_restored_cluster_no_longer_has_is_not_served_and_edits_are_followed(
    stack: Stack, fleet: AgentFleet, kube: Kube
) -> None:
    devices = fleet.add(2)
    kube.apply(deployment("sleeper", prompt("1"), max_unavailable=2))
    await_ready(kube, devices)
    stack.cluster.save()
    ghost = fleet.add()[0]
    change_template(kube, "sleeper", prompt("2"))
    await_revision(kube, (*devices, ghost), "2")
    api = DeviceApi.of(stack, ghost)
    assert api.desired().json()["items"]
    stack.cluster.restore()
    eventually(
        lambda: api.desired(),
        lambda answer: answer.status_code == 200 and not answer.json()["items"],
        what="the device that the backup does not have is not served",
        within_s=HEALED_S,
    )
    change_template(kube, "sleeper", prompt("3"))
    eventually(
        kube.processes,
        lambda found: set(found) == set(devices) and all("'3'" in str(item["spec"]) for item in found.values()),
        what="an edit after the restore reaches the devices of the backup",
        within_s=HEALED_S,
    )
    await_revision(kube, devices, "3")

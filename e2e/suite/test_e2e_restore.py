# SPDX-License-Identifier: Apache-2.0
"""The cluster goes back to a backup while controller and gateway run on: they follow it, and nothing is restarted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from e2e.clusters.cluster import Capability, Cluster
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, SWITCHES, Kube
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.device_api import DeviceApi
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready, await_revision
from e2e.suite.test_e2e_docs_rollouts import environment_for
from e2e.suite.workloads import change_template, prompt

HEALED_S = 150
PAGE = Path(__file__).parents[2] / "docs" / "backup.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.needs(Capability.RESTORE)
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


def test_the_backup_and_the_restore_of_the_page_bring_the_fleet_back(
    cluster: Cluster, fleet: AgentFleet, kube: Kube, tmp_path: Path
) -> None:
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    backup, restore = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))

    def run(commands: str) -> None:
        environment = environment_for(cluster, kube)
        subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, check=True)

    devices = fleet.add(2)
    kube.apply(deployment("sleeper", prompt("1"), max_unavailable=2))
    names = {item["metadata"]["name"] for item in await_ready(kube, devices).values()}
    run(backup)
    kube.delete(DEPLOYMENTS, "sleeper")
    eventually(lambda: not kube.list(PROCESSES), what="the processes are gone")
    for device in devices:
        kube.delete(SWITCHES, device)
    run(restore)
    assert {item["metadata"]["name"] for item in await_ready(kube, devices).values()} == names
    undone = Ctl(cluster.kubeconfig, kube.namespace).run("rollout", "undo", "sleeper")
    assert "no earlier revision" in undone.stderr, "a backup has no history, as the page says"
    change_template(kube, "sleeper", prompt("2"))
    await_revision(kube, devices, "2")
    assert {item["metadata"]["name"] for item in kube.list(PROCESSES)} == names

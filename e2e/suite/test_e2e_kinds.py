# SPDX-License-Identifier: Apache-2.0
"""BMCs, DPUs, servers and SOCs beside switches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.clusters.cluster import Cluster
from e2e.rollouts.scenario import await_done
from e2e.stack.ctl import Ctl
from e2e.stack.kube import PLURALS, Kube, condition, conditions
from e2e.stack.manifests import deployment, device, device_process
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.workloads import change_template, sleeping

KINDS = ("NetworkSwitch", "BMC", "DPU", "Server", "SOC")


@pytest.fixture
def others(kube: Kube) -> Iterator[Kube]:
    """Yield the namespace; the devices of other kinds than switches are deleted from it afterwards."""
    yield kube
    for kind in KINDS[1:]:
        for item in kube.list(PLURALS[kind]):
            kube.delete(PLURALS[kind], item["metadata"]["name"])


def await_connected(kube: Kube, kind: str, name: str) -> None:
    eventually(
        lambda: condition(kube.get(PLURALS[kind], name) or {}, "AgentConnected") == "True",
        what=f"{kind} {name} is connected",
    )


def await_conflict(kube: Kube, plural: str, name: str, status: str) -> None:
    """Return once NameConflict of an object is *status*, and is about kinds while it is True."""
    wanted = (status, "BoundToAnotherKind" if status == "True" else "Accepted")
    eventually(
        lambda: conditions(kube.get(plural, name) or {}).get("NameConflict", {}),
        lambda found: (found.get("status"), found.get("reason")) == wanted,
        what=f"NameConflict of {plural}/{name} is {status}",
    )


def test_one_deployment_rolls_out_to_switches_and_dpus(fleet: AgentFleet, others: Kube) -> None:
    switch, dpu, bmc = (fleet.declare({"role": "leaf"}), f"{others.namespace}-dpu", f"{others.namespace}-bmc")
    others.apply(*(device(kind, name, {"role": "leaf"}) for kind, name in (("DPU", dpu), ("BMC", bmc))))
    for kind, name in (("NetworkSwitch", switch), ("DPU", dpu), ("BMC", bmc)):
        fleet.power_on(name)
        await_connected(others, kind, name)
    both = deployment("both", sleeping(), match={"role": "leaf"}, deviceKinds=["NetworkSwitch", "DPU"])
    others.apply(both)
    await_done(others, "both")
    refs = {name: item["spec"]["deviceRef"]["kind"] for name, item in others.processes().items()}
    assert refs == {switch: "NetworkSwitch", dpu: "DPU"}
    change_template(others, "both", {"restartPolicy": "OnFailure"})
    await_done(others, "both")
    running = eventually(
        lambda: (others.get("dpus", dpu) or {})["status"].get("processes"),
        lambda counts: counts == {"desired": 1, "running": 1, "healthy": 1},
        what="the DPU shows its process",
    )
    assert running


def test_a_dpu_with_the_name_of_a_switch_is_refused_and_takes_over_after_a_transfer(
    cluster: Cluster, fleet: AgentFleet, others: Kube
) -> None:
    (name,) = fleet.add()
    others.apply(device_process("on-switch", name, sleeping()))
    eventually(lambda: others.process("on-switch")["status"].get("phase") == "Running", what="the switch runs it")
    others.apply(device("DPU", name), device_process("on-dpu", name, sleeping(), kind="DPU"))
    for plural, refused in (("dpus", name), ("deviceprocesses", "on-dpu")):
        await_conflict(others, plural, refused, "True")
    assert others.process("on-switch")["status"]["phase"] == "Running"
    assert f"DPU/{name}" in Ctl(cluster.kubeconfig, others.namespace)("devices")
    Ctl(cluster.kubeconfig, others.namespace)("devices", "transfer", name, "--to", others.namespace, "--kind", "DPU")
    eventually(lambda: others.process("on-dpu")["status"].get("phase") == "Running", what="the DPU runs its own")
    await_connected(others, "DPU", name)
    await_conflict(others, "dpus", name, "False")
    await_conflict(others, "networkswitches", name, "True")

# SPDX-License-Identifier: Apache-2.0
"""One deployment with values of the device: what each process gets, and what a changed or missing value does."""

from __future__ import annotations

import pytest
import yaml

from e2e.demo.playground import BLOCK
from e2e.release.build import ROOT
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, SWITCHES, Kube, condition, conditions
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready
from e2e.suite.running import argv_of, environment_of, is_alive
from e2e.suite.workloads import shell


def field(name: str, path: str, **more: bool) -> dict[str, object]:
    return {"name": name, "valueFrom": {"deviceFieldRef": {"fieldPath": path, **more}}}


ENV = [
    field("DEVICE", "metadata.name"),
    field("RACK", "metadata.labels['rack']"),
    field("ARCH", "status.facts['arch']"),
    field("ADDRESS", "spec.managementAddress", optional=True),
    {"name": "TAG", "value": "$(DEVICE)/$(RACK)"},
]


def test_two_devices_run_one_deployment_with_their_own_arguments_and_environment(fleet: AgentFleet, kube: Kube) -> None:
    racks = {fleet.add(labels={"rack": rack})[0]: rack for rack in ("r1", "r2")}
    spec = shell("sleep infinity & wait", "--tag=$(TAG)", "$$(TAG)", "$(ADDRESS)")
    spec["execution"] |= {"env": ENV, "expandVariables": True}
    kube.apply(deployment("agent", spec))
    ready = await_ready(kube, list(racks))
    assert len({process["status"]["observedSpecHash"] for process in ready.values()}) == 2  # of the device in the spec
    pids = {}
    for device, rack in racks.items():
        pids[device] = pid = ready[device]["status"]["pid"]
        environment = environment_of(pid)
        assert environment.items() >= {"DEVICE": device, "RACK": rack, "TAG": f"{device}/{rack}"}.items()
        assert environment["ARCH"] == kube.switch(device)["status"]["facts"]["arch"]
        assert "ADDRESS" not in environment
        assert argv_of(pid)[-3:] == (f"--tag={device}/{rack}", "$(TAG)", "$(ADDRESS)")

    moved, other = racks
    fleet.label(moved, {"rack": "r9"})
    eventually(
        lambda: conditions(kube.processes()[moved]).get("ValuesOutdated", {}).get("reason"),
        lambda reason: reason == "ValuesChanged",
        what="the process on the relabelled device runs with the older value",
    )
    assert is_alive(pids[moved])
    assert condition(kube.processes()[other], "ValuesOutdated") == ""
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"template": {"spec": {"restartedAt": "2026-01-31T12:00:00Z"}}}})
    eventually(
        lambda: [kube.processes()[moved]["status"].get("pid"), condition(kube.processes()[moved], "ValuesOutdated")],
        lambda seen: seen[0] not in (None, pids[moved]) and seen[1] == "False",
        what="a restart gives it the new one",
    )
    assert environment_of(kube.processes()[moved]["status"]["pid"])["TAG"] == f"{moved}/r9"


def test_a_device_without_the_value_keeps_the_old_version_until_it_has_it(fleet: AgentFleet, kube: Kube) -> None:
    (device,) = fleet.add()
    kube.apply(deployment("agent", shell("sleep infinity & wait", "old")))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    spec = shell("sleep infinity & wait", "--rack=$(RACK)")
    spec["execution"] |= {"env": [field("RACK", "metadata.labels['rack']")], "expandVariables": True}
    kube.patch(DEPLOYMENTS, "agent", {"spec": {"template": {"spec": spec}}})
    eventually(
        lambda: kube.deployment("agent").get("status", {}).get("reasons"),
        lambda reasons: reasons == {"ReferenceMissing": 1},
        what="the rollout says that the device lacks a value",
    )
    name = kube.processes()[device]["metadata"]["name"]
    kube.patch(PROCESSES, name, {"spec": spec})  # as a user may, past the controller
    eventually(
        lambda: conditions(kube.processes()[device]).get("UpdateHeld", {}),
        lambda held: held.get("message", "").startswith("ReferenceMissing(metadata.labels['rack']): "),
        what="the gateway holds it, too",
    )
    assert is_alive(pid)
    assert "old" in argv_of(pid)
    fleet.label(device, {"rack": "r1"})
    eventually(
        lambda: kube.processes()[device]["status"].get("pid"),
        lambda new: new not in (None, pid) and "--rack=r1" in argv_of(new),
        what="the device runs the new version with its value",
    )


ADDED = ("PATH", "PRAETOR_PROCESS_DIR", "PRAETOR_PROCESS_UID")
"""What the backend process adds to the environment."""


@pytest.mark.parametrize("words", ["--id=$(SWITCH)", "--tag=$(UNKNOWN)"], ids=["values", "variables"])
def test_the_examples_of_the_page_run_as_render_says(fleet: AgentFleet, kube: Kube, stack: Stack, words: str) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "values.md").read_text("utf-8"))
    (text,) = (text for language, text in blocks if language == "yaml" and words in text)
    spec = yaml.safe_load(text)["spec"]["template"]["spec"]
    program = ["/bin/sh", "-c", "sleep infinity & wait", "telemetryd"]  # there is no such program, nor systemd
    spec["execution"] |= {"backend": "process", "command": program}
    (device,) = fleet.add(labels={"role": "leaf", "rack": "r7"})
    kube.patch(SWITCHES, device, {"spec": {"managementAddress": "192.0.2.7"}})
    kube.apply(deployment("telemetry", spec))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    said = Ctl(stack.cluster.kubeconfig, kube.namespace).read("render", "telemetry", device)
    assert argv_of(pid) == (*said["command"], *said["args"])
    environment = environment_of(pid)
    assert {name: value for name, value in environment.items() if name not in ADDED} == said["env"]

# SPDX-License-Identifier: Apache-2.0
"""The shell examples of docs/troubleshooting.md, each run where its symptom is, and the end of all processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from e2e.clusters.cluster import Cluster
from e2e.clusters.embedded import Embedded
from e2e.demo.playground import BLOCK
from e2e.release.build import ROOT
from e2e.stack.kube import DEPLOYMENTS, Kube, condition
from e2e.stack.manifests import deployment, device_process, network_switch
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_process, await_ready
from e2e.suite.test_e2e_docs_rollouts import STEP_S, environment_for
from e2e.suite.workloads import prompt

PAGE = ROOT / "docs" / "troubleshooting.md"
INSTALL = ROOT / "deploy" / "README.md"


def examples() -> dict[str, list[str]]:
    """Return the shell examples of the page by the heading above them."""
    sections = (section.partition("\n") for section in PAGE.read_text(encoding="utf-8").split("\n## "))
    found = {
        heading: [code for language, code in BLOCK.findall(text) if language == "sh"] for heading, _, text in sections
    }
    return {heading: blocks for heading, blocks in found.items() if blocks}


def test_the_commands_print_the_cause_of_each_symptom_and_help(
    cluster: Cluster, fleet: AgentFleet, kube: Kube, tmp_path: Path
) -> None:
    if cluster.kubectl is None:
        pytest.skip("kubectl is not on the PATH")
    if cluster.name != Embedded.name:
        pytest.skip("what the commands print is the same on every cluster")
    environment = environment_for(cluster, kube)
    left = examples()
    (device,) = fleet.add()
    lonely = f"{device}-lonely"

    def run(heading: str, named: str = device) -> str:
        return shell(left[heading].pop(0).replace("leaf-1", named))

    def shell(code: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def reason_of(plural: str, name: str) -> object:
        return (kube.get(plural, name) or {}).get("status", {}).get("reason")

    kube.apply(network_switch(lonely))
    eventually(lambda: condition(kube.switch(lonely), "AgentConnected"), bool, what="the gateway judges the device")
    assert run("A device is not connected", lonely) == "NeverConnected\n"

    kube.apply(deployment("beacon", prompt(), match={"role": "leaf"}, failurePolicy={"maxFailures": 0}))
    eventually(lambda: kube.deployment("beacon"), lambda dpd: condition(dpd, "Available") == "False", what="judged")
    assert "leaf" in run("A deployment matches no device")
    run("A deployment matches no device")
    await_ready(kube, [device])

    kube.apply(device_process("lost", "no-such-device", prompt()))
    eventually(lambda: reason_of("deviceprocesses", "lost"), lambda why: why == "NotDeclared", what="it is judged")
    assert "NotDeclared" in run("No device takes a process")
    kube.delete("deviceprocesses", "lost")

    broken = {"execution": {"command": ["/opt/no-such-program"]}}
    kube.patch(DEPLOYMENTS, "beacon", {"spec": {"template": {"spec": broken}}})
    await_process(kube, device, lambda item: condition(item, "RolledBack") == "True", "the version is given up")
    eventually(lambda: kube.deployment("beacon"), lambda dpd: condition(dpd, "Paused") == "True", what="it is stopped")
    start = "# Troubleshooting"
    assert "FailurePolicy" in run(start)
    assert "RolledBack=True StartFailed" in run("A process does not start")
    assert "FailurePolicy" in run("A rollout does not go on")
    assert "/opt/no-such-program" in run("A device runs the old version")
    run("A rollout does not go on")
    eventually(
        lambda: kube.deployment("beacon"), lambda dpd: condition(dpd, "Progressing") == "True", what="the undo goes on"
    )
    await_ready(kube, [device])
    assert not any(left.values())

    (ending,) = (code for _, code in BLOCK.findall(INSTALL.read_text(encoding="utf-8")) if "dpd,dp --all" in code)
    here = ending.replace(" --all-namespaces", "").replace(" -A", "")
    eventually(lambda: shell(here).splitlines(), lambda shown: f"{device} 0" in shown, what="the devices run nothing")

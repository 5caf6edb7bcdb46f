# SPDX-License-Identifier: Apache-2.0
"""Files of processes, from the deployment to the device: the example of docs/files.md, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import yaml

from e2e.demo.playground import BLOCK
from e2e.release.build import ROOT
from e2e.stack.agent import Agent
from e2e.stack.kube import DEPLOYMENTS, Kube, Object, conditions
from e2e.stack.manifests import deployment
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_process, await_ready
from e2e.suite.running import is_alive
from e2e.suite.workloads import change_template, shell

PAGE = ROOT / "docs" / "files.md"


def output_of(agent: Agent, process: str) -> str:
    """Return what `praetor-agent logs` prints on the device."""
    words = (sys.executable, "-m", "praetor_agent", "logs", process, "--state-dir", str(agent.state_dir))
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def is_held(reason: str, process: Object) -> bool:
    return conditions(process)["SpecObserved"].get("reason") == reason


def own_files(agent: Agent) -> dict[str, str]:
    """Return what the own directories of the device's processes hold."""
    top = agent.state_dir / "files"
    found = [path for path in top.rglob("*") if path.is_file()] if top.exists() else []
    return {str(path.relative_to(top).relative_to(path.relative_to(top).parts[0])): path.read_text() for path in found}


def test_the_example_of_the_page_does_what_it_says_and_leaves_nothing(fleet: AgentFleet, kube: Kube) -> None:
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    manifest, printed = blocks[0][1], blocks[1][1]
    (device,) = fleet.add(labels={"role": "leaf"})
    kube.apply(yaml.safe_load(manifest))
    process = await_ready(kube, [device])[device]
    agent, name = fleet.agent(device), process["metadata"]["name"]
    eventually(lambda: output_of(agent, name), lambda said: said == printed, what="the program prints its file")
    assert own_files(agent) == {"etc/exporter.conf": "listen 9100\ninterval 30s\n"}
    kube.delete(DEPLOYMENTS, "exporter")
    eventually(lambda: own_files(agent), lambda found: not found, what="the files are removed with the process")


def test_a_file_that_is_not_allowed_or_not_ours_holds_the_new_version_until_it_is(
    fleet: AgentFleet, kube: Kube, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "theirs").write_text("mine")
    device = fleet.declare()
    fleet.power_on(device, variables={"PRAETOR_AGENT_ALLOW_FILE_ROOT": str(root)})
    fleet.await_connected(device)
    kube.apply(deployment("app", shell("sleep infinity & wait")))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    for path, reason, words in (
        (tmp_path / "x", "NotAllowed", f"start the agent with --allow-file-root {tmp_path}"),
        (root / "theirs", "FilesNotWritten", "was not written by praetor-agent; move it away"),
    ):
        spec = shell("sleep infinity & wait")
        spec["execution"]["files"] = [{"path": str(path), "content": "new"}]
        change_template(kube, "app", spec)
        held = await_process(kube, device, partial(is_held, reason), f"held with {reason}")
        assert words in conditions(held)["SpecObserved"]["message"]
        assert is_alive(pid)
    assert (root / "theirs").read_text() == "mine"
    (root / "theirs").unlink()
    eventually(
        lambda: kube.processes()[device]["status"].get("pid"),
        lambda new: new not in (None, pid),
        what="the new version runs once the file is out of the way",
    )
    assert (root / "theirs").read_text() == "new"

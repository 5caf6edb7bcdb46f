# SPDX-License-Identifier: Apache-2.0
"""Files of processes, from the deployment to the device: the example of docs/files.md, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import yaml

from e2e.demo.playground import BLOCK
from e2e.release.build import ROOT
from e2e.stack.agent import Agent
from e2e.stack.ctl import Ctl
from e2e.stack.kube import DEPLOYMENTS, Kube, Object, conditions
from e2e.stack.manifests import deployment
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_process, await_ready
from e2e.suite.running import is_alive, output_of
from e2e.suite.workloads import change_template, shell

PAGE = ROOT / "docs" / "files.md"


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
    fleet: AgentFleet, kube: Kube, stack: Stack, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "theirs").write_text("mine")
    device = fleet.declare()
    fleet.power_on(device, variables={"PRAETOR_AGENT_ALLOW_FILE_ROOT": str(root)})
    fleet.await_connected(device)
    kube.apply(deployment("app", shell("sleep infinity & wait")))
    pid = await_ready(kube, [device])[device]["status"]["pid"]
    elsewhere = shell("true")
    elsewhere["execution"]["files"] = [{"path": str(path), "content": "new"} for path in (root / "a", tmp_path / "x")]
    said = Ctl(stack.cluster.kubeconfig, kube.namespace)(
        "plan", "-f", "-", text=json.dumps(deployment("app", elsewhere))
    )
    refused = f"NotAllowed(1): {device}: execution.files[1].path: {tmp_path / 'x'} is in no directory"
    assert f"app: warning: {refused} that is allowed there" in said
    assert "files[0].path" not in said
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


RELOADING = (
    'show() { read -r name value < "$PRAETOR_FILES/etc/exporter.conf"; echo "$1 $value"; }; '
    "trap 'show reloaded' HUP; show started; while :; do sleep 0.1; done"
)


def last_line(agent: Agent, process: str) -> str:
    return output_of(agent, process).splitlines()[-1]


def test_a_rollout_of_contents_that_need_no_restart_keeps_the_processes_and_is_complete(
    fleet: AgentFleet, kube: Kube
) -> None:
    blocks = [text for language, text in BLOCK.findall(PAGE.read_text("utf-8")) if language == "yaml"]
    (given,) = yaml.safe_load(blocks[1])["files"]
    assert given["onChange"] == "Signal"
    devices = fleet.add(2)

    def template(value: str) -> Object:
        spec = shell(RELOADING)
        spec["execution"]["files"] = [given | {"content": f"listen {value}\n"}]
        return spec

    kube.apply(deployment("exporter", template("1")))
    before = await_ready(kube, devices)
    names = {device: process["metadata"]["name"] for device, process in before.items()}
    for value in ("2", "1"):  # and back
        change_template(kube, "exporter", template(value))
        for device in devices:
            reading = partial(last_line, fleet.agent(device), names[device])
            eventually(reading, f"reloaded {value}".__eq__, what="the program was told")
        eventually(
            lambda: kube.deployment("exporter"),
            lambda found: (
                found["status"].get("observedGeneration") == found["metadata"]["generation"]
                and found["status"].get("updatedNumberScheduled") == found["status"].get("numberReady") == 2
            ),
            what="the rollout is complete",
        )
        for device, process in kube.processes().items():
            assert process["status"]["pid"] == before[device]["status"]["pid"]
            assert process["status"].get("restartCount", 0) == 0

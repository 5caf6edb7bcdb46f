# SPDX-License-Identifier: Apache-2.0
"""The steps of the demo: roll out two versions, lose a process, lose an agent."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import frozen
from rich.console import Console

from e2e.clusters.launch import launch
from e2e.demo.view import View
from e2e.stack.kube import DEPLOYMENTS, PROCESSES, Object, condition
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.recorder import Recorder
from e2e.stack.stack import Stack, StackSettings

NAME = "beacon"
MAX_UNAVAILABLE = 2
POLL_S = 0.1
STEP_S = 300.0
BEACON = """#!{python}
import os, time
while True:
    print("beacon", os.environ.get("VERSION"), flush=True)
    time.sleep(1)
"""

Counts = Mapping[str, Any]
Happened = Callable[[dict[str, Object], Counts], bool]


class DemoFailed(Exception):
    """A step did not end in time or not as it should; the message says which, with the end of the programs' logs."""


@frozen(kw_only=True)
class Options:
    """The options of the command line."""

    cluster: str
    devices: int
    stay: bool
    picture: bool = False
    assets: Path | None = None
    kubeconfig: Path | None = None


class Demo:
    """Runs the steps once; all that it starts ends with it."""

    def __init__(self, options: Options, workdir: Path, console: Console) -> None:
        self._options = options
        self._workdir = workdir
        self._console = console
        self._view = View(console, last_only=options.picture)
        self._started = time.monotonic()
        self._step_started = self._started
        self._steps = 0
        self._devices = [f"leaf-{number}" for number in range(1, options.devices + 1)]

    def run(self) -> None:
        """Run all steps; DemoFailed when one fails."""
        self._console.print(
            f"This demo runs Praetor on this machine: a control plane, a controller, a gateway\n"
            f"and {len(self._devices)} devices, each with an agent as a process of its own. "
            "Ctrl-C ends it."
        )
        with ExitStack() as opened:
            self._begin("Start the control plane, the controller and the gateway")
            options = self._options
            cluster = opened.enter_context(
                launch(options.cluster, self._workdir / "cluster", assets=options.assets, kubeconfig=options.kubeconfig)
            )
            settings = StackSettings(namespace=cluster.namespace)
            self._stack = opened.enter_context(Stack(cluster, self._workdir / "stack", settings))
            self._kube = self._stack.kube(cluster.namespace)
            self._done("all three are ready")
            opened.callback(self._clear)
            self._roll_out()
            self._roll_over()
            self._lose_a_process()
            self._lose_an_agent()
            self._console.print(f"\n[bold]All {self._steps} steps passed[/] in {_seconds(self._started)}.")
            if options.stay:
                self._stay(cluster.kubeconfig)

    def _roll_out(self) -> None:
        count = len(self._devices)
        self._begin(f"Start {count} agents and deploy version 1 to their devices")
        for device in self._devices:
            self._stack.add_agent(device)
        self._kube.apply(*(network_switch(device, {"role": "leaf"}, model="demo") for device in self._devices))
        self._kube.apply(self._deployment("1"))
        self._await(f"{count} devices run version 1", self._all_run("1"))
        self._done(f"version 1 runs on all {count} devices, as a real process on each")

    def _roll_over(self) -> None:
        self._begin(f"Deploy version 2, with at most {MAX_UNAVAILABLE} devices unavailable at a time")
        with Recorder(self._stack.cluster.kubeconfig, self._kube.path(PROCESSES)) as recorder:
            self._kube.apply(self._deployment("2"))
            self._await("every device runs version 2", self._all_run("2"))
        worst = recorder.worst(lambda state: sum(not _is_ready(process) for process in state.values()))
        if worst > MAX_UNAVAILABLE:
            raise DemoFailed(f"{worst} devices were unavailable at a time; {MAX_UNAVAILABLE} were allowed")
        self._done(f"version 2 runs on all devices; at most {worst} were unavailable at a time")

    def _lose_a_process(self) -> None:
        device = self._devices[0]
        pid = self._pid(device)
        self._begin(f"Kill the process of {device} (pid {pid})")
        os.kill(pid, signal.SIGKILL)

        def recovered(processes: dict[str, Object], _: Counts) -> bool:
            status = processes[device].get("status", {})
            return status.get("pid") not in (None, pid) and _is_ready(processes[device])

        self._await(f"{device} runs again", recovered)
        self._done(f"the agent of {device} restarted the process and reported it")

    def _lose_an_agent(self) -> None:
        device = self._devices[-1]
        pid = self._pid(device)
        self._begin(f"Kill the agent of {device}; its process (pid {pid}) must keep running")
        self._stack.agents[device].program.kill()
        self._await(
            f"{device} is shown as disconnected",
            lambda processes, _: condition(processes[device], "AgentConnected") == "False",
        )
        os.kill(pid, 0)  # raises when the process is gone
        self._done(f"{device} is shown as disconnected, and its process still runs")
        self._begin(f"Start the agent of {device} again")
        self._stack.agents[device].start()
        self._await(f"{device} is back", lambda processes, _: _is_ready(processes[device]))
        if self._pid(device) != pid:
            raise DemoFailed(f"the process of {device} was restarted; it should have been left alone")
        self._done(f"{device} is connected again, with the same process")

    def _stay(self, kubeconfig: Path) -> None:
        device, namespace = self._devices[0], self._kube.namespace
        kubectl = "kubectl" if namespace == "default" else f"kubectl -n {namespace}"
        self._console.print("\n[bold]Everything keeps running.[/] In another terminal:\n")
        for line in (
            f"export KUBECONFIG={kubeconfig}",
            f"export GATEWAY={self._stack.gateway_url} TOKEN={self._stack.token(device)}",
            f"{kubectl} get nsw,dpd,dp",
            f"{kubectl} describe dpd {NAME}",
            f"{kubectl} get dp -w",
            f'curl -i -H "X-Device-Token: $TOKEN" $GATEWAY/v1/devices/{device}/desired',
        ):
            self._console.print(f"  {line}", soft_wrap=True, markup=False)
        self._console.print("\nCtrl-C ends everything.")
        signal.pause()

    def _clear(self) -> None:
        """Delete our objects from a cluster that outlives the demo."""
        if self._options.cluster == "existing":
            self._kube.delete(DEPLOYMENTS, NAME)

    def _deployment(self, version: str) -> Object:
        artifact = self._workdir / NAME
        if not artifact.exists():
            artifact.write_text(BEACON.format(python=Path(sys.executable).absolute()))
            artifact.chmod(0o755)
        checksum = hashlib.sha256(artifact.read_bytes()).hexdigest()
        execution = {"env": [{"name": "VERSION", "value": version}], "terminationGracePeriodSeconds": 2}
        source = {"type": "file", "url": str(artifact), "checksumSHA256": checksum}
        spec = process_spec([f"./{NAME}"], execution=execution, artifact=source)
        return deployment(NAME, spec, match={"role": "leaf"}, max_unavailable=MAX_UNAVAILABLE, minReadySeconds=1)

    def _all_run(self, version: str) -> Happened:
        wanted = set(self._devices)

        def happened(processes: dict[str, Object], counts: Counts) -> bool:
            available = counts.get("numberAvailable") == counts.get("updatedNumberScheduled") == len(wanted)
            return available and set(processes) == wanted and all(_runs(p, version) for p in processes.values())

        return happened

    def _await(self, what: str, happened: Happened) -> None:
        deadline = time.monotonic() + STEP_S
        with self._view:
            while True:
                processes = self._kube.processes()
                counts = (self._kube.get(DEPLOYMENTS, NAME) or {}).get("status") or {}
                self._view.show(processes, counts)
                if happened(processes, counts):
                    return
                if time.monotonic() > deadline:
                    raise DemoFailed(f"not within {STEP_S:g} s: {what}; the logs end:\n{self._stack.logs()}")
                time.sleep(POLL_S)

    def _pid(self, device: str) -> int:
        return int(self._kube.processes()[device]["status"]["pid"])

    def _begin(self, text: str) -> None:
        self._steps, self._step_started = self._steps + 1, time.monotonic()
        self._console.print(f"\n[bold cyan]Step {self._steps}[/]  [bold]{text}[/]", soft_wrap=True)

    def _done(self, result: str) -> None:
        self._console.print(f"  [green]✓[/] {result} [dim]({_seconds(self._step_started)})[/]", soft_wrap=True)


def _seconds(since: float) -> str:
    return f"{time.monotonic() - since:.1f} s"


def _is_ready(process: Mapping[str, Any]) -> bool:
    current = (process.get("status") or {}).get("observedGeneration") == process["metadata"].get("generation")
    return current and all(condition(dict(process), kind) == "True" for kind in ("AgentConnected", "Healthy"))


def _runs(process: Mapping[str, Any], version: str) -> bool:
    env = process["spec"]["execution"].get("env", ())
    return {"name": "VERSION", "value": version} in env and _is_ready(process)

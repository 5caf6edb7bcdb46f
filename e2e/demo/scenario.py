"""The demo's story: roll out, roll over, lose a process, lose an agent, sum up."""

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
LOOK_S = 0.1
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
    """A step did not happen in time; the message says which, and holds the programs' last words."""


@frozen(kw_only=True)
class Options:
    """What the command line said."""

    cluster: str
    devices: int
    stay: bool
    assets: Path | None = None
    kubeconfig: Path | None = None


class Demo:
    """Runs the story once; all that it starts ends with it."""

    def __init__(self, options: Options, workdir: Path, console: Console) -> None:
        self._options = options
        self._workdir = workdir
        self._console = console
        self._view = View(console)
        self._started = time.monotonic()
        self._facts: list[tuple[str, str]] = []
        self._devices = [f"leaf-{number}" for number in range(1, options.devices + 1)]

    def run(self) -> None:
        """Tell the story; DemoFailed when a step does not happen."""
        with ExitStack() as opened:
            self._say("Starting a control plane, a controller and a gateway")
            options = self._options
            cluster = opened.enter_context(
                launch(options.cluster, self._workdir / "cluster", assets=options.assets, kubeconfig=options.kubeconfig)
            )
            settings = StackSettings(namespace=cluster.namespace)
            self._stack = opened.enter_context(Stack(cluster, self._workdir / "stack", settings))
            self._kube = self._stack.kube(cluster.namespace)
            self._note("control plane, controller and gateway ready", self._elapsed())
            opened.callback(self._clear)
            self._roll_out()
            self._roll_over()
            self._lose_a_process()
            self._lose_an_agent()
            self._sum_up()
            if options.stay:
                self._stay(cluster.kubeconfig)

    def _roll_out(self) -> None:
        count = len(self._devices)
        self._say(f"Declaring {count} switches, starting their agents and applying a deployment")
        for device in self._devices:
            self._stack.add_agent(device)
        began = time.monotonic()
        self._kube.apply(*(network_switch(device, {"role": "leaf"}, model="demo") for device in self._devices))
        self._kube.apply(self._deployment("1"))
        self._await(f"{count} devices run version 1", self._all_run("1"))
        self._note(f"version 1 on {count} devices, each reporting a real process", _seconds(began))

    def _roll_over(self) -> None:
        self._say(f"Changing the template: version 2, at most {MAX_UNAVAILABLE} devices unavailable at a time")
        began = time.monotonic()
        with Recorder(self._stack.cluster.kubeconfig, self._kube.path(PROCESSES)) as recorder:
            self._kube.apply(self._deployment("2"))
            self._await("every device runs version 2", self._all_run("2"))
        worst = recorder.worst(lambda state: sum(not _is_ready(process) for process in state.values()))
        if worst > MAX_UNAVAILABLE:
            raise DemoFailed(f"{worst} devices were unavailable at a time; {MAX_UNAVAILABLE} were allowed")
        self._note(f"version 2 everywhere; at most {worst} of {len(self._devices)} unavailable", _seconds(began))

    def _lose_a_process(self) -> None:
        device = self._devices[0]
        pid = self._pid(device)
        self._say(f"Killing the process of {device} (pid {pid})")
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)

        def recovered(processes: dict[str, Object], _: Counts) -> bool:
            status = processes[device].get("status", {})
            return status.get("pid") not in (None, pid) and _is_ready(processes[device])

        self._await(f"{device} runs again", recovered)
        self._note(f"{device} restarted its process and said so", _seconds(began))

    def _lose_an_agent(self) -> None:
        device = self._devices[-1]
        pid = self._pid(device)
        self._say(f"Killing the agent of {device}; its process (pid {pid}) must live on")
        began = time.monotonic()
        self._stack.agents[device].program.kill()
        self._await(
            f"{device} is shown as disconnected",
            lambda processes, _: condition(processes[device], "AgentConnected") == "False",
        )
        os.kill(pid, 0)  # raises when the process is gone
        self._note(f"{device} shown as disconnected, its process still running", _seconds(began))
        self._say(f"Starting the agent of {device} again")
        began = time.monotonic()
        self._stack.agents[device].start()
        self._await(f"{device} is back", lambda processes, _: _is_ready(processes[device]))
        if self._pid(device) != pid:
            raise DemoFailed(f"the process of {device} was restarted; it should have been left alone")
        self._note(f"{device} connected again, same process", _seconds(began))

    def _sum_up(self) -> None:
        self._console.print()
        self._console.print("[bold]What happened[/]")
        for fact, took in self._facts:
            self._console.print(f"  [green]✓[/] {fact} [dim]({took})[/]")
        self._console.print(f"  in {self._elapsed()} altogether")

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
        self._console.print("\nCtrl-C ends it all.")
        signal.pause()

    def _clear(self) -> None:
        """Take our objects away from a cluster that lives on."""
        if self._options.cluster == "existing":
            self._kube.delete(DEPLOYMENTS, NAME)

    def _deployment(self, version: str) -> Object:
        artifact = self._workdir / NAME
        if not artifact.exists():
            artifact.write_text(BEACON.format(python=sys.executable))
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
                    raise DemoFailed(f"not within {STEP_S:g} s: {what}\n{self._stack.logs()}")
                time.sleep(LOOK_S)

    def _pid(self, device: str) -> int:
        return int(self._kube.processes()[device]["status"]["pid"])

    def _say(self, text: str) -> None:
        self._console.print(f"\n[bold cyan]{self._elapsed():>7}[/] [bold]{text}[/]", soft_wrap=True)

    def _note(self, fact: str, took: str) -> None:
        self._facts.append((fact, took))

    def _elapsed(self) -> str:
        return _seconds(self._started)


def _seconds(since: float) -> str:
    return f"{time.monotonic() - since:.1f} s"


def _is_ready(process: Mapping[str, Any]) -> bool:
    current = (process.get("status") or {}).get("observedGeneration") == process["metadata"].get("generation")
    return current and all(condition(dict(process), kind) == "True" for kind in ("AgentConnected", "Healthy"))


def _runs(process: Mapping[str, Any], version: str) -> bool:
    env = process["spec"]["execution"].get("env", ())
    return {"name": "VERSION", "value": version} in env and _is_ready(process)

# SPDX-License-Identifier: Apache-2.0
"""The three devices of deploy/samples: an agent on this machine, and two in Pods of the agent's image."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from e2e.pods.system import WITHIN_S, System, secret
from e2e.release.build import ROOT
from e2e.release.images import Image
from e2e.release.manifests import Object, install, read
from e2e.stack import orphans
from e2e.stack.agent import Agent
from e2e.stack.kube import DEPLOYMENTS, Kube, conditions
from e2e.stack.stack import environment, script
from e2e.stack.waiting import eventually

SAMPLES = ROOT / "deploy" / "samples"
SAMPLE = "telemetry"
NAMESPACE = "default"
PROVING_S = 1  # the sample is good; a rollout need not wait longer for each device
VARIABLE = "INTERVAL"  # what a new version of the sample changes
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class Devices:
    """Three devices that run the sample, from `with` on until its end."""

    def __init__(self, system: System, image: Image, workdir: Path) -> None:
        self.kube = Kube(system.api, NAMESPACE)
        samples = read(SAMPLES)
        self._samples = samples
        self.names = tuple(_name(item) for item in samples if item["kind"] == "NetworkSwitch")
        self.in_pods = self.names[1:]
        self.agent = Agent(
            self.names[0],
            [script("praetor-agent"), "run", "--start-splay=0"],
            gateway=system.gateway_url(),
            token=system.token(self.names[0]),
            workdir=workdir,
            env=environment() | {"PRAETOR_AGENT_PROVING_SECONDS": str(PROVING_S)},
        )
        self._system = system
        self._image = image
        self._workdir = workdir
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.program.stop()
        self.agent.end_processes()
        self._opened.close()
        self.kube.delete_devices()  # their names are those of other tests, too

    def change(self, value: str, **fields: object) -> None:
        """Change an environment variable of the sample's template, and other *fields* of the sample."""
        deployment = self.kube.deployment(SAMPLE)
        spec = deployment["spec"]["template"]["spec"]
        spec["execution"]["env"] = [{"name": VARIABLE, "value": value}]
        self.kube.patch(DEPLOYMENTS, SAMPLE, {"spec": {"template": {"spec": spec}, **fields}})

    def updated(self) -> set[str]:
        """Return the devices whose process has the template's newest version."""
        wanted = self.kube.deployment(SAMPLE)["spec"]["template"]["spec"]["execution"]["env"]
        return {name for name, item in self.kube.processes().items() if item["spec"]["execution"].get("env") == wanted}

    def writes(self, plural: str) -> dict[str, int]:
        """Return how often the spec of each object of a kind was written, by its uid."""
        items = (item["metadata"] for item in self.kube.list(plural))
        return {str(item["uid"]): int(item["generation"]) for item in items}

    def connected_since(self, device: str) -> str:
        """Return when *device* connected last; it is connected."""
        found = conditions(self.kube.switch(device))["AgentConnected"]
        assert found["status"] == "True", found
        return str(found["lastTransitionTime"])

    def await_available(self) -> Object:
        """Return the sample's status once all devices have its newest version and it is available on them."""

        def done(deployment: Object) -> bool:
            status, count = deployment.get("status", {}), len(self.names)
            newest = status.get("observedGeneration") == deployment["metadata"]["generation"]
            return newest and (status.get("numberAvailable"), status.get("updatedNumberScheduled")) == (count, count)

        found = eventually(lambda: self.kube.deployment(SAMPLE), done, what=f"{SAMPLE} is available", within_s=WITHIN_S)
        status: Object = found["status"]
        return status

    def values_on_host(self) -> set[str]:
        """Return the value of the variable in each process that the agent on this machine runs."""
        values = set()
        for pid in self.agent.processes():
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":  # not what supervises it
                    values.add(_environment(pid).get(VARIABLE, ""))
        return values

    def values_in_pod(self, device: str) -> set[str]:
        """Return the value of the variable in each process that the agent in a Pod runs."""
        command = "for p in /proc/[0-9]*; do [ $(cat $p/comm) = sleep ] && tr '\\0' '\\n' < $p/environ; done"
        words = ("exec", device, f"--namespace={NAMESPACE}", "--", "/bin/sh", "-c", f"{command}; true")
        printed = self._system.kubectl(*words)
        pairs = [line.partition("=") for line in printed.splitlines()]
        return {value for name, _, value in pairs if name == VARIABLE}

    def _start(self) -> None:
        command = [sys.executable, "-I", "-S", orphans.__file__, str(self._workdir)]
        watchdog = self._opened.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
        self._opened.callback(watchdog.kill)
        self.kube.apply(*self._samples)
        for name in self.in_pods:
            install(self._system.api, (secret(name, NAMESPACE, token=self._system.token(name)), self._pod(name)))
        self.agent.start()
        pods = (f"pod/{name}" for name in self.in_pods)
        within = f"--timeout={WITHIN_S:g}s"
        self._system.kubectl("wait", "--for=condition=Ready", *pods, f"--namespace={NAMESPACE}", within)

    def _pod(self, name: str) -> Object:
        flags = {"gateway": self._system.gateway_url(), "device": name, "token-file": "/etc/praetor/token"}
        flags["proving-seconds"] = str(PROVING_S)
        container: dict[str, Any] = {
            "name": "agent",
            "image": self._image.name,
            "imagePullPolicy": "Never",
            "args": ["run", *(f"--{flag}={value}" for flag, value in flags.items()), "--start-splay=0"],
            "securityContext": RESTRICTED,
            "volumeMounts": [{"name": "token", "mountPath": "/etc/praetor", "readOnly": True}],
        }
        spec = {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
            "containers": [container],
            "volumes": [{"name": "token", "secret": {"secretName": name, "defaultMode": 0o440}}],
        }
        labels = {"app.kubernetes.io/part-of": "praetor"}
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])


def _environment(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {name.decode(): value.decode() for name, _, value in (word.partition(b"=") for word in words)}

# SPDX-License-Identifier: Apache-2.0
"""A cluster made by kind (Kubernetes in Docker), through its own command line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from secrets import token_hex

from e2e.clusters.api.kubectl import output_of
from e2e.clusters.api.readiness import wait_ready
from e2e.clusters.errors import ClusterError
from e2e.clusters.remote import LOAD_S, PodCluster

ENGINES = ("docker", "podman", "nerdctl")
CREATE_S = 600
OF_KIND = ("10.96.0.0/16", "10.244.0.0/16")  # of Services and of Pods, unless a configuration says otherwise
ADDRESS = ("get", "nodes", '--output=jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')


def missing_parts() -> list[str]:
    """Return what this machine lacks for kind, in words."""
    missing = [] if shutil.which("kind") else ["the kind program (https://kind.sigs.k8s.io)"]
    if not any(map(shutil.which, ENGINES)):
        missing.append(f"a container engine (one of {', '.join(ENGINES)})")
    if not shutil.which("kubectl"):
        missing.append("kubectl")
    return missing


class Kind(PodCluster):
    """A kind cluster of our own, deleted at the end."""

    name = "kind"

    def __init__(self, workdir: Path) -> None:
        if missing := missing_parts():
            raise ClusterError(f"kind needs {' and '.join(missing)}; install it or use --cluster embedded")
        workdir.mkdir(parents=True, exist_ok=True)
        self._kind_name = f"praetor-{token_hex(3)}"
        self._node = f"{self._kind_name}-control-plane"
        self._engine = next(engine for engine in ENGINES if shutil.which(engine))
        self._routed: list[str] = []
        kubeconfig = workdir / "admin.kubeconfig"
        try:
            self._kind("create", "cluster", f"--kubeconfig={kubeconfig}", "--wait=500s", timeout_s=CREATE_S)
            super().__init__(workdir, kubeconfig=kubeconfig)
        except BaseException:
            self._delete(kubeconfig)
            raise

    def power_off(self) -> None:
        """Kill the container that is the node."""
        output_of([self._engine, "kill", self._node])

    def power_on(self) -> None:
        """Start the container again."""
        output_of([self._engine, "start", self._node])
        wait_ready(self._api, check=lambda: None, timeout_s=CREATE_S)

    def stop(self) -> None:
        """Delete the cluster."""
        super().stop()
        for network in self._routed:
            self._ip("route", "del", network)
        self._delete(self.kubeconfig)

    def _load(self, archive: str) -> None:
        self._kind("load", "image-archive", archive, timeout_s=LOAD_S)
        if not self._routed:  # who loads images asks what runs in them
            address = output_of([str(self.kubectl), f"--kubeconfig={self.kubeconfig}", *ADDRESS]).strip()
            for network in OF_KIND:
                self._ip("route", "add", network, "via", address)
                self._routed.append(network)

    def _ip(self, *words: str) -> None:
        output_of([*(() if os.geteuid() == 0 else ("sudo", "--non-interactive")), "ip", *words])

    def _delete(self, kubeconfig: Path) -> None:
        self._kind("delete", "cluster", f"--kubeconfig={kubeconfig}", timeout_s=CREATE_S)

    def _kind(self, *words: str, timeout_s: float) -> None:
        output_of(["kind", *words, f"--name={self._kind_name}"], timeout_s=timeout_s)

# SPDX-License-Identifier: Apache-2.0
"""A cluster made by kind (Kubernetes in Docker), through its own command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from secrets import token_hex

from e2e.clusters.api.kubectl import output_of
from e2e.clusters.errors import ClusterError
from e2e.clusters.remote import RemoteCluster

ENGINES = ("docker", "podman", "nerdctl")
CREATE_S = 600


def missing_parts() -> list[str]:
    """Return what this machine lacks for kind, in words."""
    missing = [] if shutil.which("kind") else ["the kind program (https://kind.sigs.k8s.io)"]
    if not any(map(shutil.which, ENGINES)):
        missing.append(f"a container engine (one of {', '.join(ENGINES)})")
    if not shutil.which("kubectl"):
        missing.append("kubectl")
    return missing


class Kind(RemoteCluster):
    """A kind cluster of our own, deleted at the end."""

    name = "kind"
    namespace = "default"
    disposable = True

    def __init__(self, workdir: Path) -> None:
        if missing := missing_parts():
            raise ClusterError(f"kind needs {' and '.join(missing)}; install it or use --cluster embedded")
        workdir.mkdir(parents=True, exist_ok=True)
        self._kind_name = f"praetor-{token_hex(3)}"
        kubeconfig = workdir / "admin.kubeconfig"
        try:
            self._kind("create", "cluster", f"--kubeconfig={kubeconfig}", "--wait=500s", timeout_s=CREATE_S)
            super().__init__(workdir, kubeconfig=kubeconfig)
        except BaseException:
            self._delete(kubeconfig)
            raise

    def stop(self) -> None:
        """Delete the cluster."""
        super().stop()
        self._delete(self.kubeconfig)

    def _delete(self, kubeconfig: Path) -> None:
        self._kind("delete", "cluster", f"--kubeconfig={kubeconfig}", timeout_s=CREATE_S)

    def _kind(self, *words: str, timeout_s: float) -> None:
        output_of(["kind", *words, f"--name={self._kind_name}"], timeout_s=timeout_s)

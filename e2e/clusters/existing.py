# SPDX-License-Identifier: Apache-2.0
"""A cluster that runs already; everything that we make is inside one namespace of our own."""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path
from secrets import token_hex

from e2e.clusters.cluster import Capability
from e2e.clusters.errors import ClusterError
from e2e.clusters.remote import RemoteCluster

OWNER = {"app.kubernetes.io/managed-by": "praetor-e2e"}


def current_kubeconfig(given: Path | None) -> Path:
    """Return *given*, else the first file that KUBECONFIG names, else kubectl's default."""
    if given is not None:
        path = given
    elif named := os.environ.get("KUBECONFIG"):
        path = Path(named.split(os.pathsep)[0])
    else:
        path = Path.home() / ".kube" / "config"
    if not path.is_file():
        raise ClusterError(f"there is no kubeconfig {path}; give --kubeconfig or set KUBECONFIG")
    return path


class Existing(RemoteCluster):
    """The current context of a kubeconfig; a fresh namespace is made, used and removed again."""

    name = "existing"
    disposable = False

    def __init__(self, workdir: Path, *, kubeconfig: Path | None = None) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        super().__init__(workdir, kubeconfig=current_kubeconfig(kubeconfig))
        self.namespace = f"praetor-e2e-{token_hex(4)}"
        self._create_namespace()

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What follows from the version; the programs run here."""
        return super().capabilities | {Capability.PROGRAMS}

    def stop(self) -> None:
        """Remove the namespace; anything that does not carry our label stays."""
        path = f"/api/v1/namespaces/{self.namespace}"
        found = self._api.get(path)
        labels = found.body["metadata"].get("labels", {}) if found.status == HTTPStatus.OK else {}
        if OWNER.items() <= labels.items():
            self._api.delete(path, {"preconditions": {"uid": found.body["metadata"]["uid"]}})
        super().stop()

    def _create_namespace(self) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": OWNER}}
        answer = self._api.post("/api/v1/namespaces", body)
        if answer.status != HTTPStatus.CREATED:
            super().stop()
            raise ClusterError(f"cannot create a namespace on {self.url}: {answer.status} {answer.message}")

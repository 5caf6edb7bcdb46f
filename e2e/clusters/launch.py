# SPDX-License-Identifier: Apache-2.0
"""Starting a cluster by its name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import assert_never

from e2e.clusters.cluster import Cluster
from e2e.clusters.embedded import Embedded
from e2e.clusters.envtest import Envtest
from e2e.clusters.existing import Existing
from e2e.clusters.kind import Kind
from e2e.clusters.node import Node


class ClusterName(StrEnum):
    """The clusters that the suite can run on."""

    EMBEDDED = "embedded"
    ENVTEST = "envtest"
    KIND = "kind"
    NODE = "node"
    EXISTING = "existing"


def launch(name: str, workdir: Path, *, assets: Path | None = None, kubeconfig: Path | None = None) -> Cluster:
    """Return the running cluster *name*; its files go to *workdir*.

    *assets* is for envtest, *kubeconfig* for an existing cluster. Raises ClusterError, having left nothing running.
    """
    match ClusterName(name):
        case ClusterName.EMBEDDED:
            return Embedded(workdir)
        case ClusterName.ENVTEST:
            return Envtest(workdir, assets=assets)
        case ClusterName.KIND:
            return Kind(workdir)
        case ClusterName.NODE:
            return Node(workdir)
        case ClusterName.EXISTING:
            return Existing(workdir, kubeconfig=kubeconfig)
        case unknown:
            assert_never(unknown)

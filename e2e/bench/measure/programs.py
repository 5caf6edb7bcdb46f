"""The programs that a benchmark needs, and no others: what does not run does not disturb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from e2e.clusters.api.rawapi import RawApi
from e2e.clusters.cluster import COMPONENTS, Capability
from e2e.release.manifests import install_rbac_for_users
from e2e.stack.kube import Kube, install_definitions
from e2e.stack.server import Server
from e2e.stack.stack import Stack


@contextmanager
def running(stack: Stack, *servers: Server) -> Iterator[Stack]:
    """Prepare the cluster and run *servers*, those of *stack*, around the block."""
    try:
        with RawApi.from_kubeconfig(stack.cluster.kubeconfig) as api:
            Kube(api, stack.settings.system_namespace).create_namespace()
            install_definitions(api)
            if Capability.RBAC in stack.cluster.capabilities:
                install_rbac_for_users(api, COMPONENTS, stack.settings.system_namespace)
        for server in servers:
            server.start()
        yield stack
    finally:
        stack.stop()

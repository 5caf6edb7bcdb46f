# SPDX-License-Identifier: Apache-2.0
"""The control plane that tests run on: `--cluster embedded|envtest|kind|node|existing`, started once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.rawapi import RawApi

from e2e.clusters.cluster import TENANT, Capability, Cluster
from e2e.clusters.errors import ClusterError
from e2e.clusters.launch import ClusterName, launch
from e2e.pods.fixtures import bare_system, images, node, progress  # noqa: F401  # for all folders, once


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose and find a control plane."""
    group = parser.getgroup("cluster", "the control plane that tests run on")
    group.addoption(
        "--cluster",
        choices=[name.value for name in ClusterName],
        default=ClusterName.EMBEDDED.value,
        help="default: %(default)s",
    )
    group.addoption("--assets", type=Path, help="envtest: folder of etcd and kube-apiserver, else KUBEBUILDER_ASSETS")
    group.addoption("--lab", action="store_true", help="fail where a device cannot be booted, instead of skipping")
    sizes = "default: 300, or 100 on the embedded control plane, which shows the same sooner"
    group.addoption("--devices", type=int, help=f"size of a large simulated fleet, {sizes}")
    group.addoption("--kills", type=int, default=50, help="how often a controller is killed, default: %(default)s")
    group.addoption(
        "--agent-kills", type=int, default=6, help="how often the agent of a device is killed, default: %(default)s"
    )
    group.addoption("--power-cuts", type=int, default=1, help="how often a device loses power, default: %(default)s")
    group.addoption("--kubeconfig", type=Path, help="existing: its kubeconfig, else the current one")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that names what a test needs of the cluster."""
    config.addinivalue_line("markers", "needs(capability): runs only on clusters that have the capability")


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The control plane that `--cluster` names."""
    name, assets, kubeconfig = (pytestconfig.getoption(option) for option in ("cluster", "assets", "kubeconfig"))
    try:
        started = launch(name, tmp_path_factory.mktemp(name), assets=assets, kubeconfig=kubeconfig)
    except ClusterError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    with started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def _module_needs(request: pytest.FixtureRequest) -> None:
    """Skip a module before its own fixtures, which may need what the cluster lacks."""
    _skip_without_capabilities(request)


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    _skip_without_capabilities(request)


def _skip_without_capabilities(request: pytest.FixtureRequest) -> None:
    """Skip what is requested for if its cluster lacks what the `needs` marks name."""
    for mark in request.node.iter_markers("needs"):
        capability = Capability(mark.args[0])
        if capability not in request.getfixturevalue("cluster").capabilities:
            pytest.skip(f"this cluster has no {capability}")


@pytest.fixture(scope="session")
def unprivileged_user() -> str:
    """A user of the cluster that may do only what it is granted."""
    return TENANT


@pytest.fixture(scope="session")
def api(cluster: Cluster) -> Iterator[RawApi]:
    """Raw HTTP as the administrator."""
    with RawApi.from_kubeconfig(cluster.kubeconfig) as client:
        yield client

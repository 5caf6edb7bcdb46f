# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of Pods: the images, the installation and the devices, made once for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from contract.rawapi import RawApi

from e2e.clusters.api.kubectl import output_of
from e2e.clusters.cluster import Cluster
from e2e.clusters.errors import ClusterError
from e2e.clusters.node import Node
from e2e.pods.devices import Devices
from e2e.pods.newer import newer_image
from e2e.pods.system import PROGRAMS, System
from e2e.release.build import PACKAGES, ROOT, build_all
from e2e.release.images import BASE_OF_FOLDER, COMPONENTS, Engine, Image, build_images

BASE_VARIABLE = "PRAETOR_LAB_ROOTFS"
TIMEOUT_S = 3600  # the first test builds the images; on two cores all of them together take five minutes
HERE = Path(__file__).parent

SYSTEM = pytest.StashKey[System]()

Progress = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as one that needs a cluster, and give it time."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what the Pods are about and what they logged."""
    report = yield
    system = item.config.stash.get(SYSTEM, None)
    if report.failed and system is not None and HERE in item.path.parents:
        with suppress(ClusterError):
            report.sections.append(("Pods", system.logs()))
    return report


@pytest.fixture(scope="session")
def progress(pytestconfig: pytest.Config) -> Progress:
    """Print a line at once: the steps before the first test take minutes."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line, flush=True)

    return write


@pytest.fixture(scope="session")
def node(progress: Progress, request: pytest.FixtureRequest) -> Node:
    """The cluster, if it runs Pods."""
    progress("starting the cluster")
    cluster: Cluster = request.getfixturevalue("cluster")
    if not isinstance(cluster, Node):
        pytest.skip("Pods need --cluster node")
    return cluster


@pytest.fixture(scope="session")
def images(node: Node, progress: Progress) -> Iterator[dict[str, Image]]:
    """The images by component, built from wheels of these sources; the node has them, and those of a newer version.

    They are removed from this machine at the end.
    """
    progress("building the wheels")
    build_all(PACKAGES, ROOT / "dist")
    base = os.environ.get(BASE_VARIABLE)
    built = build_images(COMPONENTS, engine=Engine.BUILDAH, base=base, progress=progress)
    later = [newer_image(image) for image in built if image.component in PROGRAMS]
    made = [image.name for image in (*built, *later)]
    progress("loading the images on the node")
    node.load(made)
    yield {image.component: image for image in built}
    for name in (*made, BASE_OF_FOLDER):
        with suppress(ClusterError):
            output_of(["buildah", "rmi", "--force", name])


@pytest.fixture(scope="session")
def system(
    node: Node, api: RawApi, images: dict[str, Image], progress: Progress, pytestconfig: pytest.Config
) -> System:
    """Controller and gateways, all of them available."""
    system = System(node, api)
    pytestconfig.stash[SYSTEM] = system
    system.install(progress)
    return system


@pytest.fixture(scope="session")
def devices(
    system: System, images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory, progress: Progress
) -> Iterator[Devices]:
    """Three connected devices that run the sample."""
    progress("starting the devices")
    with Devices(system, images["agent"], tmp_path_factory.mktemp("devices")) as devices:
        devices.await_available()
        yield devices

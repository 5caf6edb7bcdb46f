# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of Pods: the images, the installation and the devices, made once for all of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.clusters.errors import ClusterError
from e2e.clusters.remote import PodCluster
from e2e.pods.devices import Devices
from e2e.pods.fixtures import SYSTEM, Progress, base_image, remove
from e2e.pods.older import older_version
from e2e.pods.system import CURRENT, VALUES, System, Version
from e2e.release.images import Engine, Image
from e2e.skew.releases import NoHistory

TIMEOUT_S = 3600  # the first test builds the images; on two cores all of them together take five minutes
HERE = Path(__file__).parent


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
def system(bare_system: System, progress: Progress) -> System:
    """Controller and gateways of these sources, all of them available."""
    progress("installing the chart")
    bare_system.install(CURRENT)
    return bare_system


@pytest.fixture(scope="session")
def older(
    node: PodCluster, bare_system: System, tmp_path_factory: pytest.TempPathFactory, progress: Progress
) -> Iterator[Version]:
    """An older version, which is installed before any device connects.

    Where the checkout does not hold it, it is these sources with other annotations of Pods.
    """
    made: tuple[str, ...] = ()
    try:
        version, images = older_version(
            tmp_path_factory.mktemp("older"), engine=Engine.BUILDAH, base=base_image(), progress=progress
        )
        made = tuple(image.name for image in images)
        node.load(made)
    except NoHistory as error:
        progress(f"the upgrade is from the same sources: {error}")
        version = Version(values={**VALUES, "controller": {"podAnnotations": {"older": "yes"}}})
    progress("installing the older version")
    bare_system.install(version)
    yield version
    remove(made)


@pytest.fixture(scope="package")
def devices(
    bare_system: System, images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory, progress: Progress
) -> Iterator[Devices]:
    """Three connected devices that run the sample, by whichever version is installed."""
    if bare_system.version is None:
        bare_system.install(CURRENT)
    progress("starting the devices")
    with Devices(bare_system, images["agent"], tmp_path_factory.mktemp("devices")) as devices:
        devices.await_available()
        yield devices

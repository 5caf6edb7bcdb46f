# SPDX-License-Identifier: Apache-2.0
"""What every test with Pods has: a cluster that runs them, and the images, built once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from contract.rawapi import RawApi

from e2e.clusters.api.kubectl import output_of
from e2e.clusters.cluster import Cluster
from e2e.clusters.errors import ClusterError
from e2e.clusters.remote import PodCluster
from e2e.pods.newer import newer_image
from e2e.pods.system import PROGRAMS, System
from e2e.release.build import PACKAGES, ROOT, build_all
from e2e.release.images import BASE_OF_FOLDER, COMPONENTS, Engine, Image, build_images

BASE_VARIABLE = "PRAETOR_LAB_ROOTFS"
SYSTEM = pytest.StashKey[System]()

Progress = Callable[[str], None]


@pytest.fixture(scope="session")
def progress(pytestconfig: pytest.Config) -> Progress:
    """Print a line at once: the steps before the first test take minutes."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line, flush=True)

    return write


@pytest.fixture(scope="session")
def node(progress: Progress, request: pytest.FixtureRequest) -> PodCluster:
    """The cluster, if it runs Pods."""
    progress("starting the cluster")
    cluster: Cluster = request.getfixturevalue("cluster")
    if not isinstance(cluster, PodCluster):
        pytest.skip("Pods need --cluster node or kind")
    return cluster


@pytest.fixture(scope="session")
def images(node: PodCluster, progress: Progress) -> Iterator[dict[str, Image]]:
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
    remove((*made, BASE_OF_FOLDER))


@pytest.fixture(scope="session")
def bare_system(node: PodCluster, api: RawApi, images: dict[str, Image], pytestconfig: pytest.Config) -> System:
    """Controller and gateways, of which a version is yet to be installed."""
    system = System(node, api)
    pytestconfig.stash[SYSTEM] = system
    return system


def remove(names: Iterable[str]) -> None:
    """Remove images from this machine."""
    for name in names:
        with suppress(ClusterError):
            output_of(["buildah", "rmi", "--force", name])


def base_image() -> str | None:
    """Return what older images are built on: where `images` made a base out of a folder, that."""
    base = os.environ.get(BASE_VARIABLE)
    return BASE_OF_FOLDER if base is not None and Path(base).is_dir() else base

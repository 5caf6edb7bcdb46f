# SPDX-License-Identifier: Apache-2.0
"""Which images an archive holds, and which the chart and the manifests name."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import yaml

_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_PROGRAMS = ("controller", "gateway")


def images_in(file: IO[bytes]) -> frozenset[str]:
    """Return the full names of the images in a docker-archive or an oci-archive; none if *file* is neither."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            return frozenset(_names(archive))
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError):
        return frozenset()


def images_of_manifests(text: bytes) -> frozenset[str]:
    """Return the images that the Deployments of install.yaml run; ValueError if it is no YAML."""
    return frozenset(image for item in _documents(text) for image in _containers_images(item))


def images_of_chart(file: IO[bytes]) -> frozenset[str]:
    """Return the images that the chart's own values name; ValueError if *file* is no chart of ours."""
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as chart:
            member = chart.extractfile("praetor/values.yaml")
            (values,) = _documents(member.read() if member is not None else b"")
        registry = values["image"]["registry"]
        return frozenset(f"{registry}/praetor-{program}:{values[program]['tag']}" for program in _PROGRAMS)
    except (tarfile.TarError, EOFError, OSError, KeyError, TypeError) as e:
        raise ValueError("it is no chart of Praetor") from e


def _names(archive: tarfile.TarFile) -> Iterator[str]:
    present = set(archive.getnames())
    if "manifest.json" in present:
        for image in _json(archive, "manifest.json"):
            yield from image.get("RepoTags") or ()
    if "index.json" in present:
        for image in _json(archive, "index.json")["manifests"]:
            annotations = image.get("annotations") or {}
            yield from (annotations[name] for name in _NAMES if name in annotations)


def _json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    return json.load(file) if file is not None else []


def _documents(text: bytes) -> list[Any]:
    try:
        return [item for item in yaml.safe_load_all(text) if item]
    except yaml.YAMLError as e:
        raise ValueError("it is not YAML") from e


def _containers_images(item: Mapping[str, Any]) -> Iterator[str]:
    if item.get("kind") == "Deployment":
        yield from (container["image"] for container in item["spec"]["template"]["spec"]["containers"])

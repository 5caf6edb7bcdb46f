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
_TAG = (str, int, float)
_MAX_VALUES = 1 << 20
"""Bytes of the chart's values: a small chart may unpack to more than the memory holds."""


def images_in(file: IO[bytes]) -> frozenset[str]:
    """Return the full names of the images in a docker-archive or an oci-archive; none if *file* is neither."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            return frozenset(_names(archive))
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return frozenset()


def images_of_manifests(text: bytes) -> frozenset[str]:
    """Return the images that the Deployments of install.yaml run; ValueError if it is no YAML."""
    return frozenset(image for item in _documents(text) for image in _containers_images(item))


def images_of_chart(file: IO[bytes]) -> frozenset[str]:
    """Return the images that the chart's own values name; ValueError if *file* is no chart of ours."""
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as chart:
            member = chart.extractfile("praetor/values.yaml")
            text = member.read(_MAX_VALUES + 1) if member is not None else b""
        if len(text) > _MAX_VALUES:
            raise ValueError(f"its values have more than {_MAX_VALUES >> 20} MiB")
        (values,) = _documents(text)
        registry = values["image"]["registry"]
        if not isinstance(registry, str) or not all(isinstance(values[each]["tag"], _TAG) for each in _PROGRAMS):
            raise TypeError("it is no text")
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


class _Loader(yaml.SafeLoader):
    """Refuses merge keys: merges of merges multiply, and no release has one."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise ValueError("it has merge keys")
        super().flatten_mapping(node)


def _documents(text: bytes) -> list[Any]:
    try:
        return [item for item in yaml.load_all(text, Loader=_Loader) if item]
    except yaml.YAMLError as e:
        raise ValueError("it is not YAML") from e


def _containers_images(item: Mapping[str, Any]) -> Iterator[str]:
    if item.get("kind") == "Deployment":
        yield from (container["image"] for container in item["spec"]["template"]["spec"]["containers"])

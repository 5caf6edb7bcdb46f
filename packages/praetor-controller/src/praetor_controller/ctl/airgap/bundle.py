# SPDX-License-Identifier: Apache-2.0
"""What one archive has for a network without an internet, and what is wrong with one that lacks a part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from fnmatch import filter as filter_names
from fnmatch import fnmatch
from typing import IO

from attrs import frozen

from praetor_controller.ctl.airgap.images import images_in, images_of_chart, images_of_manifests
from praetor_controller.ctl.airgap.wheels import Pinned, missing, pinned

CHECKSUMS = "SHA256SUMS"
INSTALL = "install.yaml"
PLACES = (
    ("praetor_*.whl", "wheels/"),
    ("praetor_*.txt", "requirements/"),
    ("praetor_*.cdx.json", "sbom/"),
    ("praetor-*.tgz", "chart/"),
    (INSTALL, ""),
    ("praetor-agent.pyz", ""),
    ("praetor-gateway.service", ""),
    ("airgap.md", "README.md"),
)
"""Where the files of a release go; a place that ends in no slash is a new name."""
OURS = {
    "api": (),
    "controller": ("README.md", "chart/praetor-*.tgz", INSTALL),
    "gateway": ("praetor-gateway.service",),
    "agent": ("praetor-agent.pyz",),
}
"""The releases, by program, and what each has beside its wheel, requirements and SBOM."""
CHUNK = 1 << 20


@frozen
class Part:
    """A file of the archive: how to open it, and its SHA-256."""

    open: Callable[[], IO[bytes]]
    digest: str

    def read(self) -> bytes:
        with self.open() as file:
            return file.read()


Parts = Mapping[str, Part]
"""By the name in the archive."""


def place_of(name: str) -> str | None:
    """Return the name in the archive of a release's file; None for what is left out, such as an sdist."""
    place = next((place for pattern, place in PLACES if fnmatch(name, pattern)), None)
    return place + name if place is not None and (place.endswith("/") or not place) else place


def digest_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of what is left of *file*, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def checksums(text: str) -> dict[str, str]:
    """Return the digests in the text of a SHA256SUMS, by file name; ValueError if it is none."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    if any(len(words) != 2 or len(words[0]) != 64 for words in lines):
        raise ValueError("it is not what sha256sum writes")
    return {name.removeprefix("*"): digest for digest, name in lines}


def below(parts: Parts, folder: str, suffix: str = "") -> dict[str, Part]:
    """Return the parts in *folder* that end in *suffix*."""
    return {name: part for name, part in parts.items() if name.startswith(f"{folder}/") and name.endswith(suffix)}


def requirements_of(parts: Parts) -> dict[str, list[Pinned]]:
    """Return what each file of requirements pins."""
    return {name: list(pinned(part.read().decode())) for name, part in below(parts, "requirements", ".txt").items()}


def named_images(parts: Parts) -> frozenset[str]:
    """Return the images that an installation runs: those of the chart and of install.yaml, and the agent's beside them.

    ValueError names a part that cannot be read.
    """
    found: frozenset[str] = frozenset()
    for name, part in below(parts, "chart").items():
        try:
            with part.open() as file:
                found |= images_of_chart(file)
        except ValueError as e:
            raise ValueError(f"{name}: {e}") from e
    if INSTALL in parts:
        try:
            found |= images_of_manifests(parts[INSTALL].read())
        except ValueError as e:
            raise ValueError(f"{INSTALL}: {e}") from e
    registries = {image.rpartition("/")[0] for image in found}
    versions = {name.split("-")[1] for name in below(parts, "wheels") if name.startswith("wheels/praetor_agent-")}
    return found | {f"{registry}/praetor-agent:{version}" for registry in registries for version in versions}


def held_images(parts: Parts) -> dict[str, frozenset[str]]:
    """Return the images in each archive of images."""
    found = {}
    for name, part in below(parts, "images").items():
        with part.open() as file:
            found[name] = images_in(file)
    return found


def faults(parts: Parts) -> Iterator[str]:
    """Yield what *parts* lack to install everything without an internet; nothing if they are complete."""
    for program, files in OURS.items():
        stem = f"praetor_{program}-*"
        if (number := len(filter_names(parts, f"wheels/{stem}"))) != 1:
            yield f"praetor-{program}: {number} releases instead of 1; put the folder of one release there"
            continue
        for pattern in (f"requirements/{stem}.txt", f"sbom/{stem}.cdx.json", *files):
            if (number := len(filter_names(parts, pattern))) != 1:
                yield f"praetor-{program}: {number} files {pattern} instead of 1; download its release again"
    digests = [part.digest for part in below(parts, "wheels").values()]
    for name, wanted in requirements_of(parts).items():
        if lacking := missing(wanted, digests):
            file = name.removeprefix("requirements/")
            yield f"wheels of {file}: no file of {', '.join(lacking)}; get them with pip download"
    try:
        named = named_images(parts)
    except ValueError as e:
        yield str(e)
        return
    held = frozenset[str]().union(*held_images(parts).values())
    yield from (f"image {image} is missing; save it with skopeo, podman or docker" for image in sorted(named - held))

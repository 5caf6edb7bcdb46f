# SPDX-License-Identifier: Apache-2.0
"""What an operator upgrades from: the chart and the images of an older state of the sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from e2e.pods.system import PROGRAMS, VALUES, Version
from e2e.release.images import Engine, Image, build_image
from e2e.skew.releases import build, export, previous_ref

FIRST_WITH_CHART = "3ad6b96fd7b382af742456780e12a981b37a2f59"  # until there is a release
TAG = "0.0.1"  # lower than any release, whose versions these sources may name, too


def older_version(
    folder: Path, *, engine: Engine, base: str | None, progress: Callable[[str], None]
) -> tuple[Version, tuple[Image, ...]]:
    """Return the newest release, or the first state that had a chart, and its images, built in *folder* and on *base*.

    Raises NoHistory where the checkout does not hold it.
    """
    ref = previous_ref(unreleased=FIRST_WITH_CHART)
    sources = export(ref, folder / "older")
    progress(f"building the wheels of {ref}")
    build(sources, sources / "dist")
    images = tuple(Image(component=program, version=TAG) for program in PROGRAMS)
    for image in images:
        progress(f"building {image.name}")
        build_image(engine, image, base=base, root=sources)
    tags = {program: {**VALUES.get(program, {}), "tag": TAG} for program in PROGRAMS}
    return Version(chart=sources / "deploy" / "chart", values=tags), images

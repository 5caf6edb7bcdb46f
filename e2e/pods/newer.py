# SPDX-License-Identifier: Apache-2.0
"""A newer release out of the built files of this one, from which it differs by its version alone."""

from __future__ import annotations

import re
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

from attrs import evolve

from e2e.clusters.api.kubectl import output_of
from e2e.release.images import Image
from e2e.release.zipapp import SHEBANG

ABOUT = "praetor_{}/__about__.py"
IN_CHART = ("Chart.yaml", "values.yaml")
NAMED = re.compile(r'^(__version__ = "| *(?:tag|version|appVersion): )([0-9.]+)', re.MULTILINE)
COMMIT_S = 600


def newer(version: str) -> str:
    """Return the next version after *version*: another patch."""
    return re.sub(r"\d+$", lambda found: str(int(found[0]) + 1), version)


def newer_image(image: Image) -> Image:
    """Make the image of the next version, beside *image* in the local storage."""
    result = evolve(image, version=newer(image.version))
    container = output_of(["buildah", "from", "--pull-never", image.name]).strip()
    try:
        root = Path(output_of(["buildah", "mount", container]).strip())
        [about] = root.glob(f"opt/praetor/lib/python3*/site-packages/{ABOUT.format(image.component)}")
        about.write_text(_renewed(about.read_text(encoding="utf-8")), encoding="utf-8")
        output_of(["buildah", "commit", "--quiet", container, result.name], timeout_s=COMMIT_S)
    finally:
        output_of(["buildah", "rm", container])
    return result


def newer_chart(chart: Path, folder: Path) -> Path:
    """Write the next version of *chart*, an archive, whose images are newer, too, into *folder*."""
    target = folder / f"{newer(chart.stem)}.tgz"
    with tarfile.open(chart) as old, tarfile.open(target, "w:gz") as new:
        for member in old:
            file = old.extractfile(member)
            if file is None:
                continue
            data = file.read()
            if Path(member.name).name in IN_CHART:
                data = _renewed(data.decode()).encode()
            member.size = len(data)
            new.addfile(member, BytesIO(data))
    return target


def newer_zipapp(agent: Path, folder: Path) -> Path:
    """Write the next version of the single-file *agent* into *folder*."""
    target = folder / agent.name
    with zipfile.ZipFile(agent) as old, target.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                data = old.read(entry)
                if entry.filename == ABOUT.format("agent"):
                    data = _renewed(data.decode()).encode()
                new.writestr(entry, data)
    return target


def _renewed(text: str) -> str:
    """Return *text* with the next version wherever it names the present one."""
    renewed, count = NAMED.subn(lambda found: found[1] + newer(found[2]), text)
    if not count:
        raise ValueError(f"no version is named in: {text}")
    return renewed

# SPDX-License-Identifier: Apache-2.0
"""From a folder of releases, wheels and images to the parts of an archive; nothing unverified gets in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from praetor_controller.ctl.airgap.bundle import (
    CHECKSUMS,
    Part,
    Parts,
    checksums,
    digest_of,
    named_images,
    place_of,
    requirements_of,
)
from praetor_controller.ctl.airgap.images import images_in
from praetor_controller.ctl.errors import BadInput

OPTION = "--from"


def collect(folder: Path) -> dict[str, Part]:
    """Return the parts below *folder*; BadInput names a file that is not what its release says, or that none pins."""
    try:
        return dict(_collect(folder))
    except OSError as e:
        raise BadInput(f"{OPTION}: cannot read {e.filename}: {e.strerror}; name a folder of releases") from e


def _collect(folder: Path) -> dict[str, Part]:
    lists = sorted(folder.rglob(CHECKSUMS))
    if not lists:
        raise BadInput(
            f"{OPTION}: {folder} has no {CHECKSUMS}; download the release of each wheel into a folder of its own there"
        )
    listed = {path: digest for each in lists for path, digest in _listed(each)}
    parts: dict[str, Part] = {}
    for path, digest in listed.items():
        if place := place_of(path.name):
            if place in parts and parts[place].digest != digest:
                raise BadInput(f"{OPTION}: two releases have different files {path.name}; leave one of them")
            parts[place] = _part(path, digest)
    for path in sorted(folder.rglob("*")):
        if path not in listed and path.is_file():
            parts |= _unlisted(path, parts)
    return parts


def _listed(sums: Path) -> Iterator[tuple[Path, str]]:
    try:
        digests = checksums(sums.read_text(encoding="utf-8"))
    except ValueError as e:
        raise BadInput(f"{OPTION}: {sums}: {e}; download it again") from e
    for name, digest in digests.items():
        path = sums.parent / name
        if path.parent != sums.parent or not path.is_file():
            raise BadInput(f"{OPTION}: {sums} lists {name}, which is not beside it; download it")
        if _digest(path) != digest:
            raise BadInput(f"{OPTION}: {path} is not what {CHECKSUMS} says; download it again")
        yield path, digest


def _unlisted(path: Path, parts: Parts) -> dict[str, Part]:
    """Return a part that no release lists: a wheel that requirements pin, or an archive of images that are named."""
    if path.suffix == ".whl":
        digest = _digest(path)
        if any(digest in each.digests for pins in requirements_of(parts).values() for each in pins):
            return {f"wheels/{path.name}": _part(path, digest)}
        raise BadInput(
            f"{OPTION}: {path} has a digest that no release pins; remove it, and download it as the page says"
        )
    if path.suffix == ".tar":
        try:
            named = named_images(parts)
        except ValueError as e:
            raise BadInput(f"{OPTION}: {e}; download it again") from e
        with path.open("rb") as file:
            if images_in(file) & named:
                return {f"images/{path.name}": _part(path, _digest(path))}
        raise BadInput(f"{OPTION}: {path} holds none of {', '.join(sorted(named))}; remove it, or save these there")
    return {}


def _part(path: Path, digest: str) -> Part:
    return Part(lambda: path.open("rb"), digest)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return digest_of(file)

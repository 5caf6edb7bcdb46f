# SPDX-License-Identifier: Apache-2.0
"""What a wheel must be before it is released: complete metadata, and at work alone in an empty environment."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoints, PathDistribution
from pathlib import Path

from attrs import frozen
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from e2e.release.version import Release, ReleaseError

LICENCE = "Apache-2.0"
OLDEST = {"praetor-api": "3.9", "praetor-agent": "3.9"}
"""The oldest Python of the wheels that reach devices; NEWER is that of the others."""
NEWER = "3.11"
IN_SDIST = ("CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml")
INSTALL_S = 1800  # packages are downloaded
RUN_S = 300
IMPORT_ALL = (
    "import importlib, pkgutil, sys; top = importlib.import_module(sys.argv[1]); "
    "[importlib.import_module(f'{top.__name__}.{m.name}') for m in pkgutil.iter_modules(top.__path__)"
    " if not m.ispkg and m.name != '__main__']"
)


@frozen(kw_only=True)
class Installed:
    """An environment with one wheel, its commands, and what it needs; *hashes* are of the files of all packages."""

    python: Path
    commands: tuple[str, ...]
    hashes: Mapping[str, str]


def metadata_faults(release: Release, wheel: Path, sdist: Path, licence: bytes) -> Iterator[str]:
    """Yield what is wrong with the metadata of the built files; *licence* is the text that they must carry."""
    name, version, _, tags = parse_wheel_filename(wheel.name)
    if (name, str(version), {str(tag) for tag in tags}) != (release.wheel, release.version, {"py3-none-any"}):
        yield f"{wheel.name} is not called {release.stem}-py3-none-any.whl"
    info = f"{release.stem}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = _metadata(archive.read(f"{info}/METADATA"))
        if archive.read(f"{info}/licenses/LICENSE") != licence:
            yield "its LICENSE is not the repository's"
        yield from _record_faults(archive, f"{info}/RECORD")
    for top in sorted({file.split("/")[0] for file in names} - {release.wheel.replace("-", "_"), info}):
        yield f"the wheel has {top} beside the package"
    if (metadata.name, str(metadata.version)) != (release.wheel, release.version):
        yield f"its metadata names {metadata.name} {metadata.version}"
    if metadata.license_expression != LICENCE or metadata.license_files != ["LICENSE"]:
        yield f"its metadata has the licence {metadata.license_expression}, not {LICENCE} with LICENSE"
    if not (metadata.description or "").strip() or metadata.description_content_type != "text/markdown":
        yield "its metadata has no README in Markdown"
    if str(metadata.requires_python) != f">={OLDEST.get(release.wheel, NEWER)}":
        yield f"its metadata asks for Python {metadata.requires_python}"
    for requirement in metadata.requires_dist or ():
        if requirement.url:
            yield f"it asks for {requirement.name} by URL; name a range of versions"
        if is_ours(requirement) and not any(each.operator in ("<", "~=") for each in requirement.specifier):
            yield f"it asks for {requirement} without an upper bound; write {requirement.name}>=1.2,<1.3"
    with tarfile.open(sdist) as source:
        lost = set(IN_SDIST) - {member.name.removeprefix(f"{release.stem}/") for member in source.getmembers()}
        packed = source.extractfile(f"{release.stem}/PKG-INFO")
        if packed is None or _metadata(packed.read()).version != metadata.version:
            yield "the sdist names another version"
    yield from (f"the sdist lacks {file}" for file in sorted(lost))


def needs_of(wheel: Path) -> tuple[str, ...]:
    """Return the names of the project's wheels that *wheel* asks for."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        requirements = _metadata(archive.read(member)).requires_dist or ()
    return tuple(sorted({canonicalize_name(each.name) for each in requirements if is_ours(each)}))


def is_ours(requirement: Requirement) -> bool:
    """Return whether *requirement* names a wheel of this project."""
    return canonicalize_name(requirement.name).startswith("praetor-")


def install_alone(release: Release, requirements: Path, wheels: Path, folder: Path) -> Installed:
    """Install what *requirements* pins, our files from the folder *wheels*, into an empty environment below *folder*.

    Then check that it is consistent, that every module can be imported and that every command answers --help.
    """
    environment, report = folder / "environment", folder / "report.json"
    venv.create(environment)  # pip is not in it, so that it holds nothing else
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    _run(
        *pip, "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--require-hashes",
        "--only-binary=:all:", f"--report={report}", f"--find-links={wheels}", f"--requirement={requirements}",
        timeout_s=INSTALL_S,
    )  # fmt: skip
    _run(*pip, "check")
    _run(str(python), "-I", "-c", IMPORT_ALL, release.wheel.replace("-", "_"))
    commands = _commands_of(environment, release)
    for command in commands:
        _run(str(environment / "bin" / command), "--help")
    return Installed(
        python=python,
        commands=commands,
        hashes={
            canonicalize_name(each["metadata"]["name"]): each["download_info"]["archive_info"]["hashes"]["sha256"]
            for each in json.loads(report.read_text(encoding="utf-8"))["install"]
        },
    )


def _commands_of(environment: Path, release: Release) -> tuple[str, ...]:
    (info,) = environment.glob(f"lib/python*/site-packages/{release.stem}.dist-info")
    entries: EntryPoints = PathDistribution(info).entry_points
    return tuple(entry.name for entry in entries.select(group="console_scripts"))


def _metadata(text: bytes) -> Metadata:
    try:
        return Metadata.from_email(text, validate=True)
    except ExceptionGroup as group:
        raise ReleaseError(f"its metadata is not valid: {'; '.join(map(str, group.exceptions))}") from None


def _record_faults(archive: zipfile.ZipFile, record: str) -> Iterator[str]:
    listed = {row[0]: row[1] for row in csv.reader(archive.read(record).decode().splitlines())}
    for name in archive.namelist():
        digest = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
        if name != record and listed.get(name) != f"sha256={digest}":
            yield f"its RECORD has another digest of {name}"


def _run(*argv: str, timeout_s: float = RUN_S) -> None:
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(argv)} ended with status {done.returncode}:\n{done.stdout.rstrip()}")

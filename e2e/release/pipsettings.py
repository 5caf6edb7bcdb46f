# SPDX-License-Identifier: Apache-2.0
"""Where this machine's pip finds packages, in a form for the build of an image.

It reaches the build as a secret and is in no layer: the address of an index belongs to the machine that builds.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import frozen

CA_INSIDE = "/run/secrets/ca.pem"
PASSED_ON = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "timeout", "retries")
SECTIONS = ("global", "install")


@frozen(kw_only=True)
class PipSettings:
    """*config* is a pip.conf for inside of the build; *folders* are what it needs of this machine's files."""

    config: str
    ca: Path | None
    folders: tuple[Path, ...]


def config_files(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Return the files that pip reads, in its order: a later one wins."""
    own = environ.get("PIP_CONFIG_FILE")
    machine_and_user = (Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf")
    return machine_and_user if own is None else (*machine_and_user, Path(own))


def read_settings(files: Iterable[Path], environ: Mapping[str, str]) -> PipSettings:
    """Return the settings of *files* and of the PIP_* variables of *environ*, which win."""
    found: dict[str, str] = {}
    for file in files:
        found |= _of_file(file)
    found |= {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("PIP_")
    }
    found["timeout"] = found.get("timeout") or found.get("default-timeout", "")
    ca = Path(found["cert"]) if found.get("cert") else None
    lines = {name: found[name] for name in PASSED_ON if found.get(name)}
    if ca is not None:
        lines["cert"] = CA_INSIDE
    text = "".join(f"{name} = {_one_line(value)}\n" for name, value in lines.items())
    return PipSettings(config=f"[global]\n{text}", ca=ca, folders=_folders(lines))


def settings_here() -> PipSettings:
    """Return the settings of the pip of this user on this machine."""
    return read_settings(config_files(os.environ, Path.home()), os.environ)


def _of_file(file: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.read(file, encoding="utf-8")  # a missing file is an empty one
    return {
        name.replace("_", "-"): value
        for section in SECTIONS
        if parser.has_section(section)
        for name, value in parser.items(section)
    }


def _one_line(value: str) -> str:
    return " ".join(value.split())


def _folders(lines: Mapping[str, str]) -> tuple[Path, ...]:
    words = " ".join(lines.get(name, "") for name in ("index-url", "extra-index-url", "find-links")).split()
    paths = (Path(word.removeprefix("file://")) for word in words if word.startswith(("/", "file:///")))
    tops = (path.parent if path.name == "simple" else path for path in paths)  # an index links to its files beside it
    return tuple(sorted({path for path in tops if path.is_dir()}))

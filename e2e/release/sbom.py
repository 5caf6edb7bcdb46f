# SPDX-License-Identifier: Apache-2.0
"""The software bill of materials of a wheel: CycloneDX, of an environment that holds the wheel and what it needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from e2e.release.version import Release, ReleaseError

SCHEMA = SchemaVersion.V1_6
Sbom = dict[str, Any]


def make_sbom(release: Release, project: Path, python: Path, hashes: Mapping[str, str]) -> Sbom:
    """Return the SBOM of the environment of *python*, whose root is the wheel.

    *project* is the wheel's pyproject.toml; *hashes* has the SHA-256 of the file that each package came from.
    """
    done = subprocess.run(
        [
            sys.executable, "-m", "cyclonedx_py", "environment", f"--pyproject={project}", "--mc-type=application",
            f"--spec-version={SCHEMA.to_version()}", "--output-reproducible", "--output-format=JSON", str(python),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ReleaseError(f"the SBOM of {release.wheel} cannot be made:\n{done.stderr.rstrip()}")
    sbom: Sbom = json.loads(done.stdout)
    root = sbom["metadata"]["component"]
    root |= {"version": release.version, "purl": f"pkg:pypi/{release.wheel}@{release.version}"}
    for component in _components(sbom):
        component["hashes"] = [{"alg": "SHA-256", "content": hashes[canonicalize_name(component["name"])]}]
    return sbom


def conclude_licences(sbom: Sbom, concluded: Mapping[str, str]) -> None:
    """Give each component of *sbom* without a licence the one that is *concluded* by its name, if there is one."""
    for component in _components(sbom):
        identifier = concluded.get(canonicalize_name(component["name"]))
        if identifier is not None and not component.get("licenses"):
            component["licenses"] = [{"license": {"id": identifier, "acknowledgement": "concluded"}}]


def check_sbom(sbom: Sbom, hashes: Mapping[str, str], approved: Iterable[str]) -> tuple[str, ...]:
    """Return the licences that *sbom* has; ReleaseError if it is not valid, lacks a package, or has another licence."""
    faults = [f"it is no {SCHEMA.name}: {error}" for error in _schema_errors(sbom)]
    listed = {canonicalize_name(component["name"]) for component in _components(sbom)}
    faults += [f"{name} is installed and not listed" for name in sorted(hashes.keys() - listed)]
    licences = {component["name"]: licences_of(component) for component in _components(sbom)}
    for name, found in licences.items():
        if refused := sorted(found - set(approved)) or ([] if found else ["no licence"]):
            faults.append(
                f"{name} has {', '.join(refused)}; replace it, or add that to licences in e2e/release/release.toml"
            )
    if faults:
        raise ReleaseError("the SBOM is refused: " + "; ".join(faults))
    return tuple(sorted(set().union(*licences.values())))


def licences_of(component: Mapping[str, Any]) -> frozenset[str]:
    """Return the SPDX identifiers of *component*, or the names of its licences if it has no identifier."""
    identifiers: set[str] = set()
    names: set[str] = set()
    for entry in component.get("licenses", ()):
        licence = entry.get("license", {})
        words = entry.get("expression") or licence.get("id") or ""
        identifiers |= set(re.split(r"\s+(?:AND|OR)\s+", words.replace("(", "").replace(")", ""))) - {""}
        names |= {licence["name"]} if "name" in licence else set()
    return frozenset(identifiers or names)


def _components(sbom: Sbom) -> Iterator[dict[str, Any]]:
    yield sbom["metadata"]["component"]
    yield from sbom.get("components", ())


def _schema_errors(sbom: Sbom) -> Iterator[str]:
    error = JsonStrictValidator(SCHEMA).validate_str(json.dumps(sbom))
    if error is not None:
        yield str(error)

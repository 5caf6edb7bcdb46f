# SPDX-License-Identifier: Apache-2.0
"""Write the SBOM of an image: `python3 -I sbom.py NAME REPORT WHEEL… > sbom.cdx.json`, in the environment it is of.

NAME is the program's package. REPORT is what `pip install --report` wrote of the locked packages. WHEELs are the
project's own. It needs nothing but Python, since it runs while the image is built.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path


def canonical(name: str) -> str:
    """Return the name of a package as an index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashes_of(report: Path, wheels: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of the file that each package came from."""
    installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {
        canonical(each["metadata"]["name"]): each["download_info"]["archive_info"]["hash"].removeprefix("sha256=")
        for each in installed
    }
    own = {canonical(wheel.name.split("-")[0]): hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}
    return found | own


def licences_of(distribution: Distribution) -> list[dict[str, object]]:
    """Return the licences of a package, as CycloneDX writes them: its expression, else its classifiers, else a text."""
    about = distribution.metadata
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    classifiers = [each for each in about.get_all("Classifier", []) if each.startswith("License :: ")]
    names = classifiers or [line for line in (about.get("License") or "").splitlines()[:1] if line]
    return [{"license": {"name": name}} for name in names]


def component(distribution: Distribution, sha256: str) -> dict[str, object]:
    """Return the entry of a package."""
    name = canonical(distribution.metadata["Name"])
    purl = f"pkg:pypi/{name}@{distribution.version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": distribution.version,
        "purl": purl,
        "licenses": licences_of(distribution),
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


def main(name: str, report: str, *wheels: str) -> None:
    """Print the SBOM; KeyError if a package is in the environment whose file is not known."""
    hashes = hashes_of(Path(report), [Path(wheel) for wheel in wheels])
    found = {canonical(each.metadata["Name"]): each for each in distributions()}
    components = [component(each, hashes[key]) for key, each in sorted(found.items()) if key != name]
    sbom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(found[name], hashes[name]) | {"type": "application"}},
        "components": components,
    }
    sys.stdout.write(json.dumps(sbom, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

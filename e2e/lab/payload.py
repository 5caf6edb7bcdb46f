# SPDX-License-Identifier: Apache-2.0
"""The files of an agent on a device: the agent, the modules it shares with the gateway, and requests with its four.

Nothing else is there, so that an import of anything else fails on the device.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from e2e.lab.errors import LabError
from e2e.release.zipapp import write_zip

PACKAGES = ("praetor_agent", "praetor_api", "requests", "urllib3", "idna", "certifi", "charset_normalizer")


def install(folder: Path) -> Path:
    """Copy the packages into *folder*, which then serves as PYTHONPATH on the device."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise LabError(f"{name} is not installed here, so it cannot be put on a device")
        source = Path(next(iter(spec.submodule_search_locations)))
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "kube"))
    return folder


def install_zipapp(folder: Path) -> Path:
    """Write these packages, without compiled parts, as a program into *folder*, beside its `tree`; return its path."""
    tree = install(folder / "tree")
    (tree / "__main__.py").write_bytes((tree / "praetor_agent" / "__main__.py").read_bytes())
    for compiled in tree.rglob("*.so"):
        compiled.unlink()
    program = folder / "praetor-agent.pyz"
    write_zip(tree, program)
    return program

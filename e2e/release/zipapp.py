# SPDX-License-Identifier: Apache-2.0
"""`hatch run build-zipapp`: the agent as a single file that runs on any Python 3.9 or later with nothing installed.

The same sources give the same bytes: locked wheels without compiled parts, sorted names, one time stamp.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from e2e.release.build import ROOT, BuildError, build_all

OURS = ("praetor-api", "praetor-agent")
LOCK = Path("requirements", "zipapp.txt")
PYTHON = "3.9"
SHEBANG = b"#!/usr/bin/env python3\n"
TIME = (2020, 2, 2, 0, 0, 0)
MODE = 0o644 << 16
INSTALL_S = 300


def build_zipapp(root: Path, wheels: Iterable[Path], out: Path) -> Path:
    """Write praetor-agent.pyz, out of *wheels* and of what the lock of the repository *root* pins, into *out*."""
    with tempfile.TemporaryDirectory(prefix="praetor-zipapp-") as name:
        tree = Path(name)
        _install_locked(tree, root / LOCK)
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(tree)
        (tree / "__main__.py").write_bytes((tree / "praetor_agent" / "__main__.py").read_bytes())
        out.mkdir(parents=True, exist_ok=True)
        target = out / "praetor-agent.pyz"
        write_zip(tree, target)
        return target


def write_zip(tree: Path, target: Path) -> None:
    """Write what Python needs of *tree*, and the licences, as a program."""
    with target.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped:
            for path in _files(tree):
                info = zipfile.ZipInfo(str(path.relative_to(tree)), TIME)
                info.external_attr, info.create_system = MODE, 3
                zipped.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    target.chmod(0o755)


def _files(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.rglob("*")):
        parts = path.relative_to(tree).parts
        metadata = parts[0].endswith(".dist-info") and "licenses" not in parts and path.name != "METADATA"
        if path.is_file() and not metadata and parts[0] != "bin" and parts[:2] != ("praetor_api", "kube"):
            yield path


def _install_locked(target: Path, lock: Path) -> None:
    command = (
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(target),
        "--no-deps", "--no-compile", "--require-hashes", "--only-binary", ":all:", "--platform", "any",
        "--python-version", PYTHON,
        "--requirement", str(lock),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode:
        raise BuildError(f"the packages that the agent needs could not be installed:\n{done.stderr.rstrip()}")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "dist", help="Output folder; default: dist/.")
def main(out: Path) -> None:
    """Build the single-file agent and print its size and digest."""
    with tempfile.TemporaryDirectory(prefix="praetor-wheels-") as folder:
        wheels = [built.path for built in build_all(OURS, Path(folder)) if built.path.suffix == ".whl"]
        target = build_zipapp(ROOT, wheels, out)
    content = target.read_bytes()
    click.echo(f"{target.name}  {len(content):,} B  sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()

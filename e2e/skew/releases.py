# SPDX-License-Identifier: Apache-2.0
"""The wheels of two versions, each installed into an environment of its own: a git ref's and the working tree's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from e2e.release.build import PACKAGES, ROOT, build_package
from e2e.stack.stack import Release

PINNED = Path(__file__).with_name("previous-ref.txt")
API = "praetor-api"
RELEASED = re.compile(r"\d+\.\d+\.\d+$")
EXPORTED = ("packages", "crds", "deploy", "requirements")
TIMEOUT_S = 1800  # packages are downloaded


class SkewError(Exception):
    """A version cannot be built or installed; the message says why and what to do."""


class NoHistory(SkewError):
    """This checkout does not hold the commit to compare with."""


def previous_ref(root: Path = ROOT, unreleased: str | None = None) -> str:
    """Return the newest release tag before the checked-out commit.

    Without one it is *unreleased*, by default the ref in `previous-ref.txt`.
    """
    tags = _run(["git", "tag", "--merged", "HEAD~1", "--sort=-creatordate"], cwd=root, check=False).split()
    released = (tag for tag in tags if RELEASED.search(tag))
    return next(released, unreleased or PINNED.read_text(encoding="utf-8").strip())


def export(ref: str, folder: Path, root: Path = ROOT) -> Path:
    """Write the sources of *ref* into *folder* and return it; NoHistory when the checkout does not hold *ref*."""
    known = _run(["git", "rev-parse", "--quiet", "--verify", f"{ref}^{{commit}}"], cwd=root, check=False).strip()
    if not known:
        raise NoHistory(f"this checkout does not hold {ref}; fetch the history: git fetch --unshallow --tags")
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    _run(["git", "archive", f"--output={archive}", known, "--", *EXPORTED], cwd=root)
    _run(["tar", "-xf", str(archive), "-C", str(folder)])
    return folder


def build(sources: Path, out: Path) -> dict[str, Path]:
    """Build the wheels of *sources* into *out*, and return them by the names of their packages."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda package: build_package(package, out, sources), PACKAGES))
    return {package: next(out.glob(f"{package.replace('-', '_')}-*.whl")) for package in PACKAGES}


def install(wheels: Sequence[Path], sources: Path, environment: Path) -> Release:
    """Install *wheels* into a new *environment*; SkewError when what they require of each other does not fit.

    Packages of others get the versions that *sources* locks.
    """
    uv = os.environ.get("HATCH_UV", "uv")
    locked = {**os.environ, "UV_CONSTRAINT": str(sources / "requirements" / "dev.txt")}
    _run([uv, "venv", "--quiet", f"--python={sys.executable}", str(environment)])
    python = environment / "bin" / "python"
    _run([uv, "pip", "install", "--quiet", f"--python={python}", *map(str, wheels)], env=locked)
    return Release(scripts=environment / "bin", sources=sources)


def both(ref: str, folder: Path) -> tuple[Release, Release, Release]:
    """Return *ref*, the working tree, and the programs of *ref* with the praetor-api of the working tree."""
    sources = export(ref, folder / "old")
    with ThreadPoolExecutor() as pool:
        old, new = pool.map(build, (sources, ROOT), (folder / "dist-old", folder / "dist-new"))
    mixed = {**old, API: new[API]}
    with ThreadPoolExecutor() as pool:
        made = pool.map(
            install,
            (tuple(old.values()), tuple(new.values()), tuple(mixed.values())),
            (sources, ROOT, sources),
            (folder / "env-old", folder / "env-new", folder / "env-mixed"),
        )
        first, second, third = made
    return first, second, third


def _run(argv: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, check: bool = True) -> str:
    """Return what *argv* prints; SkewError with all of its output when it fails, or an empty text unless *check*."""
    try:
        done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except OSError as error:
        raise SkewError(f"{argv[0]} cannot be run: {error.strerror}; install it, or call this by hatch") from error
    if done.returncode and check:
        raise SkewError(f"{' '.join(argv)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return "" if done.returncode else done.stdout

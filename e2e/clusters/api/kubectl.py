# SPDX-License-Identifier: Apache-2.0
"""Finding and running the unmodified kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from e2e.clusters.errors import ClusterError


def find_kubectl(folder: Path | None = None) -> str | None:
    """Return kubectl out of *folder*, else out of the test assets, else from the PATH."""
    places = (folder, os.environ.get("KUBEBUILDER_ASSETS"), os.environ.get("PRAETOR_ASSETS"))
    found = (shutil.which("kubectl", path=str(place)) for place in places if place)
    return next(filter(None, found), None) or shutil.which("kubectl")


def output_of(argv: list[str], *, timeout_s: float = 60, stdin: str | None = None) -> str:
    """Run a command line tool; return what it printed or raise ClusterError with what it complained of."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    except OSError as error:
        raise ClusterError(f"{argv[0]} is not installed or not on the PATH") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(argv)} took longer than {timeout_s:g} s") from error
    if done.returncode:
        raise ClusterError(f"{' '.join(argv)} failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout

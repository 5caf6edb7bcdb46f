# SPDX-License-Identifier: Apache-2.0
"""Devices of a Debian release with its own python3-requests: `e2e/lab/get-debian` makes their root file systems."""

from __future__ import annotations

import os
from pathlib import Path

from e2e.lab import device

SUITES = {"bullseye": ("3.9", "2.25.1"), "bookworm": ("3.11", "2.28.1"), "trixie": ("3.13", "2.32.3")}
"""The Python and the requests of each release."""


def variable(suite: str) -> str:
    """Return the name of the variable that holds the folder of a root file system."""
    return f"PRAETOR_LAB_{suite.upper()}"


def rootfs(suite: str) -> Path | None:
    """Return the root file system that the variable of *suite* names."""
    named = os.environ.get(variable(suite))
    return Path(named) if named else None


def why_unavailable(suite: str) -> str | None:
    """Return why no device of *suite* can be booted here, or None."""
    root = rootfs(suite)
    if root is None or not (root / "usr" / "lib" / "python3" / "dist-packages" / "requests").exists():
        return f"{variable(suite)} names no folder that e2e/lab/get-debian {suite} made"
    return device.why_unavailable(root)

# SPDX-License-Identifier: Apache-2.0
"""What a test of the lab needs of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest


def lacking(request: pytest.FixtureRequest, missing: str) -> NoReturn:
    """Skip the test, which needs what is *missing*, or fail it if `--lab` asks for devices that boot."""
    if request.config.getoption("lab"):
        pytest.fail(missing)
    pytest.skip(missing)


def required(request: pytest.FixtureRequest, root: Path | None, missing: str | None) -> Path:
    """Return *root*; when something is *missing*, skip the test, or fail it if `--lab` asks for devices that boot."""
    if missing or root is None:
        lacking(request, missing or "no root file system is named")
    return root

# SPDX-License-Identifier: Apache-2.0
"""What all tests of the workspace share: none depends on the machine's speed, or on the width of its terminal."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, so that no change is tested with luck; `hatch run fuzz` draws others.
_ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("random", _ANY_SPEED)
settings.register_profile("same", _ANY_SPEED, derandomize=True)
settings.load_profile("same")

# celpy sets it with the first rule that it compiles, and Hypothesis fails a test in which it changes
sys.setrecursionlimit(2500)

collect_ignore_glob = [] if sys.version_info >= (3, 11) else ["packages/praetor-agent/tests/test_agent_simulate*.py"]

os.environ.pop("COLUMNS", None)  # pytest-xdist exports it


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-timeout, so that waiting does not count
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run the tests that change the storage of the container runtime one at a time, in whichever worker.

    podman 4.3 loses images when several of its processes change its storage at once: one that was imported is not
    found, and one that was removed is still there.
    """
    if item.get_closest_marker("containers") is None:
        return (yield)
    with (Path(tempfile.gettempdir()) / f"praetor-containers-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)

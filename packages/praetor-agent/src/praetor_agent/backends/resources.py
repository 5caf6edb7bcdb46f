# SPDX-License-Identifier: Apache-2.0
"""`execution.resources`: the values of limits, and control groups, version 2 or 1, for the backend `process`.

An rlimit is no substitute: it counts one process, or all of a user, and kills programs that stay within their limit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from praetor_agent.settings import bytes_of
from praetor_agent.state import read_text
from praetor_api.spec import Resources

ROOT = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
_FILES = {  # controller, and its file in version 2 and in version 1
    "memory": ("memory", "memory.max", "memory.limit_in_bytes"),
    "cpu": ("cpu", "cpu.max", "cpu.cfs_quota_us"),
    "tasks": ("pids", "pids.max", "pids.max"),
}


def limits(resources: Resources | None, place: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield for the shim the limits of the process in *place*: a resource, a file, its value; or a resource alone."""
    group = f"praetor/{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}"
    for resource, value in wanted(resources):
        controller, second, first = _FILES[resource]
        if resource == "cpu":
            value = str(max(1000, int(float(value) * PERIOD_MICROSECONDS / 100)))
        if controller in read_text(root / "cgroup.controllers").split():
            yield f"{resource} {root}/cgroup.subtree_control +{controller}"
            yield f"{resource} {root}/praetor/cgroup.subtree_control +{controller}"
            quota = f"{value} {PERIOD_MICROSECONDS}" if resource == "cpu" else value
            yield f"{resource} {root}/{group}/{second} {quota}"
        elif (root / controller / "cgroup.procs").exists():
            yield f"{resource} {root}/{controller}/{group}/{first} {value}"
        else:
            yield resource


def wanted(resources: Resources | None) -> Iterator[tuple[str, str]]:
    """Yield each limited resource with its value: memory in bytes, cpu in percent of one core, the number of tasks."""
    if resources is None:
        return
    if resources.memory is not None:
        yield "memory", str(bytes_of(resources.memory))
    if resources.cpu is not None:
        yield "cpu", cpu_percent(resources.cpu)
    if resources.tasks is not None:
        yield "tasks", str(resources.tasks)


def cpu_percent(quantity: int | str) -> str:
    """Return a CPU quantity, such as `500m`, `0.5` or `2`, in percent of one core."""
    whole, _, fraction = str(quantity).partition(".")
    thousandths = int(whole[:-1]) if whole.endswith("m") else int(whole) * 1000 + int(fraction.ljust(3, "0"))
    percent, tenths = divmod(thousandths, 10)
    return f"{percent}.{tenths}" if tenths else str(percent)

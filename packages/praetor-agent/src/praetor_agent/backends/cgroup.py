"""Control groups in which the agent's own stage limits a process with all that it starts; version 2, or 1.

An rlimit is no substitute: it counts one process, or all of a user, and ends programs that keep within their limit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from praetor_agent.backends.quantity import bytes_of, cpu_percent
from praetor_api.spec import Resources

ROOT = Path("/sys/fs/cgroup")
PERIOD_MICROSECONDS = 100_000
_FILES = {  # controller, and its file in version 2 and in version 1
    "memory": ("memory", "memory.max", "memory.limit_in_bytes"),
    "cpu": ("cpu", "cpu.max", "cpu.cfs_quota_us"),
    "tasks": ("pids", "pids.max", "pids.max"),
}


def limits(resources: Resources | None, place: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield for the stage what limits the process of *place*: a resource, a file and its value; or a resource alone."""
    if resources is None:
        return
    group = f"praetor/{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}"
    for resource, value in _wanted(resources):
        controller, second, first = _FILES[resource]
        if controller in _words(root / "cgroup.controllers"):
            yield f"{resource} {root}/cgroup.subtree_control +{controller}"
            yield f"{resource} {root}/praetor/cgroup.subtree_control +{controller}"
            quota = f"{value} {PERIOD_MICROSECONDS}" if resource == "cpu" else value
            yield f"{resource} {root}/{group}/{second} {quota}"
        elif (root / controller / "cgroup.procs").exists():
            yield f"{resource} {root}/{controller}/{group}/{first} {value}"
        else:
            yield resource


def _wanted(resources: Resources) -> Iterator[tuple[str, str]]:
    if resources.memory is not None:
        yield "memory", str(bytes_of(resources.memory))
    if resources.cpu is not None:
        yield "cpu", str(max(1000, int(float(cpu_percent(resources.cpu)) * PERIOD_MICROSECONDS / 100)))
    if resources.tasks is not None:
        yield "tasks", str(resources.tasks)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []

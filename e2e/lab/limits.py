# SPDX-License-Identifier: Apache-2.0
"""What the kernel lets a process have, read where it keeps it: control groups of version 1 or 2, and rlimits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from attrs import frozen

from e2e.lab.errors import LabError

Read: TypeAlias = Callable[[str], str]
"""Returns the text of a file on the device; LabError when there is none."""

FILES = {  # controller, and its file in version 1 and in version 2
    "memory": ("memory.limit_in_bytes", "memory.max"),
    "cpu": ("cpu.cfs_quota_us", "cpu.max"),
    "pids": ("pids.max", "pids.max"),
}


@frozen
class Limits:
    """Bytes of memory, cores and tasks; None is as many as there are."""

    memory: int | None = None
    cpu: float | None = None
    tasks: int | None = None


def limits_of(read: Read, pid: int) -> Limits:
    """Return what the control groups of *pid* allow it."""
    memory, pids = (_number(_value(read, pid, controller)) for controller in ("memory", "pids"))
    quota, _, period = _value(read, pid, "cpu").strip().partition(" ")
    cores = None if _number(quota) is None else int(quota) / int(period or 100_000)
    return Limits(memory=memory, cpu=cores, tasks=pids)


def rlimits_of(read: Read, pid: int) -> dict[str, tuple[str, str]]:
    """Return soft and hard limit by the name that the kernel gives it."""
    lines = read(f"/proc/{pid}/limits").splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


def _value(read: Read, pid: int, controller: str) -> str:
    """Return what limits *pid*, "" when nothing does."""
    mounts = [_mount(line) for line in read("/proc/self/mountinfo").splitlines()]
    first, second = FILES[controller]
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        file = second if not controllers else first
        if controllers and controller not in controllers.split(","):
            continue
        for mount in mounts:
            if (mount["kind"] == "cgroup2") != (not controllers):
                continue
            if controllers and controller not in mount["options"].split(","):
                continue
            try:
                return read(f"{mount['place']}/{path.removeprefix(mount['root']).strip('/')}/{file}")
            except LabError:
                continue
    return ""


def _mount(line: str) -> Mapping[str, str]:
    before, _, after = line.partition(" - ")
    kind, _, options = after.split(" ", 2)
    words = before.split()
    return {"root": words[3].rstrip("/"), "place": words[4], "kind": kind, "options": options}


def _number(value: str) -> int | None:
    """Return the limit; a group of version 1 that has none says -1, or more than any machine has."""
    return int(value) if value.strip().isdigit() and int(value) < 2**60 else None

# SPDX-License-Identifier: Apache-2.0
"""Reads /proc. A process is identified by pid and start time, because the kernel reuses pids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MARKER = "PRAETOR_PROCESS_UID"
PLACE_MARKER = "PRAETOR_PROCESS_DIR"
"""Environment variables of every process that the backend `process` starts, inherited by its children: the uid, and the
state directory, because several agents may run on one host."""

_START_TICKS = 19  # the 22nd field of stat, counted after the command


def boot_id() -> str | None:
    """Return the id of this boot of the device, or None if the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def start_ticks(pid: int) -> int | None:
    """Return when *pid* started, in clock ticks since boot; None if there is no such process, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # the command before it may contain spaces and parentheses
    return None if fields[0] in (b"Z", b"X") else int(fields[_START_TICKS])


def is_running(pid: int, ticks: int) -> bool:
    """Return whether *pid* is still the process that started at *ticks*."""
    return start_ticks(pid) == ticks


def markers(uid: str, place: Path) -> dict[str, str]:
    """Return the variables that mark a process *uid* whose directory is *place*."""
    return {MARKER: uid, PLACE_MARKER: str(place)}


def marked(uid: str, place: Path) -> Iterator[int]:
    """Yield the pids of all processes whose environment carries the markers of *uid* and *place*."""
    wanted = {os.fsencode(f"{name}={value}") for name, value in markers(uid, place).items()}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes()
        except OSError:  # it ended meanwhile, or we may not read it
            continue
        if wanted <= set(environment.split(b"\0")):
            yield int(entry)

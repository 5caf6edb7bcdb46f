# SPDX-License-Identifier: Apache-2.0
"""What Linux says of a process: the processor time it used and the memory it holds."""

from __future__ import annotations

import os
import platform
from pathlib import Path

PROC = Path("/proc")


def cpu_seconds(pid: int) -> float:
    """Return the processor time that the process and its living threads have used so far."""
    threads = (PROC / str(pid) / "task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def cpu_seconds_of_ended_children(pid: int) -> float:
    """Return the processor time, in clock ticks' precision, of the children that the process has waited for."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> float:
    """Return the resident memory of the process, in KiB."""
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return float(line.split()[1])
    raise ValueError(f"process {pid} reports no resident memory")


def machine() -> str:
    """Return a description of this machine."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in (PROC / "cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        os.uname().machine,
    )
    memory = int((PROC / "meminfo").read_text().split()[1]) / 2**20
    load = os.getloadavg()[0]
    python = platform.python_version()
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux, Python {python}; load average before: {load:.1f}"
    )

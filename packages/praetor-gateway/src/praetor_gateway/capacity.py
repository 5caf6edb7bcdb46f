# SPDX-License-Identifier: Apache-2.0
"""How many connections of devices there is memory for.

A connection takes memory before any token is seen. Where a control group (cgroup) limits memory, as that of a container
does, the kernel ends a process that takes more, so that its devices come to the other gateways, and end these, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from praetor_gateway.http.requests import MAX_BODIES_BYTES

OWN_BYTES = 85 * 2**20 + MAX_BODIES_BYTES
"""What a gateway without devices holds, and all reports that it reads at once. This and the next two were measured:
docs/operations.md, "How large"."""
CONNECTION_BYTES = 46 * 1024
"""A connection, and up to seven devices of the fleet, which every gateway has in memory."""
TLS_BYTES = 100 * 1024
"""What a connection over TLS takes besides, on both servers."""

CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
_GROUP = re.compile(r"^\d+:([^:]*):(/.*)$", re.MULTILINE)


def connections_within(memory: int, *, tls: bool) -> int:
    """Return how many connections *memory*, in bytes, is enough for, at least one.

    Of little memory the gateway itself is granted no more than half.
    """
    left = memory - min(OWN_BYTES, memory // 2)
    return max(1, left // (CONNECTION_BYTES + TLS_BYTES if tls else CONNECTION_BYTES))


def memory_bytes(of_process: Path = CGROUP_OF_PROCESS, cgroups: Path = CGROUPS) -> int:
    """Return how many bytes of memory this process may use: the least that a cgroup or the machine allows."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = (_read(cgroups / file) for file in limit_files(_read(of_process)))
    return min((machine, *limits(texts)))


def limit_files(of_process: str) -> tuple[PurePosixPath, ...]:
    """Return the files that may hold limits of the memory of a process, below the folder of cgroups.

    *of_process* is its `/proc/self/cgroup`. A group is limited by those that it is in, too. A container may see its own
    group as the root while that file names it as the host does, so that some of the files need not be there.
    """
    return tuple(_limit_files(of_process))


def _limit_files(of_process: str) -> Iterator[PurePosixPath]:
    for controllers, path in _GROUP.findall(of_process):
        if not controllers:
            root, name = PurePosixPath(), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = PurePosixPath("memory"), "memory.limit_in_bytes"
        else:
            continue
        parts = PurePosixPath(path).parts[1:]
        if ".." in parts:  # outside of what the container sees
            parts = ()
        yield from (root.joinpath(*parts[:depth], name) for depth in range(len(parts), -1, -1))


def limits(texts: Iterable[str]) -> Iterator[int]:
    """Yield the limits in bytes that *texts*, contents of such files, hold: none where it is "max"."""
    for text in map(str.strip, texts):
        if text.isascii() and text.isdecimal():
            yield int(text)


def _read(file: Path) -> str:
    """Return what the *file* says, nothing where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

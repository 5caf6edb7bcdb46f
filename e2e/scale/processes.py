# SPDX-License-Identifier: Apache-2.0
"""What the programs of a run cost: processor time, memory and open files of each, found among our descendants."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

PROC = Path("/proc")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
TICKS = os.sysconf("SC_CLK_TCK")
PROGRAMS = {
    "kube-apiserver": "apiserver",
    "kubeplane": "apiserver",
    "etcd": "etcd",
    "praetor-controller": "controller",
    "praetor-gateway": "gateway",
    "praetor-agent": "load",
}
"""What a process is called here, by a word of its command line."""


@frozen(kw_only=True)
class Usage:
    """One process: processor seconds so far, resident memory, open files (0: not counted)."""

    pid: int
    cpu_s: float
    memory_mib: float
    files: int


def usages(*, files: bool) -> Mapping[str, list[Usage]]:
    """Return what every program of this run uses, by its name here; open files are counted if *files*."""
    found: dict[str, list[Usage]] = defaultdict(list)
    for pid in _descendants(os.getpid()):
        try:
            words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
            name = _name(words)
            if name is not None:
                found[name].append(_usage(pid, files=files))
        except (OSError, IndexError):  # it ended meanwhile
            continue
    return found


def _name(words: list[str]) -> str | None:
    """Return the program's name; the reaper and the shell before it have our words as arguments only."""
    programs = [Path(word).name for word in words[:3]]  # python [-m] program
    if programs and programs[0].startswith(("sh", "python")) and "reaper.py" in " ".join(programs):
        return None
    return next((PROGRAMS[program] for program in programs if program in PROGRAMS), None)


def _usage(pid: int, *, files: bool) -> Usage:
    place = PROC / str(pid)
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    return Usage(
        pid=pid,
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS,
        memory_mib=int((place / "statm").read_text().split()[1]) * PAGE_MIB,
        files=len(os.listdir(place / "fd")) if files else 0,
    )


def _descendants(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir(PROC):
        if name.isdigit():
            try:
                parent = int((PROC / name / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children[parent].append(int(name))
    left = [root]
    while left:
        found = children.get(left.pop(), [])
        yield from found
        left += found

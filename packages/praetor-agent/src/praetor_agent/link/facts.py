# SPDX-License-Identifier: Apache-2.0
"""Facts about the device for the inventory. Values that change all the time are reported in wide steps."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from praetor_agent.core.allowances import NOTHING, Allowances
from praetor_agent.state import read_text
from praetor_api.protocol import AGENT_FEATURES, AND_MORE, NOTHING_ALLOWED, AllowanceFact

MIB, GIB = 2**20, 2**30
MAX_FACT = 256
"""Characters of a fact."""
SLACK = 0.1
"""How far beyond its step, as a share of it, a number must be before the step changes."""

_NO_NAME = ("", "none", "unknown", "not specified", "default string", "system product name", "system serial number")


class Facts:
    """The facts of this device; *disk* is a directory on the reported file system, and *allowed* what flags allow."""

    def __init__(self, disk: Path, root: Path = Path("/"), allowed: Mapping[str, str] | None = None) -> None:
        self._disk = disk
        self._fixed = fixed_facts(root) | dict(allowed or {})
        self._step: int | None = None

    def read(self) -> Mapping[str, str]:
        """Return the facts as they are now, each at most MAX_FACT characters long."""
        free = free_bytes(self._disk)
        self._step = None if free is None else step_of(free, self._step)
        found = self._fixed | ({} if self._step is None else {"diskFree": size_words(self._step)})
        return {key: value[:MAX_FACT] for key, value in found.items()}


def fixed_facts(root: Path) -> dict[str, str]:
    """Return the facts that stay while the device is up, as far as they can be read below *root*."""
    kernel = os.uname()
    found = {
        "os": _os_release(root, "PRETTY_NAME") or kernel.sysname,
        "os.id": _os_release(root, "ID"),
        "os.version": _os_release(root, "VERSION_ID"),
        "kernel": kernel.release,
        "arch": kernel.machine,
        "hostname": kernel.nodename,
        "init": "systemd" if (root / "run/systemd/system").is_dir() else _text(root / "proc/1/comm"),
        "model": _first(root, "sys/class/dmi/id/product_name", "proc/device-tree/model"),
        "serial": _first(root, "sys/class/dmi/id/product_serial", "proc/device-tree/serial-number"),
        "memory": _memory(root),
        "python": sys.version.split()[0],
        "features": ",".join(sorted(AGENT_FEATURES)),
        "agentRejected": _text(Path(os.environ.get("PRAETOR_AGENT_ROOT", "/nowhere"), "rejected")),
    }
    return {key: value for key, value in found.items() if value}


def allowance_facts(allowances: Allowances = NOTHING, file_roots: Collection[str] = ()) -> dict[str, str]:
    """Return what the agent lets processes have of the device, so that others can say what it will refuse."""
    said: Mapping[AllowanceFact, Collection[str]] = {
        AllowanceFact.FILE_ROOTS: file_roots or (NOTHING_ALLOWED,),
        AllowanceFact.VOLUMES: allowances.volumes,
        AllowanceFact.DEVICES: allowances.devices,
        AllowanceFact.CAPABILITIES: sorted(allowances.capabilities),
        AllowanceFact.NETWORKS: sorted(allowances.networks),
        AllowanceFact.PRIVILEGED: ("true",) if allowances.privileged else (),
    }
    return {fact.value: _listed(names) for fact, names in said.items() if names}


def _listed(names: Collection[str]) -> str:
    """Return *names* in one fact; those that it cannot hold are AND_MORE."""
    text = ",".join(names)
    if len(text) <= MAX_FACT:
        return text
    head, comma, _ = text[: MAX_FACT - 1].rpartition(",")
    return f"{head}{comma}{AND_MORE}"


def free_bytes(path: Path) -> int | None:
    """Return how much a program without privileges may still write below *path*, or None if that is unknown."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def step_of(size: int, last: int | None) -> int:
    """Return the power of two at or below *size*; *last* as long as *size* is within or hardly beyond its step."""
    if last is not None and last * (1 - SLACK) <= size < 2 * last * (1 + SLACK):
        return last
    return 1 << max(size.bit_length() - 1, 20)


def size_words(size: int) -> str:
    """Return *size* in words: `16GiB`."""
    return f"{size // GIB}GiB" if size >= GIB else f"{size // MIB}MiB"


def _memory(root: Path) -> str:
    line = next((line for line in _text(root / "proc/meminfo").splitlines() if line.startswith("MemTotal:")), "")
    return f"{int(line.split()[1]) // 1024}MiB" if line else ""


def _os_release(root: Path, name: str) -> str:
    for place in ("etc/os-release", "usr/lib/os-release"):
        for line in _text(root / place).splitlines():
            if line.startswith(f"{name}="):
                return line.partition("=")[2].strip().strip("\"'")
    return ""


def _first(root: Path, *places: str) -> str:
    """Return the first of the files' texts that is not a vendor's placeholder."""
    texts = (_text(root / place) for place in places)
    return next((text for text in texts if text.lower() not in _NO_NAME and "filled by" not in text.lower()), "")


def _text(path: Path) -> str:
    return read_text(path).strip("\0 \t\n")

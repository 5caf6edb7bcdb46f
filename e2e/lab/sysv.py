# SPDX-License-Identifier: Apache-2.0
"""A device whose PID 1 is SysV init; its /etc outlives a power cut, as on a device with a disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from e2e.lab.device import LabDevice

VARIABLE = "PRAETOR_LAB_ROOTFS_SYSV"


class SysvDevice(LabDevice):
    """One device, booted from *rootfs*; *state* is where its agent's state directory is kept."""

    def __init__(
        self, name: str, rootfs: Path, *, workdir: Path, shared: dict[str, Path], state: tuple[str, Path]
    ) -> None:
        etc = workdir / "etc"
        shutil.copytree(rootfs / "etc", etc, symlinks=True)
        state[1].mkdir(exist_ok=True)
        super().__init__(name, rootfs, workdir=workdir, shared=shared, kept={"/etc": etc, state[0]: state[1]})


def rootfs() -> Path | None:
    """Return the root file system that PRAETOR_LAB_ROOTFS_SYSV names."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def why_unavailable(root: Path | None) -> str | None:
    """Return why no device with SysV init can be booted here, or None."""
    if root is None or not (root / "etc" / "inittab").exists():
        return f"{VARIABLE} does not name a root file system that boots with SysV init"
    if os.geteuid() != 0:
        return "devices are booted by root only"
    missing = [program for program in ("systemd-nspawn", "nsenter") if shutil.which(program) is None]
    return f"{' and '.join(missing)} are not installed" if missing else None

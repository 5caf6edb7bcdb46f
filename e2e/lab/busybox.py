# SPDX-License-Identifier: Apache-2.0
"""A device whose PID 1 is busybox's init, as on many a BMC: no runlevels, and `rcS` starts what is called `S??…`.

The rest is the root file system of the SysV device, without its helpers for init scripts.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.lab.sysv import SysvDevice
from e2e.lab.sysv import why_unavailable as why_no_sysv

PROGRAM = "busybox"
HIDDEN = ("/usr/sbin/update-rc.d", "/sbin/start-stop-daemon")
INITTAB = "::sysinit:/etc/init.d/rcS\n"
RCS = """#!/bin/sh
for each in /etc/init.d/S??*; do
    [ ! -x "$each" ] || "$each" start
done
echo running >/run/booted
"""


class BusyboxDevice(SysvDevice):
    """One device, booted from *rootfs*; its /etc and the agent's *state* outlive a power cut."""

    def __init__(
        self, name: str, rootfs: Path, *, workdir: Path, shared: dict[str, Path], state: tuple[str, Path]
    ) -> None:
        programs = {"/sbin/init": Path(str(shutil.which(PROGRAM))), **dict.fromkeys(HIDDEN, Path("/dev/null"))}
        super().__init__(name, rootfs, workdir=workdir, shared=shared | programs, state=state)
        etc = workdir / "etc"
        (etc / "inittab").write_text(INITTAB)
        script = etc / "init.d" / "rcS"
        script.unlink()  # a link, which leads out of the copy
        script.write_text(RCS)
        script.chmod(0o755)
        self._asking = ("cat", "/run/booted")


def why_unavailable(root: Path | None) -> str | None:
    """Return why no such device can be booted here, or None."""
    missing = None if shutil.which(PROGRAM) else f"{PROGRAM} is not installed; try the package busybox-static"
    return why_no_sysv(root) or missing

"""A device whose PID 1 is busybox's init, as on many a BMC: no runlevels, and `rcS` starts what is called `S??…`.

The rest is the root file system of the SysV device, without its helpers for init scripts.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e.lab import sysv
from e2e.lab.device import LabDevice

PROGRAM = "busybox"
HIDDEN = ("/usr/sbin/update-rc.d", "/sbin/start-stop-daemon")
INITTAB = "::sysinit:/etc/init.d/rcS\n"
RCS = """#!/bin/sh
for each in /etc/init.d/S??*; do
    [ ! -x "$each" ] || "$each" start
done
echo running >/run/booted
"""


class BusyboxDevice(LabDevice):
    """One device, booted from *rootfs*; its /etc and the agent's *state* outlive a power cut."""

    def __init__(
        self, name: str, rootfs: Path, *, workdir: Path, shared: dict[str, Path], state: tuple[str, Path]
    ) -> None:
        etc = workdir / "etc"
        shutil.copytree(rootfs / "etc", etc, symlinks=True)
        (etc / "inittab").write_text(INITTAB)
        script = etc / "init.d" / "rcS"
        script.unlink()  # a link, which leads out of the copy
        script.write_text(RCS)
        script.chmod(0o755)
        state[1].mkdir(exist_ok=True)
        programs = {"/sbin/init": Path(str(shutil.which(PROGRAM))), **dict.fromkeys(HIDDEN, Path("/dev/null"))}
        kept = {"/etc": etc, state[0]: state[1]}
        super().__init__(name, rootfs, workdir=workdir, shared=shared | programs, kept=kept)
        self._asking = ("cat", "/run/booted")


def why_unavailable(root: Path | None) -> str | None:
    """Return why no such device can be booted here, or None."""
    missing = None if shutil.which(PROGRAM) else f"{PROGRAM} is not installed; try the package busybox-static"
    return sysv.why_unavailable(root) or missing

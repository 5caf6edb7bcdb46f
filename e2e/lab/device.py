# SPDX-License-Identifier: Apache-2.0
"""A device with a real init system: a root file system booted under systemd-nspawn on the host's network.

The root file system is only read; what the device writes is gone when it is switched off, but for folders that are
bound into it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from e2e.lab.errors import LabError
from e2e.stack.errors import StackError
from e2e.stack.program import Program
from e2e.stack.waiting import eventually

VARIABLE = "PRAETOR_LAB_ROOTFS"
BOOT_S = 600
BOOT = 'while "$@"; [ $? = 133 ]; do :; done'
"""Boots again after a reboot, with which systemd-nspawn ends here by its status for a service manager."""
JOIN = (
    "set -e; name=$1; shift; for each in systemd unified memory cpu cpuacct pids; do"
    " group=/sys/fs/cgroup/$each/$name; [ -e ${group%/*}/cgroup.procs ] || continue;"
    ' mkdir -p $group; echo $$ >$group/cgroup.procs; done; exec "$@"'
)
"""Moves itself into control groups of a name, in every hierarchy that a device's init uses, and runs the rest there."""
GROUPS = ("memory", "cpu", "cpuacct", "pids")  # systemd uses both for processor time, or none
OPEN_GROUPS = (
    f"for each in {' '.join(GROUPS)}; do mount -o remount,bind,rw /sys/fs/cgroup/$each 2>/dev/null; done;"
    " [ ! -d /run/systemd/system ] || systemctl daemon-reexec"
)
COMMAND_S = 300
TURN = Path(tempfile.gettempdir(), "praetor-lab-systemd.lock")
TURN_S = 900
UP = ("running", "degraded", "N 2", "N 3", "N 4", "N 5")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class LabDevice:
    """One device; *shared* binds folders of the host (read-only) and *kept* ones that outlive a power cut.

    A device that is *apart* has control groups of its own, on a host without systemd, so that several can run at once.
    """

    def __init__(
        self,
        name: str,
        rootfs: Path,
        *,
        workdir: Path,
        shared: Mapping[str, Path] | None = None,
        kept: Mapping[str, Path] | None = None,
        apart: bool = False,
    ) -> None:
        self.name = name
        self._group = f"praetor-{name}" if apart and not Path("/run/systemd/system").exists() else None
        self._systemd = (rootfs / "lib" / "systemd" / "systemd").exists()
        self._asking = ("systemctl", "is-system-running") if self._systemd else ("runlevel",)
        self._turn: IO[str] | None = None
        binds = [f"--bind-ro={source}:{place}" for place, source in (shared or {}).items()]
        binds += [f"--bind={source}:{place}" for place, source in (kept or {}).items()]
        options = ("-q", "-D", str(rootfs), "--volatile=overlay", f"--machine={name}", "-b", "--register=no")
        boot: tuple[str, ...] = ("/bin/sh", "-c", BOOT, "boot", "systemd-nspawn", *options, "--keep-unit", *binds)
        if self._group is not None:
            boot = ("/bin/sh", "-c", JOIN, "join", self._group, *boot)
        self.program = Program(name, boot, workdir=workdir, env=dict(os.environ))

    @property
    def init(self) -> int:
        """Process id, on the host, of the device's PID 1; LabError when it does not run."""
        pid = self.program.pid
        for _ in ("systemd-nspawn", "its init"):
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except FileNotFoundError:  # it ended meanwhile
                children = []
            if not children:
                raise LabError(f"{self.name} has no init; its console ends:\n{self.program.tail()}")
            pid = int(children[0])
        return pid

    def power_on(self) -> None:
        """Boot; returns when init says that the device is up."""
        if self._systemd and self._turn is None and self._group is None:
            self._turn = _my_turn()
        self.program.start()
        eventually(self._state, lambda state: state in UP, what=f"{self.name} is up", within_s=BOOT_S)

    def pull_the_plug(self) -> None:
        """Switch off without warning: every process of the device ends at once."""
        # systemd-nspawn ends with its init, but an init outlives a systemd-nspawn that was killed
        os.kill(self.init, signal.SIGKILL)
        eventually(lambda: not self.program.running, what=f"{self.name} is off")

    def run(self, *argv: str, stdin: str | None = None) -> str:
        """Run a command on the device and return what it printed; LabError when it fails."""
        done = self._run(argv, stdin)
        if done.returncode:
            raise LabError(f"{self.name}: {' '.join(argv)} failed with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file on the device."""
        self.run("/bin/sh", "-c", 'cat >"$1"', "sh", path, stdin=text)

    def words(self, path: str) -> tuple[str, ...]:
        """Return the NUL-separated words of a file of the device, such as those in /proc."""
        return tuple(self.run("cat", path).split("\0")[:-1])

    def read(self, path: str) -> str:
        """Return the text of a file of the device."""
        return self.run("cat", path)

    def open_control_groups(self) -> None:
        """Let the device limit what it runs, as one that is no container may: systemd-nspawn forbids it in version 1.

        Not where the host has systemd, for its groups and those of the device could be the same.
        """
        if not Path("/run/systemd/system").exists():
            self.run("/bin/sh", "-c", OPEN_GROUPS)

    def unit(self, name: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit as `systemctl show` prints them."""
        output = self.run("systemctl", "show", f"--property={','.join(properties)}", name)
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def units(self, pattern: str) -> tuple[str, ...]:
        """Return the names of the units that systemd has loaded, by a glob pattern."""
        output = self.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", pattern)
        return tuple(line.split()[0] for line in output.splitlines())

    def __enter__(self) -> Self:
        try:
            self.power_on()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        with suppress(LabError, StackError, OSError):  # it may be off already
            self.pull_the_plug()
        self.program.stop()
        if self._group is not None:
            for each in Path("/sys/fs/cgroup").glob(f"*/{self._group}"):
                _remove_groups(each, lambda _: True)
        elif not Path("/run/systemd/system").exists():
            _sweep_control_groups()
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    def _state(self) -> str:
        """Return what init says of the device as a whole; "" while it says nothing."""
        try:
            return self._run(self._asking, None).stdout.strip()
        except LabError:
            return ""

    def _run(self, argv: tuple[str, ...], stdin: str | None) -> subprocess.CompletedProcess[str]:
        enter = ("nsenter", "-t", str(self.init), "-m", "-u", "-i", "-p", "--", *argv)
        try:
            return subprocess.run(
                enter,
                input=stdin or "",
                capture_output=True,
                text=True,
                timeout=COMMAND_S,
                check=False,
                env=ENVIRONMENT,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}: {' '.join(argv)} took longer than {COMMAND_S} s") from error


def _my_turn() -> IO[str]:
    """Return a lock that is held until it is closed; wait for other suites on this host.

    On a host without systemd its devices have the host's own groups for their units, so two of them would find each
    other's processes there, and `systemctl kill` fails at those.
    """
    lock = TURN.open("w")

    def taken() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    eventually(taken, what="no other suite has a device with systemd on this host", within_s=TURN_S)
    return lock


def _sweep_control_groups() -> None:
    """Remove the groups that devices left on a host which has no systemd; those in use stay."""
    for group in GROUPS:
        _remove_groups(
            Path("/sys/fs/cgroup", group),
            lambda name: (
                name.startswith("praetor-") or name.endswith((".slice", ".scope", ".service", ".mount", ".socket"))
            ),
        )


def _remove_groups(top: Path, chosen: Callable[[str], bool]) -> None:
    """Remove the control groups below *top*, and itself, whose name is *chosen*; those in use stay."""
    for root, _, _ in os.walk(top, topdown=False):
        if chosen(Path(root).name):
            with suppress(OSError):
                Path(root).rmdir()


def rootfs() -> Path | None:
    """Return the root file system that PRAETOR_LAB_ROOTFS names."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def why_unavailable(rootfs: Path | None) -> str | None:
    """Return why no device can be booted here, or None."""
    if rootfs is None:
        return "PRAETOR_LAB_ROOTFS does not name a root file system that boots with systemd"
    if not (rootfs / "lib" / "systemd" / "systemd").exists():
        return f"PRAETOR_LAB_ROOTFS={rootfs} has no systemd in it"
    if os.geteuid() != 0:
        return "devices are booted by root only"
    if missing := [program for program in ("systemd-nspawn", "nsenter") if shutil.which(program) is None]:
        return f"{' and '.join(missing)} are not installed; try the package systemd-container"
    return None

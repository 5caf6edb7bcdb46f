# SPDX-License-Identifier: Apache-2.0
"""Run a command that cannot outlive its starter.

The starter holds the write end of this process's standard input; when that closes, however the starter
ended, the command's whole process group is ended. Kept to the standard library so that it starts at once.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to kill this process when the reaper is killed; other systems have no such call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end(child: subprocess.Popen[bytes], grace_s: float) -> int:
    """Ask the group to end, and make it after *grace_s*; return the child's status."""
    for sign, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            break
        try:
            return child.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    return child.wait()


def run(argv: list[str], grace_s: float) -> int:
    """Run *argv* until it exits or standard input closes; return its exit status."""
    read_end, write_end = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(write_end, b"t"))
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent)
    exited = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
    waited = [0, read_end] + ([exited] if exited is not None else [])
    while child.poll() is None:
        ready, _, _ = select.select(waited, [], [], None if exited is not None else 0.2)
        if 0 in ready or read_end in ready:
            return end(child, grace_s)
    return child.returncode


def main() -> NoReturn:
    """Run the command in this process's arguments, the first of which is the grace in seconds."""
    status = run(sys.argv[2:], float(sys.argv[1]))
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""End the processes that stopped agents left running.

Only processes whose mark, the uid of a DeviceProcess, stands in an agent's files are touched. Run as a program
(`orphans.py FOLDER`), it waits until its standard input closes and then ends them, so that nothing outlives a
starter that was killed. Kept to the standard library so that it starts at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = b"PRAETOR_PROCESS_UID="
MOST_BYTES = 4 * 1024 * 1024  # of a file that may hold an agent's memory
GRACE_S = 2.0
POLL_S = 0.02
LINGER_S = 7.0  # an agent that is being ended may start a process once more


def marked(folder: Path) -> frozenset[int]:
    """Return the ids of the processes whose mark occurs in the files of *folder*."""
    marks = dict(_marks())
    if not marks:
        return frozenset()
    known = b"\n".join(_texts(folder))
    return frozenset(pid for pid, uid in marks.items() if uid in known)


def end_marked(folder: Path) -> None:
    """End the processes of *folder*, gracefully first; returns when none is left."""
    deadline = time.monotonic() + GRACE_S
    for pid in marked(folder):
        _send(pid, signal.SIGTERM)
    while left := marked(folder):
        if time.monotonic() > deadline:
            for pid in left:
                _send(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def _pids() -> Iterator[int]:
    own = os.getpid()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit() and int(name) != own:
            yield int(name)


def _marks() -> Iterator[tuple[int, bytes]]:
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile, or it may not be read
            continue
        yield from ((pid, word.removeprefix(MARK)) for word in environment if word.startswith(MARK))


def _texts(folder: Path) -> Iterator[bytes]:
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names if not name.endswith(".log")):
            try:
                yield path.read_bytes() if path.is_file() and path.stat().st_size < MOST_BYTES else b""  # no FIFO
            except OSError:  # rewritten meanwhile
                continue


def _send(pid: int, sign: signal.Signals) -> None:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def main() -> None:
    """Wait for the end of standard input, then end the processes of the folder named by the argument."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    while os.read(0, 1024):
        continue
    deadline = time.monotonic() + LINGER_S
    while time.monotonic() < deadline:
        end_marked(Path(sys.argv[1]))
        time.sleep(POLL_S)


if __name__ == "__main__":
    main()

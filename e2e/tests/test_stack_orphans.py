# SPDX-License-Identifier: Apache-2.0
"""Processes that agents left are found by their mark, and only those that the files of a folder name are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from e2e.stack import orphans
from e2e.stack.waiting import eventually

MARK = "PRAETOR_PROCESS_UID"


class Sleepers:
    """Processes that sleep, with or without the agents' mark."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened

    def start(self, uid: str | None) -> subprocess.Popen[bytes]:
        """Start one and return it once it is what it shall be."""
        env = {"PATH": os.environ["PATH"], **({} if uid is None else {MARK: uid})}
        sleeper = self._opened.enter_context(subprocess.Popen(["sleep", "600"], env=env))
        self._opened.callback(sleeper.kill)
        comm = Path(f"/proc/{sleeper.pid}/comm")
        eventually(comm.read_text, lambda name: name == "sleep\n", what="the sleeper sleeps")
        return sleeper


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    with ExitStack() as opened:
        yield Sleepers(opened)


@pytest.fixture
def uid(tmp_path: Path) -> str:
    """A uid that an agent with its state in the test's folder remembers."""
    made = str(uuid4())
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run").write_text(f"{made}\nsha256:0\n")
    return made


def test_only_processes_that_the_folder_names_are_found(sleepers: Sleepers, uid: str, tmp_path: Path) -> None:
    wanted = sleepers.start(uid)
    sleepers.start(None)
    sleepers.start(str(uuid4()))
    assert orphans.marked(tmp_path) == {wanted.pid}


def test_the_processes_of_the_folder_are_ended_and_no_others(sleepers: Sleepers, uid: str, tmp_path: Path) -> None:
    mine, other = sleepers.start(uid), sleepers.start(str(uuid4()))
    # a process that ended keeps its id until it is waited for, so another process ends them meanwhile
    with subprocess.Popen([sys.executable, orphans.__file__, str(tmp_path)], stdin=subprocess.PIPE) as watchdog:
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        assert mine.wait(300) == -15
        watchdog.kill()
    assert other.poll() is None


def test_the_watchdog_does_nothing_while_its_starter_lives(sleepers: Sleepers, uid: str, tmp_path: Path) -> None:
    sleeper = sleepers.start(uid)
    with subprocess.Popen([sys.executable, orphans.__file__, str(tmp_path)], stdin=subprocess.PIPE) as watchdog:
        assert watchdog.stdin is not None
        status = Path(f"/proc/{watchdog.pid}/status")
        eventually(lambda: _ignored(status.read_text()) >> (signal.SIGINT - 1) & 1, what="it ignores a Ctrl-C")
        watchdog.stdin.write(b"still here")
        watchdog.stdin.flush()
        watchdog.send_signal(signal.SIGINT)
        assert (sleeper.poll(), watchdog.poll()) == (None, None)
        watchdog.kill()


def _ignored(status: str) -> int:
    """Return the signals that a process ignores as a bit mask, by its `/proc/PID/status`."""
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn:"))

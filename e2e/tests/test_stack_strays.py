"""What agents left running is found by their mark, and only what belongs to the folder is ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.stack import strays
from e2e.stack.waiting import eventually

UID = "PRAETOR_PROCESS_UID"


class Sleepers:
    """Processes that sleep in a folder, with or without the agents' mark."""

    def __init__(self, opened: ExitStack) -> None:
        self._opened = opened

    def start(self, home: Path, *, marked: bool = True) -> subprocess.Popen[bytes]:
        """Start one and return it once it is what it shall be."""
        env = {"PATH": os.environ["PATH"], **({UID: "some-uid"} if marked else {})}
        sleeper = self._opened.enter_context(subprocess.Popen(["sleep", "600"], cwd=home, env=env))
        self._opened.callback(sleeper.kill)
        comm = Path(f"/proc/{sleeper.pid}/comm")
        eventually(comm.read_text, lambda name: name == "sleep\n", what="the sleeper sleeps")
        return sleeper


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    with ExitStack() as opened:
        yield Sleepers(opened)


def test_only_marked_processes_of_the_folder_are_found(sleepers: Sleepers, tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "mine-not"
    mine.mkdir()
    others.mkdir()
    wanted = sleepers.start(mine)
    sleepers.start(mine, marked=False)
    sleepers.start(others)
    assert strays.marked(mine) == {wanted.pid}


def test_the_processes_of_the_folder_are_ended_and_no_others(sleepers: Sleepers, tmp_path: Path) -> None:
    mine, unmarked = sleepers.start(tmp_path), sleepers.start(tmp_path, marked=False)
    # a zombie still has its id, so the test takes note of the end while the strays are being ended
    with subprocess.Popen([sys.executable, strays.__file__, str(tmp_path)], stdin=subprocess.PIPE) as watchdog:
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        assert mine.wait(10) == -15
        watchdog.kill()
    assert unmarked.poll() is None


def test_the_watchdog_does_nothing_while_its_starter_lives(sleepers: Sleepers, tmp_path: Path) -> None:
    sleeper = sleepers.start(tmp_path)
    with subprocess.Popen([sys.executable, strays.__file__, str(tmp_path)], stdin=subprocess.PIPE) as watchdog:
        assert watchdog.stdin is not None
        watchdog.stdin.write(b"still here")
        watchdog.stdin.flush()
        watchdog.terminate()  # as a Ctrl-C in a terminal reaches it, too
        assert (sleeper.poll(), watchdog.poll()) == (None, None)
        watchdog.kill()

# SPDX-License-Identifier: Apache-2.0
"""A program that is forked with its modules imported can be ended like any other, and never outlives its starter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.stack.errors import StackError
from e2e.stack.preloaded import Preloaded
from e2e.stack.program import Program
from e2e.stack.waiting import eventually
from e2e.suite.running import is_alive

CONTROLLER = "praetor_controller.cli:main"


def preloaded(workdir: Path, *arguments: str, main: str = CONTROLLER) -> Preloaded:
    return Preloaded(Program("forked", ["praetor-controller", *arguments], workdir=workdir, env=dict(os.environ)), main)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Preloaded]:
    """A program that runs until it is ended."""
    made = preloaded(tmp_path, "infinity", main="signal:pause")
    yield made
    made.stop()


def test_it_is_the_program_itself_with_its_arguments_and_its_log(tmp_path: Path) -> None:
    program = preloaded(tmp_path, "--version")
    program.start()
    assert eventually(lambda: program.exit_status, lambda status: status is not None, what="it ended") == 0
    assert program.tail().startswith("praetor-controller, version ")
    program.stop()


def test_its_failure_is_in_its_exit_status_and_its_log(tmp_path: Path) -> None:
    program = preloaded(tmp_path, "--nonsense")
    program.start()
    assert eventually(lambda: program.exit_status, lambda status: status is not None, what="it ended") == 2
    assert "No such option" in program.tail()
    program.stop()


def test_it_can_be_killed_and_started_again_and_again(sleeper: Preloaded) -> None:
    seen = set()
    for _ in range(5):
        sleeper.start()
        assert sleeper.running
        seen.add(sleeper.pid)
        sleeper.kill()
        assert (sleeper.running, sleeper.exit_status) == (False, 128 + 9)
    assert len(seen) == 5
    assert not any(map(is_alive, seen))


def test_it_runs_once_at_a_time(sleeper: Preloaded) -> None:
    sleeper.start()
    with pytest.raises(StackError, match="runs already"):
        sleeper.start()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from e2e.stack.preloaded import Preloaded\n"
        "from e2e.stack.program import Program\n"
        "made = Program('forked', ['x'], workdir=pathlib.Path(sys.argv[1]), env=dict(os.environ))\n"
        "made = Preloaded(made, 'signal:pause')\n"
        "made.start()\n"
        "print(made.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    pid = int(done.stdout)
    eventually(lambda: not is_alive(pid), what="it ended, too")

# SPDX-License-Identifier: Apache-2.0
"""A program under test can be ended in every way, and never outlives its starter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.stack.errors import StackError
from e2e.stack.program import Program
from e2e.stack.waiting import eventually
from e2e.suite.running import is_alive

SLEEPER = ("/bin/sh", "-c", "echo up; exec sleep 600")
STUBBORN = (sys.executable, "-c", "import signal,time; signal.signal(15, lambda *_: print('asked')); time.sleep(600)")


@pytest.fixture
def program(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Program("sleeper", SLEEPER, workdir=tmp_path)
    yield made
    made.stop()


def test_a_started_program_has_the_process_id_of_the_program_itself(program: Program) -> None:
    program.start()
    command = Path(f"/proc/{program.pid}/cmdline")
    eventually(command.read_bytes, lambda text: text == b"sleep\x00600\x00", what="sleep runs")


def test_a_killed_program_is_gone_and_can_be_started_again(program: Program) -> None:
    program.start()
    first = program.pid
    program.kill()
    assert (program.running, is_alive(first), program.exit_status) == (False, False, 128 + 9)
    program.start()
    assert program.pid != first


def test_the_log_keeps_what_was_printed_before_a_restart(program: Program) -> None:
    program.start()
    eventually(program.tail, lambda text: text == "up", what="it printed")
    program.terminate()
    program.start()
    eventually(program.tail, lambda text: text == "up\nup", what="it printed once more")


def test_a_program_that_does_not_run_has_no_process_id(program: Program) -> None:
    with pytest.raises(StackError, match="sleeper does not run"):
        _ = program.pid


def test_the_log_of_a_program_that_cannot_be_run_has_the_reason(tmp_path: Path) -> None:
    program = Program("absent", ["/no/such/program"], workdir=tmp_path)
    program.start()
    eventually(lambda: not program.running, what="it ended")
    program.stop()
    assert "/no/such/program" in program.tail()


def test_a_frozen_program_is_ended_like_any_other(program: Program) -> None:
    program.start()
    pid = program.pid
    program.freeze()
    program.stop()
    assert not is_alive(pid)


def test_a_program_does_not_outlive_its_starter(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, time; from e2e.stack.program import Program;"
        f"p = Program('sleeper', {SLEEPER!r}, workdir=pathlib.Path({str(tmp_path)!r})); p.start();"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ)) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
    eventually(lambda: not is_alive(pid), what="the program ended with its starter")

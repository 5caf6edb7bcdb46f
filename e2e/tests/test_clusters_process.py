# SPDX-License-Identifier: Apache-2.0
"""Programs that we start end when we end them, and when we end ourselves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.clusters.errors import ClusterError
from e2e.clusters.programs.process import Process

PRINT_PID = "print(os.getpid(), flush=True)"
LIMIT_S = 300.0


def first_line(log: Path) -> str:
    """Return the first line of *log* as soon as there is one."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if log.exists() and (lines := log.read_text().splitlines()):
            return lines[0]
    raise AssertionError(f"{log} stays empty")


def alive(pid: int) -> bool:
    """Return whether the process runs: one that ended is not alive, even if its parent has not collected it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter when it ends while it is read
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def soon(holds: Callable[[], bool]) -> bool:
    """Return whether *holds* becomes true within the limit."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > deadline:
            return False
    return True


def sleeper(log: Path) -> tuple[Process, int]:
    """Return a program that sleeps, and its process id."""
    argv = [sys.executable, "-c", f"import os, time; {PRINT_PID}; time.sleep(600)"]
    return Process(argv, log=log, cwd=log.parent), int(first_line(log))


def test_a_program_runs_until_it_is_stopped(tmp_path: Path) -> None:
    process, pid = sleeper(tmp_path / "log")
    assert process.running
    process.check()
    process.stop()
    assert soon(lambda: not alive(pid))


def test_stopping_twice_is_stopping_once(tmp_path: Path) -> None:
    process, _ = sleeper(tmp_path / "log")
    process.stop()
    process.stop()
    assert not process.running


def test_stopping_ends_what_the_program_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    grandchild = f"import os, time; {PRINT_PID}; time.sleep(600)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    process = Process([sys.executable, "-c", child], log=log, cwd=tmp_path)
    pid = int(first_line(log))
    process.stop()
    assert soon(lambda: not alive(pid))


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_program_does_not_outlive_its_starter(tmp_path: Path, sign: signal.Signals) -> None:
    log = tmp_path / "log"
    program = [sys.executable, "-c", f"import os, time; {PRINT_PID}; time.sleep(600)"]
    starter = (
        "import sys, time; from pathlib import Path; from e2e.clusters.programs.process import Process\n"
        f"process = Process({program!r}, log=Path({str(log)!r}), cwd=Path({str(tmp_path)!r}))\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], cwd=Path(__file__).parents[2]) as parent:
        pid = int(first_line(log))
        parent.send_signal(sign)
    assert soon(lambda: not alive(pid))


def test_a_program_that_ended_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"]
    process = Process(argv, log=tmp_path / "log", cwd=tmp_path)
    assert soon(lambda: not process.running)
    with pytest.raises(ClusterError, match=r"(?s)ended with status 3.*no such thing"):
        process.check()
    process.stop()


def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    process = Process([str(tmp_path / "nope")], log=tmp_path / "log", cwd=tmp_path)
    assert soon(lambda: not process.running)
    with pytest.raises(ClusterError, match="nope ended with status"):
        process.check()
    process.stop()


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ignoring = f"import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {PRINT_PID}; time.sleep(600)"
    process = Process([sys.executable, "-c", ignoring], log=tmp_path / "log", cwd=tmp_path, grace_s=0.1)
    pid = int(first_line(tmp_path / "log"))
    process.stop()
    assert soon(lambda: not alive(pid))

# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a process, independent of what its agent reports, and what the device shows of its output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from e2e.stack.agent import Agent


def is_alive(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def argv_of(pid: int) -> tuple[str, ...]:
    """Return the command line."""
    return _words(pid, "cmdline")


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that the process was started with."""
    pairs = (word.partition("=") for word in _words(pid, "environ"))
    return {name: value for name, _, value in pairs}


def directory_of(pid: int) -> Path:
    """Return the working directory."""
    return Path(f"/proc/{pid}/cwd").readlink()


def user_of(pid: int) -> int:
    """Return the effective user id."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("Uid:"))
    return int(line.split()[2])


def _words(pid: int, name: str) -> tuple[str, ...]:
    return tuple(word.decode() for word in Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")[:-1])


def output_of(agent: Agent, process: str) -> str:
    """Return what `praetor-agent logs` prints on the device."""
    words = (sys.executable, "-m", "praetor_agent", "logs", process, "--state-dir", str(agent.state_dir))
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout

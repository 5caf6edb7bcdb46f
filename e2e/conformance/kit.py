# SPDX-License-Identifier: Apache-2.0
"""`praetorctl conformance`, run as people run it, and the agent in sh."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AGENT_SH = Path(__file__).parents[2] / "docs" / "examples" / "agent.sh"


def kit(*args: str) -> tuple[int, list[str]]:
    """Run the kit and return its exit code and the lines that it printed."""
    command = [sys.executable, "-m", "praetor_controller.ctl", "conformance", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def others(lines: list[str]) -> list[str]:
    """Return the lines of checks that are not ok, and what was seen instead."""
    return [line for line in lines[:-1] if not line.startswith("ok ")]

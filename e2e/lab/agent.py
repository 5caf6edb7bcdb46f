# SPDX-License-Identifier: Apache-2.0
"""An agent on a booted device: started as it is, without an init system that would start it again."""

from __future__ import annotations

import os
from pathlib import Path

from e2e.lab.device import LabDevice
from e2e.stack.waiting import eventually

PLACE, STATE, TOKEN = "/opt/praetor", "/var/lib/praetor-agent", "/etc/praetor-token"
LOG = "/var/log/agent.log"
START = (
    "PYTHONPATH={place} PYTHONDONTWRITEBYTECODE=1 exec setsid /usr/bin/python3 -m praetor_agent run"
    " --gateway={gateway} --device={device} --token-file={token} --state-dir={state} --start-splay=0"
    " >>{log} 2>&1 </dev/null &"
)


def start_agent(device: LabDevice, gateway: str, token: str, *, log: str = LOG) -> None:
    """Start the agent; returns at once."""
    device.write(TOKEN, token)
    device.run("chmod", "600", TOKEN)
    text = START.format(place=PLACE, gateway=gateway, device=device.name, token=TOKEN, state=STATE, log=log)
    device.run("/bin/sh", "-c", text)


def kill_agent(device: LabDevice) -> None:
    """End the agent with SIGKILL."""
    device.run("pkill", "-KILL", "-f", "praetor_agent run")


def runs_with(state: Path) -> bool:
    """Return whether an agent runs on the state directory *state*, without touching its lock."""
    try:
        lock = (state / "lock").stat()
    except FileNotFoundError:
        return False
    named = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    held = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any("FLOCK" in words and named in words for words in held)


def await_agent(state: Path, *, runs: bool) -> None:
    """Return when an agent with the state directory *state* runs, or none does."""
    eventually(lambda: runs_with(state), lambda found: found == runs, what=f"an agent at {state}: {runs}")

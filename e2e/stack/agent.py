# SPDX-License-Identifier: Apache-2.0
"""One device: an agent as a process of its own, with a state folder and a token of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e.clusters.api.credentials import write_secret
from e2e.clusters.api.kubectl import output_of
from e2e.stack import orphans
from e2e.stack.program import Program


class Agent:
    """The agent of *device*. Stopping it leaves its processes running, as on a real device; `unplug` ends them, too."""

    def __init__(
        self,
        device: str,
        argv: Sequence[str],
        *,
        gateway: str,
        token: str,
        workdir: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.device = device
        self.home = workdir / device
        self.home.mkdir(parents=True, exist_ok=True)
        self.state_dir = self.home / "state"
        self.token_file = write_secret(self.home / "token", token.encode())
        self.hold_file = self.home / "hold"
        self._places = (f"--state-dir={self.state_dir}", f"--hold-file={self.hold_file}")
        flags = {"gateway": gateway, "device": device, "token-file": self.token_file}
        command = [*argv, *(f"--{name}={value}" for name, value in flags.items()), *self._places]
        self.program = Program("agent", command, workdir=self.home, env=env)

    def start(self) -> None:
        """Start the agent; returns at once, so wait for AgentConnected."""
        self.program.start()

    def restart(self, *, kill: bool = False) -> None:
        """End the agent, gracefully or not, and start it again; its processes run on."""
        self.program.restart(kill=kill)

    def unplug(self) -> None:
        """End the agent and every process of the device at once, as a power cut does; its state stays on disk."""
        if self.program.running:
            self.program.kill()
        self.end_processes()

    def status(self) -> dict[str, Any]:
        """Return what `praetor-agent status` prints on the device."""
        printed: dict[str, Any] = json.loads(output_of([self.program.argv[0], "status", "-o=json", *self._places]))
        return printed

    def processes(self) -> frozenset[int]:
        """Return the ids of the processes that carry the agent's mark."""
        return orphans.marked(self.home)

    def end_processes(self) -> None:
        """End the processes that the agent left."""
        orphans.end_marked(self.home)

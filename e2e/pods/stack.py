# SPDX-License-Identifier: Apache-2.0
"""The programs of the suite as Pods: agents, simulated devices and users of the API are where they are otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.pods.system import System, Version
from e2e.stack.agent import Agent
from e2e.stack.server import Server
from e2e.stack.stack import Stack


class PodStack(Stack):
    """Controller and gateways by the chart; tests that end or replace them need Capability.PROGRAMS."""

    def __init__(self, system: System, workdir: Path) -> None:
        super().__init__(system.node, workdir)
        self._system = system

    @property
    def gateway_url(self) -> str:
        """Where the gateways' Service is."""
        return self._system.gateway_url()

    def servers(self) -> tuple[Server, ...]:
        """Return nothing: a test ends no Pod, and reads no file of one."""
        return ()

    def start(self) -> None:
        """Install the chart with the settings of a stack; returns when all Pods are available."""
        self._system.install(Version(values=self._values()))
        self.secret = self._system.release.secret("praetor-device-tokens", "secrets").strip()
        self._start_watchdog()

    def add_agent(
        self,
        device: str,
        *,
        gateway: Server | None = None,
        url: str | None = None,
        token: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Agent:
        """Start the agent of a new device, which reaches the Service unless *url* names another place."""
        return super().add_agent(device, url=url or self.gateway_url, token=token, variables=variables)

    def logs(self, since: dict[Path, int] | None = None) -> str:
        """Return the last lines of what the Pods logged, and of the agents' logs from *since* on."""
        return f"{self._system.logs()}\n{super().logs(since)}"

    def _values(self) -> dict[str, Any]:
        settings = self.settings
        judging = [
            f"--default-heartbeat-seconds={settings.heartbeat}",
            f"--stale-multiplier={settings.stale_multiplier}",
        ]
        return {
            "controller": {"extraArgs": [f"--leader-elect-lease-duration={settings.lease}"]},
            "gateway": {"extraArgs": [*judging, f"--lease-duration={settings.lease}"]},
        }

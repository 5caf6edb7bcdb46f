# SPDX-License-Identifier: Apache-2.0
"""The devices of one test: inventory in its namespace and an agent for each."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from e2e.stack.agent import Agent
from e2e.stack.kube import SWITCHES, Kube, Object, condition
from e2e.stack.manifests import network_switch
from e2e.stack.server import Server
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually


class AgentFleet:
    """Devices with unique names: a device's name must be unique across namespaces."""

    def __init__(self, stack: Stack, kube: Kube) -> None:
        self.stack = stack
        self.kube = kube
        self._numbers = count(1)
        self._mine: list[str] = []

    def declare(self, labels: Mapping[str, str] | None = None) -> str:
        """Make a NetworkSwitch that has no agent (yet); return its name."""
        name = f"{self.kube.namespace}-{next(self._numbers)}"
        self.kube.apply(network_switch(name, labels))
        return name

    def power_on(
        self,
        device: str,
        gateway: Server | None = None,
        url: str | None = None,
        token: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Agent:
        """Start an agent for *device*, with a fresh disk, which talks to *gateway* (the first one), or by *url*.

        It has *token*, by default its own. *variables* are further ones in its environment.
        """
        self._mine.append(device)
        return self.stack.add_agent(device, gateway=gateway, url=url, token=token, variables=variables)

    def add(self, number: int = 1, labels: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Declare devices, start their agents, and return their names once they are connected."""
        devices = tuple(self.declare(labels) for _ in range(number))
        for device in devices:
            self.power_on(device)
        for device in devices:
            self.await_connected(device)
        return devices

    def agent(self, device: str) -> Agent:
        """Return the agent of *device*."""
        return self.stack.agents[device]

    def await_connected(self, device: str, status: str = "True") -> Object:
        """Return the NetworkSwitch once its AgentConnected is *status*."""
        return eventually(
            lambda: self.kube.switch(device),
            lambda switch: condition(switch, "AgentConnected") == status,
            what=f"AgentConnected of {device} is {status}",
        )

    def label(self, device: str, labels: Mapping[str, str | None]) -> None:
        """Change labels of the NetworkSwitch; None takes one away."""
        self.kube.patch(SWITCHES, device, {"metadata": {"labels": dict(labels)}})

    def close(self) -> None:
        """Delete the devices, then end the agents and their processes."""
        self.kube.delete_devices()
        self.stack.remove_agents([device for device in self._mine if device in self.stack.agents])

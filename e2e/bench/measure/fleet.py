# SPDX-License-Identifier: Apache-2.0
"""Many simulated devices in one process, declared and rolled out to as an operator would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.bench.measure.context import until
from e2e.rollouts.fleet import SimulatedFleet
from e2e.stack.manifests import deployment, network_switch, process_spec
from e2e.stack.program import Program
from e2e.stack.stack import Stack
from praetor_api.kube.client.client import KubeClient
from praetor_api.kube.client.resource import NETWORK_SWITCHES

NAME = "agent"
GROUP = "group"
GROUPS = 5
CONCURRENCY = 32


class DeployedFleet:
    """*count* NetworkSwitches in the namespace default, and a deployment `agent` to all of them."""

    def __init__(self, stack: Stack, count: int, *, strategy: str = "RollingUpdate") -> None:
        self.names = [f"leaf-{number}" for number in range(1, count + 1)]
        self.kube = stack.kube("default")
        self._stack = stack
        self._strategy = strategy
        asyncio.run(create_switches(stack.cluster.kubeconfig, "default", self.names))

    @contextmanager
    def simulated(self) -> Iterator[Program]:
        """Run the devices around the block: they poll, report and beat as real ones do."""
        fleet = SimulatedFleet(self._stack, self.kube)
        try:
            yield fleet.power_on(self.names)
        finally:
            fleet.close()

    def apply(self, revision: int) -> None:
        """Apply the deployment's *revision*; returns at once."""
        spec = process_spec(["/bin/sleep", str(1000 + revision)])
        body = deployment(NAME, spec, updateStrategy={"type": self._strategy})
        if self._strategy == "RollingUpdate":
            body["spec"]["updateStrategy"]["rollingUpdate"] = {"maxUnavailable": "10%"}
        self.kube.apply(body)

    def deploy(self, revision: int) -> float:
        """Apply *revision* and return after how many seconds every device has it, ready and available."""
        self.apply(revision)
        return until(self._rolled_out, f"revision {revision} is everywhere", poll_s=0.1)

    def _rolled_out(self) -> bool:
        body = self.kube.deployment(NAME)
        status, count = body.get("status", {}), len(self.names)
        return status.get("observedGeneration") == body["metadata"]["generation"] and all(
            status.get(field) == count for field in ("updatedNumberScheduled", "numberReady", "numberAvailable")
        )


async def create_switches(kubeconfig: Path, namespace: str, names: list[str], groups: int = GROUPS) -> None:
    """Create a NetworkSwitch for each name, several at a time; by the label GROUP they are in *groups* of one size."""
    left = enumerate(names)
    async with await KubeClient.from_config(str(kubeconfig)) as client, asyncio.TaskGroup() as group:

        async def work() -> None:
            for number, name in left:
                await client.create(NETWORK_SWITCHES, namespace, network_switch(name, {GROUP: str(number % groups)}))

        for number in range(CONCURRENCY):
            group.create_task(work(), name=f"create switches {number}")

# SPDX-License-Identifier: Apache-2.0
"""A controller in this process, on an API in memory, whose fleet has been rolled out to and is ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import structlog
from attrs import frozen

from e2e.stack.manifests import deployment, network_switch, process_spec
from kube_testing import FakeClock, InProcessKube
from praetor_api.conditions import ConditionType
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_api.kube.codec import format_time
from praetor_controller.main import Program
from praetor_controller.reconcile.state import DirtySet
from praetor_controller.settings import Settings

NAME = "agent"
NAMESPACE = "lab"
SETTINGS = Settings(metrics=None, probes=None, leader_elect=False, qps=1e6, burst=1_000_000)


@frozen
class InMemoryFleet:
    """*size* devices of one deployment, NAME, and the API and the clock that they share with a controller."""

    kube: InProcessKube
    clock: FakeClock
    size: int

    async def report(self, number: int, phase: str = "Running") -> None:
        """Store the status that device *number* reports for its process."""
        body = {"status": ready_status(self.clock.now(), phase)}
        await self.kube.patch(DEVICE_PROCESSES, Key(NAMESPACE, f"{NAME}-leaf-{number}"), body, subresource="status")

    async def apply(self, revision: int) -> None:
        """Change the template of the deployment."""
        spec = process_spec(["/bin/sleep", str(revision)])
        await self.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, Key(NAMESPACE, NAME), {"spec": {"template": {"spec": spec}}})


@asynccontextmanager
async def running_controller(size: int, dirty: DirtySet | None = None) -> AsyncIterator[InMemoryFleet]:
    """Run a controller around the block, which begins when *size* devices are ready and nothing happens any more.

    *dirty* replaces the dirty set of the controller.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock = FakeClock()
    fleet = InMemoryFleet(InProcessKube(clock), clock, size)
    for number in range(size):
        await fleet.kube.create(NETWORK_SWITCHES, NAMESPACE, network_switch(f"leaf-{number}"))
    spec = process_spec(["/bin/sleep", "1"])
    await fleet.kube.create(DEVICE_PROCESS_DEPLOYMENTS, NAMESPACE, deployment(NAME, spec))
    program = Program(fleet.kube, clock, SETTINGS)
    if dirty is not None:
        program.controller.dirty = dirty
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        ran = group.create_task(program.run(stop), name="controller")
        while len(fleet.kube.peek(DEVICE_PROCESSES)) < size:
            await clock.advance(1)
        for number in range(size):
            await fleet.report(number)
        await clock.advance(5)
        yield fleet
        stop.set()
        await clock.advance(10)
        await ran


def ready_status(now: datetime, phase: str = "Running") -> dict[str, Any]:
    """Return the status that a device reports for a healthy process of the first generation."""
    types = (
        ConditionType.AGENT_CONNECTED,
        ConditionType.SPEC_OBSERVED,
        ConditionType.PROCESS_STARTED,
        ConditionType.HEALTHY,
    )
    conditions = [
        {"type": each, "status": "True", "reason": "Reported", "message": "ok", "lastTransitionTime": format_time(now)}
        for each in types
    ]
    return {"phase": phase, "observedGeneration": 1, "conditions": conditions}

# SPDX-License-Identifier: Apache-2.0
"""For tests of the program: an API in memory, a clock that the test moves, and what users and devices do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from controller_testing import runs
from kube_testing import FakeClock, InProcessKube, Request, body_of
from praetor_api.kube.client.resource import (
    CONTROLLER_REVISIONS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    LEASES,
    NETWORK_SWITCHES,
    Key,
)
from praetor_api.kube.codec import format_time
from praetor_api.kube.runtime.tracing import NO_TRACER, Tracer
from praetor_controller.main import Program
from praetor_controller.model.revisions import template_of
from praetor_controller.settings import Recording, Settings

TEL = Key("lab", "tel")


class ProgramFixture:
    """An API in memory, a clock, and the program that runs on them."""

    def __init__(self, kube: type[InProcessKube] = InProcessKube) -> None:
        self.clock = FakeClock()
        self.kube = kube(self.clock)

    async def switch(self, name: str, **labels: str) -> None:
        body = body_of(NETWORK_SWITCHES, name, {"labels": {"role": "leaf"} | labels}, spec={})
        await self.kube.create(NETWORK_SWITCHES, "lab", body)

    async def deploy(self, name: str = "tel", **spec: Any) -> None:
        body: dict[str, Any] = {
            "selector": {"matchLabels": {"role": "leaf"}},
            "template": {"metadata": {"labels": {"app": "tel"}}, "spec": runs("v1")},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        }
        deployment = body_of(DEVICE_PROCESS_DEPLOYMENTS, name, spec=body | spec)
        await self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", deployment)

    async def orphan(self, name: str, renamed: Mapping[str, str], owners: Sequence[Mapping[str, Any]] = ()) -> None:
        """Delete a deployment and leave its processes with *owners* alone, as a restored backup has them; *renamed*
        are the names that some of them have then."""
        await self.kube.delete(DEVICE_PROCESS_DEPLOYMENTS, Key("lab", name))
        for old, obj in self.processes().items():
            await self.kube.delete(DEVICE_PROCESSES, Key("lab", old))
            new, metadata, status = renamed.get(old, old), obj["metadata"], obj.get("status") or {}
            kept = {each: metadata[each] for each in ("labels", "annotations")} | {"ownerReferences": list(owners)}
            await self.kube.create(DEVICE_PROCESSES, "lab", body_of(DEVICE_PROCESSES, new, kept, spec=obj["spec"]))
            await self.kube.patch(DEVICE_PROCESSES, Key("lab", new), {"status": status}, subresource="status")

    async def edit(self, **spec: Any) -> None:
        await self.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"spec": spec})

    async def change_template(self, command: str, **metadata: Any) -> None:
        await self.edit(template={"metadata": metadata, "spec": runs(command)})

    async def report_ready(self, *names: str) -> None:
        for key, obj in self.kube.objects(DEVICE_PROCESSES).items():
            if names and key.name not in names:
                continue
            await self.report(key.name, observedGeneration=obj["metadata"]["generation"])

    async def report(self, name: str, **status: Any) -> None:
        """Report that a process runs and is healthy, except for what *status* says."""
        now = format_time(self.clock.now())
        types = ("AgentConnected", "SpecObserved", "ProcessStarted", "Healthy")
        conditions = [{"type": each, "status": "True", "lastTransitionTime": now} for each in types]
        status = {"phase": "Running", "observedGeneration": 1, "conditions": conditions} | status
        await self.kube.patch(DEVICE_PROCESSES, Key("lab", name), {"status": status}, subresource="status")

    def processes(self) -> dict[str, dict[str, Any]]:
        return {key.name: obj for key, obj in self.kube.objects(DEVICE_PROCESSES).items()}

    def commands(self) -> dict[str, str]:
        return {name: obj["spec"]["execution"]["command"][0] for name, obj in self.processes().items()}

    def history(self) -> dict[int, str]:
        rows = self.kube.objects(CONTROLLER_REVISIONS).values()
        return {each["revision"]: template_of(each)["spec"]["execution"]["command"][0] for each in rows}

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL].get("status") or {}
        return status

    def condition(self, type_: str) -> tuple[str, str]:
        found = next(each for each in self.status()["conditions"] if each["type"] == type_)
        return found["status"], found["reason"]

    def writes(self) -> list[str]:
        verbs = ("create", "patch", "delete")
        return [each.verb for each in self.kube.requests if each.verb in verbs and each.resource == DEVICE_PROCESSES]

    def requests(self) -> list[Request]:
        return [each for each in self.kube.requests if each.resource != LEASES and each.verb not in ("list", "watch")]

    @asynccontextmanager
    async def controller(
        self, recording: Recording | None = None, namespaces: tuple[str, ...] = (), spans: Tracer = NO_TRACER
    ) -> AsyncIterator[Program]:
        settings = Settings(metrics=None, probes=None, recording=recording, namespaces=namespaces)
        program = Program(self.kube, self.clock, settings, spans)
        with program.recording():
            async with self.running(program):
                yield program

    @asynccontextmanager
    async def running(self, program: Program, seconds: float = 5.0) -> AsyncIterator[None]:
        """Run *program*, at first for that long."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(program.run(stop), name="controller")
            await self.clock.advance(seconds)
            assert not program.unready()
            yield
            stop.set()
            await self.clock.advance(10)
            await running

# SPDX-License-Identifier: Apache-2.0
"""For tests: a cluster in the process that commands are run against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from click.testing import CliRunner, Result

from kube_testing import FakeClock, InProcessKube, body_of
from kubeplane import ControlPlane
from praetor_api.kube.client.resource import (
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_controller.ctl.cli import main
from praetor_controller.ctl.cluster import Cluster, Target

NAMESPACE = "lab"


class LabKube(InProcessKube):
    """A client that a rehearsal can be made of."""

    def rehearsal(self) -> LabKube:
        """Return a client of a copy: it answers writes, and the objects stay as they are."""
        return LabKube(self._clock, plane=ControlPlane(clock=self._clock, bookmark_s=0, origin=self.plane))


class Lab:
    """A namespace, the commands that read and change it, and where they were asked to find it."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, 1, tzinfo=UTC)) -> None:
        self.clock = FakeClock(now)
        self.kube = LabKube(self.clock)
        self.asked: list[Target] = []

    @asynccontextmanager
    async def open(self, target: Target) -> AsyncIterator[Cluster]:
        self.asked.append(target)
        api = self.kube.rehearsal() if target.dry_run else self.kube
        yield Cluster(api=api, namespace=target.namespace or NAMESPACE, clock=self.clock)

    def run(self, *args: str, **settings: Any) -> Result:
        return CliRunner().invoke(main, args, obj=self.open, **settings)

    def put(self, resource: Resource, name: str, metadata: Mapping[str, Any] | None = None, **parts: Any) -> str:
        """Create an object, with its status if *parts* has one, and return its uid."""
        return asyncio.run(self._put(resource, name, body_of(resource, name, metadata, **parts)))

    def switch(self, name: str, labels: Mapping[str, str] | None = None, **parts: Any) -> str:
        return self.put(NETWORK_SWITCHES, name, {"labels": dict(labels or {})}, **parts)

    def deployment(self, name: str, metadata: Mapping[str, Any] | None = None, **parts: Any) -> str:
        return self.put(DEVICE_PROCESS_DEPLOYMENTS, name, metadata, **parts)

    def process(self, name: str, metadata: Mapping[str, Any] | None = None, **parts: Any) -> str:
        return self.put(DEVICE_PROCESSES, name, metadata, **parts)

    def stored(self, resource: Resource, name: str) -> dict[str, Any]:
        return self.kube.objects(resource)[Key(NAMESPACE, name)]

    async def _put(self, resource: Resource, name: str, body: dict[str, Any]) -> str:
        made = await self.kube.create(resource, NAMESPACE, body)
        if "status" in body:
            status = {"status": body["status"]}
            await self.kube.patch(resource, Key(NAMESPACE, name), status, subresource="status")
        uid: str = made["metadata"]["uid"]
        return uid

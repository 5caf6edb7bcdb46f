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
LONG_AGO = "2026-01-01T00:00:00Z"
OLD, NEW = ({"execution": {"backend": backend, "command": ["/opt/tel"]}} for backend in ("process", "systemd"))


def owned_by(deployment: str, uid: str) -> dict[str, Any]:
    """Return the owner references of what a deployment made."""
    owner = {"apiVersion": "azure.com/v1alpha1", "kind": "DeviceProcessDeployment", "name": deployment, "uid": uid}
    return {"ownerReferences": [owner | {"controller": True}]}


def connected(value: str = "True") -> dict[str, Any]:
    """Return the condition of a switch or a process whose agent has been connected, or not, for an hour."""
    return {"type": "AgentConnected", "status": value, "lastTransitionTime": LONG_AGO}


def running() -> dict[str, Any]:
    """Return the status of a process that has been healthy for an hour."""
    others = [{"type": kind, "status": "True", "lastTransitionTime": LONG_AGO} for kind in ("SpecObserved", "Healthy")]
    return {"phase": "Running", "observedGeneration": 1, "conditions": [connected(), *others]}


class LabKube(InProcessKube):
    """A client that a rehearsal can be made of."""

    def rehearsal(self) -> LabKube:
        """Return a client of a copy: it answers writes, and the objects stay as they are."""
        return type(self)(self._clock, plane=ControlPlane(clock=self._clock, bookmark_s=0, origin=self.plane))


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
        settings["env"] = {"COLUMNS": None, **(settings.get("env") or {})}  # piped, whatever the terminal of the tests
        return CliRunner().invoke(main, args, obj=self.open, **settings)

    def put(self, resource: Resource, name: str, metadata: Mapping[str, Any] | None = None, **parts: Any) -> str:
        """Create an object, with its status if *parts* has one, and return its uid."""
        return asyncio.run(self._put(resource, name, body_of(resource, name, metadata, **parts)))

    def switch(self, name: str, labels: Mapping[str, str] | None = None, **parts: Any) -> str:
        return self.put(NETWORK_SWITCHES, name, {"labels": dict(labels or {})}, **parts)

    def deployment(self, name: str, metadata: Mapping[str, Any] | None = None, **parts: Any) -> str:
        return self.put(DEVICE_PROCESS_DEPLOYMENTS, name, metadata, **parts)

    def process(self, deployment: str, uid: str, device: str, **status: Any) -> None:
        """Create the process of *deployment* on *device*: it runs the old template, and *status* adds to its status."""
        labels = {"azure.com/deployment": deployment}
        annotations = {"azure.com/offered-at": LONG_AGO, "azure.com/revision": "old"}
        metadata = owned_by(deployment, uid) | {"labels": labels, "annotations": annotations}
        ref = {"kind": "NetworkSwitch", "name": device, "namespace": NAMESPACE}
        spec = {**OLD, "deviceRef": ref}
        self.put(DEVICE_PROCESSES, f"{deployment}-{device}", metadata, spec=spec, status=running() | status)

    def patch(self, resource: Resource, name: str, subresource: str | None = None, **parts: Any) -> None:
        """Merge *parts* into an object, as another client does."""
        asyncio.run(self.kube.patch(resource, Key(NAMESPACE, name), parts, subresource=subresource))

    def stored(self, resource: Resource, name: str) -> dict[str, Any]:
        return self.kube.objects(resource)[Key(NAMESPACE, name)]

    async def _put(self, resource: Resource, name: str, body: dict[str, Any]) -> str:
        made = await self.kube.create(resource, NAMESPACE, body)
        if "status" in body:
            status = {"status": body["status"]}
            await self.kube.patch(resource, Key(NAMESPACE, name), status, subresource="status")
        uid: str = made["metadata"]["uid"]
        return uid

# SPDX-License-Identifier: Apache-2.0
"""The controller's client, with faults: its view of processes can be held back, writes fail, and it can die at one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeAlias

from kube_testing import FakeClock, InProcessKube
from kubeplane import ControlPlane
from praetor_api.kube.client.api import WatchEvent
from praetor_api.kube.client.errors import Unreachable
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key, Resource

OnWrite: TypeAlias = Callable[[Resource, dict[str, Any] | None, dict[str, Any], str | None], None]
"""Called with each write: the kind, the object before and after, and the subresource."""
_UNLIMITED_S = 1e9

RETRIED_S = 120.0
"""Seconds after which everything that failed was tried again."""


def _gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


class ControllerClient(InProcessKube):
    """One life of a controller; the next one has a client of its own."""

    def __init__(
        self, clock: FakeClock, plane: ControlPlane, on_write: OnWrite, before_delete: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(clock, plane=plane)
        self._on_write = on_write
        self._before_delete = before_delete
        self.open = _gate()  # of the connection that carries changes of processes
        self.dies_after: int | None = None  # number of writes that it still makes
        self.applies_last = False
        self.dead = False
        self.fails = 0  # number of the next writes that fail
        self.applies_failed = False  # and only the answer is lost
        self.failed = False  # any, ever
        self.failed_at = -RETRIED_S
        self.unseen: frozenset[Resource] = frozenset()  # kinds that cannot be followed

    def cut_watches(self, kinds: frozenset[Resource]) -> None:
        """Cut all watches off, and let those of *kinds* fail from now on; the others are taken up again."""
        self.unseen = kinds
        self.open.set()  # what was held up is cut off, too
        self.end_watches(Unreachable("cut"))

    async def watch(
        self, resource: Resource, namespace: str | None, **options: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        options["timeout_s"] = _UNLIMITED_S  # between two watches the view lags: nothing could be checked
        if resource in self.unseen:
            raise Unreachable("cut")
        gate = _gate()
        if resource == DEVICE_PROCESSES:
            self.open = gate  # a connection that was silent for too long is replaced, and the next one is not held up
        async for event in super().watch(resource, namespace, **options):
            await gate.wait()
            yield event

    async def create(
        self, resource: Resource, namespace: str, body: Mapping[str, Any], **options: Any
    ) -> dict[str, Any]:
        dying = await self._live()
        made = await super().create(resource, namespace, body, **options)
        self._on_write(resource, None, made, None)
        return await self._answer(made, dying=dying)

    async def patch(self, resource: Resource, key: Key, body: Any, **options: Any) -> dict[str, Any]:
        dying = await self._live()
        old = self.peek(resource).get(key)
        made = await super().patch(resource, key, body, **options)
        self._on_write(resource, old, made, options.get("subresource"))
        return await self._answer(made, dying=dying)

    async def delete(
        self, resource: Resource, key: Key, *, uid: str | None = None, resource_version: str | None = None
    ) -> None:
        dying = await self._live()
        found = self.peek(resource).get(key)
        wanted = {"uid": uid, "resourceVersion": resource_version}
        if resource == DEVICE_PROCESSES and found is not None and wanted.items() <= found["metadata"].items():
            self._before_delete(found)
        await super().delete(resource, key, uid=uid, resource_version=resource_version)
        await self._answer({}, dying=dying)

    async def _live(self) -> bool:
        """Return whether this write is the last one; never return when the controller is dead."""
        dying = self.dies_after == 0
        if self.dies_after is not None:
            self.dies_after -= 1
        if self.dead or (dying and not self.applies_last):
            self.dead = True
            await asyncio.get_running_loop().create_future()
        if not self.applies_failed:
            self._fail()
        return dying

    async def _answer(self, made: dict[str, Any], *, dying: bool) -> dict[str, Any]:
        if dying:
            self.dead = True
            await asyncio.get_running_loop().create_future()
        if self.applies_failed:
            self._fail()
        return made

    def _fail(self) -> None:
        if self.fails > 0:
            self.fails, self.failed, self.failed_at = self.fails - 1, True, self._clock.monotonic()
            raise Unreachable("cut")

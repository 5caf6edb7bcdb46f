# SPDX-License-Identifier: Apache-2.0
"""Follows the objects that processes refer to, and has the devices compared that a change concerns."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import Forbidden
from praetor_api.kube.client.resource import Key
from praetor_api.kube.delivered import DELIVERED_SELECTOR, KINDS
from praetor_api.kube.runtime.clock import Clock, within
from praetor_api.kube.runtime.informer import Informer
from praetor_gateway.fleet.devices import DeviceIndex
from praetor_gateway.fleet.references import DeliveredObject, ReferenceStore, project

FIRST_LIST_S = 5.0
"""How long the gateway waits for its first look, so that a restart holds no process. Without the right to look, it
serves devices all the same."""
CHECK_S = 5.0
"""How often it is checked whether the right to look was taken away."""
WAKE_AT_ONCE = 200
"""Processes whose devices are compared before others are answered: all of a fleet may refer to one object."""


class ReferenceFollower:
    """Keeps *store* up to date with the API, and *fleet* with the store."""

    def __init__(self, api: KubeApi, store: ReferenceStore, fleet: DeviceIndex, clock: Clock) -> None:
        self._store = store
        self._fleet = fleet
        self._clock = clock
        self._concerned: dict[Key, None] = {}  # in order, each once
        self._woken = asyncio.Event()
        self._informers = dict(self._make_informers(api))
        store.changed = self._concern

    @property
    def unreadable(self) -> int:
        """How many kinds, in how many namespaces, cannot be read."""
        return sum(not self._is_readable(each) for each in self._informers.values())

    def doubt(self, since: float | None) -> None:
        """Follow the objects from new lists, as `Informer.doubt` says."""
        for informer in self._informers.values():
            informer.doubt(since)

    async def listed(self) -> None:
        """Return when all objects are known, or after FIRST_LIST_S seconds."""
        try:
            await within(self._clock, FIRST_LIST_S, self._all_listed())
        except TimeoutError:
            self._check()

    async def _all_listed(self) -> None:
        for informer in self._informers.values():
            await informer.synced.wait()

    async def run(self) -> None:
        """Follow the objects until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers.values():
                group.create_task(informer.run(), name="informer of references")
            group.create_task(self._wake(), name="wake by references")
            while True:
                await self._clock.sleep(CHECK_S)
                self._check()

    def _make_informers(self, api: KubeApi) -> Iterator[tuple[tuple[str, str], Informer[DeliveredObject]]]:
        for namespace in sorted(self._store.namespaces):
            for kind, resource in KINDS.items():
                informer: Informer[DeliveredObject] = Informer(
                    api,
                    resource,
                    project=partial(project, kind),
                    clock=self._clock,
                    namespace=namespace,
                    label_selector=DELIVERED_SELECTOR,  # the Role allows more, for RBAC knows no labels
                )
                informer.add_handler(partial(self._on_change, kind))
                informer.add_list_handler(partial(self._on_list, kind, namespace))
                yield (kind, namespace), informer

    def _on_change(self, kind: str, key: Key, _: Any, new: DeliveredObject | None) -> None:
        self._store.on_change(kind, key, new)

    def _on_list(self, kind: str, namespace: str, _: float) -> None:
        self._store.set_readable(kind, namespace, readable=True)

    def _check(self) -> None:
        for (kind, namespace), informer in self._informers.items():
            self._store.set_readable(kind, namespace, readable=self._is_readable(informer))

    def _is_readable(self, informer: Informer[DeliveredObject]) -> bool:
        """Return whether the API let us look: an outage is no refusal."""
        refused = isinstance(informer.last_error, Forbidden) and informer.behind_until == math.inf
        return informer.synced.is_set() and not refused

    def _concern(self, keys: Iterable[Key]) -> None:
        self._concerned.update(dict.fromkeys(keys))
        self._woken.set()

    async def _wake(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._concerned:
                for key in list(self._concerned)[:WAKE_AT_ONCE]:
                    del self._concerned[key]
                    self._fleet.wake(key)
                await asyncio.sleep(0)

# SPDX-License-Identifier: Apache-2.0
"""What all replicas have to agree on, as the data of a ConfigMap in the gateway's own namespace.

Tenants write nothing there. The leader alone writes it, once for each change or burst of changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from attrs import define, field, frozen

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import AlreadyExists, Conflict, Forbidden, KubeError, NotFound
from praetor_api.kube.client.patches import diff_merge_patch
from praetor_api.kube.client.resource import CONFIG_MAPS, Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.informer import Informer

PERIOD_S = 1.0
"""How often changes are written: a namespace that is created whole is one write."""
RETRY_S = 60.0
"""The delay after a write that the apiserver refuses: an administrator has to change something first."""

_log = structlog.get_logger()

Data = Mapping[str, str]


@frozen
class _Stored:
    version: str
    data: Data


@define(eq=False)
class SharedData:
    """Follows the ConfigMap *key* of *what*, and writes it while *leads*.

    *wanted* returns the data that are to be stored, from those that are. *taken* is called with the stored data, the
    earlier and the present ones, when they change.
    """

    what: str
    _api: KubeApi
    _key: Key
    _clock: Clock
    _leads: Callable[[], bool]
    _wanted: Callable[[Data], Data]
    _taken: Callable[[Data, Data], None] = lambda _, __: None
    loaded: asyncio.Event = field(factory=asyncio.Event, init=False)
    """Set once the data are known, or cannot be read for want of a role."""
    _stored: _Stored | None = field(default=None, init=False)
    _informer: Informer[_Stored] = field(init=False)

    @_informer.default
    def _make_informer(self) -> Informer[_Stored]:
        informer = Informer(
            self._api,
            CONFIG_MAPS,
            project=_project,
            clock=self._clock,
            namespace=self._key.namespace,
            field_selector=f"metadata.name={self._key.name}",
        )
        informer.add_handler(self._on_change)
        return informer

    def doubt(self, since: float | None) -> None:
        """Follow it from a new list, as `Informer.doubt` says."""
        self._informer.doubt(since)

    @property
    def data(self) -> Data:
        """What is stored."""
        return self._stored.data if self._stored is not None else {}

    async def run(self) -> None:
        """Follow and write until cancelled."""
        await self._load()
        self.loaded.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run(), name=f"watch {self.what}")
            group.create_task(self._write_changes(), name=f"write {self.what}")

    async def _load(self) -> None:
        while True:
            try:
                self._take(_project(await self._api.get(CONFIG_MAPS, self._key)))
            except NotFound:
                pass
            except Forbidden as e:  # roles of an earlier version: what is served in this process still stays served
                _log.error(f"{self.what} are not kept; apply the roles of deploy/base", error=str(e))
            except KubeError as e:
                _log.warning(f"cannot read {self.what}, trying again", error=str(e))
                await self._clock.sleep(PERIOD_S)
                continue
            return

    async def _write_changes(self) -> None:
        while True:
            await self._clock.sleep(PERIOD_S)
            if not self._leads() or (data := self._wanted(self.data)) == self.data:
                continue
            try:
                self._take(_project(await self._write(data)))
            except (AlreadyExists, Conflict, NotFound):
                pass  # another replica wrote, or a user deleted it: the watch brings what there is
            except KubeError as e:
                _log.error(f"cannot write {self.what}", error=str(e), key=str(self._key))
                await self._clock.sleep(RETRY_S)

    async def _write(self, data: Data) -> dict[str, Any]:
        if self._stored is None:
            metadata = {"name": self._key.name, "namespace": self._key.namespace}
            body = {"apiVersion": CONFIG_MAPS.api_version, "kind": CONFIG_MAPS.kind, "metadata": metadata}
            return await self._api.create(CONFIG_MAPS, self._key.namespace, {**body, "data": data})
        patch = {"metadata": {"resourceVersion": self._stored.version}}
        return await self._api.patch(
            CONFIG_MAPS, self._key, {**patch, "data": diff_merge_patch(self._stored.data, data)}
        )

    def _on_change(self, _: Key, old: _Stored | None, new: _Stored | None) -> None:
        if new is not None:
            self._take(new)
        else:  # deleted by mistake: what is in effect stays, and is written again
            self._stored = None

    def _take(self, new: _Stored) -> None:
        before, self._stored = self.data, new
        self._taken(before, new.data)


def _project(obj: Mapping[str, Any]) -> _Stored:
    return _Stored(obj["metadata"]["resourceVersion"], obj.get("data") or {})

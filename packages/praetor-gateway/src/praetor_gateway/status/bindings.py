# SPDX-License-Identifier: Apache-2.0
"""Keeps in one ConfigMap to which namespace each contested device name belongs, so that all replicas agree.

It is in the gateway's own namespace, where tenants write nothing. The leader alone writes it, once for each change or
burst of changes; names that nothing contests are not in it.
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
from praetor_gateway.fleet.devices import Binding, DeviceIndex

PERIOD_S = 1.0
"""How often changes are written: a namespace that is created whole is one write."""
RETRY_S = 60.0
"""The delay after a write that the apiserver refuses: an administrator has to change something first."""

_log = structlog.get_logger()


@frozen
class _Stored:
    version: str
    names: Mapping[str, str]


@define(eq=False)
class BindingStore:
    """Follows the ConfigMap *key* into the bindings of *fleet*, and writes them to it while *leads*."""

    _api: KubeApi
    _key: Key
    _fleet: DeviceIndex
    _clock: Clock
    _leads: Callable[[], bool]
    loaded: asyncio.Event = field(factory=asyncio.Event, init=False)
    """Set once the bindings are known, or cannot be read for want of a role."""
    _stored: _Stored | None = field(default=None, init=False)

    @property
    def unwritten(self) -> int:
        """How many bindings are not stored as they are in effect."""
        return len(_names(self._fleet).items() ^ self._names().items())

    async def run(self) -> None:
        """Follow and write until cancelled."""
        await self._load()
        self.loaded.set()
        informer = Informer(
            self._api,
            CONFIG_MAPS,
            project=_project,
            clock=self._clock,
            namespace=self._key.namespace,
            field_selector=f"metadata.name={self._key.name}",
        )
        informer.add_handler(self._on_change)
        async with asyncio.TaskGroup() as group:
            group.create_task(informer.run(), name="watch bindings")
            group.create_task(self._write_changes(), name="write bindings")

    async def _load(self) -> None:
        while True:
            try:
                self._take(_project(await self._api.get(CONFIG_MAPS, self._key)))
            except NotFound:
                pass
            except Forbidden as e:  # roles of an earlier version: what is served in this process still stays served
                _log.error("contested device names are not kept; apply the roles of deploy/base", error=str(e))
            except KubeError as e:
                _log.warning("cannot read the bindings of device names, trying again", error=str(e))
                await self._clock.sleep(PERIOD_S)
                continue
            return

    async def _write_changes(self) -> None:
        while True:
            await self._clock.sleep(PERIOD_S)
            names = _names(self._fleet)
            if names == self._names() or not self._leads():
                continue
            try:
                self._take(_project(await self._write(names)))
            except (AlreadyExists, Conflict, NotFound):
                pass  # another replica wrote, or a user deleted it: the watch brings what there is
            except KubeError as e:
                _log.error("cannot write the bindings of device names", error=str(e), key=str(self._key))
                await self._clock.sleep(RETRY_S)

    async def _write(self, names: Mapping[str, str]) -> dict[str, Any]:
        if self._stored is None:
            metadata = {"name": self._key.name, "namespace": self._key.namespace}
            body = {"apiVersion": CONFIG_MAPS.api_version, "kind": CONFIG_MAPS.kind, "metadata": metadata}
            return await self._api.create(CONFIG_MAPS, self._key.namespace, {**body, "data": names})
        patch = {"metadata": {"resourceVersion": self._stored.version}}
        return await self._api.patch(
            CONFIG_MAPS, self._key, {**patch, "data": diff_merge_patch(self._stored.names, names)}
        )

    def _on_change(self, _: Key, old: _Stored | None, new: _Stored | None) -> None:
        if new is not None:
            self._take(new)
        else:  # deleted by mistake: what is in effect stays, and is written again
            self._stored = None

    def _take(self, new: _Stored) -> None:
        before, self._stored = self._names(), new
        changed = {name: new.names.get(name, "") for name, _ in before.items() ^ new.names.items()}
        self._fleet.rebind({name: Binding.parse(text) if text else None for name, text in changed.items()})

    def _names(self) -> Mapping[str, str]:
        return self._stored.names if self._stored is not None else {}


def _project(obj: Mapping[str, Any]) -> _Stored:
    return _Stored(obj["metadata"]["resourceVersion"], obj.get("data") or {})


def _names(fleet: DeviceIndex) -> dict[str, str]:
    return {name: str(binding) for name, binding in fleet.bindings.items()}

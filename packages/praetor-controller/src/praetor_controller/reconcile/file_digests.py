# SPDX-License-Identifier: Apache-2.0
"""What gateways say that ConfigMaps and Secrets hold, as digests: the controller may not read them itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.resource import CONFIG_MAPS, Key
from praetor_api.kube.delivered import published_digests
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.informer import Informer
from praetor_controller.model.approvals import Digests

_Published = Mapping[str, Digests]


class FileDigests:
    """Follows the ConfigMap *key* of the gateways; *changed* is called with the namespaces whose digests changed."""

    def __init__(self, api: KubeApi, key: Key, clock: Clock, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._published: _Published = {}
        self._informer: Informer[_Published] = Informer(
            api,
            CONFIG_MAPS,
            project=lambda obj: {name: published_digests(text) for name, text in (obj.get("data") or {}).items()},
            clock=clock,
            namespace=key.namespace,
            field_selector=f"metadata.name={key.name}",
            optional=True,  # a role of an earlier release does not name it
        )
        self._informer.add_handler(self._on_change)

    async def run(self) -> None:
        """Follow it until cancelled."""
        await self._informer.run()

    def doubt(self, since: float | None) -> None:
        """Follow it from a new list, as `Informer.doubt` says."""
        self._informer.doubt(since)

    async def synced(self) -> None:
        """Return when it was read, or cannot be."""
        await self._informer.synced.wait()

    def of(self, namespace: str) -> Digests | None:
        """Return the digests of *namespace*; None if no gateway has said any."""
        return self._published.get(namespace)

    def _on_change(self, _: Key, __: _Published | None, new: _Published | None) -> None:
        if new is None:  # deleted by mistake: what was said last is still the best that is known
            return
        before, self._published = self._published, new
        for namespace in before.keys() | new.keys():
            if before.get(namespace) != new.get(namespace):
                self._changed(namespace)

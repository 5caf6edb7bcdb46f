# SPDX-License-Identifier: Apache-2.0
"""The devices of all kinds, read as if they were of one: each by its reference, which names its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.informer import Handler, Informer
from praetor_api.names import referenced_device
from praetor_api.spec import DeviceKind
from praetor_controller.model.rows import DeviceRow
from praetor_controller.reconcile.assumed_cache import Informers


class DeviceInformers(Informers[DeviceRow]):
    """The informers of each kind of device. Keys of rows have the reference of the device as their name."""

    def __init__(self, by_kind: Mapping[DeviceKind, Informers[DeviceRow]]) -> None:
        super().__init__(())
        self._by_kind = by_kind
        self._of_kind = {kind: tuple(informers.all()) for kind, informers in by_kind.items()}
        self._all = [informer for informers in self._of_kind.values() for informer in informers]
        self._absent: set[DeviceKind] = set()
        self._found: list[Callable[[], None]] = []
        for kind, informers in self._of_kind.items():
            for informer in informers:
                informer.add_list_handler(partial(self._on_list, kind))

    def all(self) -> Iterable[Informer[DeviceRow]]:
        return self._all

    def is_current(self, namespace: str) -> bool:
        return all(informers.is_current(namespace) for informers in self._by_kind.values())

    def add_handler(self, handler: Handler[DeviceRow]) -> None:
        """Call *handler* with the key, the old and the new row of each change."""

        def referred(key: Key, old: DeviceRow | None, new: DeviceRow | None) -> None:
            row = new or old
            handler(Key(key.namespace, row.name) if row is not None else key, old, new)

        super().add_handler(referred)

    def get(self, key: Key) -> DeviceRow | None:
        kind, name = referenced_device(key.name)
        return self._by_kind[kind].get(Key(key.namespace, name))

    def missing(self) -> frozenset[DeviceKind]:
        """Return the kinds that the cluster does not have, or that we may not read."""
        found = frozenset(
            kind
            for kind, informers in self._of_kind.items()
            if any(informer.absent is not None for informer in informers)
        )
        self._absent |= found
        return found

    def add_found_handler(self, handler: Callable[[], None]) -> None:
        """Call *handler* when a kind can be read that was missing()."""
        self._found.append(handler)

    def _on_list(self, kind: DeviceKind, _: float) -> None:
        if kind in self._absent:
            self._absent.discard(kind)
            for handler in self._found:
                handler()

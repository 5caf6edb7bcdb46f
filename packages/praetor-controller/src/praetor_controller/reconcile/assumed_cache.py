# SPDX-License-Identifier: Apache-2.0
"""The rows of one kind as the API stores them: what informers show, and newer rows that this process just wrote.

As in kube-scheduler's assumed cache, a write is assumed where it is made, and an event of the informer confirms it.
Without that a pass over a stale cache would exceed the budget. An assumed row yields as soon as the informer shows
that version or a newer one, and to any list that began later: one without it is of a store that was restored from a
backup, whose versions are older ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from attrs import frozen

from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.informer import Handler, Informer

LIFETIME_S = 300.0
"""Longer than a relist takes. An assumed row that no event confirmed expires then: the next write finds the truth."""

T = TypeVar("T")


class Informers(Generic[T]):
    """The informers of one kind, by the namespace each follows (None: all namespaces), read as if they were one."""

    def __init__(self, informers: Sequence[tuple[str | None, Informer[T]]]) -> None:
        self._informers = dict(informers)

    def all(self) -> Iterable[Informer[T]]:
        return self._informers.values()

    def is_current(self, namespace: str) -> bool:
        """Return whether the rows of *namespace* are those of now; where none is followed, nothing is missed."""
        informer = self._of(namespace)
        return informer is None or informer.is_current()

    def add_index(self, name: str, values_of: Callable[[T], Iterable[str]]) -> None:
        """Add an index before the informers run: *values_of* returns the values that a row is found under."""
        for informer in self.all():
            informer.add_index(name, values_of)

    def add_handler(self, handler: Handler[T]) -> None:
        """Call *handler* with the key, the old and the new row of each change."""
        for informer in self.all():
            informer.add_handler(handler)

    def get(self, key: Key) -> T | None:
        informer = self._of(key.namespace)
        return informer.get(key) if informer else None

    def by_index(self, name: str, value: str) -> Sequence[T]:
        """Return the rows that the index *name* files under *value*."""
        found = [rows for informer in self.all() if (rows := informer.by_index(name, value))]
        return found[0] if len(found) == 1 else [row for rows in found for row in rows]

    def all_keys(self) -> list[Key]:
        return [key for informer in self.all() for key, _ in informer.items()]  # noqa: PERF102 - not a dict

    def _of(self, namespace: str) -> Informer[T] | None:
        return self._informers.get(namespace, self._informers.get(None))


class Row(Protocol):
    """What is needed of a row to compare its versions."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...
    @property
    def terminating(self) -> bool: ...


R = TypeVar("R", bound=Row)


@frozen
class _Assumed(Generic[R]):
    row: R
    deleted: bool
    created: bool
    at: float  # monotonic seconds


class AssumedCache(Informers[R]):
    """Informers whose rows may be overtaken by what was written; all readers see the same rows."""

    def __init__(self, informers: Sequence[tuple[str | None, Informer[R]]], clock: Clock) -> None:
        super().__init__(informers)
        self._clock = clock
        self._assumed: dict[Key, _Assumed[R]] = {}
        self._handlers: list[Handler[R]] = []
        self._indexes: dict[str, Callable[[R], Iterable[str]]] = {}
        super().add_handler(self._on_event)
        for informer in self.all():
            informer.add_list_handler(partial(self._on_list, informer))

    def assume(self, row: R, *, is_new: bool = False) -> None:
        """Serve *row*, which the API answered, until the informer shows that version or a newer one.

        Unless *is_new*, a row that is not in the cache is ignored: the informer has shown its deletion meanwhile.
        """
        if is_new or self.get(_key(row)) is not None:
            self._set(row, deleted=False)

    def assume_created(self, row: R) -> None:
        """Serve *row*, of an object that was just created, until the informer shows that version or a newer one."""
        self._set(row, deleted=False, created=True)

    def created(self, key: Key, uid: str, resource_version: str) -> R | None:
        """Return the row that was assumed when the object with this *uid* was created, if it is of this version.

        It is the row of that version whatever happens: no restored store gives another object the same uid.
        """
        assumed = self._assumed.get(key)
        if assumed is None or not assumed.created:
            return None
        row = assumed.row
        return row if (row.uid, row.resource_version) == (uid, resource_version) else None

    def assume_deleted(self, row: R) -> None:
        """Serve *row* no longer: it is gone, or going."""
        self._set(row, deleted=True)

    def add_index(self, name: str, values_of: Callable[[R], Iterable[str]]) -> None:
        self._indexes[name] = values_of
        super().add_index(name, values_of)

    def add_handler(self, handler: Handler[R]) -> None:
        """Call *handler* when what get() returns changes; not for assumed rows, nor when the informer confirms them."""
        self._handlers.append(handler)

    def add_event_handler(self, handler: Handler[R]) -> None:
        """Call *handler* with what the informer itself shows; that includes the return of own writes."""
        super().add_handler(handler)

    def get(self, key: Key) -> R | None:
        return self._newest(key, super().get(key))

    def versions(self, key: Key) -> tuple[R, ...]:
        """Return the rows of *key*, assumed or shown by the informer."""
        assumed, shown = self._assumed.get(key), super().get(key)
        return tuple(row for row in (assumed.row if assumed is not None else None, shown) if row is not None)

    def by_index(self, name: str, value: str) -> Sequence[R]:
        shown = super().by_index(name, value)
        return self._newest_of(shown, self._indexes[name], value) if self._assumed else shown

    def _set(self, row: R, *, deleted: bool, created: bool = False) -> None:
        self._assumed[_key(row)] = _Assumed(row, deleted, created, self._clock.monotonic())

    def _on_event(self, key: Key, old: R | None, new: R | None) -> None:
        if key in self._assumed:
            shown, old = old, self._newest(key, old)
            assumed = self._assumed.get(key)
            if assumed is not None and _shows(new, shown, assumed):
                del self._assumed[key]
            new = self._newest(key, new)
            if old is new or old == new:
                return
        for handler in self._handlers:
            handler(key, old, new)

    def _on_list(self, informer: Informer[R], began: float) -> None:
        """Drop what was assumed in the informer's namespace before its list began."""
        followed = [key for key in self._assumed if self._of(key.namespace) is informer]
        for key in [each for each in followed if self._assumed[each].at < began]:
            shown = informer.get(key)
            known = self._newest(key, shown)
            self._assumed.pop(key, None)
            if known != shown:
                for handler in self._handlers:
                    handler(key, known, shown)

    def _newest(self, key: Key, shown: R | None) -> R | None:
        """Return what is known of *key*, of which the informer shows *shown*."""
        assumed = self._assumed.get(key)
        if assumed is None:
            return shown
        if self._clock.monotonic() > assumed.at + LIFETIME_S or (shown is not None and not _is_newer(assumed, shown)):
            del self._assumed[key]
            return shown
        return None if assumed.deleted else assumed.row

    def _newest_of(self, shown: Iterable[R], values_of: Callable[[R], Iterable[str]], value: str) -> list[R]:
        names = {key.name for key in self._assumed}  # most rows are not among them, and need not be looked up by key
        seen: set[Key] = set()
        found: list[R] = []
        for row in shown:
            if row.name not in names:
                found.append(row)
                continue
            key = _key(row)
            seen.add(key)
            newest = self._newest(key, row)
            if newest is not None and value in values_of(newest):
                found.append(newest)
        for key in self._assumed.keys() - seen:
            newest = self.get(key)
            if newest is not None and value in values_of(newest):
                found.append(newest)
        return found


def _key(row: Row) -> Key:
    return Key(row.namespace, row.name)


def _shows(new: R | None, old: R | None, assumed: _Assumed[R]) -> bool:
    """Return whether an event from *old* to *new* is as new as *assumed*; a deletion ends one incarnation only."""
    if new is None and old is not None and old.uid == assumed.row.uid:
        return True
    latest = new or old
    return latest is None or not _is_newer(assumed, latest)


def _is_newer(assumed: _Assumed[R], shown: R) -> bool:
    if shown.uid == assumed.row.uid and assumed.deleted:
        return not shown.terminating
    return _version(assumed.row) > _version(shown)


def _version(row: Row) -> int:
    return int(row.resource_version) if row.resource_version.isdecimal() else 0

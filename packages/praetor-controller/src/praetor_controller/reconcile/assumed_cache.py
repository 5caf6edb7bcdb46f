"""What we wrote and the cache does not show yet: read your own writes, or a stale cache would exceed the budget.

An entry yields as soon as the cache shows that version or a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from attrs import frozen

from praetor_api.kube.client.resource import Key

LIFETIME_S = 300.0
"""Longer than a relist takes. After it an entry that no event confirmed is dropped, and a write would find out."""


class Row(Protocol):
    """What the overlay needs to know of a row."""

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
class _Entry(Generic[R]):
    row: R
    deleted: bool
    written_at: float


class Overlay(Generic[R]):
    """The rows that are newer than the cache's. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry[R]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def wrote(self, row: R, now: float) -> None:
        """Note that *row* is what the API stores now."""
        self._entries[_key(row)] = _Entry(row, False, now)

    def deleted(self, row: R, now: float) -> None:
        """Note that *row* is gone, or going."""
        self._entries[_key(row)] = _Entry(row, True, now)

    def seen(self, key: Key, cached: R | None) -> None:
        """Forget what the cache, which holds *cached* now, has caught up with; None means it saw a deletion."""
        entry = self._entries.get(key)
        if entry is not None and (cached is None or not _outdates(entry, cached)):
            del self._entries[key]

    def latest(self, key: Key, cached: R | None, now: float) -> R | None:
        """Return the newest that is known under *key*."""
        entry = self._entries.get(key)
        if entry is None:
            return cached
        if now - entry.written_at > LIFETIME_S or (cached is not None and not _outdates(entry, cached)):
            del self._entries[key]
            return cached
        return None if entry.deleted else entry.row

    def over_cached(self, cached: Iterable[R], now: float) -> Iterator[R]:
        """Yield the newest of the *cached* rows that are not gone."""
        return self._over(cached, now, set())

    def over(self, cached: Iterable[R], now: float) -> Iterator[R]:
        """Yield the newest of the *cached* rows, then the rows that the cache does not have at all."""
        seen: set[Key] = set()
        yield from self._over(cached, now, seen)
        for key in [key for key in self._entries if key not in seen]:
            newest = self.latest(key, None, now)
            if newest is not None:
                yield newest

    def _over(self, cached: Iterable[R], now: float, seen: set[Key]) -> Iterator[R]:
        names = {key.name for key in self._entries}  # most rows are not among them, and need not be looked up by key
        for row in cached:
            if row.name not in names:
                yield row
                continue
            key = _key(row)
            seen.add(key)
            newest = self.latest(key, row, now)
            if newest is not None:
                yield newest


def _key(row: Row) -> Key:
    return Key(row.namespace, row.name)


def _outdates(entry: _Entry[R], cached: R) -> bool:
    """Tell whether *entry* is newer than *cached*."""
    if cached.uid != entry.row.uid:
        return _version(entry.row) > _version(cached)
    if entry.deleted:
        return not cached.terminating
    return _version(entry.row) > _version(cached)


def _version(row: Row) -> int:
    return int(row.resource_version) if row.resource_version.isdecimal() else 0

# SPDX-License-Identifier: Apache-2.0
"""Rows by key and by indices. Small in memory: a gateway keeps a hundred thousand rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeAlias, TypeVar

from praetor_api.kube.client.resource import Key

__all__ = ["Bucket", "Indexer"]

T = TypeVar("T")

_FEW = 8  # up to here a tuple is smaller than a dict, and copying it costs nothing

Bucket: TypeAlias = tuple[Key, ...] | dict[Key, T]
"""Few keys, or many with their rows: a hundred thousand look-ups would cost more than most things done to the rows."""


class Indexer(Generic[T]):
    """A store of rows, which must not change once they are in it."""

    def __init__(self) -> None:
        self.rows: dict[Key, T] = {}
        self._indices: dict[str, tuple[Callable[[T], Iterable[str]], dict[str, Bucket[T]]]] = {}

    def add_index(self, name: str, keys_of: Callable[[T], Iterable[str]]) -> None:
        """Index all rows, those to come too, under the values that *keys_of* gives."""
        buckets: dict[str, Bucket[T]] = {}
        self._indices[name] = (keys_of, buckets)
        for key, row in self.rows.items():
            for value in set(keys_of(row)):
                self._file(buckets, value, key, row)

    def by_index(self, name: str, value: str) -> tuple[T, ...]:
        """Return the rows filed under *value*."""
        bucket = self._indices[name][1].get(value, ())
        return tuple(bucket.values() if isinstance(bucket, dict) else map(self.rows.__getitem__, bucket))

    def put(self, key: Key, new: T) -> T | None:
        """Store *new* and return what was there."""
        old = self.rows.get(key)
        self.rows[key] = new
        self._refile(key, old, new)
        return old

    def remove(self, key: Key) -> T | None:
        """Forget *key* and return what was there."""
        old = self.rows.pop(key, None)
        self._refile(key, old, None)
        return old

    def _refile(self, key: Key, old: T | None, new: T | None) -> None:
        for keys_of, buckets in self._indices.values():
            before = set() if old is None else set(keys_of(old))
            after = set() if new is None else set(keys_of(new))
            for value in before - after:
                _unfile(buckets, value, key)
            if new is not None:
                for value in after:
                    self._file(buckets, value, key, new)

    def _file(self, buckets: dict[str, Bucket[T]], value: str, key: Key, row: T) -> None:
        bucket = buckets.get(value, ())
        if isinstance(bucket, dict):
            bucket[key] = row
        elif key in bucket:
            return
        elif len(bucket) < _FEW:
            buckets[value] = (*bucket, key)
        else:
            buckets[value] = {each: self.rows[each] for each in (*bucket, key)}


def _unfile(buckets: dict[str, Bucket[T]], value: str, key: Key) -> None:
    bucket = buckets[value]
    if isinstance(bucket, dict):
        del bucket[key]
    else:
        bucket = buckets[value] = tuple(filed for filed in bucket if filed != key)
    if not bucket:
        del buckets[value]

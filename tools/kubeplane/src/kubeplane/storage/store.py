# SPDX-License-Identifier: Apache-2.0
"""Objects of every kind under one growing revision, with the history that watches and paging read.

Stored values are never changed in place: a write puts a new one, so that readers may keep what they have.
The history is bounded; what it no longer covers is compacted, and asking for it is 410.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from kubeplane.errors import Obj, copied, expired, too_old
from kubeplane.schema.structural import default

Key = tuple[str, str]  # namespace ("" when cluster-scoped) and name


def encode(obj: object) -> bytes:
    return json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode()


class Stored:
    """One version of an object: its value, its revision, and its JSON under each view, encoded once."""

    __slots__ = ("_encoded", "key", "obj", "rv")

    def __init__(self, key: Key, obj: Obj, rv: int) -> None:
        self.key = key
        self.obj = obj
        self.rv = rv
        self._encoded: dict[str, bytes] = {}

    def encoded(self, view: str = "", convert: Callable[[Obj], Obj] | None = None) -> bytes:
        raw = self._encoded.get(view)
        if raw is None:
            raw = self._encoded[view] = encode(convert(self.obj) if convert else self.obj)
        return raw


@dataclass(slots=True)
class Change:
    """One write: *old* is None when it created; with *deleted*, *new* is the last state of the object."""

    rv: int
    table: str
    new: Stored
    old: Stored | None
    deleted: bool
    lines: dict[tuple[str, str], bytes] = field(default_factory=dict)  # encoded watch lines by type and view


class Journal(Protocol):
    """Where writes go to survive a restart."""

    def load(self) -> tuple[int, Iterable[tuple[str, Key, int, Obj]]]: ...

    def record(self, change: Change) -> None: ...


class Store:
    """The tables of objects, by the resource's storage name."""

    def __init__(self, *, journal: Journal | None = None, history: int = 100_000) -> None:
        self.rv = 1
        self.compacted = 0  # changes up to this revision are forgotten
        self._tables: dict[str, dict[Key, Stored]] = {}
        self._order: dict[str, list[Key]] = {}
        self._history: deque[Change] = deque()
        self._limit = history
        self._journal = journal
        self._listeners: dict[str, dict[int, Callable[[Change], None]]] = {}
        self._tokens = 0
        if journal:
            self._load(journal)

    def _load(self, journal: Journal) -> None:
        self.rv, rows = journal.load()
        for table, key, rv, obj in rows:
            self._tables.setdefault(table, {})[key] = Stored(key, obj, rv)
        self.compacted = self.rv if self.rv > 1 else 0

    def get(self, table: str, key: Key) -> Stored | None:
        return self._tables.get(table, {}).get(key)

    def items(self, table: str, namespace: str = "") -> list[Stored]:
        """Return the objects of *table* in the order of their keys; of one namespace if it is given."""
        rows = self._tables.get(table, {})
        order = self._order.get(table)
        if order is None:
            order = self._order[table] = sorted(rows)
        if namespace:
            return [rows[key] for key in order if key[0] == namespace]
        return [rows[key] for key in order]

    def count(self, table: str) -> int:
        return len(self._tables.get(table, {}))

    def tables(self) -> list[str]:
        return list(self._tables)

    def put(self, table: str, key: Key, obj: Obj) -> Stored:
        """Store *obj* under the next revision, which is written into its metadata."""
        rows = self._tables.setdefault(table, {})
        old = rows.get(key)
        new = self._stamped(key, obj)
        rows[key] = new
        if old is None:
            self._order.pop(table, None)
        self._commit(Change(self.rv, table, new, old, deleted=False))
        return new

    def delete(self, table: str, key: Key) -> Stored:
        """Remove the object; what is returned carries the revision of its removal."""
        old = self._tables[table].pop(key)
        self._order.pop(table, None)
        last = self._stamped(key, old.obj)
        self._commit(Change(self.rv, table, last, old, deleted=True))
        return last

    def replace_quietly(self, table: str, stored: Stored) -> None:
        """Put another value under the revision that is there, without a change for listeners."""
        self._tables[table][stored.key] = stored

    def refresh(self, table: str, schema: Obj) -> None:
        """Give the objects of *table* the defaults of a changed schema, as a reader of them would."""
        for key, stored in self._tables.get(table, {}).items():
            obj = copied(stored.obj)
            default(obj, schema)
            if obj != stored.obj:
                self._tables[table][key] = Stored(key, obj, stored.rv)

    def _stamped(self, key: Key, obj: Obj) -> Stored:
        self.rv += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.rv)}}
        return Stored(key, obj, self.rv)

    def _commit(self, change: Change) -> None:
        if self._journal:
            self._journal.record(change)
        self._history.append(change)
        if len(self._history) > self._limit:
            self.compacted = self._history.popleft().rv
        for listener in list(self._listeners.get(change.table, {}).values()):
            listener(change)
        for listener in list(self._listeners.get("", {}).values()):
            listener(change)

    def compact(self, rv: int | None = None) -> None:
        """Forget the history up to *rv*, or all of it."""
        upto = self.rv if rv is None else min(rv, self.rv)
        while self._history and self._history[0].rv <= upto:
            self._history.popleft()
        self.compacted = max(self.compacted, upto)

    def restart_at(self, rv: int) -> None:
        """Go on at revision *rv* without the history: ahead as after writes elsewhere, back as after a restore."""
        self.rv = self.compacted = rv
        self._history.clear()

    def copy(self) -> Store:
        """Return another store of the same objects, without the history and its readers."""
        made = Store(history=self._limit)
        made._tables = {table: dict(rows) for table, rows in self._tables.items()}  # the values never change
        made._order = dict(self._order)
        made.rv = made.compacted = self.rv
        return made

    def subscribe(self, table: str, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call *listener* with each change of *table* ("" for all); returns how to end it."""
        self._tokens += 1
        token, group = self._tokens, self._listeners.setdefault(table, {})
        group[token] = listener
        return lambda: group.pop(token, None) and None

    def since(self, table: str, rv: int) -> list[Change]:
        """Return the changes of *table* after *rv*; ApiError 410 if they are not all known any more."""
        if rv < self.compacted:
            raise too_old(rv, self.compacted)
        found: list[Change] = []
        for change in reversed(self._history):
            if change.rv <= rv:
                break
            if change.table == table:
                found.append(change)
        return found[::-1]

    def items_at(self, table: str, namespace: str, rv: int) -> list[Stored]:
        """Return the objects of *table* as they were at *rv*; ApiError 410 if history does not reach back so far."""
        if rv < self.compacted:
            raise expired(f"The resourceVersion for the provided list is too old: {rv} ({self.compacted})")
        changes = self.since(table, rv)
        if not changes:
            return self.items(table, namespace)
        rows = dict(self._tables.get(table, {}))
        for change in reversed(changes):
            if change.old is None:
                rows.pop(change.new.key, None)
            else:
                rows[change.new.key] = change.old
        return [rows[key] for key in sorted(rows) if not namespace or key[0] == namespace]

# SPDX-License-Identifier: Apache-2.0
"""The journal on disk: one SQLite file, written within each write, so that a killed process loses nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from kubeplane.errors import Obj
from kubeplane.storage.store import Change, Key

_SCHEMA = """
create table if not exists object (
    tbl text not null, namespace text not null, name text not null, rv integer not null, body text not null,
    primary key (tbl, namespace, name)
) without rowid;
create table if not exists revision (id integer primary key check (id = 1), rv integer not null);
insert or ignore into revision values (1, 1);
"""


class SqliteJournal:
    """Keeps the newest version of each object and the last revision."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        # A process that dies loses nothing with this; only a power cut may, which a tool for trials can bear.
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = off")
        self._db.executescript(_SCHEMA)

    def load(self) -> tuple[int, Iterable[tuple[str, Key, int, Obj]]]:
        (rv,) = self._db.execute("select rv from revision").fetchone()
        rows = self._db.execute("select tbl, namespace, name, rv, body from object").fetchall()
        return rv, ((tbl, (namespace, name), at, json.loads(body)) for tbl, namespace, name, at, body in rows)

    def record(self, change: Change) -> None:
        namespace, name = change.new.key
        self._db.execute("begin")
        if change.deleted:
            sql = "delete from object where tbl = ? and namespace = ? and name = ?"
            self._db.execute(sql, (change.table, namespace, name))
        else:
            row = (change.table, namespace, name, change.rv, change.new.encoded().decode())
            self._db.execute("insert or replace into object values (?, ?, ?, ?, ?)", row)
        self._db.execute("update revision set rv = ?", (change.rv,))
        self._db.execute("commit")

    def close(self) -> None:
        self._db.close()

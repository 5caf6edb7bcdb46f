# SPDX-License-Identifier: Apache-2.0
"""The store: revisions, history, snapshots, and its journal on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeplane.errors import ApiError
from kubeplane.storage.persistence import SqliteJournal
from kubeplane.storage.store import Change, Store


def thing(name: str, value: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name}, "value": value}


def put(store: Store, name: str, value: int = 0, table: str = "t") -> int:
    return store.put(table, ("ns", name), thing(name, value)).rv


def test_every_write_of_any_kind_has_a_revision_of_its_own() -> None:
    store = Store()
    revisions = [put(store, "a"), put(store, "a", table="u"), put(store, "a", 1), store.delete("t", ("ns", "a")).rv]
    assert revisions == sorted(set(revisions))
    assert store.rv == revisions[-1]


def test_the_revision_is_in_the_object() -> None:
    store = Store()
    rv = put(store, "a")
    stored = store.get("t", ("ns", "a"))
    assert stored is not None
    assert stored.obj["metadata"]["resourceVersion"] == str(rv)
    assert f'"resourceVersion":"{rv}"'.encode() in stored.encoded()


def test_what_happened_since_a_revision_is_replayed() -> None:
    store = Store()
    first = put(store, "a")
    put(store, "a", 1)
    put(store, "b", table="u")
    store.delete("t", ("ns", "a"))
    assert [(c.deleted, c.new.obj["value"]) for c in store.since("t", first)] == [(False, 1), (True, 1)]


def test_compacted_history_is_gone() -> None:
    store = Store(history=2)
    first = put(store, "a")
    for value in range(3):
        put(store, "a", value)
    with pytest.raises(ApiError) as refused:
        store.since("t", first)
    assert refused.value.code == 410
    with pytest.raises(ApiError):
        store.items_at("t", "", first)


def test_compaction_forgets_all_but_the_present() -> None:
    store = Store()
    first = put(store, "a")
    put(store, "a", 1)
    store.compact()
    with pytest.raises(ApiError):
        store.since("t", first)
    assert store.since("t", store.rv) == []
    assert [s.obj["value"] for s in store.items("t")] == [1]


def test_listeners_hear_their_table_until_they_stop() -> None:
    store = Store()
    heard: list[Change] = []
    stop = store.subscribe("t", heard.append)
    put(store, "a")
    put(store, "b", table="u")
    stop()
    put(store, "c")
    assert [change.new.key[1] for change in heard] == ["a"]


operations = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=30)


@given(operations)
def test_a_snapshot_is_what_was_listed_at_its_revision(writes: list[tuple[str, int]]) -> None:
    store = Store()
    seen: dict[int, list[tuple[str, int]]] = {}
    for name, value in writes:
        if value == 0 and store.get("t", ("ns", name)):
            store.delete("t", ("ns", name))
        else:
            put(store, name, value)
        seen[store.rv] = [(s.key[1], s.obj["value"]) for s in store.items("t")]
    for rv, listed in seen.items():
        assert [(s.key[1], s.obj["value"]) for s in store.items_at("t", "", rv)] == listed


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "data.db")
    store = Store(journal=journal)
    put(store, "a", 1)
    kept = put(store, "a", 2)
    put(store, "b")
    last = store.delete("t", ("ns", "b")).rv
    journal.close()
    again = SqliteJournal(tmp_path / "data.db")
    reborn = Store(journal=again)
    assert [(s.rv, s.obj["value"]) for s in reborn.items("t")] == [(kept, 2)]
    assert reborn.rv == last
    assert put(reborn, "c") == last + 1
    with pytest.raises(ApiError):
        reborn.since("t", kept)
    again.close()

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.indexer import Indexer

Row = frozenset[str]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.none() | st.frozensets(st.sampled_from("abc"), max_size=3)), max_size=80)
)
def test_an_index_always_equals_a_scan(steps: list[tuple[int, Row | None]]) -> None:
    indexer: Indexer[Row] = Indexer()
    indexer.add_index("letter", lambda row: row)
    rows: dict[Key, Row] = {}
    for number, row in steps:
        key = Key("lab", f"p{number}")
        if row is None:
            assert indexer.remove(key) == rows.pop(key, None)
        else:
            assert indexer.put(key, row) == rows.get(key)
            rows[key] = row
    assert indexer.rows == rows
    for letter in "abc":
        found = sorted(indexer.by_index("letter", letter), key=sorted)
        assert found == sorted((row for row in rows.values() if letter in row), key=sorted)


def test_an_index_added_late_covers_existing_rows() -> None:
    indexer: Indexer[str] = Indexer()
    for number in range(20):
        indexer.put(Key("lab", f"p{number}"), "leaf-1")
    indexer.add_index("device", lambda row: [row, row])
    assert indexer.by_index("device", "leaf-1") == ("leaf-1",) * 20


def test_rows_of_a_value_with_many_rows_are_added_and_removed() -> None:
    indexer: Indexer[str] = Indexer()
    indexer.add_index("device", lambda row: [row])
    keys = [Key("lab", f"p{number}") for number in range(20)]
    for key in keys:
        indexer.put(key, "leaf-1")
    for left, key in reversed(list(enumerate(keys))):
        indexer.remove(key)
        assert len(indexer.by_index("device", "leaf-1")) == left
    assert indexer.remove(keys[0]) is None

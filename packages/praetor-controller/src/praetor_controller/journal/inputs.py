# SPDX-License-Identifier: Apache-2.0
"""A snapshot as one JSON document, its changes since the previous one, and its digest. Pure.

Rows are keyed by their names. A change is a JSON merge patch (RFC 7386). The digest is sha256 over the canonical JSON
of the document, in which each collection of rows is their number and the sum, modulo 2^256, of the sha256 of the
canonical JSON of each [name, row]: so the order of rows does not matter, and a small change costs little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from attrs import evolve, field, frozen

from praetor_api.canonical import canonical_json
from praetor_api.kube.client.patches import apply_merge_patch, diff_merge_patch
from praetor_controller.errors import NotRecorded
from praetor_controller.journal.codec import fields_of, plain, restored
from praetor_controller.model.rows import DeviceRow, ProcessRow
from praetor_controller.rollout.snapshot import Snapshot

Document: TypeAlias = dict[str, Any]

ROWS: Mapping[str, type[DeviceRow] | type[ProcessRow]] = {
    "devices": DeviceRow,
    "processes": ProcessRow,
    "down_elsewhere": DeviceRow,
}
MODULUS = 1 << 256
_PAUSE_EVERY = 64
"""After this many changed rows other threads may run."""


@frozen
class _RecordedRow:
    row: DeviceRow | ProcessRow
    digest: int


@frozen(kw_only=True)
class Known:
    """The snapshot that was recorded last, as the rows it was made of; immutable."""

    rest: Document = field(factory=dict)
    rows: Mapping[str, Mapping[str, _RecordedRow]] = field(factory=dict)
    sums: Mapping[str, int] = field(factory=dict)

    @property
    def digest(self) -> str:
        """The digest of the whole."""
        return _digest(self.rest, {name: len(rows) for name, rows in self.rows.items()}, self.sums)


def changes(known: Known, snapshot: Snapshot, pause: Callable[[], None] = lambda: None) -> tuple[Document, Known]:
    """Return the merge patch from what is *known* to *snapshot*, and what is known with it; *pause* as in entry()."""
    rest = _rest(snapshot)
    patch = diff_merge_patch(known.rest, rest)
    rows: dict[str, Mapping[str, _RecordedRow]] = {}
    sums: dict[str, int] = {}
    for name in ROWS:
        before = known.rows.get(name, {})
        part, rows[name], change = _row_changes(before, getattr(snapshot, name), pause)
        sums[name] = (known.sums.get(name, 0) + change) % MODULUS
        if part:
            patch[name] = part
    return patch, Known(rest=rest, rows=rows, sums=sums)


def _rest(snapshot: Snapshot) -> Document:
    data = {}
    for name, default, convert, _, _ in fields_of(Snapshot):
        value = getattr(snapshot, name)
        if name not in ROWS and value is not None and value != default:
            data[name] = value if convert is None else convert(value)
    return data


def _row_changes(
    before: Mapping[str, _RecordedRow], rows: Iterable[DeviceRow | ProcessRow], pause: Callable[[], None]
) -> tuple[Document, Mapping[str, _RecordedRow], int]:
    patch: Document = {}
    after: dict[str, _RecordedRow] = {}
    change = unchanged = 0
    for row in rows:
        name = row.name
        had = before.get(name)
        if had is not None and had.row is row:
            after[name] = had
            unchanged += 1
            if unchanged % (_PAUSE_EVERY * _PAUSE_EVERY) == 0:
                pause()
            continue
        data = _row_data(row)
        recorded = after[name] = _RecordedRow(row, row_digest(name, data))
        if had is None or had.digest != recorded.digest:
            patch[name] = data if had is None else diff_merge_patch(_row_data(had.row), data)
            change += recorded.digest - (had.digest if had is not None else 0)
            if len(patch) % _PAUSE_EVERY == 0:
                pause()
    for name in before.keys() - after.keys():
        patch[name] = None
        change -= before[name].digest
    return patch, after, change


def _row_data(row: DeviceRow | ProcessRow) -> Document:
    data = plain(row)
    del data["name"]  # it is the key
    return data


def row_digest(name: str, data: object) -> int:
    """Return the part of a row in the sum of its collection."""
    return int.from_bytes(hashlib.sha256(canonical_json([name, data])).digest())


class Reconstruction:
    """The inputs as they are read from a file, line by line."""

    def __init__(self) -> None:
        self._rest: Document = {}
        self._data: dict[str, Document] = {name: {} for name in ROWS}
        self._rows: dict[str, dict[str, Any]] = {name: {} for name in ROWS}
        self._sums = dict.fromkeys(ROWS, 0)

    def change(self, patch: Mapping[str, Any]) -> None:
        """Apply *patch*; NotRecorded when it is not one."""
        for name in ROWS:
            part = patch.get(name) or {}
            if not isinstance(part, Mapping):
                raise NotRecorded(f"{name}: must be an object")
            for row, changed in part.items():
                self._change_row(name, row, changed)
        rest = {name: value for name, value in patch.items() if name not in ROWS}
        self._rest = apply_merge_patch(self._rest, rest)

    def _change_row(self, name: str, row: str, changed: Any) -> None:
        had = self._data[name].pop(row, None)
        self._rows[name].pop(row, None)
        change = -row_digest(row, had) if had is not None else 0
        data = apply_merge_patch(had, changed)
        if data is not None:
            self._rows[name][row] = restored({**data, "name": row}, ROWS[name])
            self._data[name][row] = data
            change += row_digest(row, data)
        self._sums[name] = (self._sums[name] + change) % MODULUS

    @property
    def digest(self) -> str:
        return _digest(self._rest, {name: len(rows) for name, rows in self._rows.items()}, self._sums)

    def snapshot(self) -> Snapshot:
        """Return the inputs of the planner; NotRecorded when they cannot have been these."""
        rows: dict[str, Any] = {name: tuple(rows.values()) for name, rows in self._rows.items()}
        return evolve(restored(self._rest, Snapshot), **rows)


def _digest(rest: Document, counts: Mapping[str, int], sums: Mapping[str, int]) -> str:
    summed = {name: [counts.get(name, 0), f"{sums.get(name, 0):064x}"] for name in ROWS}
    return "sha256:" + hashlib.sha256(canonical_json(rest | summed)).hexdigest()

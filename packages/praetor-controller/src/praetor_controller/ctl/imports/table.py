# SPDX-License-Identifier: Apache-2.0
"""A file of devices as rows: CSV with a header, or a NetBox export in JSON. Pure: bytes in, rows and faults out."""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any

from attrs import frozen

MAX_BYTES = 128 * 1024 * 1024
"""About 40,000 devices of a NetBox export, which has 3 kB for each."""
MAX_ROWS = 100_000
_DELIMITERS = (",", ";", "\t")  # Excel writes semicolons where the comma is in numbers
_MAX_HEADER = 65_536  # characters
_SHOWN = 48  # characters of a value in a message
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_STANDS_FOR = ("slug", "value", "address", "name", "model", "display")


class Unreadable(ValueError):
    """The file as a whole cannot be used; the message says why, and what to give instead."""


@frozen
class Fault:
    """What is wrong in a row, and what to write instead. *column* is empty when it is the row itself."""

    where: str
    column: str
    text: str

    def __str__(self) -> str:
        return (
            f"{self.where}, column {quoted(self.column)}: {self.text}" if self.column else f"{self.where}: {self.text}"
        )


@frozen
class Row:
    """One device of the file; *where* it stands there, such as `row 3` or `results[2]`."""

    where: str
    cells: Mapping[str, Any]


@frozen(kw_only=True)
class Table:
    """The devices of a file. *header* has the columns of a CSV file, and is None for JSON.

    *part*: the server of a JSON export has others.
    """

    rows: Sequence[Row]
    header: Sequence[str] | None = None
    part: bool = False
    faults: Sequence[Fault] = ()

    def column(self, path: str) -> str | None:
        """Return the name under which the rows have *path*; None when none has it."""
        if self.header is not None:
            return name if (name := column_name(path)) in self.header else None
        return path if any(_found(row.cells, path) is not None for row in self.rows) else None

    def known(self) -> Sequence[str]:
        """Return the columns, of a JSON export those of its first device."""
        return self.header if self.header is not None else list(self.rows[0].cells if self.rows else ())

    def value(self, row: Row, column: str) -> str:
        """Return the text in a *column* of *row*, empty when there is none; ValueError when it is a list."""
        found = (row.cells[column],) if self.header is not None else _found(row.cells, column)
        return _text(found[0]) if found is not None else ""


def quoted(value: str) -> str:
    """Return *value* for a message: short, and without characters that a terminal acts on."""
    return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "...")


def column_name(text: str) -> str:
    """Return the name of a CSV column as it is compared: `IP Address` is `ip_address`."""
    return "_".join(text.lower().split())


def read_table(content: bytes) -> Table:
    """Return the rows of a file, with what is wrong in single rows; Unreadable when it cannot be read as a whole."""
    if content.startswith(_UTF16):
        raise Unreadable("is UTF-16; save it as CSV UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise Unreadable(f"line {line} is not UTF-8; save it as CSV UTF-8") from e
    table = _from_json(text) if text.lstrip().startswith(("{", "[")) else _from_csv(text)
    if len(table.rows) > MAX_ROWS:
        raise Unreadable(f"has more than {MAX_ROWS} devices; give them in parts, each with a --source of its own")
    if not table.rows and not table.faults:
        raise Unreadable("has no device; check how it was exported")
    return table


def _from_csv(text: str) -> Table:
    first, _, rest = text.partition("\n")
    hint = first.rstrip("\r").lower()
    start = 1
    delimiters: Sequence[str] = _DELIMITERS
    if hint in {f"sep={each}" for each in _DELIMITERS}:  # Excel's own way to name the delimiter
        delimiters, text, start = (hint[-1],), rest, 2
    records = _records(text, max(delimiters, key=lambda each: _width(text[:_MAX_HEADER], each)))
    names = [column_name(each) for each in next(records, (0, []))[1]]
    if not any(names):
        raise Unreadable("has no header; write the names of the columns into its first row")
    faults = [
        Fault(f"row {start}", name, "is there twice; give one of them another name or remove it")
        for name, times in Counter(names).items()
        if times > 1 and name
    ]
    rows: list[Row] = []
    for number, record in records:
        where = f"row {start - 1 + number}"
        if len(record) != len(names):
            faults.append(Fault(where, "", f"has {len(record)} cells and the header {len(names)}; check its quotes"))
        else:
            rows.append(Row(where, {name: cell for name, cell in zip(names, record, strict=True) if name}))
        if len(rows) + len(faults) > MAX_ROWS:
            break
    return Table(rows=rows, header=[name for name in dict.fromkeys(names) if name], faults=faults)


def _width(text: str, delimiter: str) -> int:
    """Return how many columns the header of *text* has with *delimiter*, 0 if it cannot be read with it."""
    try:
        return len(next(_records(text, delimiter), (0, []))[1])
    except Unreadable:
        return 0


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with their numbers as a spreadsheet has them."""
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    while True:
        number += 1
        try:
            record = next(reader, None)
        except csv.Error as e:
            raise Unreadable(f"row {number} is not CSV: {e}; check its quotes") from e
        if record is None:
            return
        if any(cell.strip() for cell in record):
            yield number, record


def _from_json(text: str) -> Table:
    try:
        document = json.loads(text, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as e:
        raise Unreadable(f"is not JSON: {e}; give a NetBox export, or CSV") from e
    devices, name, part = document, "", False
    if isinstance(document, dict):
        devices, name = document.get("results"), "results"
        if not isinstance(devices, list):
            detail = f" but says {quoted(document['detail'])}" if isinstance(document.get("detail"), str) else ""
            raise Unreadable(f"has no list results{detail}; give what /api/dcim/devices/?limit=0 answers")
        others = bool(document.get("next") or document.get("previous"))
        part = others or document.get("count", len(devices)) != len(devices)
    rows, faults = [], []
    for number, device in enumerate(devices):
        where = f"{name}[{number}]"
        if isinstance(device, dict):
            rows.append(Row(where, device))
        else:
            faults.append(Fault(where, "", "is no object; give what /api/dcim/devices/?limit=0 answers"))
    return Table(rows=rows, part=part, faults=faults)


def _found(cells: Mapping[str, Any], path: str) -> tuple[Any] | None:
    """Return what is at *path*, such as `rack.name`, or None if there is no such place: below null all are null."""
    value: Any = cells
    for name in path.split("."):
        if value is None:
            return (None,)
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return (value,)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        value = next((value[name] for name in _STANDS_FOR if isinstance(value.get(name), (str, int))), value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, (str, int)):
        return "" if value is None else str(value)
    raise ValueError("is a list or an object; name one value in it, as in custom_fields.ring")

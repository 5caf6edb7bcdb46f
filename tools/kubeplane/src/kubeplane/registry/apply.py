# SPDX-License-Identifier: Apache-2.0
"""Managers of fields: tracking of ordinary writes, and server-side apply with its conflicts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kubeplane.errors import ApiError, Obj
from kubeplane.registry import fields
from kubeplane.registry.fields import Path, Paths


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes and how: one entry of managedFields."""

    manager: str
    operation: str  # Apply or Update
    api_version: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    writer: Writer
    paths: Paths
    time: str
    written: Obj | None = None  # the paths as FieldsV1, where they are known in that form


def read_entries(metadata: Obj) -> list[Entry]:
    """Return the entries of an object; those that say nothing are left out."""
    return [_entry(given) for given in metadata.get("managedFields") or () if given.get("operation")]


def _entry(given: Obj) -> Entry:
    writer = Writer(
        given.get("manager", ""), given["operation"], given.get("apiVersion", ""), given.get("subresource", "")
    )
    written = given.get("fieldsV1") or {}
    return Entry(writer, fields.decode(written), given.get("time", ""), written)


def write_entries(entries: list[Entry]) -> list[Obj]:
    """Return the entries as metadata.managedFields keeps them: applies first, then by time and manager."""
    ordered = sorted((e for e in entries if e.paths), key=lambda e: (e.writer.operation, e.time, e.writer.manager))
    return [_written(entry) for entry in ordered]


def _written(entry: Entry) -> Obj:
    written = {
        "manager": entry.writer.manager,
        "operation": entry.writer.operation,
        "apiVersion": entry.writer.api_version,
        "time": entry.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields.encode(entry.paths) if entry.written is None else entry.written,
    }
    return written | ({"subresource": entry.writer.subresource} if entry.writer.subresource else {})


def track(old: Obj, new: Obj, schema: Obj, writer: Writer, now: str) -> list[Obj] | None:
    """Return managedFields after *writer* changed *old* to *new*; None when the object is not tracked."""
    given = new["metadata"].get("managedFields")
    if given == [{}]:
        return []
    entries = read_entries({"managedFields": given if given is not None else old["metadata"].get("managedFields")})
    if not entries and old["metadata"].get("uid"):
        return None
    changed, removed = (fields.managed(paths) for paths in fields.compare(_bare(old), _bare(new), schema))
    if not changed and not removed:
        return write_entries(entries)
    kept = [_with_paths(e, e.paths - removed - changed, e.time) for e in entries if e.writer != writer]
    mine = next((e for e in entries if e.writer == writer), Entry(writer, fields.EMPTY, now))
    return write_entries([*kept, _with_paths(mine, (mine.paths | changed) - removed, now)])


def _with_paths(entry: Entry, paths: Paths, time: str) -> Entry:
    return Entry(entry.writer, paths, time, entry.written if paths == entry.paths else None)


def _bare(obj: Obj) -> Obj:
    """Return the object without its managedFields, which are not themselves managed."""
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "managedFields"}}


def apply(live: Obj, config: Obj, schema: Obj, writer: Writer, *, force: bool, now: str) -> Obj:
    """Apply *config* to *live* as *writer*; ApiError 409 when that takes other managers' fields without *force*."""
    entries = read_entries(live["metadata"]) or _untracked(live, schema, writer.api_version, now)
    last = next((e for e in entries if e.writer == writer), None)
    mine = fields.managed(fields.owned(config, schema))
    others = [e for e in entries if e.writer != writer]
    merged: Obj = merge(live, config, schema)
    if last:
        held: Paths = frozenset().union(mine, *(e.paths for e in others))
        merged = _pruned(merged, schema, last.paths - mine, held)
    changed, removed = (fields.managed(paths) for paths in fields.compare(_bare(live), _bare(merged), schema))
    clashes = [(e, e.paths & changed) for e in others if e.paths & changed]
    if clashes and not force:
        raise _conflict(clashes)
    same = last is not None and last.paths == mine and not changed and not removed
    entry = Entry(writer, mine, last.time if same and last else now)
    kept = [Entry(e.writer, e.paths - changed - removed, e.time) for e in others]
    merged["metadata"] = {**merged["metadata"], "managedFields": write_entries([*kept, entry])}
    return merged


def _untracked(live: Obj, schema: Obj, api_version: str, now: str) -> list[Entry]:
    """Return the entry of an object that was not tracked so far: all its fields belong to one manager."""
    if not live["metadata"].get("uid"):
        return []
    present, _ = fields.compare({"metadata": {}}, _bare(live), schema)
    return [Entry(Writer("before-first-apply", "Update", api_version), fields.managed(present), now)]


def _conflict(clashes: list[tuple[Entry, Paths]]) -> ApiError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {_who(entry)}", "field": fields.dotted(path)}
        for entry, paths in clashes
        for path in sorted(paths)
    ]
    count = len(causes)
    message = f"Apply failed with {count} conflict{'s' if count > 1 else ''}: {_listed(clashes, count)}"
    return ApiError(409, "Conflict", message, {"causes": causes})


def _listed(clashes: list[tuple[Entry, Paths]], count: int) -> str:
    if count == 1:
        ((entry, paths),) = clashes
        return f"conflict with {_who(entry)}: {fields.dotted(next(iter(paths)))}"
    blocks = []
    for entry, paths in clashes:
        lines = [f"- {fields.dotted(path)}" for path in sorted(paths)]
        blocks.append(f"conflicts with {_who(entry)}:\n" + "\n".join(lines))
    return "\n".join(blocks)


def _who(entry: Entry) -> str:
    writer = entry.writer
    sub = f' with subresource "{writer.subresource}"' if writer.subresource else ""
    at = f" at {entry.time}" if writer.operation == "Update" else ""
    return f'"{writer.manager}"{sub} using {writer.api_version}{at}'


def merge(live: Any, config: Any, schema: Obj | None) -> Any:
    """Return *config* over *live*: maps by field, map-like lists and sets by item, everything else whole."""
    if type(live) is not type(config) or fields.atomic(config, schema):
        return copy.deepcopy(config)
    if isinstance(config, dict):
        merged = dict(live)
        for key, value in config.items():
            below = fields.field_schema(schema, key)
            merged[key] = merge(live[key], value, below) if key in live else copy.deepcopy(value)
        return merged
    return _merged_list(live, config, schema or {})


def _merged_list(live: list[Any], config: list[Any], schema: Obj) -> list[Any]:
    wanted = {fields.item_step(item, schema): item for item in config}
    present = {fields.item_step(item, schema): item for item in live}
    kept = [
        merge(item, wanted[step], schema.get("items")) if step in wanted else item for step, item in present.items()
    ]
    return kept + [copy.deepcopy(item) for step, item in wanted.items() if step not in present]


def _pruned(value: Any, schema: Obj | None, gone: Paths, held: Paths) -> Any:
    """Return *value* without the paths in *gone*, unless *held* has them or anything below them."""
    prefixes = {path[:end] for path in held for end in range(1, len(path) + 1)}
    drop = frozenset(path for path in gone if path not in prefixes)
    return _without(value, schema, drop, ()) if drop else value


def _without(value: Any, schema: Obj | None, drop: Paths, path: Path) -> Any:
    touched = {dropped[len(path)] for dropped in drop if len(dropped) > len(path) and dropped[: len(path)] == path}
    if not touched or fields.atomic(value, schema):
        return value
    kept = list(_survivors(value, schema, drop, path, touched))
    if isinstance(value, dict):
        return {step[2:]: part for step, part in kept}
    return [part for _, part in kept]


def _survivors(value: Any, schema: Obj | None, drop: Paths, path: Path, touched: set[str]) -> Iterator[tuple[str, Any]]:
    for step, part, below in fields.steps(value, schema):
        at = (*path, step)
        if at in drop:
            continue
        left = _without(part, below, drop, at) if step in touched else part
        if left in ({}, []) and part not in ({}, []):
            continue  # nothing of it is left
        yield step, left

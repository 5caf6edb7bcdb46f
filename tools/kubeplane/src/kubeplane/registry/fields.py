# SPDX-License-Identifier: Apache-2.0
"""Sets of field paths, and FieldsV1, the form in which managedFields records them.

A path is a tuple of FieldsV1 steps: f:name for a field, k:{...} for an item of a map-like list, v:... for one of a set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from kubeplane.errors import Obj
from kubeplane.schema.structural import preserves
from kubeplane.schema.validation import list_identity

Path: TypeAlias = tuple[str, ...]
Paths: TypeAlias = frozenset[Path]
EMPTY: Paths = frozenset()

# what no manager owns: identity and what the system writes
UNMANAGED: tuple[Path, ...] = (
    ("f:apiVersion",),
    ("f:kind",),
    ("f:metadata",),
    *(
        ("f:metadata", f"f:{key}")
        for key in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        )
    ),
)


def managed(paths: Iterable[Path]) -> Paths:
    """Return *paths* without what no manager owns."""
    return frozenset(path for path in paths if path not in _EXACT and path[:2] not in _PREFIXES)


_EXACT = frozenset(path for path in UNMANAGED if len(path) == 1)
_PREFIXES = frozenset(path for path in UNMANAGED if len(path) == 2)


def decode(fields: Obj) -> Paths:
    return frozenset(_decode(fields, ()))


def _decode(fields: Obj, prefix: Path) -> Iterator[Path]:
    for key, below in fields.items():
        if key == ".":
            yield prefix
        elif below:
            yield from _decode(below, (*prefix, key))
        else:
            yield (*prefix, key)


def encode(paths: Paths) -> Obj:
    tree: Obj = {}
    for path in sorted(paths):
        at = tree
        for step in path:
            at = at.setdefault(step, {})
        at["."] = {}
    return _without_leaf_dots(tree)


def _without_leaf_dots(tree: Obj) -> Obj:
    return {key: {} if key == "." or below == {".": {}} else _without_leaf_dots(below) for key, below in tree.items()}


def atomic(value: Any, schema: Obj | None) -> bool:
    """Return whether *value* is owned as a whole."""
    if isinstance(value, dict):
        return bool(schema and schema.get("x-kubernetes-map-type") == "atomic")
    if isinstance(value, list):
        return not schema or schema.get("x-kubernetes-list-type") not in ("set", "map")
    return True


def steps(value: Any, schema: Obj | None) -> Iterator[tuple[str, Any, Obj | None]]:
    """Yield the parts of a value that is not atomic: step, part, schema of the part."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"f:{key}", item, field_schema(schema, key)
    elif schema:
        for item in value:
            yield item_step(item, schema), item, schema.get("items")


def field_schema(schema: Obj | None, key: str) -> Obj | None:
    if not schema:
        return None
    extra = schema.get("additionalProperties")
    return (schema.get("properties") or {}).get(key) or (extra if isinstance(extra, dict) else None)


def declared(schema: Obj | None, step: str) -> bool:
    return bool(schema and step.startswith("f:") and step[2:] in (schema.get("properties") or {}))


def item_step(item: Any, schema: Obj) -> str:
    identity = list_identity(item, schema)
    mark = "k:" if schema["x-kubernetes-list-type"] == "map" else "v:"
    return mark + json.dumps(identity, sort_keys=True, separators=(",", ":"))


def owned(value: Any, schema: Obj | None) -> Paths:
    """Return the paths that a manager owns after it applied *value*."""
    return frozenset(_owned(value, schema, ()))


def _owned(value: Any, schema: Obj | None, path: Path) -> Iterator[Path]:
    if atomic(value, schema):
        yield path
        return
    for step, part, below in steps(value, schema):
        at = (*path, step)
        if not isinstance(part, dict | list) or part in ({}, []) or not declared(schema, step):
            yield at
        if isinstance(part, dict | list):
            yield from _owned(part, below, at)


def compare(old: Any, new: Any, schema: Obj | None) -> tuple[Paths, Paths]:
    """Return the paths that are added or changed, and those that are removed, from *old* to *new*."""
    changed: set[Path] = set()
    removed: set[Path] = set()
    _compare(old, new, schema, (), changed, removed)
    return frozenset(changed), frozenset(removed)


def _compare(old: Any, new: Any, schema: Obj | None, path: Path, changed: set[Path], removed: set[Path]) -> None:
    if old == new and type(old) is type(new):
        return
    if type(old) is not type(new) or atomic(new, schema) or (not old and not new):
        changed.add(path)
        return
    before = {step: (part, below) for step, part, below in steps(old, schema)}
    after = {step: (part, below) for step, part, below in steps(new, schema)}
    for step in before.keys() - after.keys():
        removed.update(_whole(before[step][0], before[step][1], (*path, step)))
    for step, (part, below) in after.items():
        if step in before:
            _compare(before[step][0], part, below, (*path, step), changed, removed)
        else:
            changed.update(_whole(part, below, (*path, step)))


def _whole(value: Any, schema: Obj | None, path: Path) -> Iterator[Path]:
    """Yield *path* and all the paths below it."""
    yield path
    if not atomic(value, schema):
        for step, part, below in steps(value, schema):
            yield from _whole(part, below, (*path, step))


def dotted(path: Path) -> str:
    """Return the path as conflicts show it: .spec.ports[name="a"].port."""
    text = ""
    for step in path:
        if step.startswith("f:"):
            text += f".{step[2:]}"
        elif step.startswith("k:"):
            keys = json.loads(step[2:])
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in keys.items()) + "]"
        else:
            text += f"[={step[2:]}]"
    return text


def typed(schema: Obj | None) -> Obj | None:
    """Return the schema to go by, or None where unknown fields are kept and nothing is declared."""
    return None if schema and preserves(schema) and not schema.get("properties") else schema

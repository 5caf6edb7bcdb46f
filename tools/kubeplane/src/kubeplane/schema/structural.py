# SPDX-License-Identifier: Apache-2.0
"""Defaulting and pruning of values by a structural schema, as apiextensions does it.

Both work on a value that the caller owns, in place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from kubeplane.errors import Obj

ROOT_FIELDS = frozenset({"apiVersion", "kind", "metadata"})


def preserves(schema: Obj) -> bool:
    return bool(schema.get("x-kubernetes-preserve-unknown-fields"))


def children(value: Any, schema: Obj) -> Iterator[tuple[str | int, Any, Obj]]:
    """Yield the fields or items of *value* that the schema speaks of: key, value, schema."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        for key, item in value.items():
            if key in properties:
                yield key, item, properties[key]
            elif isinstance(extra, dict):
                yield key, item, extra
    elif isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, dict):
            for index, item in enumerate(value):
                yield index, item, items


def default(value: Any, schema: Obj) -> None:
    """Fill in the defaults, and drop or replace nulls where null is not allowed."""
    if isinstance(value, dict):
        _default_fields(value, schema)
    for _, item, below in children(value, schema):
        if isinstance(item, dict | list):
            default(item, below)


def _default_fields(value: Obj, schema: Obj) -> None:
    for key, below in (schema.get("properties") or {}).items():
        refused_null = key in value and value[key] is None and not below.get("nullable")
        if "default" in below and (key not in value or refused_null):
            value[key] = copy.deepcopy(below["default"])
        elif refused_null and _typed(below):
            del value[key]
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict) and not extra.get("nullable") and _typed(extra):
        known = schema.get("properties") or {}
        for key in [key for key, item in value.items() if item is None and key not in known]:
            del value[key]


def _typed(schema: Obj) -> bool:
    return not preserves(schema) and ("type" in schema or bool(schema.get("x-kubernetes-int-or-string")))


def prune(value: Any, schema: Obj, *, root: bool = False, path: str = "") -> list[str]:
    """Remove the fields that the schema does not know; returns their paths."""
    gone: list[str] = []
    if isinstance(value, dict):
        gone += _prune_fields(value, schema, root or bool(schema.get("x-kubernetes-embedded-resource")), path)
    for key, item, below in children(value, schema):
        if isinstance(item, dict | list) and not (root and key == "metadata"):
            gone += prune(item, below, path=join(path, key))
    return gone


def _prune_fields(value: Obj, schema: Obj, resource: bool, path: str) -> list[str]:
    if preserves(schema) or schema.get("additionalProperties"):
        return []
    known = schema.get("properties") or {}
    unknown = [key for key in value if key not in known and not (resource and key in ROOT_FIELDS)]
    for key in unknown:
        del value[key]
    return [join(path, key) for key in unknown]


def join(path: str, key: str | int) -> str:
    """Return the path one step further, as field errors write it: a.b[0].c."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key

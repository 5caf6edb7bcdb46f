# SPDX-License-Identifier: Apache-2.0
"""Tables: how the server prints objects for kubectl get."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from kubeplane.errors import Obj
from kubeplane.kinds.resources import Column, Resource
from kubeplane.schema.schemas import NAME
from kubeplane.storage.store import Stored

_STEP = re.compile(
    r"\.(?P<field>(?:\\.|[^.\[\\])+)|\[(?P<index>-?\d+)\]|\[(?P<all>\*)\]|\['(?P<quoted>[^']*)'\]"
    r"|\[\?\(@\.(?P<key>[^=!\s]+)\s*==\s*[\"'](?P<value>[^\"']*)[\"']\)\]"
)


def lookup(path: str, value: Any) -> list[Any]:
    """Return what a printer column's JSONPath finds in *value*: fields, indexes, [*] and [?(@.key=="value")]."""
    path = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    found = [value]
    for step in _STEP.finditer(path):
        found = [item for each in found for item in _step(step, each)]
    return found


def _step(step: re.Match[str], value: Any) -> list[Any]:
    if step["index"] is not None:
        index = int(step["index"])
        return value[index : index + 1 or None] if isinstance(value, list) else []
    if step["all"]:
        return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if step["key"]:
        items = value if isinstance(value, list) else []
        return [item for item in items if isinstance(item, dict) and str(item.get(step["key"])) == step["value"]]
    key = (step["quoted"] or step["field"] or "").replace("\\.", ".")
    return [value[key]] if isinstance(value, dict) and key in value else []


def table(
    resource: Resource, items: Iterable[Stored], meta: Obj, now: datetime, include: str, headed: bool = True
) -> Obj:
    """Return a metav1.Table; *include* is None, Metadata or Object: what each row carries of its object."""
    whole: Obj = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
    whole["columnDefinitions"] = _headings(resource) if headed else []
    whole["rows"] = [row(resource, item.obj, now, include) for item in items]
    return whole


def _headings(resource: Resource) -> list[Obj]:
    name = Column("Name", "string", ".metadata.name", NAME, "name")
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in _columns(resource, name)
    ]


def _columns(resource: Resource, name: Column) -> tuple[Column, ...]:
    """Return the columns of a table; those of events do not begin with the names, which are generated."""
    return resource.columns if resource.table == "/events" else (name, *resource.columns)


def row(resource: Resource, obj: Obj, now: datetime, include: str) -> Obj:
    shown = _with_computed(resource, obj)
    name = Column("Name", "string", ".metadata.name")
    return {"cells": [_cell(column, shown, now) for column in _columns(resource, name)]} | _row_object(
        resource, obj, include
    )


def _row_object(resource: Resource, obj: Obj, include: str) -> Obj:
    match include:
        case "None":
            return {"object": None}
        case "Object":
            return {"object": resource.wire(obj)}
        case _:
            head = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
            return {"object": head | {"metadata": obj["metadata"]}}


def _cell(column: Column, obj: Obj, now: datetime) -> Any:
    found = [value for value in lookup(column.path, obj) if value is not None]
    if column.type == "date":
        return age(found[0], now) if found else "<unknown>" if column.name in ("Age", "Last Seen") else None
    if not found:
        return "<none>" if column.path.startswith(".metadata.") else None
    if len(found) > 1:
        return ",".join(_text(value) for value in found)
    (value,) = found
    match column.type:
        case "integer" | "number" | "boolean" if isinstance(value, int | float):
            return value
        case "integer" | "number" | "boolean":
            return None if not isinstance(value, str) else value
        case _:
            return _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _with_computed(resource: Resource, obj: Obj) -> Obj:
    """Cells that no path reaches, as fields of their own."""
    match resource.table:
        case "/configmaps" | "/secrets":
            return obj | {"dataCount": len(obj.get("data") or {}) + len(obj.get("binaryData") or {})}
        case "/events":
            return obj | _event_cells(obj)
        case "apps/controllerrevisions":
            owners = [o for o in obj["metadata"].get("ownerReferences") or () if o.get("controller")]
            return obj | {"controller": _owner(owners[0]) if owners else "<none>"}
        case table if table.endswith("rolebindings"):
            role = obj.get("roleRef") or {}
            return obj | {"role": f"{role.get('kind')}/{role.get('name')}"}
        case _:
            return obj


def _owner(owner: Obj) -> str:
    group = owner["apiVersion"].rpartition("/")[0]
    kind = owner["kind"].lower()
    return f"{kind}.{group}/{owner['name']}" if group else f"{kind}/{owner['name']}"


def _event_cells(obj: Obj) -> Obj:
    about = obj.get("involvedObject") or {}
    source = obj.get("source") or {}
    series = obj.get("series") or {}
    reporter = source.get("component") or obj.get("reportingComponent") or ""
    first = obj.get("firstTimestamp") or obj.get("eventTime") or obj["metadata"].get("creationTimestamp")
    return {
        "object": f"{(about.get('kind') or '').lower()}/{about.get('name', '')}",
        "reporter": f"{reporter}, {source['host']}" if source.get("host") else reporter,
        "firstSeen": first,
        "lastSeen": series.get("lastObservedTime") or obj.get("lastTimestamp") or first,
        "times": str(series.get("count") or obj.get("count") or 1),
    }


def age(timestamp: Any, now: datetime) -> str:
    """Return how long ago, as kubectl shows it: 5s, 4m12s, 3h5m, 2d."""
    try:
        passed = now - datetime.fromisoformat(str(timestamp).replace("Z", "+00:00"))
    except (ValueError, TypeError):
        return "<invalid>"
    return human_duration(passed)


def human_duration(passed: timedelta) -> str:
    seconds = int(passed.total_seconds())
    if seconds < -1:
        return "<invalid>"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    return f"{days // 365}y{days % 365}d" if days < 2920 and days % 365 else f"{days // 365}y"

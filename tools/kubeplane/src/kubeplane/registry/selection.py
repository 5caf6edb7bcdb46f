# SPDX-License-Identifier: Apache-2.0
"""Which objects a request means: a resource, a namespace, and selectors over labels and fields."""

from __future__ import annotations

import json
from dataclasses import dataclass

from kubeplane.errors import bad_request
from kubeplane.kinds.resources import Resource
from kubeplane.schema import selectors
from kubeplane.schema.selectors import FieldTerm, Selector
from kubeplane.storage.store import Stored


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource are meant."""

    resource: Resource
    namespace: str
    labels: Selector
    fields: tuple[FieldTerm, ...]

    def takes(self, stored: Stored) -> bool:
        if self.namespace and stored.key[0] != self.namespace:
            return False
        if self.labels.requirements and not self.labels.matches(stored.obj["metadata"].get("labels") or {}):
            return False
        return not self.fields or selectors.fields_match(self.fields, _fields(stored, self.resource))

    @property
    def everything(self) -> bool:
        return not self.labels.requirements and not self.fields


def selection(resource: Resource, namespace: str, query: dict[str, str], name: str = "") -> Selection:
    """Return what *query* selects; ApiError 400 for a selector that cannot be understood or that is not supported."""
    fields = selectors.parse_fields(query.get("fieldSelector", ""))
    for term in fields:
        if term.path not in ("metadata.name", "metadata.namespace", *resource.selectable):
            raise bad_request(_unsupported(resource, term.path))
    if name:
        fields = (*fields, FieldTerm("metadata.name", False, name))
    return Selection(resource, namespace, selectors.parse_labels(query.get("labelSelector", "")), fields)


def _unsupported(resource: Resource, path: str) -> str:
    if resource.custom or resource.table == "/events":
        return f"field label not supported: {path}"
    return f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'


def _stored_path(path: str) -> str:
    """Return the stored path of a field; events are stored in their core form."""
    head, dot, tail = path.partition(".")
    names = {"regarding": "involvedObject", "reportingController": "reportingComponent"}
    return names.get(head, head) + dot + tail


def _fields(stored: Stored, resource: Resource) -> dict[str, str]:
    fields = {"metadata.namespace": stored.key[0], "metadata.name": stored.key[1]}
    for path in resource.selectable:
        fields[path] = _field(stored.obj, _stored_path(path))
    if resource.table == "/events":
        source = (stored.obj.get("source") or {}).get("component") or stored.obj.get("reportingComponent") or ""
        fields |= {"source": source, "reportingComponent": source, "reportingController": source}
    return fields


def _field(value: object, path: str) -> str:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)

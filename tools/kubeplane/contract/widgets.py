# SPDX-License-Identifier: Apache-2.0
"""The kinds that the contract is tested with, and short ways to speak of their objects.

They belong to no product: what they hold is one of each feature of a CustomResourceDefinition.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from contract.rawapi import Answer, RawApi

GROUP = "contract.example.com"
VERSION = f"{GROUP}/v1"

STRING = {"type": "string"}
INTEGER = {"type": "integer"}

WIDGET_SPEC: dict[str, Any] = {
    "type": "object",
    "description": "What the widget should be.",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 100, "description": "How large it is, in millimetres."},
        "color": {"type": "string", "enum": ["red", "green", "blue"], "default": "red"},
        "label": {"type": "string", "minLength": 2, "maxLength": 10, "pattern": "^[a-z]+$"},
        "ratio": {"type": "number", "maximum": 1, "exclusiveMaximum": True},
        "enabled": {"type": "boolean", "default": True},
        "tags": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "set", "items": STRING},
        "steps": {"type": "array", "items": STRING},
        "ports": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name", "port"],
                "properties": {"name": STRING, "port": INTEGER, "protocol": {"type": "string", "default": "TCP"}},
            },
        },
        "limits": {"type": "object", "maxProperties": 2, "additionalProperties": STRING},
        "nested": {
            "type": "object",
            "default": {},
            "properties": {
                "mode": {"type": "string", "default": "auto"},
                "retries": {"type": "integer", "format": "int32", "default": 3},
            },
        },
        "note": {"type": "string", "nullable": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "when": {"type": "string", "format": "date-time"},
    },
}

WIDGET_STATUS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "phase": {"type": "string", "enum": ["Pending", "Running"]},
        "ready": INTEGER,
        "conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status"],
                "properties": {"type": STRING, "status": STRING, "reason": STRING, "message": STRING},
            },
        },
    },
}

WIDGET_COLUMNS = [
    {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "description": "How large it is."},
    {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
    {"name": "Note", "type": "string", "jsonPath": ".spec.note", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def definition(
    kind: str, schema: dict[str, Any], *, plural: str, scope: str = "Namespaced", **version: Any
) -> dict[str, Any]:
    """Return a CustomResourceDefinition of one version v1 in the tests' group."""
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    served = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **version}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [served]},
    }


def widget_definition() -> dict[str, Any]:
    """Return the definition of Widget: namespaced, a rich schema, a status subresource and columns."""
    schema = {
        "type": "object",
        "description": "A thing to test with.",
        "required": ["spec"],
        "properties": {"spec": WIDGET_SPEC, "status": WIDGET_STATUS},
    }
    made = definition(
        "Widget",
        schema,
        plural="widgets",
        subresources={"status": {}},
        additionalPrinterColumns=WIDGET_COLUMNS,
    )
    made["spec"]["names"] |= {"shortNames": ["wd"], "categories": ["contract"]}
    return made


def depot_definition() -> dict[str, Any]:
    """Return the definition of Depot: cluster-scoped, without status subresource, keeps unknown fields."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return definition("Depot", schema, plural="depots", scope="Cluster")


def gauge_definition() -> dict[str, Any]:
    """Return the definition of Gauge: one int-or-string field.

    It is a kind of its own because apiservers before 1.21 treat every list of a schema that has such a field as atomic.
    """
    spec = {"type": "object", "properties": {"count": {"x-kubernetes-int-or-string": True}}}
    return definition("Gauge", {"type": "object", "properties": {"spec": spec}}, plural="gauges")


def widget(name: str | None = None, *, metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """Return a valid Widget; *spec* is merged over the one required field."""
    named = {} if name is None else {"name": name}
    return {
        "apiVersion": VERSION,
        "kind": "Widget",
        "metadata": {**named, **(metadata or {})},
        "spec": {"size": 1, **spec},
    }


class Collection:
    """The objects of one kind in one place, through the raw API."""

    def __init__(self, api: RawApi, path: str) -> None:
        self.api = api
        self.path = path

    def at(self, name: str, subresource: str | None = None) -> str:
        """Return the path of one object."""
        return "/".join(filter(None, (self.path, name, subresource)))

    def made(self, body: dict[str, Any], **query: Any) -> dict[str, Any]:
        """Create an object that must be accepted; return it as stored."""
        answer = self.api.post(self.path, body, **query)
        assert answer.status == 201, answer
        return dict(answer.body)

    def create(self, body: Any, **options: Any) -> Answer:
        """POST to the collection."""
        return self.api.post(self.path, body, **options)

    def get(self, name: str, **options: Any) -> Answer:
        """GET one object."""
        return self.api.get(self.at(name), **options)

    def read(self, name: str) -> dict[str, Any]:
        """Return an object that must be there."""
        answer = self.get(name)
        assert answer.status == 200, answer
        return dict(answer.body)

    def listing(self, **query: Any) -> Answer:
        """GET the collection."""
        return self.api.get(self.path, **query)

    def names(self, **query: Any) -> list[str]:
        """Return the names in the collection, in the server's order."""
        answer = self.listing(**query)
        assert answer.status == 200, answer
        return [item["metadata"]["name"] for item in answer.body["items"]]

    def put(self, name: str, body: Any, subresource: str | None = None, **options: Any) -> Answer:
        """PUT one object."""
        return self.api.put(self.at(name, subresource), body, **options)

    def patch(self, name: str, body: Any, *type_: str, subresource: str | None = None, **options: Any) -> Answer:
        """PATCH one object; a merge patch unless a content type is given."""
        return self.api.patch(self.at(name, subresource), body, *type_, **options)

    def apply(
        self, name: str, body: Any, manager: str = "tester", subresource: str | None = None, **options: Any
    ) -> Answer:
        """Apply one object server-side."""
        return self.api.apply(self.at(name, subresource), body, manager, **options)

    def delete(self, name: str, body: Any = None, **options: Any) -> Answer:
        """DELETE one object."""
        return self.api.delete(self.at(name), body, **options)


Define = Callable[[dict[str, Any]], str]  # creates a definition, returns the path of its objects
Eventually = Callable[[Callable[[], bool]], None]  # waits for what the control plane does by itself
InNamespace = Callable[[str, str], Collection]  # group version and plural → that collection in the test's namespace


def brief(answer: Answer) -> list[tuple[str, str]]:
    """Return the causes of a refusal as (field, reason) in order of field; positions in lists are left out.

    Before 1.21 a cause of `spec.ports[0].port` names `spec.ports.port`.
    """
    return sorted((re.sub(r"\[\d+\]", "", cause.get("field", "")), cause.get("reason", "")) for cause in answer.causes)

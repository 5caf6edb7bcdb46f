# SPDX-License-Identifier: Apache-2.0
"""OpenAPI documents, for kubectl explain and for its check of what the server validates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from kubeplane.errors import Obj
from kubeplane.http.discovery import VERSION
from kubeplane.kinds.resources import Catalog, Resource
from kubeplane.schema.schemas import OBJECT_META
from kubeplane.storage.store import encode

_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_VALIDATED = ("post", "put", "patch")
_PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")


def model_name(resource: Resource) -> str:
    """Return the schema's name in the documents: reversed group, version and kind."""
    if resource.custom:
        return ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])
    return f"io.k8s.api.{resource.group.partition('.')[0] or 'core'}.{resource.version}.{resource.kind}"


def paths(catalog: Catalog) -> Obj:
    """Return the index of the OpenAPI v3 documents, one for each group and version."""
    found: Obj = {}
    for prefix in dict.fromkeys(resource.prefix for resource in catalog):
        mark = hashlib.sha256(encode(v3(catalog, prefix))).hexdigest()[:32].upper()
        found[prefix] = {"serverRelativeURL": f"/openapi/v3/{prefix}?hash={mark}"}
    return {"paths": found}


def v3(catalog: Catalog, prefix: str) -> Obj | None:
    """Return the OpenAPI v3 document of one group and version."""
    resources = [resource for resource in catalog if resource.prefix == prefix]
    if not resources:
        return None
    schemas = {_META: _schema(OBJECT_META)}
    for resource in resources:
        meta = {"allOf": [{"$ref": f"#/components/schemas/{_META}"}]}
        schemas |= _models(resource, "#/components/schemas/", meta)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": _paths(resources, v3=True),
        "components": {"schemas": schemas},
    }


def v2(catalog: Catalog) -> Obj:
    """Return the OpenAPI v2 document of everything."""
    models = {_META: _schema(OBJECT_META)}
    for resource in catalog:
        models |= _models(resource, "#/definitions/", {"$ref": f"#/definitions/{_META}"})
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": _paths(catalog, v3=False),
        "definitions": models,
    }


def _kind(resource: Resource) -> Obj:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _models(resource: Resource, prefix: str, meta: Obj) -> Obj:
    """Return the models of a resource: the object and the list of such objects."""
    name = model_name(resource)
    items = {"type": "array", "items": {"$ref": prefix + name}}
    fields = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    listed = {"type": "object", "required": ["items"], "properties": fields | {"items": items}}
    kind = {"group": resource.group, "version": resource.version, "kind": resource.list_kind}
    return {name: _model(resource, meta), f"{name}List": listed | {"x-kubernetes-group-version-kind": [kind]}}


def _model(resource: Resource, meta: Obj) -> Obj:
    model: Obj = _schema(resource.schema)
    described = {**meta, "description": OBJECT_META["description"]} if "allOf" in meta else meta
    model["properties"] = {**model.get("properties", {}), "metadata": described}
    return model | {"x-kubernetes-group-version-kind": [_kind(resource)]}


def _schema(schema: Any) -> Any:
    """Return a structural schema as OpenAPI has it; int-or-string is a string with a format."""
    if not isinstance(schema, dict):
        return schema
    result = {key: value for key, value in schema.items() if key not in ("properties", "items", "additionalProperties")}
    result.pop("x-kubernetes-validations", None)
    if schema.get("format") == "micro-time":
        result["format"] = "date-time"
    if schema.get("x-kubernetes-int-or-string"):
        result |= {"type": "string", "format": "int-or-string"}
        result.pop("anyOf", None)
    if "properties" in schema:
        result["properties"] = {key: _schema(below) for key, below in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            result[key] = _schema(schema[key])
    return result


def _paths(resources: Iterable[Resource], *, v3: bool) -> Obj:
    found: Obj = {}
    for resource in resources:
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        collection = f"/{resource.prefix}{scope}/{resource.plural}"
        found[collection] = {method: _operation(resource, method, v3) for method in ("get", "post")}
        methods = ("get", "put", "patch", "delete")
        found[f"{collection}/{{name}}"] = {method: _operation(resource, method, v3) for method in methods}
    return found


def _operation(resource: Resource, method: str, v3: bool) -> Obj:
    names = ["fieldValidation", "dryRun", "fieldManager"] if method in _VALIDATED else []
    parameters: list[Obj] = [_parameter(name, v3) for name in names]
    operation: Obj = {"parameters": parameters, "responses": {"200": {"description": "OK"}}}
    operation["x-kubernetes-group-version-kind"] = _kind(resource)
    operation["x-kubernetes-action"] = method
    if method == "patch":
        content = {media: {"schema": {"type": "object"}} for media in _PATCHES}
        operation |= {"requestBody": {"content": content}} if v3 else {"consumes": list(_PATCHES)}
    return operation


def _parameter(name: str, v3: bool) -> Obj:
    kind: Obj = {"schema": {"type": "string"}} if v3 else {"type": "string"}
    return {"name": name, "in": "query", "uniqueItems": True} | kind if not v3 else {"name": name, "in": "query"} | kind

# SPDX-License-Identifier: Apache-2.0
"""CustomResourceDefinitions: their own validation, their conditions, and the resources that they make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubeplane.errors import Cause, Obj
from kubeplane.kinds.resources import Column, Resource, View
from kubeplane.schema.cel import Rules, expressions, syntax_error
from kubeplane.schema.schemas import API_VERSION, KIND, OBJECT_META, string
from kubeplane.schema.structural import join
from kubeplane.schema.validation import invalid_value, not_supported, required, validate

GROUP = "apiextensions.k8s.io"
PLURAL = "customresourcedefinitions"
TABLE = f"{GROUP}/{PLURAL}"
_TYPES = ("array", "boolean", "integer", "number", "object", "string")


def with_defaults(definition: Obj) -> Obj:
    """Fill in, in place, what a definition may leave out."""
    spec = definition.setdefault("spec", {})
    if not isinstance(spec, dict):
        return definition
    names = spec.setdefault("names", {})
    if isinstance(names, dict) and isinstance(names.get("kind"), str):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", f"{names['kind']}List")
    spec.setdefault("conversion", {"strategy": "None"})
    return definition


def faults(definition: Obj) -> Iterator[Cause]:
    """Yield what is wrong with a definition."""
    spec = definition.get("spec") or {}
    names, versions = spec.get("names") or {}, spec.get("versions") or []
    expected = f"{names.get('plural', '')}.{spec.get('group', '')}"
    if definition["metadata"].get("name") != expected:
        yield invalid_value(
            "metadata.name", definition["metadata"].get("name", ""), 'must be spec.names.plural+"."+spec.group'
        )
    for field in ("group", "scope"):
        if not spec.get(field):
            yield required(f"spec.{field}")
    if spec.get("scope") not in (None, "", "Cluster", "Namespaced"):
        yield not_supported("spec.scope", spec["scope"], ["Cluster", "Namespaced"])
    for field in ("plural", "kind"):
        if not names.get(field):
            yield required(f"spec.names.{field}")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield invalid_value("spec.versions", len(versions), "must have exactly one version marked as storage version")
    for index, version in enumerate(versions):
        yield from _version_faults(version, f"spec.versions[{index}]")


def _version_faults(version: Obj, path: str) -> Iterator[Cause]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(schema, dict):
        yield required(f"{path}.schema.openAPIV3Schema", "schemas are required")
        return
    if schema.get("type") != "object":
        yield invalid_value(f"{path}.schema.openAPIV3Schema.type", schema.get("type", ""), "must be object")
    yield from _schema_faults(schema, f"{path}.schema.openAPIV3Schema")


def _schema_faults(schema: Obj, path: str) -> Iterator[Cause]:
    kind = schema.get("type")
    opaque = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-int-or-string")
    if kind is None and not opaque:
        yield required(f"{path}.type", "must not be empty for specified object fields")
    if kind is not None and kind not in _TYPES:
        yield not_supported(f"{path}.type", kind, list(_TYPES))
    if kind == "array" and not isinstance(schema.get("items"), dict):
        yield required(f"{path}.items", "must be specified")
    if schema.get("x-kubernetes-list-type") == "map" and not schema.get("x-kubernetes-list-map-keys"):
        yield required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
    if "default" in schema:
        yield from validate(schema["default"], schema, f"{path}.default")
    for key, below in (schema.get("properties") or {}).items():
        yield from _schema_faults(below, join(f"{path}.properties", f"[{key}]").replace(".[", "["))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _schema_faults(schema[key], f"{path}.{key}")


def rule_faults(definition: Obj) -> Iterator[Cause]:
    """Yield the CEL expressions of a definition that cannot be compiled. The first one asked costs celpy's import."""
    for index, version in enumerate((definition.get("spec") or {}).get("versions") or ()):
        schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        for expression in expressions(schema):
            if error := syntax_error(expression):
                path = f"spec.versions[{index}].schema.openAPIV3Schema.x-kubernetes-validations"
                yield invalid_value(path, expression, f"compilation failed: {error}")


def change_faults(new: Obj, old: Obj) -> Iterator[Cause]:
    """Yield what may not change in a definition."""
    for path in ("group", "scope", "names.plural", "names.kind"):
        before, after = _at(old["spec"], path), _at(new.get("spec") or {}, path)
        if before != after:
            yield invalid_value(f"spec.{path}", after, "field is immutable")


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def resources(definition: Obj) -> tuple[Resource, ...]:
    """Return the resources, one for each served version."""
    spec = definition["spec"]
    stored = next(version["name"] for version in spec["versions"] if version.get("storage"))
    return tuple(_resource(spec, version, stored) for version in spec["versions"] if version.get("served"))


def _resource(spec: Obj, version: Obj, stored: str) -> Resource:
    names = spec["names"]
    schema = _whole(version["schema"]["openAPIV3Schema"])
    api_version = f"{spec['group']}/{version['name']}"
    return Resource(
        group=spec["group"],
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        table=f"{spec['group']}/{names['plural']}",
        singular=names["singular"],
        list_kind=names["listKind"],
        namespaced=spec["scope"] == "Namespaced",
        custom=True,
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        schema=schema,
        status="status" in (version.get("subresources") or {}),
        generation=True,
        columns=_columns(version),
        selectable=tuple(field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ()),
        view=None if version["name"] == stored else _other_version(api_version, f"{spec['group']}/{stored}"),
        deprecation=_deprecation(version, api_version, names["kind"]),
        rules=Rules(schema),
    )


def _whole(schema: Obj) -> Obj:
    """Return the schema with what every object has."""
    given = schema.get("properties") or {}
    head = {"apiVersion": string(API_VERSION), "kind": string(KIND), "metadata": OBJECT_META}
    if rules := (given.get("metadata") or {}).get("x-kubernetes-validations"):
        head["metadata"] = OBJECT_META | {"x-kubernetes-validations": rules}
    return {**schema, "properties": {**given, **head}}


def _columns(version: Obj) -> tuple[Column, ...]:
    given = version.get("additionalPrinterColumns")
    if not given:
        described = "CreationTimestamp is a timestamp representing the server time when this object was created."
        return (Column("Age", "date", ".metadata.creationTimestamp", described),)
    return tuple(_column(column) for column in given)


def _column(given: Obj) -> Column:
    described = (
        given.get("description") or f"Custom resource definition column (in JSONPath format): {given['jsonPath']}"
    )
    return Column(
        given["name"], given["type"], given["jsonPath"], described, given.get("format", ""), given.get("priority", 0)
    )


def _other_version(wire: str, stored: str) -> View:
    return View(wire, lambda obj: obj | {"apiVersion": wire}, lambda obj: obj | {"apiVersion": stored})


def _deprecation(version: Obj, api_version: str, kind: str) -> str:
    if not version.get("deprecated"):
        return ""
    return str(version.get("deprecationWarning") or f"{api_version} {kind} is deprecated")


def all_expressions(definition: Obj) -> Iterator[str]:
    """Yield the CEL expressions of every version."""
    for version in definition["spec"]["versions"]:
        yield from expressions((version.get("schema") or {}).get("openAPIV3Schema") or {})


def established(definition: Obj, now: str) -> Obj:
    """Return the definition with the status of one whose names are accepted and whose objects are served."""
    conditions = [
        _condition("NamesAccepted", "NoConflicts", "no conflicts found", now),
        _condition("Established", "InitialNamesAccepted", "the initial names have been accepted", now),
    ]
    spec = definition["spec"]
    stored = [version["name"] for version in spec["versions"] if version.get("storage")]
    before = (definition.get("status") or {}).get("storedVersions") or []
    status = {
        "conditions": (definition.get("status") or {}).get("conditions") or conditions,
        "acceptedNames": spec["names"],
        "storedVersions": list(dict.fromkeys(before + stored)),
    }
    return {**definition, "status": status}


def refused(definition: Obj, taken: str, now: str) -> Obj:
    """Return the definition with the status of one that claims a name which another has."""
    conditions = [
        _condition("NamesAccepted", "KindConflict", f'"{taken}" is already in use', now, "False"),
        _condition("Established", "NotAccepted", "not all names are accepted", now, "False"),
    ]
    before = (definition.get("status") or {}).get("conditions")
    status = {"conditions": before or conditions, "acceptedNames": {"kind": "", "plural": ""}}
    stored = [version["name"] for version in definition["spec"]["versions"] if version.get("storage")]
    return {**definition, "status": status | {"storedVersions": stored}}


def _condition(kind: str, reason: str, message: str, now: str, status: str = "True") -> Obj:
    return {"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message}

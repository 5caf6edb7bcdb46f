# SPDX-License-Identifier: Apache-2.0
"""Object metadata: its decoding, its validation, and which of it clients may set or change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kubeplane.errors import Cause, Obj
from kubeplane.schema.schemas import OBJECT_META
from kubeplane.schema.validation import invalid_value, required, type_name

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DNS_LABEL = re.compile(_LABEL)
_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_PATH = re.compile(r"[^/%]+")
_SUBDOMAIN_WORDS = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_WORDS = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_PART_WORDS = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_WORDS = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_ANNOTATIONS_LIMIT = 256 * 1024
SYSTEM = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")


def mistyped(metadata: Obj) -> str:
    """Return the first field of the wrong type, in words for a 400; empty when all are right."""
    for key, schema in OBJECT_META["properties"].items():
        value = metadata.get(key)
        if value is not None and not _fits(value, schema):
            return f"v1.ObjectMeta.{key[0].upper()}{key[1:]}: expects {schema['type']}, but found {type_name(value)}"
    return ""


def _fits(value: Any, schema: Obj) -> bool:
    if type_name(value) != schema["type"]:
        return False
    inner = schema.get("additionalProperties") or schema.get("items")
    if not inner:
        return True
    items = value.values() if isinstance(value, dict) else value
    return all(item is None or type_name(item) == inner["type"] for item in items)


def cleaned(metadata: Obj) -> Obj:
    """Return the known fields only, without nulls and empty values, as a typed decoder leaves them."""
    known = OBJECT_META["properties"]
    return {key: value for key, value in metadata.items() if key in known and value not in (None, "", {}, [], 0)}


def name_faults(name: Any, kind: str) -> Iterator[Cause]:
    """Yield what is wrong with an object's name; namespaces are labels, roles path segments, the rest subdomains."""
    if not isinstance(name, str) or not name:
        yield required("metadata.name", "name or generateName is required")
        return
    if kind.startswith(("Role", "ClusterRole")):
        if name in (".", "..") or not _PATH.fullmatch(name):
            yield invalid_value("metadata.name", name, "may not contain '/' or '%', nor be '.' or '..'")
        return
    label = kind in ("Namespace", "Service")
    limit, pattern, words = (63, _DNS_LABEL, _LABEL_WORDS) if label else (253, _SUBDOMAIN, _SUBDOMAIN_WORDS)
    if len(name) > limit:
        yield invalid_value("metadata.name", name, f"must be no more than {limit} characters")
    if not pattern.fullmatch(name):
        yield invalid_value("metadata.name", name, words)


def faults(metadata: Obj, kind: str) -> Iterator[Cause]:
    """Yield what is wrong with an object's metadata."""
    yield from name_faults(metadata.get("name"), kind)
    yield from _label_faults(metadata.get("labels") or {})
    yield from _annotation_faults(metadata.get("annotations") or {})
    yield from _owner_faults(metadata.get("ownerReferences") or [])
    for finalizer in metadata.get("finalizers") or []:
        yield from _qualified_faults(finalizer, "metadata.finalizers")


def _label_faults(labels: Obj) -> Iterator[Cause]:
    for key, value in sorted(labels.items()):
        yield from _qualified_faults(key, "metadata.labels")
        if len(value) > 63:
            yield invalid_value("metadata.labels", value, "must be no more than 63 characters")
        if not _VALUE.fullmatch(value):
            yield invalid_value("metadata.labels", value, _VALUE_WORDS)


def _annotation_faults(annotations: Obj) -> Iterator[Cause]:
    for key in sorted(annotations):
        yield from _qualified_faults(key, "metadata.annotations", key.lower())
    if sum(len(key) + len(value.encode()) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        why = f"Too long: must have at most {_ANNOTATIONS_LIMIT} bytes"
        yield Cause("FieldValueTooLong", why, "metadata.annotations")


def _qualified_faults(key: str, path: str, checked: str | None = None) -> Iterator[Cause]:
    prefix, slash, part = (key if checked is None else checked).rpartition("/")
    if slash and not _SUBDOMAIN.fullmatch(prefix):
        yield invalid_value(path, key, f"prefix part {_SUBDOMAIN_WORDS}")
    if len(part) > 63:
        yield invalid_value(path, key, "name part must be no more than 63 characters")
    if not _PART.fullmatch(part):
        yield invalid_value(path, key, _PART_WORDS)


def _owner_faults(owners: list[Obj]) -> Iterator[Cause]:
    path = "metadata.ownerReferences"
    for owner in owners:
        for field, word in (("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")):
            if not owner.get(field):
                yield invalid_value(f"{path}.{field}", "", f"{word} must not be empty")
    controllers = [owner for owner in owners if owner.get("controller")]
    if len(controllers) > 1:
        names = " and ".join(f"{owner.get('kind')}/{owner.get('name')}" for owner in controllers[:2])
        why = f'Only one reference can have Controller set to true. Found "true" in references for {names}'
        yield Cause("FieldValueInvalid", f"Invalid value: {owners!r}: {why}", path)


def change_faults(new: Obj, old: Obj) -> Iterator[Cause]:
    """Yield what an update may not do to metadata."""
    if new.get("uid") != old.get("uid"):
        yield invalid_value("metadata.uid", new.get("uid"), "field is immutable")
    if "deletionTimestamp" in old:
        added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
        if added:
            why = f"no new finalizers can be added if the object is being deleted, found new finalizers {added}"
            yield Cause("FieldValueForbidden", f"Forbidden: {why}", "metadata.finalizers")

# SPDX-License-Identifier: Apache-2.0
"""Validation of values by a structural schema, with the causes that kube-apiserver gives."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from kubeplane.errors import Cause, Obj
from kubeplane.schema.structural import children, join

_INVALID = "FieldValueInvalid"


def shown(value: Any) -> str:
    """Return a value as messages show it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def invalid_value(path: str, value: Any, why: str) -> Cause:
    return Cause(_INVALID, f"Invalid value: {shown(value)}: {why}", path)


def required(path: str, why: str = "") -> Cause:
    return Cause("FieldValueRequired", "Required value" + (f": {why}" if why else ""), path)


def duplicate(path: str, value: Any) -> Cause:
    return Cause("FieldValueDuplicate", f"Duplicate value: {_go(value)}", path)


def _go(value: Any) -> str:
    return f"map[string]interface {{}}{shown(value)}" if isinstance(value, dict) else shown(value)


def not_supported(path: str, value: Any, allowed: list[Any]) -> Cause:
    choices = ", ".join(shown(item) for item in allowed)
    return Cause("FieldValueNotSupported", f"Unsupported value: {shown(value)}: supported values: {choices}", path)


def type_name(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


def validate(value: Any, schema: Obj, path: str = "", known: frozenset[str] = frozenset()) -> Iterator[Cause]:
    """The faults of *value*. Of a wrongly typed value nothing more is checked, and *known* fields are taken as good."""
    wrong = _wrong_type(value, schema, path)
    if wrong:
        yield wrong
        return
    if value is None:
        return
    yield from _of_enum(value, schema, path)
    match value:
        case bool():
            pass
        case str():
            yield from _of_string(value, schema, path)
        case int() | float():
            yield from _of_number(value, schema, path)
        case list():
            yield from _of_list(value, schema, path)
        case dict():
            yield from _of_object(value, schema, path)
    for key, item, below in children(value, schema):
        if key in known:
            continue
        # kube-apiserver leaves the index out of a list's items' paths
        yield from validate(item, below, path if isinstance(key, int) else join(path, key))
    yield from _of_combinations(value, schema, path)


def _wrong_type(value: Any, schema: Obj, path: str) -> Cause | None:
    kinds = ["integer", "string"] if schema.get("x-kubernetes-int-or-string") else [schema.get("type")]
    if kinds == [None] or (value is None and schema.get("nullable")):
        return None
    actual = type_name(value)
    if actual in kinds or (actual == "integer" and "number" in kinds):
        return None
    if actual == "number" and "integer" in kinds and float(value).is_integer():
        return None
    wanted = ",".join(str(kind) for kind in kinds)
    return Cause(_INVALID, f'Invalid value: "{actual}": {path} in body must be of type {wanted}: "{actual}"', path)


def _of_enum(value: Any, schema: Obj, path: str) -> Iterator[Cause]:
    if "enum" in schema and value not in schema["enum"]:
        yield not_supported(path, value, schema["enum"])


def _of_string(value: str, schema: Obj, path: str) -> Iterator[Cause]:
    if "format" in schema and not has_format(value, schema["format"]):
        yield invalid_value(path, value, f'{path} in body must be of type {schema["format"]}: "{value}"')
    if len(value) > schema.get("maxLength", len(value)):
        yield invalid_value(path, value, f"{path} in body should be at most {schema['maxLength']} chars long")
    if len(value) < schema.get("minLength", 0):
        yield invalid_value(path, value, f"{path} in body should be at least {schema['minLength']} chars long")
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield invalid_value(path, value, f"{path} in body should match '{schema['pattern']}'")


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    # RE2's $ is the end of the text only; Python's also matches before a last newline
    return re.compile(re.sub(r"(?<!\\)\$(?=$|\)|\|)", r"\\Z", text))


_FORMATS = {
    "uuid": re.compile(r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\Z"),
    "date": re.compile(r"^\d{4}-\d{2}-\d{2}\Z"),
    # of Lease and Event times, exactly microseconds are taken
    "micro-time": re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)\Z"),
    "duration": re.compile(r"^([-+]?(\d+(\.\d*)?|\.\d+)\s*(ns|us|\u00b5s|ms|s|m|h|d|w|[a-z]+))+\Z"),
    "byte": re.compile(r"^[A-Za-z0-9+/]*={0,2}\Z"),
    "hostname": re.compile(r"^([a-zA-Z0-9_]([-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?\.?)+\Z"),
    "mac": re.compile(r"^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\Z"),
    "email": re.compile(r"^[^@\s]+@[^@\s]+\Z"),
}


def has_format(value: str, name: str) -> bool:
    """Return whether *value* has the format; formats that are unknown hold for everything."""
    try:
        match name:
            case "date-time" | "datetime":
                return re.match(r"\d{4}-\d\d-\d\d[Tt]", value) is not None and bool(
                    datetime.datetime.fromisoformat(value.upper().replace("Z", "+00:00")).tzinfo
                )
            case "ipv4":
                return bool(ipaddress.IPv4Address(value))
            case "ipv6":
                return bool(ipaddress.IPv6Address(value))
            case "cidr":
                return "/" in value and bool(ipaddress.ip_network(value, strict=False))
            case "uri":
                return bool(urlsplit(value).scheme) or value.startswith("/")
            case _:
                return name not in _FORMATS or _FORMATS[name].match(value) is not None
    except ValueError:
        return False


def _of_number(value: float, schema: Obj, path: str) -> Iterator[Cause]:
    high, low = schema.get("maximum"), schema.get("minimum")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        words = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield invalid_value(path, value, f"{path} in body should be {words} {high}")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        words = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield invalid_value(path, value, f"{path} in body should be {words} {low}")
    if "multipleOf" in schema and value % schema["multipleOf"]:
        yield invalid_value(path, value, f"{path} in body should be a multiple of {schema['multipleOf']}")


def _of_list(value: list[Any], schema: Obj, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxItems", len(value)):
        yield invalid_value(path, len(value), f"{path} in body should have at most {schema['maxItems']} items")
    if len(value) < schema.get("minItems", 0):
        yield invalid_value(path, len(value), f"{path} in body should have at least {schema['minItems']} items")


def _of_object(value: Obj, schema: Obj, path: str) -> Iterator[Cause]:
    for key in schema.get("required") or ():
        if key not in value:
            yield required(join(path, key))
    if len(value) > schema.get("maxProperties", len(value)):
        limit = schema["maxProperties"]
        yield invalid_value(path, len(value), f"{path} in body should have at most {limit} properties")
    if len(value) < schema.get("minProperties", 0):
        limit = schema["minProperties"]
        yield invalid_value(path, len(value), f"{path} in body should have at least {limit} properties")


def _of_combinations(value: Any, schema: Obj, path: str) -> Iterator[Cause]:
    for below in schema.get("allOf") or ():
        yield from validate(value, below, path)
    if schema.get("anyOf") and not schema.get("x-kubernetes-int-or-string") and not _holding(value, schema["anyOf"]):
        yield Cause(_INVALID, f'Invalid value: "": "{path}" must validate at least one schema (anyOf)', path)
    if schema.get("oneOf") and _holding(value, schema["oneOf"]) != 1:
        yield Cause(_INVALID, f'Invalid value: "": "{path}" must validate one and only one schema (oneOf)', path)
    if schema.get("not") and _holding(value, [schema["not"]]):
        yield Cause(_INVALID, f'Invalid value: "": "{path}" must not validate the schema (not)', path)


def _holding(value: Any, schemas: list[Obj]) -> int:
    return sum(not any(validate(value, schema)) for schema in schemas)


def duplicates(value: Any, schema: Obj, path: str = "") -> Iterator[Cause]:
    """Yield the items that a set or a map-like list holds twice."""
    if isinstance(value, list) and schema.get("x-kubernetes-list-type") in ("set", "map"):
        seen: set[str] = set()
        for index, item in enumerate(value):
            identity = list_identity(item, schema)
            mark = json.dumps(identity, sort_keys=True)
            if mark in seen:
                yield duplicate(f"{path}[{index}]", identity)
            seen.add(mark)
    for key, item, below in children(value, schema):
        if isinstance(item, dict | list):
            yield from duplicates(item, below, join(path, key))


def list_identity(item: Any, schema: Obj) -> Any:
    """Return what identifies an item: the value in a set, its keys (with their defaults) in a map."""
    if schema["x-kubernetes-list-type"] == "set" or not isinstance(item, dict):
        return item
    fields = (schema.get("items") or {}).get("properties") or {}
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    identity = {key: item.get(key, fields.get(key, {}).get("default")) for key in keys}
    return {key: part for key, part in identity.items() if part is not None}

# SPDX-License-Identifier: Apache-2.0
"""OpenAPI v3 structural schemas, made from our classes and the constraints beside their fields."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any

import attrs

from praetor_api.constraints import CelRule, Constraint, camel
from praetor_api.wire import unannotated

__all__ = ["Rules", "Schema", "object_schema", "value_schema"]

Schema = dict[str, Any]
Rules = Mapping[type, tuple[CelRule, ...]]

_MISSING = object()
_MATCHES = "self.matches("
_SCALARS: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    datetime: {"type": "string", "format": "date-time"},
}
_BOUNDS = {
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
    "minimum": "minimum",
    "maximum": "maximum",
    "min_items": "minItems",
    "max_items": "maxItems",
}


def object_schema(cls: type, rules: Rules, *, defaults: bool = True) -> Schema:
    """Return the structural schema of *cls*, an attrs class or a dataclass.

    *rules* are CEL rules over whole objects, by class. Without *defaults* the
    schema fills nothing in, which is what a status wants.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    schema: Schema = {"description": inspect.getdoc(cls), "type": "object", "properties": {}}
    required = []
    for name, default in _fields(cls):
        inner, constraint = unannotated(hints[name])
        wire = constraint.wire or camel(name)
        schema["properties"][wire] = _field_schema(inner, constraint, default, rules, defaults=defaults)
        if default is _MISSING:
            required.append(wire)
    if required:
        schema["required"] = required
    return schema | _validations(rules.get(cls, ()))


def _partial_schema(cls: type, rules: Rules) -> Schema:
    """Return the schema of an object with any of the fields of *cls*, without rules over the whole of it.

    It stands in a list, so that the apiserver takes a rule on each text in it to cost too much: such a rule becomes a
    pattern.
    """
    schema = object_schema(cls, {each: found for each, found in rules.items() if each is not cls})
    fields = {name: {k: v for k, v in part.items() if k != "default"} for name, part in schema["properties"].items()}
    return {"description": schema["description"], "type": "object", "properties": _with_patterns(fields)}


def _with_patterns(part: Any) -> Any:
    """Return *part* of a schema with a pattern in the place of each rule that one text matches a pattern."""
    if not isinstance(part, dict):
        return part
    found = {name: _with_patterns(value) for name, value in part.items()}
    rules = found.get("x-kubernetes-validations") or []
    matched = [each["rule"] for each in rules if each["rule"].startswith(_MATCHES)]
    if matched:
        found["x-kubernetes-validations"] = [each for each in rules if each["rule"] not in matched]
        found["pattern"] = json.loads(matched[0].removeprefix(_MATCHES).removesuffix(")"))
    return {name: value for name, value in found.items() if (name, value) != ("x-kubernetes-validations", [])}


def _fields(cls: type) -> list[tuple[str, Any]]:
    if attrs.has(cls):
        return [(a.name, _attrs_default(a)) for a in attrs.fields(cls)]
    return [(f.name, _MISSING if f.default is dataclasses.MISSING else f.default) for f in dataclasses.fields(cls)]


def _attrs_default(attribute: attrs.Attribute[Any]) -> Any:
    if attribute.default is attrs.NOTHING:
        return _MISSING
    return {} if isinstance(attribute.default, attrs.Factory) else attribute.default  # type: ignore[arg-type]


def _field_schema(hint: Any, constraint: Constraint, default: Any, rules: Rules, *, defaults: bool) -> Schema:
    schema = value_schema(hint, constraint, rules, defaults=defaults)
    if constraint.doc:
        schema = {"description": constraint.doc} | {k: v for k, v in schema.items() if k != "description"}
    given = _default(default, schema)
    if defaults and given is not None:
        schema["default"] = given
    return schema


def _default(value: Any, schema: Schema) -> Any:
    if value in (_MISSING, None, (), {}, ""):
        return None
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_default(each, schema["items"]) for each in value]
    if not attrs.has(type(value)):
        return value
    # the apiserver fills an object's own defaults in, when there is an object
    return {} if any("default" in part for part in schema["properties"].values()) else None


def value_schema(hint: Any, constraint: Constraint, rules: Rules, *, defaults: bool = True) -> Schema:
    """Return the schema of one value of the type *hint* under *constraint*."""
    if constraint.part_of is not None:
        return _partial_schema(constraint.part_of, rules) | _bounds(constraint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        return _union_schema(hint, constraint, rules, defaults=defaults)
    if origin is tuple:
        inner, bound = unannotated(typing.get_args(hint)[0])
        schema = {"type": "array", "items": value_schema(inner, bound, rules, defaults=defaults)}
    elif origin is not None and issubclass(origin, Mapping):
        inner, bound = unannotated(typing.get_args(hint)[1])
        schema = {"type": "object", "additionalProperties": value_schema(inner, bound, rules, defaults=defaults)}
        return schema | ({"maxProperties": constraint.max_items} if constraint.max_items else {})
    elif isinstance(hint, type) and issubclass(hint, StrEnum):
        schema = {"type": "string", "enum": [member.value for member in hint]}
    elif hint in _SCALARS:
        schema = dict(_SCALARS[hint])
    else:
        schema = object_schema(hint, rules, defaults=defaults)
    return schema | _bounds(constraint)


def _union_schema(hint: Any, constraint: Constraint, rules: Rules, *, defaults: bool) -> Schema:
    options = [option for option in typing.get_args(hint) if option is not NoneType]
    if len(options) == 1:
        return value_schema(options[0], constraint, rules, defaults=defaults)
    return {"anyOf": [{"type": "integer"}, {"type": "string"}]} | _bounds(constraint)


def _bounds(constraint: Constraint) -> Schema:
    bounds = {
        wire: getattr(constraint, name) for name, wire in _BOUNDS.items() if getattr(constraint, name) is not None
    }
    return bounds | dict(constraint.schema) | _validations(constraint.rules)


def _validations(rules: tuple[CelRule, ...]) -> Schema:
    if not rules:
        return {}
    return {"x-kubernetes-validations": [{"rule": rule.expression, "message": rule.message} for rule in rules]}

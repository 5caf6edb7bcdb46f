# SPDX-License-Identifier: Apache-2.0
"""The inputs of the planner as plain JSON, and back. Pure.

The types of the classes say how, so that new fields are recorded without a change here. An absent field has its
default, or None. Left out is what no plan is made from (raw objects, versions of stored objects), and what must not be
in a file: values of environment variables, contents of files, and credentials in URLs.
"""

from __future__ import annotations

import collections.abc
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from praetor_api.kube.codec import DecodeError, decode, encode
from praetor_api.kube.objects import Condition
from praetor_api.wire import unannotated
from praetor_controller.errors import NotRecorded
from praetor_controller.model.rows import (
    DeploymentRow,
    DeviceRow,
    LabelItems,
    ProcessRow,
    RolloutPolicy,
    StoredStatus,
    Template,
)

T = TypeVar("T")
Convert = Callable[[Any], Any]

REDACTED = "(redacted)"
LEFT_OUT: Mapping[type, Mapping[str, Any]] = {
    DeviceRow: {"facts": None, "address": ""},  # a plan is made from whether they are what it asks for
    DeploymentRow: {"matches": lambda labels: True, "fact_matches": None, "resource_version": ""},
    ProcessRow: {"resource_version": "", "stamps": None, "run_since": None, "crashed_at": None},
    StoredStatus: {"raw": {}},
    Template: {"raw": {}},
}
"""Fields that are not recorded, and the values that they are restored to."""
_PLAIN = (str, int, bool, Any, object)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")


class _Field(NamedTuple):
    name: str
    default: Any
    encode: Convert | None
    decode: Convert | None
    required: bool


def plain(value: Any) -> dict[str, Any]:
    """Return *value*, of one of our attrs classes, as plain JSON."""
    data = {}
    for name, default, convert, _, _ in fields_of(type(value)):
        part = getattr(value, name)
        if part is not None and part != default:
            data[name] = part if convert is None else convert(part)
    return data


def restored(data: Mapping[str, Any], cls: type[T]) -> T:
    """Return the *cls* whose plain() is *data*; NotRecorded when there is none."""
    try:
        return _restored(data, cls)
    except (DecodeError, TypeError, ValueError, AttributeError) as e:
        raise NotRecorded(f"no {cls.__name__}: {e}") from e


def _restored(data: Mapping[str, Any], cls: type[T]) -> T:
    values = dict(LEFT_OUT.get(cls, {}))
    for name, _, _, convert, required in fields_of(cls):
        part = data.get(name)
        if part is not None:
            values[name] = part if convert is None else convert(part)
        elif required:
            values[name] = None
    return cls(**values)


def fields_of(cls: type) -> tuple[_Field, ...]:
    """Return the fields of *cls* that are recorded."""
    return _fields(cls)


@cache
def _fields(cls: type) -> tuple[_Field, ...]:
    hints, left_out = get_type_hints(cls), LEFT_OUT.get(cls, {})
    return tuple(
        _Field(field.name, _default(field), *_converters(hints[field.name]), _required(field))
        for field in attrs.fields(cls)
        if field.name not in left_out
    )


def _required(field: attrs.Attribute[Any]) -> bool:
    return field.default is attrs.NOTHING


def _default(field: attrs.Attribute[Any]) -> Any:
    factory = getattr(field.default, "factory", None)
    return field.default if factory is None else factory()


def _converters(hint: Any) -> tuple[Convert | None, Convert | None]:
    """Return the functions from a *hint* to plain JSON and back; None where both are the same."""
    hint = _bare(hint)
    if hint is float:  # JSON has no infinity
        return lambda value: value if math.isfinite(value) else str(value), float
    if hint in _PLAIN:
        return None, None
    if hint is datetime:
        return datetime.isoformat, datetime.fromisoformat
    if hint == LabelItems:
        return lambda items: dict(sorted(items)), lambda items: frozenset(items.items())
    if _is_api_class(hint):
        return encode, lambda data: decode(data, hint)
    if attrs.has(hint):
        return _plain_template if hint is Template else plain, lambda data: _restored(data, hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return lambda member: member.value, hint
    return _of_collection(_origin(hint), get_args(hint))


def _of_collection(origin: type, arguments: Sequence[Any]) -> tuple[Convert, Convert]:
    write, read = (each or _same for each in _converters(arguments[-1 if origin is Mapping else 0]))
    if origin is Mapping:
        return (
            lambda items: {str(key): write(value) for key, value in items.items()},
            lambda items: {key: read(value) for key, value in items.items()},
        )
    if origin is frozenset:
        return lambda items: sorted(map(write, items)), lambda items: frozenset(map(read, items))
    return lambda items: list(map(write, items)), lambda items: tuple(map(read, items))


def _same(value: Any) -> Any:
    return value


def _bare(hint: Any) -> Any:
    """Return *hint* without annotations and None; a union of plain types is plain."""
    hint = unannotated(hint)[0]
    if get_origin(hint) not in (Union, UnionType):
        return hint
    others = [each for each in get_args(hint) if each is not NoneType]
    return _bare(others[0]) if len(others) == 1 else object


def _origin(hint: Any) -> Any:
    origin = get_origin(hint)
    if origin in (collections.abc.Mapping, dict):
        return Mapping
    if origin in (frozenset, collections.abc.Container, collections.abc.Collection):
        return frozenset
    if origin in (tuple, collections.abc.Sequence):
        return tuple
    raise TypeError(f"{hint} cannot be recorded; add it to praetor_controller.journal.codec")


def _is_api_class(hint: Any) -> bool:
    """Return whether *hint* is a class of the API, which praetor_api.kube.codec encodes."""
    return hint is RolloutPolicy or (attrs.has(hint) and hint.__module__ == Condition.__module__)


def _plain_template(template: Template) -> dict[str, Any]:
    data = plain(template)
    hidden = {"overrides": redacted(data["overrides"])} if template.overrides else {}
    return data | {"spec": redacted(data["spec"])} | hidden


def redacted(spec: Any) -> Any:
    """Return *spec* without values of environment variables, contents of files, and credentials in URLs."""
    if isinstance(spec, Mapping):
        return {
            name: _without(_HIDDEN[name], value) if name in _HIDDEN else redacted(value)
            for name, value in spec.items()
            if value is not None
        }
    if isinstance(spec, str):
        return _USER_INFO.sub(REDACTED, spec)
    return [redacted(each) for each in spec] if isinstance(spec, list | tuple) else spec


_HIDDEN = {"env": "value", "files": "content"}
"""What is not written of each element of a list, by the name of the list."""


def _without(hidden: str, given: Any) -> Any:
    if not isinstance(given, list | tuple):
        return REDACTED
    return [{**each, hidden: REDACTED} if isinstance(each, Mapping) and hidden in each else each for each in given]

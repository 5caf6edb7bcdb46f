# SPDX-License-Identifier: Apache-2.0
"""Between the JSON of the Kubernetes API and our classes: one cattrs converter that knows both spellings.

Decoding ignores fields that it does not know and names every bad field by its
path; encoding leaves out what equals its default.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar

import attrs
from cattrs import ClassValidationError, Converter, transform_error
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from praetor_api.constraints import camel
from praetor_api.wire import Fault, unannotated

__all__ = ["DecodeError", "decode", "encode", "format_micro_time", "format_time", "parse_time"]

T = TypeVar("T")

_ATTRIBUTE = re.compile(r"(?<=\.)\w+")


class DecodeError(ValueError):
    """An object of the API does not fit our classes; *faults* names every bad field."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def decode(data: Mapping[str, Any], cls: type[T]) -> T:
    """Return *data*, an object as the API gives it, as a *cls*; DecodeError naming every bad field."""
    try:
        return _converter().structure(data, cls)
    except TypeError as e:  # the object as a whole
        raise DecodeError((Fault("", str(e)),)) from e
    except ClassValidationError as e:
        lines = transform_error(e, format_exception=_words)
        raise DecodeError(tuple(_fault(line, cls) for line in lines)) from e


def encode(value: object) -> Any:
    """Return *value* as the API takes it, without what equals its default."""
    return _converter().unstructure(value)


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 time of the API as an aware datetime; ValueError for anything else."""
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return value


def format_time(value: datetime) -> str:
    """Return *value* as metav1.Time writes it, UTC in whole seconds: `2026-01-01T00:00:00Z`."""
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def format_micro_time(value: datetime) -> str:
    """Return *value* as metav1.MicroTime writes it, UTC with six digits: `2026-01-01T00:00:00.000000Z`."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=False, omit_if_default=True)
    converter.register_structure_hook(datetime, _structure_time)
    converter.register_unstructure_hook(datetime, format_time)
    converter.register_structure_hook(str, _checked(str, "a string"))
    converter.register_structure_hook(int, _checked(int, "a whole number"))
    converter.register_structure_hook(bool, _checked(bool, "true or false"))
    converter.register_structure_hook(StrEnum, _structure_enum)
    converter.register_unstructure_hook(StrEnum, lambda value: value.value)
    converter.register_structure_hook_func(_is_int_or_string, _structure_int_or_string)
    converter.register_unstructure_hook_func(_is_int_or_string, lambda value: value)
    converter.register_structure_hook_factory(_is_tuple, lambda hint: _structure_tuple(hint, converter))
    converter.register_structure_hook_factory(_is_ours, lambda cls: _structure_hook(cls, converter))
    converter.register_unstructure_hook_factory(_is_ours, lambda cls: _unstructure_hook(cls, converter))
    return converter


def _is_ours(cls: Any) -> bool:
    return isinstance(cls, type) and (attrs.has(cls) or dataclasses.is_dataclass(cls))


def _is_int_or_string(hint: Any) -> bool:
    inner, _ = unannotated(hint)
    is_union = typing.get_origin(inner) in (typing.Union, UnionType)
    return is_union and {int, str} == set(typing.get_args(inner)) - {NoneType}


def _structure_enum(data: Any, cls: type[StrEnum]) -> StrEnum:
    try:
        return cls(data)
    except ValueError as e:
        raise ValueError(f"must be one of {', '.join(cls)}, not {data!r}") from e


def _structure_int_or_string(data: Any, _: Any) -> int | str | None:
    if data is None or (isinstance(data, int | str) and not isinstance(data, bool)):
        return data
    raise TypeError(f"must be a whole number or a string, not {data!r}")


def _checked(cls: type[T], words: str) -> Callable[[Any, Any], T]:
    def structure(data: Any, _: Any) -> T:
        if isinstance(data, cls) and (cls is bool or not isinstance(data, bool)):
            return data
        raise TypeError(f"must be {words}, not {data!r}")

    return structure


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _structure_tuple(hint: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    items = homogenous_tuple_structure_factory(hint, converter)

    def structure(data: Any, _: Any) -> Any:
        if not isinstance(data, list | tuple):
            raise TypeError(f"must be a list, not {data!r}")
        return items(data, hint)

    return structure


def _structure_time(data: Any, _: Any) -> datetime:
    if not isinstance(data, str):
        raise TypeError(f"must be a time, not {data!r}")
    return parse_time(data)


def _wire_names(cls: type) -> dict[str, str]:
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [a.name for a in attrs.fields(cls)] if attrs.has(cls) else [f.name for f in dataclasses.fields(cls)]
    return {name: unannotated(hints[name])[1].wire or camel(name) for name in names}


def _structure_hook(cls: type, converter: Converter) -> Callable[[Any, Any], Any]:
    overrides = {name: override(rename=wire) for name, wire in _wire_names(cls).items()}
    generated: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, converter, **overrides)  # type: ignore[arg-type]

    def structure(data: Any, target: Any) -> Any:
        if not isinstance(data, Mapping):
            raise TypeError(f"must be an object, not {data!r}")
        # null and absent mean the same in the Kubernetes API
        return generated({key: value for key, value in data.items() if value is not None}, target)

    return structure


def _unstructure_hook(cls: type, converter: Converter) -> Callable[[Any], Any]:
    overrides = {name: override(rename=wire) for name, wire in _wire_names(cls).items()}
    return make_dict_unstructure_fn(cls, converter, _cattrs_omit_if_default=True, **overrides)  # type: ignore[arg-type]


def _words(exception: BaseException, _: Any) -> str:
    return "is required" if isinstance(exception, KeyError) else str(exception)


def _fault(line: str, cls: type) -> Fault:
    message, _, path = line.rpartition(" @ $")
    names = _spellings(cls)
    wire = _ATTRIBUTE.sub(lambda match: names.get(match.group(), match.group()), path)
    return Fault(wire.lstrip("."), message or line)


@cache
def _spellings(cls: type) -> Mapping[str, str]:
    """Return the wire name of every attribute in *cls* and in what it holds."""
    names = _wire_names(cls)
    for hint in typing.get_type_hints(cls).values():
        for inner in _classes_in(hint):
            names |= _spellings(inner)
    return names


def _classes_in(hint: Any) -> Iterator[type]:
    if _is_ours(hint):
        yield hint
    for argument in typing.get_args(hint):
        yield from _classes_in(argument)

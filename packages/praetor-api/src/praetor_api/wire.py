# SPDX-License-Identifier: Apache-2.0
"""Between JSON and stdlib dataclasses: a tolerant reader and a strict writer.

The reader ignores fields it does not know and reports every bad field by its
path, all at once. The writer leaves out what equals its default.
"""

from __future__ import annotations

import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar

from praetor_api.backports import StrEnum, dataclass
from praetor_api.constraints import Constraint, camel

__all__ = [
    "MAX_KEY_LENGTH",
    "Fault",
    "WireError",
    "WireField",
    "clean_text",
    "parse_json",
    "read",
    "unannotated",
    "violations",
    "wire_fields",
    "write",
]

T = TypeVar("T")

_NO_CONSTRAINT = Constraint()
_UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))  # Python 3.9 has one of them
MAX_KEY_LENGTH = 317
"""Longest name in a mapping: that of a label, with 253 for the prefix, a slash, 63 for the name."""
_MAX_DIGITS = 4300
# C0 and C1 controls, and the marks that turn the direction of text: they would forge log lines and terminal output.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad field: where it is, such as `items[0].spec.execution.backend`, and what is wrong with it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class WireError(ValueError):
    """The JSON does not fit; *faults* names every bad field."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def parse_json(body: bytes | str) -> object:
    """Return the decoded JSON; WireError for anything else, NaN, infinities and absurd nesting included."""
    try:
        return _DECODER.decode(body if isinstance(body, str) else body.decode())
    except (ValueError, RecursionError) as e:
        reason = "nested too deeply" if isinstance(e, RecursionError) else str(e)
        raise WireError(Fault("", f"not valid JSON: {reason}")) from e


def read(cls: type[T], data: object, path: str = "") -> T:
    """Return *data*, decoded JSON, as an instance of the dataclass *cls*; WireError naming every bad field."""
    faults: list[Fault] = []
    value = _read_object(cls, data, path, faults)
    if faults:
        raise WireError(*faults)
    return typing.cast(T, value)


def write(value: object) -> Any:
    """Return *value*, a dataclass or what its fields hold, as plain JSON values without defaults."""
    if is_dataclass(value):
        return {
            spec.wire: write(getattr(value, spec.name))
            for spec in wire_fields(value.__class__)
            if spec.required or getattr(value, spec.name) != spec.default
        }
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {key: write(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [write(item) for item in value]
    return value


def clean_text(text: str) -> str:
    """Return *text* with control characters and direction marks replaced, fit for a log line or a terminal."""
    if text.isascii() and text.isprintable():  # nearly all, and each heartbeat asks
        return text
    return _CONTROL.sub("\ufffd", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireField:
    """One attribute of a class and its representation in JSON."""

    name: str
    wire: str
    type: Any
    required: bool
    default: Any
    constraint: Constraint


@cache
def wire_fields(cls: type) -> tuple[WireField, ...]:
    """Return the fields of the dataclass *cls* with their names and types in JSON."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_wire_field(spec, hints[spec.name]) for spec in fields(cls))


def unannotated(hint: Any) -> tuple[Any, Constraint]:
    """Return the type and the constraint that `Annotated` put together."""
    if typing.get_origin(hint) is Annotated:
        inner, *extras = typing.get_args(hint)
        found = next((extra for extra in extras if isinstance(extra, Constraint)), _NO_CONSTRAINT)
        return inner, found
    return hint, _NO_CONSTRAINT


def _wire_field(spec: Field[Any], hint: Any) -> WireField:
    inner, constraint = unannotated(hint)
    required = spec.default is MISSING and spec.default_factory is MISSING
    default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
    wire = constraint.wire or camel(spec.name)
    return WireField(name=spec.name, wire=wire, type=inner, required=required, default=default, constraint=constraint)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:40]} has more than {_MAX_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _read_object(cls: type, data: object, path: str, faults: list[Fault]) -> Any:
    if not isinstance(data, Mapping):
        faults.append(Fault(path, f"must be an object, not {_kind(data)}"))
        return None
    before, values = len(faults), {}
    for spec in wire_fields(cls):
        at = f"{path}.{spec.wire}" if path else spec.wire
        given = data.get(spec.wire)
        if given is None:  # null and absent mean the same, as in Kubernetes
            if spec.required:
                faults.append(Fault(at, "is required"))
        else:
            values[spec.name] = _read_value(spec.type, spec.constraint, given, at, faults)
    return cls(**values) if len(faults) == before else None


def _read_value(hint: Any, constraint: Constraint, data: object, path: str, faults: list[Fault]) -> Any:
    origin = typing.get_origin(hint)
    if origin in _UNIONS:
        return _read_union(hint, constraint, data, path, faults)
    if origin is tuple:
        return _read_tuple(typing.get_args(hint)[0], constraint, data, path, faults)
    if origin is not None and issubclass(origin, Mapping):
        return _read_mapping(hint, constraint, data, path, faults)
    if isinstance(hint, type) and is_dataclass(hint):
        return _read_object(hint, data, path, faults)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _read_enum(hint, data, path, faults)
    return _read_scalar(hint, constraint, data, path, faults)


def _read_union(hint: Any, constraint: Constraint, data: object, path: str, faults: list[Fault]) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    for option in options[:-1]:
        if isinstance(option, type) and isinstance(data, option) and not isinstance(data, bool):
            return _read_value(option, constraint, data, path, faults)
    return _read_value(options[-1], constraint, data, path, faults)


def _read_tuple(item: Any, constraint: Constraint, data: object, path: str, faults: list[Fault]) -> Any:
    if not isinstance(data, (list, tuple)):
        faults.append(Fault(path, f"must be a list, not {_kind(data)}"))
        return None
    if constraint.max_items is not None and len(data) > constraint.max_items:
        faults.append(Fault(path, f"has {len(data)} items; at most {constraint.max_items} are allowed"))
        return None
    if constraint.min_items is not None and len(data) < constraint.min_items:
        faults.append(Fault(path, f"needs at least {constraint.min_items} item(s)"))
    inner, bound = unannotated(item)
    return tuple(_read_value(inner, bound, value, f"{path}[{index}]", faults) for index, value in enumerate(data))


def _read_mapping(hint: Any, constraint: Constraint, data: object, path: str, faults: list[Fault]) -> Any:
    if not isinstance(data, Mapping):
        faults.append(Fault(path, f"must be an object, not {_kind(data)}"))
        return None
    if constraint.max_items is not None and len(data) > constraint.max_items:
        faults.append(Fault(path, f"has {len(data)} entries; at most {constraint.max_items} are allowed"))
        return None
    if (longest := max(map(len, data), default=0)) > MAX_KEY_LENGTH:
        faults.append(Fault(path, f"has a name of {longest} characters; at most {MAX_KEY_LENGTH} are allowed"))
        return None
    inner, bound = unannotated(typing.get_args(hint)[1])
    return {
        clean_text(key): _read_value(inner, bound, value, f"{path}.{clean_text(key)}", faults)
        for key, value in data.items()
    }


def _read_enum(hint: type[StrEnum], data: object, path: str, faults: list[Fault]) -> Any:
    try:
        return hint(data)  # type: ignore[arg-type]  # anything but a known word is a ValueError
    except ValueError:
        choices = ", ".join(member.value for member in hint)
        faults.append(Fault(path, f"must be one of {choices}, not {_shown(data)}"))
        return None


def _read_scalar(hint: Any, constraint: Constraint, data: object, path: str, faults: list[Fault]) -> Any:
    expected = _SCALARS.get(hint)
    if expected is None:
        return data  # Any: passed through as it came
    accepts, words = expected
    if hint is int and isinstance(data, float) and data.is_integer():
        data = int(data)  # as JSON Schema has it: some languages have no other numbers
    if not accepts(data):
        faults.append(Fault(path, f"must be {words}, not {_kind(data)}"))
        return None
    value = typing.cast("str | float", data)
    if isinstance(value, str) and constraint.truncate:
        value = clean_text(value)[: constraint.max_length]
    faults.extend(Fault(path, message) for message in violations(value, constraint))
    return value


def violations(value: str | float, constraint: Constraint) -> Iterator[str]:
    """Yield in words every bound of *constraint* that the text or number *value* breaks."""
    if isinstance(value, str):
        if constraint.max_length is not None and len(value) > constraint.max_length:
            yield f"has {len(value)} characters; at most {constraint.max_length} are allowed"
        if constraint.min_length is not None and len(value) < constraint.min_length:
            yield "must not be empty" if constraint.min_length == 1 else f"needs {constraint.min_length} characters"
        if constraint.pattern is not None and not _matches(constraint.pattern, value):
            yield f"{_shown(value)} does not match {constraint.pattern}"
    else:
        if constraint.minimum is not None and value < constraint.minimum:
            yield f"must be at least {constraint.minimum}"
        if constraint.maximum is not None and value > constraint.maximum:
            yield f"must be at most {constraint.maximum}"


def _matches(pattern: str, value: str) -> bool:
    # a final $ also matches before a newline in Python, but not in the schema's dialect
    anchored = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
    return re.search(anchored, value) is not None


# Python before 3.9.14 has no limit of its own, and takes a time that grows with the square of the digits
_PARSE_INT = None if hasattr(sys, "get_int_max_str_digits") else _whole
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, parse_int=_PARSE_INT)
_SCALARS: dict[Any, tuple[Callable[[object], bool], str]] = {
    str: (lambda data: isinstance(data, str), "a string"),
    bool: (lambda data: isinstance(data, bool), "true or false"),
    int: (lambda data: isinstance(data, int) and not isinstance(data, bool), "a whole number"),
    float: (lambda data: isinstance(data, (int, float)) and not isinstance(data, bool), "a number"),
}
_KINDS: dict[type, str] = {
    bool: "a boolean", str: "a string", int: "a number", float: "a number", type(None): "null"
}  # fmt: skip


def _kind(data: object) -> str:
    if isinstance(data, Mapping):
        return "an object"
    return _KINDS.get(type(data), "a list")


def _shown(data: object) -> str:
    text = clean_text(str(data))
    return repr(text if len(text) <= 60 else text[:57] + "...")

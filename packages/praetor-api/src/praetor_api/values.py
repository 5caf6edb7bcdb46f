# SPDX-License-Identifier: Apache-2.0
"""What a process is started with: values of its device, and the expansion of `$(NAME)` as in a Pod. Pure.

The gateway resolves references, the agent starts a process with the values, and `praetorctl render` shows the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from praetor_api.canonical import canonical_json
from praetor_api.spec import FIELD_PATH, Execution

__all__ = [
    "MAX_TEXT",
    "MAX_TEXTS",
    "DeviceFields",
    "ExpansionError",
    "Reference",
    "Resolved",
    "Started",
    "expanded",
    "missing_references",
    "references_of",
    "resolve",
    "started_with",
]

MAX_TEXT = 131_071
"""Longest argument or variable after expansion, in characters: Linux starts nothing with more bytes in one."""
MAX_TEXTS = 1_048_576
"""Most characters of all together: half of what Linux usually starts a program with."""

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_FIELD_PATH = re.compile(FIELD_PATH)


class ExpansionError(ValueError):
    """The expansion is longer than anything that can be started; the text names the field."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A *variable* whose value stands in the field *path* of the device; an *optional* one may be missing."""

    variable: str
    path: str
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFields:
    """What references may name of a device."""

    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """*values* by variable, and the paths of those that are *missing* and not optional."""

    values: Mapping[str, str]
    missing: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The `valuesHash` of an item: `sha256:` and 64 hexadecimal digits."""
        return "sha256:" + hashlib.sha256(canonical_json(self.values)).hexdigest()


def references_of(spec: Mapping[str, Any]) -> tuple[Reference, ...]:
    """Return the references in *spec*, a process spec as it is stored; CRDs without CEL let anything be stored."""
    execution = spec.get("execution")
    env = execution.get("env") if isinstance(execution, Mapping) else None
    return tuple(
        _reference(each) for each in env or () if isinstance(each, Mapping) and each.get("valueFrom") is not None
    )


def _reference(variable: Mapping[str, Any]) -> Reference:
    source = variable["valueFrom"]
    ref = source.get("deviceFieldRef") if isinstance(source, Mapping) else None
    path = ref.get("fieldPath") if isinstance(ref, Mapping) else None
    name = str(variable.get("name"))
    if variable.get("value"):
        return Reference(name, f"{name}: value beside valueFrom")  # no device has a field of that name
    return Reference(name, str(path), isinstance(ref, Mapping) and ref.get("optional") is True)


def resolve(references: Iterable[Reference], device: DeviceFields) -> Resolved:
    """Return the values of *references* on *device*, and what it lacks."""
    values, missing = {}, []
    for reference in references:
        value = _field(reference.path, device)
        if value is not None:
            values[reference.variable] = value
        elif not reference.optional:
            missing.append(reference.path)
    return Resolved(values, tuple(dict.fromkeys(missing)))


def _field(path: str, device: DeviceFields) -> str | None:
    found = _FIELD_PATH.fullmatch(path)
    if found is None:
        return None
    of_metadata, label, fact = found.groups()
    if label is not None:
        return device.labels.get(label)
    if fact is not None:
        return device.facts.get(fact)
    if of_metadata is None:
        return device.address or None
    return device.name if of_metadata == "name" else device.namespace


def missing_references(missing: Iterable[str]) -> str:
    """Return the reason of a device that lacks what *missing* names, for programs and people."""
    return f"ReferenceMissing({', '.join(missing)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a process is started with. *env* holds the variables of its spec in their order."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]


def expanded(text: str, env: Mapping[str, str]) -> str:
    """Return *text* with `$(NAME)` replaced by what *env* has, and `$$` by `$`; an unknown name stays as it is.

    ExpansionError if the result has more than MAX_TEXT characters. What replaces a name is not expanded again.
    """
    if "$" not in text:
        return text
    end = text.rfind(")") + 1  # no reference is closed after it, and to seek one at each `$(` would take forever
    parts: list[str] = []
    at, length = 0, len(text)
    for match in _REFERENCE.finditer(text, 0, end):
        found, name = match.group(), match.group(1)
        said = "$" if name is None else env.get(name, found)
        parts += text[at : match.start()], said
        at, length = match.end(), length + len(said) - len(found)
        if length > MAX_TEXT + end:
            break
    result = "".join(parts) + text[at:end] + text[end:].replace("$$", "$")
    if len(result) > MAX_TEXT:
        raise ExpansionError(f"is longer than {MAX_TEXT} characters after expansion; refer to less")
    return result


def started_with(execution: Execution, values: Mapping[str, str] | None = None) -> Started:
    """Return what *execution* starts a process with; ExpansionError naming the field that becomes too long.

    *values* are those of its references. They are not expanded, and a variable that has none is left out.
    """
    values = values or {}
    if not execution.expand_variables:
        given = {each.name: each.value if each.value_from is None else values.get(each.name) for each in execution.env}
        env = {name: value for name, value in given.items() if value is not None}
        return Started(command=execution.command, args=execution.args, env=env)
    size, env = 0, {}

    def text(where: str, given: str) -> str:
        nonlocal size
        try:
            result = expanded(given, env)
        except ExpansionError as e:
            raise ExpansionError(f"spec.execution.{where}: {e}") from None
        size += len(result)
        if size > MAX_TEXTS:
            raise ExpansionError(
                f"spec.execution.{where}: command, args and env have more than {MAX_TEXTS} characters after expansion; "
                "refer to less"
            )
        return result

    for index, variable in enumerate(execution.env):
        if variable.value_from is None:
            env[variable.name] = text(f"env[{index}].value", variable.value)
        elif variable.name in values:
            env[variable.name] = values[variable.name]
    return Started(
        command=tuple(text(f"command[{index}]", word) for index, word in enumerate(execution.command)),
        args=tuple(text(f"args[{index}]", word) for index, word in enumerate(execution.args)),
        env=env,
    )

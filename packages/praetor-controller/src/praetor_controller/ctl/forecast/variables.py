# SPDX-License-Identifier: Apache-2.0
"""Which `$(NAME)` of a process spec stays as it is, though `expandVariables` is true: no error in a Pod. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from praetor_api.files import FILES_VARIABLE
from praetor_api.values import variables_in

_SHOWN = 64
"""How much of a name is shown, in characters."""


def variable_warnings(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence for each `$(NAME)` of the process spec *spec*, as it is stored, that stays as it is."""
    execution = spec.get("execution") or {}
    return tuple(dict.fromkeys(_warnings(execution))) if execution.get("expandVariables") is True else ()


def _warnings(execution: Mapping[str, Any]) -> Iterator[str]:
    refers = {str(each.get("name")): _named(each) for each in execution.get("env") or ()}
    own_files = any(not str(each.get("path")).startswith("/") for each in execution.get("files") or ())
    known = {FILES_VARIABLE} if own_files else set[str]()
    for own, names in refers.items():
        for name in names:
            if name in known:
                continue
            where = f"the variable {_shown(own)}"
            if name not in refers:
                yield _unknown(where, name)
            elif name == own:
                yield f"{where} refers to itself, and {_written(name)} stays as it is; write its value"
            elif own in _reached(name, refers):
                yield (
                    f"{where} and the variable {_shown(name)} refer to each other, and {_written(name)} stays as it is"
                    "; write one of them without the other"
                )
            else:
                yield (
                    f"{where} refers to {_shown(name)}, which stands after it, so that {_written(name)} stays as it is"
                    f"; put {_shown(name)} before {_shown(own)}"
                )
        known.add(own)
    for field in ("command", "args"):
        for index, word in enumerate(execution.get(field) or ()):
            yield from (_unknown(f"{field}[{index}]", name) for name in variables_in(word) if name not in known)


def _named(variable: Mapping[str, Any]) -> Sequence[str]:
    return () if variable.get("valueFrom") is not None else tuple(dict.fromkeys(variables_in(variable.get("value"))))


def _reached(start: str, refers: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the variables that *start* refers to, directly or through others."""
    found, ahead = set[str](), [start]
    while ahead:
        for name in refers.get(ahead.pop(), ()):
            if name not in found:
                found.add(name)
                ahead.append(name)
    return found


def _unknown(where: str, name: str) -> str:
    remedy = (
        "it is there with a file of a relative path alone"
        if name == FILES_VARIABLE
        else f"correct the name, or write ${_written(name)} if that is what the program is to get"
    )
    stays = f"so that {_written(name)} stays as it is"
    return f"{where} refers to {_shown(name)}, which env does not have, {stays}; {remedy}"


def _written(name: str) -> str:
    return f"$({_shown(name)})"


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"

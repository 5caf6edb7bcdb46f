# SPDX-License-Identifier: Apache-2.0
"""Overrides of a template: which of them match a device, and what they make of its spec. Pure.

Only labels select, which users set. For each field of artifact and execution the first override that matches and sets
it wins over the later ones and over the template. Variables of env are fields by their names, and files by their paths;
all other fields are replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from praetor_api.kube.codec import DecodeError, decode
from praetor_api.kube.objects import LabelSelector, Override
from praetor_controller.errors import InvalidDeployment
from praetor_controller.model.selectors import Matches, asked_labels, compile_selector
from praetor_controller.model.spec_faults import combination_fault

PATH = "spec.overrides"

_PARTS = ("artifact", "execution")
_KEYS = {"env": "name", "files": "path"}
_MAX_KNOWN = 4096
"""So many combinations of values of the labels that select are remembered."""


class OverrideChoice:
    """Which of *overrides*, as stored, match a device. One that cannot be read, which no API stores, matches none."""

    def __init__(self, overrides: Sequence[Mapping[str, Any]]) -> None:
        self._tests: list[tuple[int, Matches]] = []
        asked: set[str] = set()
        for index, raw in enumerate(overrides):
            try:
                selector = _selector(raw, index)
            except InvalidDeployment:
                continue
            self._tests.append((index, compile_selector(selector)))
            asked |= asked_labels(selector)
        self._asked = tuple(sorted(asked))
        self._known: dict[object, tuple[int, ...]] = {}

    def matching(self, labels: Mapping[str, str]) -> tuple[int, ...]:
        """Return the indices of those that match *labels*, in their order."""
        return self.matching_each((labels,))[0]

    def matching_each(self, labels: Sequence[Mapping[str, str]]) -> list[tuple[int, ...]]:
        """Return matching() for each of *labels*, which may be those of a fleet."""
        keys: list[object] = [tuple(map(each.get, self._asked)) for each in labels]  # what decides
        found = list(map(self._known.get, keys))
        return [self._found(*given) for given in zip(keys, labels, strict=True)] if None in found else found  # type: ignore[return-value]

    def _found(self, key: object, labels: Mapping[str, str]) -> tuple[int, ...]:
        applied = self._known.get(key)
        if applied is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            applied = self._known[key] = tuple(index for index, matches in self._tests if matches(labels))
        return applied


def check_overrides(overrides: Sequence[Mapping[str, Any]]) -> None:
    """Check what the schema says of *overrides*, which an API without CEL does not; InvalidDeployment."""
    for index, raw in enumerate(overrides):
        _selector(raw, index)
        if not any(raw.get(part) for part in _PARTS):
            raise InvalidDeployment(
                f"{PATH}[{index}]: needs artifact or execution; write what these devices run instead"
            )


def _selector(raw: Mapping[str, Any], index: int) -> LabelSelector:
    """Return the selector of the override *raw*; InvalidDeployment names what is wrong with it."""
    try:
        selector = decode(raw, Override).selector
    except DecodeError as e:
        raise InvalidDeployment("; ".join(f"{PATH}[{index}].{each.path}: {each.message}" for each in e.faults)) from e
    if selector == LabelSelector():
        raise InvalidDeployment(f"{PATH}[{index}].selector: is empty; write labels, or change the template")
    compile_selector(selector, f"{PATH}[{index}].selector")
    return selector


def merged_spec(spec: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return *spec*, that of a template, with *overrides* that match a device, of which the first wins."""
    merged = dict(spec)
    for override in reversed(overrides):
        for part in _PARTS:
            fields = {name: value for name, value in (override.get(part) or {}).items() if value is not None}
            if fields:
                merged[part] = _merged(merged.get(part) or {}, fields)
    return merged


def _merged(below: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**below, **fields}
    for name, key in _KEYS.items():
        if name in fields and below.get(name):
            merged[name] = _by_key(below[name], fields[name], key)
    return merged


def _by_key(below: Iterable[Mapping[str, Any]], above: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    """Return the elements of both lists: those of *above* in the place of those with the same *key*, or at the end."""
    found = {each.get(key): each for each in below}
    found.update({each.get(key): each for each in above})
    return [*found.values()]


def override_fault(spec: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]], applied: Sequence[int]) -> str:
    """Return what cannot work in *spec*, which the *overrides* with the indices *applied* made; empty if all can.

    The field is named where it was written.
    """
    wrong = combination_fault(spec)
    if not wrong:
        return ""
    part, _, name = wrong.partition(":")[0].split(" ")[0].partition(".")
    field = name.partition(".")[0].partition("[")[0]
    parts = {index: overrides[index].get(part) or {} for index in applied}
    where = next((index for index, found in parts.items() if field in found), None)
    where = next((index for index, found in parts.items() if found), None) if where is None else where
    return f"{PATH}[{applied[0]}]: {wrong}" if where is None else f"{PATH}[{where}].{wrong}"


def set_fields(override: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that *override*, as stored, sets, such as `execution.command` and `execution.env[LEVEL]`."""
    found = set()
    for part in _PARTS:
        for name, value in (override.get(part) or {}).items():
            if value is None:
                continue
            key = _KEYS.get(name)
            found |= {f"{part}.{name}"} if key is None else {f"{part}.{name}[{each.get(key)}]" for each in value}
    return frozenset(found)

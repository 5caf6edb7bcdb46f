# SPDX-License-Identifier: Apache-2.0
"""Requirements on what devices report of themselves: facts, compared as versions. Pure.

A version is its runs of digits, compared as numbers, and its runs of other characters, compared as text; punctuation
and spaces only separate them. A number is more than a text, and what goes on is more than what ends there: 9 < 10,
12.1 < 12.1-3, 6.1.0 < 6.1.0-18-amd64. Zeros at the end of numbers count nothing (12 equals 12.0), nor does a `v`
before the first one; `~` comes before everything, the end included, as in Debian and RPM (12~rc1 < 12).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from praetor_api.kube.objects import FACT_PATTERN, VERSION_PATTERN, FactOperator, FactRequirement
from praetor_api.wire import clean_text
from praetor_controller.errors import InvalidDeployment

Facts: TypeAlias = Mapping[str, str]
VersionKey: TypeAlias = tuple[tuple[int, int, str], ...]

NO_FACTS = "its agent has reported no facts"
"""Why a device does not meet requirements of which it is not known whether it does."""

_FACT, _VERSION = re.compile(FACT_PATTERN), re.compile(VERSION_PATTERN)
_RUN = re.compile(r"([0-9]+)|(~)|[A-Za-z\x80-\U0010ffff]+")
_TILDE, _END, _TEXT, _NUMBER = range(4)
_SHOWN = 64
"""How much of a value that a device reported is shown, in characters."""
_SETS = (FactOperator.IN, FactOperator.NOT_IN)
_ORDERS: Mapping[FactOperator, tuple[Callable[[Any, Any], bool], str]] = {
    FactOperator.GT: (operator.gt, "<="),
    FactOperator.GE: (operator.ge, "<"),
    FactOperator.LT: (operator.lt, ">="),
    FactOperator.LE: (operator.le, ">"),
}
"""What must hold, and what is the case where it does not."""


@lru_cache(maxsize=4096)
def version_key(text: str) -> VersionKey:
    """Return the key by which *text* is compared as a version; every text has one."""
    if _VERSION.match(text):
        text = text.lstrip("vV")
    key: list[tuple[int, int, str]] = []
    for found in _RUN.finditer(text):
        if found[1]:
            digits = found[1].lstrip("0")
            key.append((_NUMBER, len(digits), digits))  # compares as the number does, however many digits there are
            continue
        _drop_zeros(key)
        key.append((_TILDE, 0, "") if found[2] else (_TEXT, 0, found[0]))
    _drop_zeros(key)
    return (*key, (_END, 0, ""))


def _drop_zeros(key: list[tuple[int, int, str]]) -> None:
    """Remove the zeros at the end of *key* that follow another number."""
    while len(key) > 1 and key[-1] == (_NUMBER, 0, "") and key[-2][0] == _NUMBER:
        key.pop()


def check_requirements(requirements: Sequence[FactRequirement]) -> None:
    """Check what the schema says of *requirements*, which an API without CEL does not; InvalidDeployment."""
    for index, each in enumerate(requirements):
        path, count = f"spec.requirements[{index}]", len(each.values)
        if not _FACT.fullmatch(each.fact):
            raise InvalidDeployment(f"{path}.fact: {each.fact!r} names no fact; write one such as os.version")
        if each.operator in _ORDERS:
            if count != 1:
                raise InvalidDeployment(f"{path}.values: {each.operator} compares with one version; write one value")
            if not _VERSION.match(each.values[0]):
                raise InvalidDeployment(
                    f"{path}.values: {each.values[0]!r} is no version; write one that begins with a digit, such as 12"
                )
        elif each.operator in _SETS and not count:
            raise InvalidDeployment(f"{path}.values: {each.operator} needs values; write at least one")
        elif each.operator not in _SETS and count:
            raise InvalidDeployment(f"{path}.values: {each.operator} takes no values; remove them")


def unmet(requirements: Sequence[FactRequirement], facts: Facts | None) -> str:
    """Return the first of *requirements* that *facts* do not meet, such as `os.version 11 < 12`; empty if they do.

    NO_FACTS when the device has reported none (None).
    """
    if not requirements:
        return ""
    if facts is None:
        return NO_FACTS
    return next(filter(None, (_unmet(each, facts.get(each.fact)) for each in requirements)), "")


def shown_fact(value: str) -> str:
    """Return *value*, which a device reported, as it is shown: a short text of one line."""
    return " ".join(clean_text(value).split())[:_SHOWN]


def _unmet(requirement: FactRequirement, value: str | None) -> str:
    """Return why *value*, None where the device reports none, does not meet *requirement*; empty when it does."""
    fact, wanted = requirement.fact, requirement.operator
    if value is None:  # as for labels in Kubernetes: it is in no set of values
        met = wanted in (FactOperator.NOT_IN, FactOperator.DOES_NOT_EXIST)
        return "" if met else f"{fact} is not reported"
    shown = f"{fact} {shown_fact(value)}"
    if wanted in _ORDERS:
        if not _VERSION.match(value):
            return f"{shown} is no version"
        holds, otherwise = _ORDERS[wanted]
        limit = requirement.values[0]
        return "" if holds(version_key(value), version_key(limit)) else f"{shown} {otherwise} {limit}"
    if wanted in _SETS:
        is_in = version_key(value) in map(version_key, requirement.values)
        listed = ", ".join(requirement.values)
        return "" if is_in is (wanted is FactOperator.IN) else f"{shown} is {'' if is_in else 'not '}in {listed}"
    return "" if wanted is FactOperator.EXISTS else f"{fact} is reported"

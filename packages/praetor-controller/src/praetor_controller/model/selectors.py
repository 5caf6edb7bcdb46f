# SPDX-License-Identifier: Apache-2.0
"""Selectors of labels and of facts, compiled once and applied many times. Pure.

An empty selector matches every device. A malformed one, which the apiserver should have refused, is refused with the
name of the bad field: keys and values that no label can have would silently match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, assert_never

from praetor_api.kube.objects import (
    FACT_PATTERN,
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    FactSelector,
    FactSelectorRequirement,
    LabelSelector,
    LabelSelectorRequirement,
    SelectorOperator,
)
from praetor_controller.errors import InvalidDeployment

LabelSet: TypeAlias = Mapping[str, str]
Matches: TypeAlias = Callable[[LabelSet], bool]
MatchesEach: TypeAlias = Callable[[Sequence[LabelSet]], Sequence[bool]]
_Check: TypeAlias = Callable[[str, Iterable[str], str], None]

_KEY, _VALUE, _FACT = re.compile(LABEL_KEY_PATTERN), re.compile(LABEL_VALUE_PATTERN), re.compile(FACT_PATTERN)
_MAX_NAME, _MAX_PREFIX = 63, 253
"""Limits of Kubernetes: of a label's value and of its key's name, and of the prefix of the key."""


def compile_selector(selector: LabelSelector, path: str = "spec.selector") -> Matches:
    """Return *selector* as a predicate over labels; InvalidDeployment names the bad field under *path*."""
    return _compiled(selector, path, _check_label)


def compile_each(selector: LabelSelector, path: str = "spec.selector") -> MatchesEach:
    """Return *selector* as a predicate over the labels of each of many devices, as compile_selector() for one.

    A selector by one label, as most are, is compared without a call for each device.
    """
    matches = compile_selector(selector, path)
    if selector.match_expressions or len(selector.match_labels) > 1:
        return lambda labels: [matches(each) for each in labels]
    for key, value in selector.match_labels.items():
        return lambda labels: [each.get(key) == value for each in labels]
    return lambda labels: [True] * len(labels)


def compile_fact_selector(selector: FactSelector | None) -> Callable[[LabelSet | None], bool] | None:
    """Return *selector* as a predicate over the facts of a device, None where it has reported none.

    None when it selects every device. InvalidDeployment as for labels.
    """
    if selector is None or selector == FactSelector():
        return None
    matches = _compiled(selector, "spec.factSelector", _check_fact)
    return lambda facts: facts is not None and matches(facts)


def asked_labels(selector: LabelSelector) -> frozenset[str]:
    """Return the keys of the labels that *selector* compares."""
    return frozenset((*selector.match_labels, *(each.key for each in selector.match_expressions)))


def asked_facts(selector: FactSelector) -> frozenset[str]:
    """Return the names of the facts that *selector* compares."""
    return frozenset((*selector.match_labels, *(each.key for each in selector.match_expressions)))


def _compiled(selector: LabelSelector | FactSelector, path: str, check: _Check) -> Matches:
    for key, value in selector.match_labels.items():
        check(key, (value,), f"{path}.matchLabels")
    expressions: Sequence[LabelSelectorRequirement | FactSelectorRequirement] = selector.match_expressions
    tests = [
        _requirement(requirement, f"{path}.matchExpressions[{index}]", check)
        for index, requirement in enumerate(expressions)
    ]
    wanted = frozenset(selector.match_labels.items())
    if not tests:
        return lambda labels: wanted <= labels.items()
    return lambda labels: wanted <= labels.items() and all(test(labels) for test in tests)


def _check_label(key: str, values: Iterable[str], path: str) -> None:
    prefix, _, name = key.rpartition("/")
    if not _KEY.fullmatch(key) or len(name) > _MAX_NAME or len(prefix) > _MAX_PREFIX:
        raise InvalidDeployment(f"{path}: {key!r} is not a label key; write letters, digits, '-', '_', '.'")
    for value in values:
        if not _VALUE.fullmatch(value) or len(value) > _MAX_NAME:
            raise InvalidDeployment(f"{path}: {value!r} is not a label value; write letters, digits, '-', '_', '.'")


def _check_fact(key: str, values: Iterable[str], path: str) -> None:
    if not _FACT.fullmatch(key):
        raise InvalidDeployment(f"{path}: {key!r} names no fact; write one such as os.version")


def _requirement(requirement: LabelSelectorRequirement | FactSelectorRequirement, path: str, check: _Check) -> Matches:
    key, values = requirement.key, frozenset(requirement.values)
    check(key, requirement.values, path)
    takes_values = requirement.operator in (SelectorOperator.IN, SelectorOperator.NOT_IN)
    if takes_values and not values:
        raise InvalidDeployment(f"{path}.values: {requirement.operator} needs at least one value")
    if not takes_values and values:
        raise InvalidDeployment(f"{path}.values: must be empty with {requirement.operator}")
    match requirement.operator:
        case SelectorOperator.IN:
            return lambda labels: labels.get(key) in values
        case SelectorOperator.NOT_IN:
            return lambda labels: labels.get(key) not in values  # as in Kubernetes: no such label matches, too
        case SelectorOperator.EXISTS:
            return lambda labels: key in labels
        case SelectorOperator.DOES_NOT_EXIST:
            return lambda labels: key not in labels
        case _:
            assert_never(requirement.operator)

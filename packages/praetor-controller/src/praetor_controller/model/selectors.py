# SPDX-License-Identifier: Apache-2.0
"""Label selectors, compiled once and applied many times. Pure.

An empty selector matches every device. A malformed one, which the apiserver should have refused, is refused with the
name of the bad field: keys and values that no label can have would silently match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, assert_never

from praetor_api.kube.objects import (
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    LabelSelector,
    LabelSelectorRequirement,
    SelectorOperator,
)
from praetor_controller.errors import InvalidDeployment

LabelSet: TypeAlias = Mapping[str, str]
Matches: TypeAlias = Callable[[LabelSet], bool]

_KEY, _VALUE = re.compile(LABEL_KEY_PATTERN), re.compile(LABEL_VALUE_PATTERN)
_MAX_NAME, _MAX_PREFIX = 63, 253
"""Limits of Kubernetes: of a label's value and of its key's name, and of the prefix of the key."""


def compile_selector(selector: LabelSelector, path: str = "spec.selector") -> Matches:
    """Return *selector* as a predicate over labels; InvalidDeployment names the bad field under *path*."""
    for key, value in selector.match_labels.items():
        _check_label(key, (value,), f"{path}.matchLabels")
    tests = [
        _requirement(requirement, f"{path}.matchExpressions[{index}]")
        for index, requirement in enumerate(selector.match_expressions)
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


def _requirement(requirement: LabelSelectorRequirement, path: str) -> Matches:
    key, values = requirement.key, frozenset(requirement.values)
    _check_label(key, requirement.values, path)
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

# SPDX-License-Identifier: Apache-2.0
"""Label selectors, compiled once and applied many times. Pure.

An empty selector matches every device. A malformed one, which the apiserver should have refused, is refused with the
name of the bad field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, assert_never

from praetor_api.kube.objects import LabelSelector, LabelSelectorRequirement, SelectorOperator
from praetor_controller.errors import InvalidDeployment

LabelSet: TypeAlias = Mapping[str, str]
Matches: TypeAlias = Callable[[LabelSet], bool]


def compile_selector(selector: LabelSelector, path: str = "spec.selector") -> Matches:
    """Return *selector* as a predicate over labels; InvalidDeployment names the bad field under *path*."""
    tests = [
        _requirement(requirement, f"{path}.matchExpressions[{index}]")
        for index, requirement in enumerate(selector.match_expressions)
    ]
    wanted = frozenset(selector.match_labels.items())
    if not tests:
        return lambda labels: wanted <= labels.items()
    return lambda labels: wanted <= labels.items() and all(test(labels) for test in tests)


def _requirement(requirement: LabelSelectorRequirement, path: str) -> Matches:
    key, values = requirement.key, frozenset(requirement.values)
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

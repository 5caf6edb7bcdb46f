# SPDX-License-Identifier: Apache-2.0
"""What in a deployment is allowed and probably a mistake: it matches nothing, or everything. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from praetor_api.conditions import DeploymentReason
from praetor_api.kube.objects import LabelSelector, StrategyType
from praetor_controller.model.amounts import max_unavailable
from praetor_controller.model.overrides import PATH, set_fields
from praetor_controller.model.rows import DeploymentRow, DeviceRow, Template
from praetor_controller.model.selectors import compile_selector
from praetor_controller.rollout.budgets import matches_nothing
from praetor_controller.rollout.reasons import ReasonCode

_Covered: TypeAlias = Mapping[int, Sequence[DeviceRow]]

_PATH = "spec.updateStrategy.rollingUpdate"


def spec_warnings(deployment: DeploymentRow, devices: Iterable[DeviceRow]) -> Iterator[str]:
    """Yield one sentence for each mistake that is likely, given all *devices* of the namespace."""
    every = list(devices)
    matching = [row for row in every if deployment.selects(row)]
    if deployment.fault:
        return
    if not matching:
        labelled = any(deployment.covers(row) for row in every)
        field = "spec.factSelector" if labelled else "spec.selector"
        yield f"{DeploymentReason.NO_DEVICES}: {field}: no device of {len(every)} matches; nothing would run"
        return
    if deployment.policy.selector == LabelSelector() and deployment.fact_matches is None:
        yield f"SelectsEveryDevice {len(matching)}: spec.selector: is empty; write labels to select fewer"
    reported = {name for row in matching for name in row.facts or ()}
    for index, each in enumerate(deployment.policy.requirements):
        if reported and each.fact not in reported:
            known = ", ".join(sorted(reported))
            yield (
                f"{ReasonCode.REQUIREMENT_NOT_MET}: spec.requirements[{index}].fact: no device reports {each.fact!r}; "
                f"what they report: {known}"
            )
    yield from _override_warnings(deployment.template, matching)
    rolling = deployment.policy.update_strategy.rolling_update
    if deployment.strategy is not StrategyType.ROLLING_UPDATE:
        if rolling.waves or rolling.budgets:
            yield f"{_PATH}: waves and budgets do nothing with the type {deployment.strategy}; write RollingUpdate"
        return
    if max_unavailable(rolling.max_unavailable, len(matching)) == 0:
        yield f"{_PATH}.maxUnavailable: is 0, so a device that is available is never updated; write 1 or more"
    for index, wave in enumerate(rolling.waves):
        takes = compile_selector(wave.selector or LabelSelector(), f"{_PATH}.waves[{index}].selector")
        if not wave.allow_empty and not any(takes(row.labels) for row in matching):
            yield (
                f"{DeploymentReason.WAVE_MATCHES_NOTHING}({wave.name}): {_PATH}.waves[{index}].selector: no device "
                "matches, so the next revision waits there; correct it, or set allowEmpty: true"
            )
    for index, budget in enumerate(rolling.budgets):
        if matches_nothing(budget, matching):
            keys = ",".join(budget.group_by)
            yield (
                f"{DeploymentReason.BUDGET_MATCHES_NOTHING}({keys}): {_PATH}.budgets[{index}].groupBy: no device has "
                "these labels, so the next revision waits; correct it, or set allowEmpty: true"
            )


def covered_by(template: Template, devices: Sequence[DeviceRow]) -> _Covered:
    """Return which of *devices* each override of *template* matches, by its index."""
    applied = [(template.applying(row.labels), row) for row in devices]
    return {index: [row for found, row in applied if index in found] for index in range(len(template.overrides))}


def _override_warnings(template: Template, matching: Sequence[DeviceRow]) -> Iterator[str]:
    fields = [set_fields(each) for each in template.overrides]
    for index, devices in covered_by(template, matching).items():
        if not devices:
            yield (
                f"{PATH}[{index}].selector: no device of {len(matching)} matches, so it does nothing; correct it, or "
                "label devices"
            )
            continue
        earlier = {template.applying(row.labels)[: template.applying(row.labels).index(index)] for row in devices}
        if all(fields[index] <= frozenset[str]().union(*(fields[each] for each in found)) for found in earlier):
            yield (
                f"{PATH}[{index}]: earlier overrides set all of its fields on each of its devices, so it does nothing; "
                "put it before them"
            )
            continue
        if {"artifact.url"} == fields[index] & {"artifact.url", "artifact.checksumSHA256"} and (
            (template.spec.get("artifact") or {}).get("checksumSHA256")
        ):
            yield (
                f"{PATH}[{index}].artifact.url: keeps the checksum of the template; write checksumSHA256, too, unless "
                "it is the same file elsewhere"
            )
    faults = {own.fault for own in (template.resolved(row.labels) for row in matching) if own.fault}
    yield from (f"{ReasonCode.OVERRIDE_INVALID}: {each}; these devices would keep what they have" for each in faults)

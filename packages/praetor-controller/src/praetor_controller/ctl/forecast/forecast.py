# SPDX-License-Identifier: Apache-2.0
"""Forecasts a rollout step by step to its end: the controller's own planner, run on a model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from attrs import field, frozen, mutable

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.conditions import get_condition
from praetor_controller.ctl.explain import MEANINGS, by_reason, command_for
from praetor_controller.ctl.forecast.files import FileChange
from praetor_controller.ctl.forecast.model import ForecastModel
from praetor_controller.ctl.output import (
    Column,
    counted,
    fitted_lines,
    for_people,
    names_of,
    screen_width,
    structured,
    table,
)
from praetor_controller.ctl.times import format_duration
from praetor_controller.model.actions import Action, Create, Delete, Update
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Plan

MAX_STEPS = 2000
_MAX_IDLE_PASSES = 20


@frozen(kw_only=True)
class Step:
    """One round of writes. *unavailable* is how many devices are down right after it."""

    at_s: int
    wave: str
    created: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]
    unavailable: int


@mutable(kw_only=True)
class Forecast:
    """What would happen. *left* are the reasons of devices that are not up to date at the end; *fault* is the error in
    the spec, and *warnings* are what in it is probably a mistake.

    *waves* are the devices that get the template, by wave, if there are waves. *domains* are the most devices that are
    unavailable at once, by the number of a budget and the domain. *overrides* are how many devices each one matches,
    and *files* those of the process that change.
    """

    name: str
    steps: list[Step] = field(factory=list)
    devices: int = 0
    waves: dict[str, list[str]] = field(factory=dict)
    unavailable_at_most: int = 0
    domains: dict[tuple[int, str], int] = field(factory=dict)
    budgets: tuple[str, ...] = ()
    seconds: int = 0
    left: Mapping[str, Reason] = field(factory=dict)
    fault: str = ""
    warnings: tuple[str, ...] = ()
    files: tuple[FileChange, ...] = ()
    overrides: Mapping[str, int] = field(factory=dict)
    complete: bool = True


def forecast(model: ForecastModel, ready_after_s: float) -> Forecast:
    """Return what would happen if each device needed *ready_after_s* to be ready with the template, and none failed."""
    budgets = model.deployment.policy.update_strategy.rolling_update.budgets
    result = Forecast(
        name=model.deployment.name,
        warnings=model.warnings(),
        overrides=model.overrides(),
        budgets=tuple(f"{','.join(each.group_by)}: maxUnavailable {each.max_unavailable}" for each in budgets),
    )
    began, idle = model.now, 0
    while True:
        planned = model.plan()
        if len(result.steps) >= MAX_STEPS:
            result.complete = False
        if not planned.actions or not result.complete:
            if idle >= _MAX_IDLE_PASSES or not result.complete or not _goes_on(model, planned):
                break
            idle += 1
            model.now = planned.recheck_at or model.now
            model.settle()
            continue
        idle = 0
        model.carry_out(planned.actions)
        result.steps.append(_step(model, planned, int((model.now - began).total_seconds())))
        _count(result, model, planned.actions)
        model.now += timedelta(seconds=ready_after_s)
        model.settle()
        model.now += timedelta(seconds=model.deployment.policy.min_ready_seconds)
        result.seconds = int((model.now - began).total_seconds())
    result.devices = len(planned.reasons)
    result.left = {name: each for name, each in planned.reasons.items() if each.code is not ReasonCode.UP_TO_DATE}
    result.fault = _fault(planned)
    return result


def _goes_on(model: ForecastModel, planned: Plan) -> bool:
    """Return whether time alone advances the rollout."""
    settled = all(each.code is ReasonCode.UP_TO_DATE for each in planned.reasons.values())
    return not settled and planned.recheck_at is not None and planned.recheck_at > model.now


def _step(model: ForecastModel, planned: Plan, at_s: int) -> Step:
    actions = planned.actions
    return Step(
        at_s=at_s,
        wave=model.deployment.status.raw.get("wave") or "",
        created=tuple(each.device for each in actions if isinstance(each, Create)),
        updated=tuple(each.process.device for each in actions if isinstance(each, Update) and each.spec),
        deleted=tuple(each.process.name for each in actions if isinstance(each, Delete)),
        unavailable=len(model.down()),
    )


def _count(result: Forecast, model: ForecastModel, actions: Sequence[Action]) -> None:
    for each in actions:
        if not isinstance(each, Delete) and each.wave:
            device = each.device if isinstance(each, Create) else each.process.device
            result.waves.setdefault(each.wave, []).append(device)
    result.unavailable_at_most = max(result.unavailable_at_most, result.steps[-1].unavailable)
    for domain, count in model.down_by_domain().items():
        result.domains[domain] = max(result.domains.get(domain, 0), count)


def _fault(planned: Plan) -> str:
    conditions = planned.status.conditions if planned.status is not None else ()
    progressing = get_condition(conditions, ConditionType.PROGRESSING)
    is_invalid = progressing is not None and progressing.reason == DeploymentReason.INVALID_SPEC
    return progressing.message if progressing is not None and is_invalid else ""


_COLUMNS: tuple[str | Column, ...] = (
    "STEP",
    Column("AFTER", leaves=1),
    Column("WAVE", cut=True),
    *(Column(title, cut=True) for title in ("CREATE", "UPDATE", "DELETE")),
    "UNAVAILABLE",
)


def forecast_text(result: Forecast, output: str, max_steps: int) -> str:
    """Return a forecast for people, with at most *max_steps* steps."""
    if result.fault:
        return fitted_lines([f"{result.name}: the spec cannot be acted on: {result.fault}"], output)
    lines = [f"{result.name}: warning: {each}" for each in result.warnings]
    lines += [f"{result.name}: file {each.path}: {each.change}" for each in result.files]
    if not result.steps:
        lines.append(f"{result.name}: nothing would be written")
    else:
        lines.append(
            f"{result.name}: {counted(len(result.steps), 'step')} in about {format_duration(result.seconds)}, "
            "if no device fails"
        )
        rows = [_row(number, each) for number, each in enumerate(result.steps[:max_steps], 1)]
        lines += table(_COLUMNS, rows, width=screen_width(output)).splitlines()
        lines += (
            [f"... and {counted(len(result.steps) - max_steps, 'more step')}"] if len(result.steps) > max_steps else []
        )
        lines.append(f"unavailable at most: {result.unavailable_at_most} of {result.devices} devices")
        lines += [_budget_line(result, number, words) for number, words in enumerate(result.budgets)]
    lines += [f"{name}: {counted(count, 'device')}" for name, count in result.overrides.items()]
    up = result.devices - len(result.left)
    end = "at the end" if result.complete else f"after {MAX_STEPS} steps, where the forecast stops"
    lines.append(f"{end}: {up} of {result.devices} devices are up to date")
    for code, devices in by_reason(result.left).items():
        named = [f"{device} ({detail})" if detail else device for device, detail in devices]
        lines.append(f"    {code}: {names_of(named)}: {MEANINGS[code]}")
        lines += command_for(code, result.name)
    return fitted_lines(lines, output)


def _row(number: int, step: Step) -> list[str]:
    lists = (step.created, step.updated, step.deleted)
    return [
        str(number),
        format_duration(step.at_s),
        step.wave or "-",
        *(names_of(each) if each else "-" for each in lists),
        str(step.unavailable),
    ]


def _budget_line(result: Forecast, number: int, words: str) -> str:
    counts = {domain: count for (budget, domain), count in result.domains.items() if budget == number}
    worst = max(counts.values(), default=0)
    where = names_of(sorted(domain for domain, count in counts.items() if count == worst))
    return f"budget {words}: unavailable at most: {worst}" + (f", in {where}" if where else "")


def forecast_data(result: Forecast) -> dict[str, Any]:
    """Return a forecast for programs."""
    return {
        "deployment": result.name,
        "fault": result.fault,
        "warnings": list(result.warnings),
        "files": [
            {"path": each.path, "change": each.change, "mode": each.mode, "source": each.source}
            for each in result.files
        ],
        "complete": result.complete,
        "devices": result.devices,
        "seconds": result.seconds,
        "unavailableAtMost": result.unavailable_at_most,
        "steps": [
            {
                "afterSeconds": each.at_s,
                "wave": each.wave,
                "create": list(each.created),
                "update": list(each.updated),
                "delete": list(each.deleted),
                "unavailable": each.unavailable,
            }
            for each in result.steps
        ],
        "waves": result.waves,
        "overrides": dict(result.overrides),
        "budgets": [
            {
                "budget": words,
                "domains": {domain: count for (budget, domain), count in result.domains.items() if budget == number},
            }
            for number, words in enumerate(result.budgets)
        ],
        "left": {device: {"reason": each.code.value, "detail": each.detail} for device, each in result.left.items()},
    }


def forecasts(found: list[Forecast], output: str, max_steps: int) -> str:
    """Return what is printed about *found*."""
    if not for_people(output):
        return structured([forecast_data(each) for each in found], output)
    return "\n\n".join(forecast_text(each, output, max_steps) for each in found)

"""What a rollout would do, step by step to its end: the controller's own planner, run on a model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from attrs import field, frozen, mutable

from praetor_api.conditions import DeploymentReason
from praetor_controller.ctl.explain import MEANINGS, by_reason
from praetor_controller.ctl.forecast_model import World
from praetor_controller.ctl.output import OutputFormat, structured, table
from praetor_controller.ctl.times import span
from praetor_controller.model.actions import Action, Create, Delete, Update
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Plan

MOST_STEPS = 2000
_IDLE_LOOKS = 20
_SHOWN = 3


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
    """What would happen. *left* are the devices that do not get there, and why; *fault* is what is wrong with the spec.

    *waves* are the devices that get the template, by the wave that they get it in, if there are waves. *domains*
    tells, for the number of a budget and a domain, how many of its devices are down at most.
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
    complete: bool = True


def forecast(world: World, ready_after_s: float) -> Forecast:
    """Return what would happen if each offered device took *ready_after_s* to be ready, and none failed."""
    budgets = world.deployment.policy.update_strategy.rolling_update.budgets
    told = Forecast(
        name=world.deployment.name,
        budgets=tuple(f"{','.join(each.group_by)}: maxUnavailable {each.max_unavailable}" for each in budgets),
    )
    began, idle = world.now, 0
    while True:
        planned = world.plan()
        if len(told.steps) >= MOST_STEPS:
            told.complete = False
        if not planned.actions or not told.complete:
            if idle >= _IDLE_LOOKS or not told.complete or not _goes_on(world, planned):
                break
            idle += 1
            world.now = planned.next_look or world.now
            world.settle()
            continue
        idle = 0
        world.carry_out(planned.actions)
        told.steps.append(_step(world, planned, int((world.now - began).total_seconds())))
        _count(told, world, planned.actions)
        world.now += timedelta(seconds=ready_after_s)
        world.settle()
        world.now += timedelta(seconds=world.deployment.policy.min_ready_seconds)
        told.seconds = int((world.now - began).total_seconds())
    told.devices = len(planned.reasons)
    told.left = {name: each for name, each in planned.reasons.items() if each.code is not ReasonCode.UP_TO_DATE}
    told.fault = _fault(planned)
    return told


def _goes_on(world: World, planned: Plan) -> bool:
    """Tell whether time alone brings the rollout further."""
    settled = all(each.code is ReasonCode.UP_TO_DATE for each in planned.reasons.values())
    return not settled and planned.next_look is not None and planned.next_look > world.now


def _step(world: World, planned: Plan, at_s: int) -> Step:
    actions = planned.actions
    return Step(
        at_s=at_s,
        wave=world.deployment.status.raw.get("wave") or "",
        created=tuple(each.device for each in actions if isinstance(each, Create)),
        updated=tuple(each.process.device for each in actions if isinstance(each, Update) and each.spec),
        deleted=tuple(each.process.name for each in actions if isinstance(each, Delete)),
        unavailable=len(world.down()),
    )


def _count(told: Forecast, world: World, actions: Sequence[Action]) -> None:
    for each in actions:
        if not isinstance(each, Delete) and each.wave:
            device = each.device if isinstance(each, Create) else each.process.device
            told.waves.setdefault(each.wave, []).append(device)
    told.unavailable_at_most = max(told.unavailable_at_most, told.steps[-1].unavailable)
    for domain, count in world.down_by_domain().items():
        told.domains[domain] = max(told.domains.get(domain, 0), count)


def _fault(planned: Plan) -> str:
    conditions = planned.status.conditions if planned.status is not None else ()
    return next((each.message for each in conditions if each.reason == DeploymentReason.INVALID_SPEC), "")


def forecast_text(told: Forecast, most: int) -> str:
    """Return a forecast for people, with at most *most* steps."""
    if told.fault:
        return f"{told.name}: the spec cannot be acted on: {told.fault}"
    if not told.steps:
        lines = [f"{told.name}: nothing would be written"]
    else:
        count = f"{len(told.steps)} step{'' if len(told.steps) == 1 else 's'}"
        lines = [f"{told.name}: {count} in about {span(told.seconds)}, if no device fails"]
        rows = [_row(number, each) for number, each in enumerate(told.steps[:most], 1)]
        lines.append(table(("STEP", "AFTER", "WAVE", "CREATE", "UPDATE", "DELETE", "UNAVAILABLE"), rows))
        lines += [f"... and {len(told.steps) - most} more steps"] if len(told.steps) > most else []
        lines.append(f"unavailable at most: {told.unavailable_at_most} of {told.devices} devices")
        lines += [_budget_line(told, number, words) for number, words in enumerate(told.budgets)]
    up = told.devices - len(told.left)
    end = "at the end" if told.complete else f"after {MOST_STEPS} steps, where the forecast stops"
    lines.append(f"{end}: {up} of {told.devices} devices are up to date")
    for code, devices in by_reason(told.left).items():
        named = [f"{device} ({detail})" if detail else device for device, detail in devices]
        lines.append(f"    {code}: {_bounded(named)}: {MEANINGS[code]}")
    return "\n".join(lines)


def _row(number: int, step: Step) -> list[str]:
    lists = (step.created, step.updated, step.deleted)
    return [
        str(number),
        span(step.at_s),
        step.wave or "-",
        *(_bounded(each) if each else "-" for each in lists),
        str(step.unavailable),
    ]


def _budget_line(told: Forecast, number: int, words: str) -> str:
    counts = {domain: count for (budget, domain), count in told.domains.items() if budget == number}
    worst = max(counts.values(), default=0)
    where = _bounded(sorted(domain for domain, count in counts.items() if count == worst))
    return f"budget {words}: unavailable at most: {worst}" + (f", in {where}" if where else "")


def _bounded(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def forecast_data(told: Forecast) -> dict[str, Any]:
    """Return a forecast for programs."""
    return {
        "deployment": told.name,
        "fault": told.fault,
        "complete": told.complete,
        "devices": told.devices,
        "seconds": told.seconds,
        "unavailableAtMost": told.unavailable_at_most,
        "steps": [
            {
                "afterSeconds": each.at_s,
                "wave": each.wave,
                "create": list(each.created),
                "update": list(each.updated),
                "delete": list(each.deleted),
                "unavailable": each.unavailable,
            }
            for each in told.steps
        ],
        "waves": told.waves,
        "budgets": [
            {
                "budget": words,
                "domains": {domain: count for (budget, domain), count in told.domains.items() if budget == number},
            }
            for number, words in enumerate(told.budgets)
        ],
        "left": {device: {"reason": each.code.value, "detail": each.detail} for device, each in told.left.items()},
    }


def forecasts(found: list[Forecast], output: str, most: int) -> str:
    """Return what is printed about *found*."""
    if output != OutputFormat.TABLE:
        return structured([forecast_data(each) for each in found], output)
    return "\n\n".join(forecast_text(each, most) for each in found)

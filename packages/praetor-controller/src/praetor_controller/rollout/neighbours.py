# SPDX-License-Identifier: Apache-2.0
"""What other deployments of the namespace mean for one: the devices that they have down, and their budgets. Pure.

A device that is down counts in its failure domains for all deployments, and a budget binds all that write to its
devices. What a neighbour is about to write counts before it is written, so that two rollouts cannot both take the last
place of a domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from praetor_api.kube.objects import StrategyType
from praetor_controller.model.amounts import is_amount
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.rollout.availability import Availability, availability_of, blamed_until
from praetor_controller.rollout.budgets import domain_sizes
from praetor_controller.rollout.snapshot import SharedBudget

RECHECK_WRITES_S = 1.0
"""After this time, in seconds, a neighbour's pending writes are checked again: one that fails makes no event."""


@frozen
class Neighbour:
    """Another deployment of the namespace; *writing* are the devices that it is about to write to, or may have.

    *proven* is as in its snapshot.
    """

    deployment: DeploymentRow
    processes: Iterable[ProcessRow]
    writing: Collection[str] = frozenset()
    proven: Mapping[str, float] = field(factory=dict)


@frozen
class NeighboursDown:
    """The *devices* that neighbours have down, and when time alone may change that, in epoch seconds (inf: never)."""

    devices: tuple[DeviceRow, ...] = ()
    changes_at: float = math.inf


def neighbours_down(
    neighbours: Iterable[Neighbour], devices: Mapping[str, DeviceRow], now: float, wall: float
) -> NeighboursDown:
    """Return those of *devices*, all of the namespace by name, that a neighbour has down at *now*.

    *now* is by the clock of the rows' times, *wall* by that of users; both are seconds since the epoch.
    """
    names: set[str] = set()
    changes_at = math.inf
    for neighbour in neighbours:
        if neighbour.writing:
            names.update(neighbour.writing)
            changes_at = min(changes_at, now + RECHECK_WRITES_S)
        for name, until in _down(neighbour, devices, now):
            names.add(name)
            changes_at = min(changes_at, until)
    rows = (devices[name] for name in sorted(names & devices.keys()))
    return NeighboursDown(tuple(row for row in rows if not row.maintained(wall)), changes_at)


def shared_budgets(
    neighbours: Iterable[Neighbour], matching: Sequence[DeviceRow], devices: Iterable[DeviceRow]
) -> tuple[SharedBudget, ...]:
    """Return the budgets of those *neighbours* that match some of the devices *matching* the deployment, too.

    *devices* are all of the namespace. A neighbour that cannot be acted on, or that does not roll, has none.
    """
    return tuple(
        SharedBudget(
            owner=other.name,
            selector=other.policy.selector,
            budget=budget,
            sizes=domain_sizes(budget, (each for each in devices if other.covers(each)))
            if isinstance(budget.max_unavailable, str)
            else {},
        )
        for other in (neighbour.deployment for neighbour in neighbours)
        if has_budgets(other) and any(other.covers(device) for device in matching)
        for budget in other.policy.update_strategy.rolling_update.budgets
        if is_amount(budget.max_unavailable)
    )


def has_budgets(deployment: DeploymentRow) -> bool:
    """Return whether *deployment* has budgets, and these hold."""
    if not deployment.policy.update_strategy.rolling_update.budgets:  # as most: each event of a process asks
        return False
    rolling = deployment.strategy is StrategyType.ROLLING_UPDATE
    return rolling and not deployment.fault and not deployment.terminating


def _down(neighbour: Neighbour, devices: Mapping[str, DeviceRow], now: float) -> Iterator[tuple[str, float]]:
    """Yield the devices that *neighbour* has down, each with when time alone may change that (inf: never)."""
    policy = neighbour.deployment.policy
    min_ready_s = float(policy.min_ready_seconds)
    for process in neighbour.processes:
        device = devices.get(process.device)
        if device is None:
            continue
        availability = availability_of(process, device, min_ready_s, now)
        if availability in (Availability.SILENT_AFTER_OFFER, Availability.SILENT):
            blamed = blamed_until(process, policy, neighbour.proven)
            if now < blamed:
                yield process.device, blamed
        elif availability is Availability.UNAVAILABLE:
            yield process.device, process.available_at(min_ready_s)


def commands(deployment: DeploymentRow) -> frozenset[tuple[str, ...]]:
    """Return the commands of *deployment* with their arguments, by any of its overrides; without what an image runs."""
    template = deployment.template
    specs = (template.spec, *(template.with_overrides((index,)).spec for index in range(len(template.overrides))))
    return frozenset(map(_words, specs)) - {()}


def _words(spec: Mapping[str, Any]) -> tuple[str, ...]:
    execution = spec.get("execution") or {}
    return (*(execution.get("command") or ()), *(execution.get("args") or ()))


def overlap(
    deployment: DeploymentRow, others: Iterable[DeploymentRow], devices: Callable[[], Iterable[DeviceRow]]
) -> str:
    """Return which of the *others* run the same command on *devices* that *deployment* matches, too; empty for none.

    Two of one program on a device are in each other's way, as at a port: no selector was meant to do that. *devices* is
    called for those of the namespace only where there is such a command: it is asked for each event of a device.
    """
    mine = commands(deployment)
    same = [each for each in others if each.uid != deployment.uid and not mine.isdisjoint(commands(each))]
    if not same:
        return ""
    matching = [row for row in devices() if deployment.selects(row)]
    counted = (
        (each.name, sum(each.selects(row) and _same_command(deployment, each, row) for row in matching))
        for each in same
    )
    found = [f"{name} on {count} device{'' if count == 1 else 's'}" for name, count in sorted(counted) if count]
    return f"the same command is run by {', '.join(found)}; let the selectors share no device" if found else ""


def _same_command(one: DeploymentRow, other: DeploymentRow, device: DeviceRow) -> bool:
    """Return whether both would run the same command on *device*."""
    if not (one.template.overrides or other.template.overrides):
        return True
    wanted, found = (_words(each.template.resolved(device.labels).spec) for each in (one, other))
    return wanted == found != ()

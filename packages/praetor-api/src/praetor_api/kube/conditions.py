# SPDX-License-Identifier: Apache-2.0
"""How conditions change: the transition time moves only when the status does, in whole seconds. Pure."""

from __future__ import annotations

from datetime import datetime

from praetor_api.kube.objects import Condition, ConditionStatus

__all__ = ["get_condition", "is_true", "next_condition", "set_condition", "without_condition"]


def get_condition(conditions: tuple[Condition, ...], type: str) -> Condition | None:
    """Return the condition of that *type*, if there is one."""
    return next((condition for condition in conditions if condition.type == type), None)


def is_true(conditions: tuple[Condition, ...], type: str) -> bool:
    """Return whether *conditions* has that *type* with the status True."""
    condition = get_condition(conditions, type)
    return condition is not None and condition.status is ConditionStatus.TRUE


def set_condition(
    conditions: tuple[Condition, ...],
    *,
    type: str,
    status: ConditionStatus,
    reason: str,
    message: str = "",
    observed_generation: int | None = None,
    now: datetime,
) -> tuple[Condition, ...]:
    """Return *conditions* with one of them set, sorted by type; an equal tuple when it was so already."""
    new = next_condition(
        get_condition(conditions, type),
        type=type,
        status=status,
        reason=reason,
        message=message,
        observed_generation=observed_generation,
        now=now,
    )
    others = [condition for condition in conditions if condition.type != type]
    return tuple(sorted((*others, new), key=lambda condition: condition.type))


def next_condition(
    old: Condition | None,
    *,
    type: str,
    status: ConditionStatus,
    reason: str,
    message: str = "",
    observed_generation: int | None = None,
    now: datetime,
) -> Condition:
    """Return the condition that follows *old*, which is None when there was none of its type.

    A clock that goes back does not take the transition time with it.
    """
    since = now.replace(microsecond=0)  # the apiserver keeps whole seconds
    if old is not None and old.last_transition_time is not None:
        since = old.last_transition_time if old.status is status else max(since, old.last_transition_time)
    return Condition(
        type=type,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=observed_generation,
    )


def without_condition(conditions: tuple[Condition, ...], type: str) -> tuple[Condition, ...]:
    """Return *conditions* without the one of that *type*."""
    return tuple(condition for condition in conditions if condition.type != type)

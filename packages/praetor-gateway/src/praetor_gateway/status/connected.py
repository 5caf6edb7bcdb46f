# SPDX-License-Identifier: Apache-2.0
"""What AgentConnected of a device or process says: whether its device is heard, and what it fetched if not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum, auto
from typing import TypeAlias

from attrs import evolve

from praetor_api.conditions import ConditionType, ProcessReason
from praetor_api.kube.conditions import next_condition
from praetor_api.kube.objects import Condition, ConditionStatus


class Silence(Enum):
    """That a device is silent together with many others, which is not its own failure.

    STORM: others of the fleet are heard. FLEET: none is.
    """

    STORM = auto()
    FLEET = auto()


Connected: TypeAlias = bool | Silence | None
"""Whether a device is connected; None while that is not known."""

SILENCE = "nothing was heard from the device for longer than its stale limit"
STORM = "the device fell silent together with many others; the network is the likely cause"
FLEET = "no device of the fleet is heard; the network to the gateway is the likely cause"
_CONNECTED: Mapping[bool | Silence, tuple[ConditionStatus, ProcessReason, str]] = {
    True: (ConditionStatus.TRUE, ProcessReason.HEARD, ""),
    False: (ConditionStatus.FALSE, ProcessReason.SILENT, SILENCE),
    Silence.STORM: (ConditionStatus.FALSE, ProcessReason.STORM, STORM),
    Silence.FLEET: (ConditionStatus.UNKNOWN, ProcessReason.FLEET_SILENT, FLEET),
}
_SAID: Mapping[tuple[str, str], Connected] = {
    (status, reason): connected for connected, (status, reason, _) in _CONNECTED.items()
}
_OTHERWISE: Mapping[str, Connected] = {ConditionStatus.TRUE: True, ConditionStatus.FALSE: False}

ABSENT: Mapping[str, str] = {
    ProcessReason.NEVER_CONNECTED: "the device has never connected; check that its agent runs, its token, and the "
    "address of the gateway",
    ProcessReason.NOT_DECLARED: "no device has the kind and name in spec.deviceRef, and no agent of this name has ever "
    "connected; check the name, or declare the device",
}
"""Why a device was never heard, and what to do about it."""


def _said(conditions: tuple[Condition, ...]) -> Condition | None:
    """Return AgentConnected, by a loop of its own: each event asks for it several times."""
    for condition in conditions:
        if condition.type == ConditionType.AGENT_CONNECTED:
            return condition
    return None


def set_connected(
    conditions: dict[str, Condition], connected: bool | Silence, generation: int | None, now: datetime
) -> None:
    """Set AgentConnected; a condition that says so already is left untouched."""
    known = conditions.get(ConditionType.AGENT_CONNECTED)
    status, reason, message = _CONNECTED[connected]
    if not says(() if known is None else (known,), connected):
        conditions[ConditionType.AGENT_CONNECTED] = next_condition(
            known,
            type=ConditionType.AGENT_CONNECTED,
            status=status,
            reason=reason,
            message=message,
            observed_generation=generation,
            now=now,
        )


def says(conditions: tuple[Condition, ...], connected: bool | Silence) -> bool:
    """Return whether AgentConnected says *connected*, for whichever reason it is True or False."""
    condition = _said(conditions)
    status, reason, _ = _CONNECTED[connected]
    if condition is None or condition.status is not status:
        return False
    return status is not ConditionStatus.UNKNOWN or condition.reason == reason


def shows_absence(conditions: tuple[Condition, ...], absence: ProcessReason) -> bool:
    """Return whether AgentConnected says *absence*, or something better: that a device was heard once."""
    known = _said(conditions)
    return known is not None and (known.reason == absence or known.reason not in ABSENT)


def set_absent(conditions: dict[str, Condition], absence: ProcessReason, generation: int, now: datetime) -> None:
    """Set AgentConnected of a device that was never heard to Unknown."""
    known = conditions.get(ConditionType.AGENT_CONNECTED)
    if not shows_absence(() if known is None else (known,), absence):
        conditions[ConditionType.AGENT_CONNECTED] = next_condition(
            known,
            type=ConditionType.AGENT_CONNECTED,
            status=ConditionStatus.UNKNOWN,
            reason=absence,
            message=ABSENT[absence],
            observed_generation=generation,
            now=now,
        )


def set_fetched(conditions: dict[str, Condition], fetched: int | None) -> None:
    """Correct what a disconnected device is said to have fetched: it fetched more, but was not heard for long."""
    known = conditions[ConditionType.AGENT_CONNECTED]
    if known.status is ConditionStatus.FALSE and (fetched or 0) > (known.observed_generation or 0):
        conditions[ConditionType.AGENT_CONNECTED] = evolve(known, observed_generation=fetched)


def fetched_generation(conditions: tuple[Condition, ...]) -> int:
    """Return the generation that a disconnected device is said to have fetched; 0 when it is not known."""
    condition = _said(conditions)
    return (condition.observed_generation or 0) if condition is not None else 0


def connection(conditions: tuple[Condition, ...]) -> Connected:
    """Return what AgentConnected says; None while no replica has decided yet."""
    condition = _said(conditions)
    if condition is None:
        return None
    return _SAID.get((condition.status, condition.reason), _OTHERWISE.get(condition.status))

# SPDX-License-Identifier: Apache-2.0
"""Which events report the step from one status to the next: transitions only. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeAlias

from attrs import frozen

from praetor_api.conditions import STORM_EVENT, STORM_OVER_EVENT, ConditionType, ProcessReason
from praetor_api.kube.conditions import get_condition, is_true
from praetor_api.kube.objects import Condition, ConditionStatus, DeviceProcessStatus, NetworkSwitchStatus, Phase
from praetor_gateway.status.connected import connection

AnyStatus: TypeAlias = DeviceProcessStatus | NetworkSwitchStatus


class EventReason(StrEnum):
    """What happened, in one word."""

    AGENT_CONNECTED = "AgentConnected"
    AGENT_DISCONNECTED = "AgentDisconnected"
    MANY_AGENTS_SILENT = STORM_EVENT
    STORM_OVER = STORM_OVER_EVENT
    ANOTHER_JUDGE = "AnotherJudge"
    REFUSED = "Refused"
    NAME_CONFLICT = "NameConflict"
    DEVICE_DUPLICATE = "DeviceDuplicate"
    DIGESTS_LEFT_OUT = "DigestsLeftOut"
    SPEC_OBSERVED = "SpecObserved"
    SPEC_WARNING = "SpecWarning"
    ROLLED_BACK = "RolledBack"
    UPDATE_HELD = "UpdateHeld"
    UPDATE_RELEASED = "UpdateReleased"
    PROCESS_STARTED = "ProcessStarted"
    PROCESS_RESTARTED = "ProcessRestarted"
    PROCESS_SUCCEEDED = "ProcessSucceeded"
    PROCESS_FAILED = "ProcessFailed"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"

    @property
    def type(self) -> str:
        """The event's type: `Warning` where a person should act."""
        return "Warning" if self in _WARNINGS else "Normal"


_WARNINGS = {
    EventReason.AGENT_DISCONNECTED,
    EventReason.MANY_AGENTS_SILENT,
    EventReason.ANOTHER_JUDGE,
    EventReason.REFUSED,
    EventReason.NAME_CONFLICT,
    EventReason.DEVICE_DUPLICATE,
    EventReason.DIGESTS_LEFT_OUT,
    EventReason.SPEC_WARNING,
    EventReason.ROLLED_BACK,
    EventReason.UPDATE_HELD,
    EventReason.PROCESS_RESTARTED,
    EventReason.PROCESS_FAILED,
    EventReason.UNHEALTHY,
}


@frozen
class StatusEvent:
    """Something worth an event; *note* is for people and may hold text from the device."""

    reason: EventReason
    note: str


def of_process(old: DeviceProcessStatus, new: DeviceProcessStatus, *, has_switch: bool) -> tuple[StatusEvent, ...]:
    """Return what happened to a process; its device's connection is reported on the switch if it *has_switch*."""
    found = tuple(_of_standing(old.conditions, new.conditions))
    if found:  # what else changed is no event of the process, which is not to run
        return found
    found = (*_of_spec(old, new), *_of_run(old, new))
    return found if has_switch else (*found, *_of_connection(old.conditions, new.conditions))


def of_switch(old: NetworkSwitchStatus, new: NetworkSwitchStatus) -> tuple[StatusEvent, ...]:
    """Return what happened to a device."""
    found = [*_of_standing(old.conditions, new.conditions), *_of_connection(old.conditions, new.conditions)]
    if _became_true(old, new, ConditionType.DUPLICATE):
        found.append(StatusEvent(EventReason.DEVICE_DUPLICATE, _message(new.conditions, ConditionType.DUPLICATE)))
    return tuple(found)


def _of_standing(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> Iterator[StatusEvent]:
    for kind, reason in (
        (ConditionType.REFUSED, EventReason.REFUSED),
        (ConditionType.NAME_CONFLICT, EventReason.NAME_CONFLICT),
    ):
        condition = get_condition(new, kind)
        if condition is not None and is_true(new, kind) and condition != get_condition(old, kind):
            yield StatusEvent(reason, f"{condition.reason}: {condition.message}")


def _of_connection(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> Iterator[StatusEvent]:
    before, after = connection(old), connection(new)
    if after and not before:
        yield StatusEvent(EventReason.AGENT_CONNECTED, "the agent is connected")
    elif after is False and before:
        yield StatusEvent(EventReason.AGENT_DISCONNECTED, _message(new, ConditionType.AGENT_CONNECTED))


def _of_spec(old: DeviceProcessStatus, new: DeviceProcessStatus) -> Iterator[StatusEvent]:
    if _became_true(old, new, ConditionType.SPEC_OBSERVED) or (
        is_true(new.conditions, ConditionType.SPEC_OBSERVED) and old.observed_spec_hash != new.observed_spec_hash
    ):
        yield StatusEvent(EventReason.SPEC_OBSERVED, f"the device acts on generation {new.observed_generation}")
    if _became_true(old, new, ConditionType.SPEC_WARNING):
        yield StatusEvent(EventReason.SPEC_WARNING, _message(new.conditions, ConditionType.SPEC_WARNING))
    rolled_back = is_true(new.conditions, ConditionType.ROLLED_BACK)
    if rolled_back and (
        not is_true(old.conditions, ConditionType.ROLLED_BACK) or old.failed_spec_hash != new.failed_spec_hash
    ):
        yield StatusEvent(EventReason.ROLLED_BACK, _message(new.conditions, ConditionType.ROLLED_BACK))
    if _became_true(old, new, ConditionType.UPDATE_HELD):
        yield StatusEvent(EventReason.UPDATE_HELD, _message(new.conditions, ConditionType.UPDATE_HELD))
    elif _became_true(new, old, ConditionType.UPDATE_HELD):
        yield StatusEvent(EventReason.UPDATE_RELEASED, "the device takes changes again")


def _of_run(old: DeviceProcessStatus, new: DeviceProcessStatus) -> Iterator[StatusEvent]:
    if _became_true(old, new, ConditionType.PROCESS_STARTED) and new.phase is not Phase.SUCCEEDED:
        yield StatusEvent(EventReason.PROCESS_STARTED, "the process was started")
    if (new.restart_count or 0) > (old.restart_count or 0) and old.observed_spec_hash == new.observed_spec_hash:
        times = f"{new.restart_count} time{'' if new.restart_count == 1 else 's'}"
        yield StatusEvent(EventReason.PROCESS_RESTARTED, f"the process was restarted, {times} by now")
    if new.phase is not old.phase:
        yield from _of_phase(new)
    if _became_true(old, new, ConditionType.HEALTHY):
        yield StatusEvent(EventReason.HEALTHY, "the process is healthy")
    elif _fell_ill(old, new):
        yield StatusEvent(EventReason.UNHEALTHY, _message(new.conditions, ConditionType.HEALTHY))


def _fell_ill(old: DeviceProcessStatus, new: DeviceProcessStatus) -> bool:
    """Return whether a check failed, or a healthy process ended that no newer spec replaces.

    A version that was just started is not checked yet, and the one before it ended for its sake.
    """
    before, after = (get_condition(status.conditions, ConditionType.HEALTHY) for status in (old, new))
    if after is None or after.status is not ConditionStatus.FALSE:
        return False
    if after.reason == ProcessReason.UNHEALTHY:
        return before is None or before.reason != ProcessReason.UNHEALTHY
    return is_true(old.conditions, ConditionType.HEALTHY) and is_true(new.conditions, ConditionType.SPEC_OBSERVED)


def _of_phase(new: DeviceProcessStatus) -> Iterator[StatusEvent]:
    if new.phase is Phase.SUCCEEDED:
        yield StatusEvent(EventReason.PROCESS_SUCCEEDED, "the process ran to completion")
    elif new.phase is Phase.FAILED:
        note = _message(new.conditions, ConditionType.PROCESS_STARTED)
        yield StatusEvent(EventReason.PROCESS_FAILED, note or f"the process ended with exit code {new.exit_code}")


def _became_true(old: AnyStatus, new: AnyStatus, kind: ConditionType) -> bool:
    return is_true(new.conditions, kind) and not is_true(old.conditions, kind)


def _message(conditions: tuple[Condition, ...], kind: ConditionType) -> str:
    condition = get_condition(conditions, kind)
    return (condition.message or condition.reason) if condition is not None else ""

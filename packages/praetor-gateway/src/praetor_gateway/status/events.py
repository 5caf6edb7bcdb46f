# SPDX-License-Identifier: Apache-2.0
"""Which events report the step from one status to the next: transitions only. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TypeAlias

from attrs import frozen

from praetor_api.conditions import STORM_EVENT, STORM_OVER_EVENT, ConditionType, ProcessReason
from praetor_api.kube.objects import Condition, ConditionStatus, DeviceProcessStatus, NetworkSwitchStatus, Phase
from praetor_gateway.status.connected import connection

Conditions: TypeAlias = Mapping[str, Condition]


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
    before, after = _by_type(old), _by_type(new)
    found = tuple(_of_standing(before, after))
    if found:  # what else changed is no event of the process, which is not to run
        return found
    found = (*_of_spec(old, new, before, after), *_of_run(old, new, before, after))
    return found if has_switch else (*found, *_of_connection(old.conditions, new.conditions))


def of_switch(old: NetworkSwitchStatus, new: NetworkSwitchStatus) -> tuple[StatusEvent, ...]:
    """Return what happened to a device."""
    before, after = _by_type(old), _by_type(new)
    found = [*_of_standing(before, after), *_of_connection(old.conditions, new.conditions)]
    if _became_true(before, after, ConditionType.DUPLICATE):
        found.append(StatusEvent(EventReason.DEVICE_DUPLICATE, _message(after, ConditionType.DUPLICATE)))
    return tuple(found)


def _by_type(status: DeviceProcessStatus | NetworkSwitchStatus) -> Conditions:
    return {condition.type: condition for condition in status.conditions}


def _of_standing(before: Conditions, after: Conditions) -> Iterator[StatusEvent]:
    for kind, reason in (
        (ConditionType.REFUSED, EventReason.REFUSED),
        (ConditionType.NAME_CONFLICT, EventReason.NAME_CONFLICT),
    ):
        condition = after.get(kind)
        if condition is not None and _is_true(after, kind) and condition != before.get(kind):
            yield StatusEvent(reason, f"{condition.reason}: {condition.message}")


def _of_connection(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> Iterator[StatusEvent]:
    before, after = connection(old), connection(new)
    if after and not before:
        yield StatusEvent(EventReason.AGENT_CONNECTED, "the agent is connected")
    elif after is False and before:
        message = _message({condition.type: condition for condition in new}, ConditionType.AGENT_CONNECTED)
        yield StatusEvent(EventReason.AGENT_DISCONNECTED, message)


def _of_spec(
    old: DeviceProcessStatus, new: DeviceProcessStatus, before: Conditions, after: Conditions
) -> Iterator[StatusEvent]:
    observed = ConditionType.SPEC_OBSERVED
    if _is_true(after, observed) and (
        not _is_true(before, observed) or old.observed_spec_hash != new.observed_spec_hash
    ):
        yield StatusEvent(EventReason.SPEC_OBSERVED, f"the device acts on generation {new.observed_generation}")
    if _became_true(before, after, ConditionType.SPEC_WARNING):
        yield StatusEvent(EventReason.SPEC_WARNING, _message(after, ConditionType.SPEC_WARNING))
    rolled_back = ConditionType.ROLLED_BACK
    if _is_true(after, rolled_back) and (
        not _is_true(before, rolled_back) or old.failed_spec_hash != new.failed_spec_hash
    ):
        yield StatusEvent(EventReason.ROLLED_BACK, _message(after, rolled_back))
    if _became_true(before, after, ConditionType.UPDATE_HELD):
        yield StatusEvent(EventReason.UPDATE_HELD, _message(after, ConditionType.UPDATE_HELD))
    elif _became_true(after, before, ConditionType.UPDATE_HELD):
        yield StatusEvent(EventReason.UPDATE_RELEASED, "the device takes changes again")


def _of_run(
    old: DeviceProcessStatus, new: DeviceProcessStatus, before: Conditions, after: Conditions
) -> Iterator[StatusEvent]:
    if _became_true(before, after, ConditionType.PROCESS_STARTED) and new.phase is not Phase.SUCCEEDED:
        yield StatusEvent(EventReason.PROCESS_STARTED, "the process was started")
    if (new.restart_count or 0) > (old.restart_count or 0) and old.observed_spec_hash == new.observed_spec_hash:
        times = f"{new.restart_count} time{'' if new.restart_count == 1 else 's'}"
        yield StatusEvent(EventReason.PROCESS_RESTARTED, f"the process was restarted, {times} by now")
    if new.phase is not old.phase:
        yield from _of_phase(new, after)
    if _became_true(before, after, ConditionType.HEALTHY):
        yield StatusEvent(EventReason.HEALTHY, "the process is healthy")
    elif _fell_ill(before, after):
        yield StatusEvent(EventReason.UNHEALTHY, _message(after, ConditionType.HEALTHY))


def _fell_ill(before: Conditions, after: Conditions) -> bool:
    """Return whether a check failed, or a healthy process ended that no newer spec replaces.

    A version that was just started is not checked yet, and the one before it ended for its sake.
    """
    was, now = before.get(ConditionType.HEALTHY), after.get(ConditionType.HEALTHY)
    if now is None or now.status is not ConditionStatus.FALSE:
        return False
    if now.reason == ProcessReason.UNHEALTHY:
        return was is None or was.reason != ProcessReason.UNHEALTHY
    return _is_true(before, ConditionType.HEALTHY) and _is_true(after, ConditionType.SPEC_OBSERVED)


def _of_phase(new: DeviceProcessStatus, after: Conditions) -> Iterator[StatusEvent]:
    if new.phase is Phase.SUCCEEDED:
        yield StatusEvent(EventReason.PROCESS_SUCCEEDED, "the process ran to completion")
    elif new.phase is Phase.FAILED:
        note = _message(after, ConditionType.PROCESS_STARTED)
        yield StatusEvent(EventReason.PROCESS_FAILED, note or f"the process ended with exit code {new.exit_code}")


def _is_true(conditions: Conditions, kind: ConditionType) -> bool:
    condition = conditions.get(kind)
    return condition is not None and condition.status is ConditionStatus.TRUE


def _became_true(before: Conditions, after: Conditions, kind: ConditionType) -> bool:
    return _is_true(after, kind) and not _is_true(before, kind)


def _message(conditions: Conditions, kind: ConditionType) -> str:
    condition = conditions.get(kind)
    return (condition.message or condition.reason) if condition is not None else ""

"""Which events tell of the step from one status to the next: transitions only. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from praetor_api.kube.conditions import get_condition, is_true
from praetor_api.kube.objects import Condition, DeviceProcessStatus, NetworkSwitchStatus, Phase
from praetor_gateway.status.merge import connection
from praetor_gateway.status.reasons import ConditionType, EventReason, EventType


@frozen(kw_only=True)
class Transition:
    """Something worth an event; *note* is for people and may hold text from the device."""

    type: EventType
    reason: EventReason
    note: str


def of_process(old: DeviceProcessStatus, new: DeviceProcessStatus, *, has_switch: bool) -> tuple[Transition, ...]:
    """Return what happened to a process; its device's connection is told on the switch when it *has_switch*."""
    found = list(_of_spec(old, new)) + list(_of_run(old, new))
    if not has_switch:
        found += _of_connection(old.conditions, new.conditions)
    return tuple(found)


def of_switch(old: NetworkSwitchStatus, new: NetworkSwitchStatus) -> tuple[Transition, ...]:
    """Return what happened to a device."""
    return tuple(_of_connection(old.conditions, new.conditions))


def _of_connection(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> Iterator[Transition]:
    before, after = connection(old), connection(new)
    if after and not before:
        yield _normal(EventReason.AGENT_CONNECTED, "the agent is connected")
    elif after is False and before:
        yield _warning(EventReason.AGENT_DISCONNECTED, _message(new, ConditionType.AGENT_CONNECTED))


def _of_spec(old: DeviceProcessStatus, new: DeviceProcessStatus) -> Iterator[Transition]:
    if _became_true(old, new, ConditionType.SPEC_OBSERVED) or (
        is_true(new.conditions, ConditionType.SPEC_OBSERVED) and old.observed_spec_hash != new.observed_spec_hash
    ):
        yield _normal(EventReason.SPEC_OBSERVED, f"the device acts on generation {new.observed_generation}")
    if _became_true(old, new, ConditionType.SPEC_WARNING):
        yield _warning(EventReason.SPEC_WARNING, _message(new.conditions, ConditionType.SPEC_WARNING))
    rolled_back = is_true(new.conditions, ConditionType.ROLLED_BACK)
    if rolled_back and (
        not is_true(old.conditions, ConditionType.ROLLED_BACK) or old.failed_spec_hash != new.failed_spec_hash
    ):
        yield _warning(EventReason.ROLLED_BACK, _message(new.conditions, ConditionType.ROLLED_BACK))
    if _became_true(old, new, ConditionType.UPDATE_HELD):
        yield _warning(EventReason.UPDATE_HELD, _message(new.conditions, ConditionType.UPDATE_HELD))
    elif _became_true(new, old, ConditionType.UPDATE_HELD):
        yield _normal(EventReason.UPDATE_RELEASED, "the device takes changes again")


def _of_run(old: DeviceProcessStatus, new: DeviceProcessStatus) -> Iterator[Transition]:
    if _became_true(old, new, ConditionType.PROCESS_STARTED) and new.phase is not Phase.SUCCEEDED:
        yield _normal(EventReason.PROCESS_STARTED, "the process was started")
    if (new.restart_count or 0) > (old.restart_count or 0) and old.observed_spec_hash == new.observed_spec_hash:
        yield _warning(EventReason.PROCESS_RESTARTED, f"the process was restarted, {new.restart_count} times by now")
    if new.phase is not old.phase:
        yield from _of_phase(new)
    if _became_true(old, new, ConditionType.HEALTHY):
        yield _normal(EventReason.HEALTHY, "the process is healthy")
    elif is_true(old.conditions, ConditionType.HEALTHY) and not is_true(new.conditions, ConditionType.HEALTHY):
        yield _warning(EventReason.UNHEALTHY, _message(new.conditions, ConditionType.HEALTHY))


def _of_phase(new: DeviceProcessStatus) -> Iterator[Transition]:
    if new.phase is Phase.SUCCEEDED:
        yield _normal(EventReason.PROCESS_SUCCEEDED, "the process ran to completion")
    elif new.phase is Phase.FAILED:
        note = _message(new.conditions, ConditionType.PROCESS_STARTED)
        yield _warning(EventReason.PROCESS_FAILED, note or f"the process ended with exit code {new.exit_code}")


def _became_true(old: DeviceProcessStatus, new: DeviceProcessStatus, kind: ConditionType) -> bool:
    return is_true(new.conditions, kind) and not is_true(old.conditions, kind)


def _message(conditions: tuple[Condition, ...], kind: ConditionType) -> str:
    condition = get_condition(conditions, kind)
    return (condition.message or condition.reason) if condition is not None else ""


def _normal(reason: EventReason, note: str) -> Transition:
    return Transition(type=EventType.NORMAL, reason=reason, note=note)


def _warning(reason: EventReason, note: str) -> Transition:
    return Transition(type=EventType.WARNING, reason=reason, note=note)

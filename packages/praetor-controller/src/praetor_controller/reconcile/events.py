# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes events that a change of a deployment's conditions and a round of writes are worth. Pure."""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import Condition


class EventReason(StrEnum):
    """What happened to a deployment, in one word."""

    ROLLOUT_STARTED = "RolloutStarted"
    ROLLOUT_COMPLETE = "RolloutComplete"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    ROLLOUT_PAUSED = "RolloutPaused"
    ROLLOUT_STOPPED = "RolloutStopped"
    INVALID_SPEC = "InvalidSpec"
    REFERENCE_PENDING = "ReferencePending"
    NO_DEVICES = "NoDevices"
    REMOVAL_HELD = "RemovalHeld"
    WAVE_MATCHES_NOTHING = "WaveMatchesNothing"
    WAVE_HAS_NO_ELIGIBLE_DEVICE = "WaveHasNoEligibleDevice"
    OVERRIDE_INVALID = "OverrideInvalid"
    WAVE_UNCHANGED = "WaveUnchanged"
    WAVE_LOST_ITS_DEVICES = "WaveLostItsDevices"
    WAVE_FAILED = "WaveFailed"
    BUDGET_MATCHES_NOTHING = "BudgetMatchesNothing"
    ADOPTED = "AdoptedProcesses"
    CREATED = "CreatedProcesses"
    UPDATED = "UpdatedProcesses"
    DELETED = "DeletedProcesses"
    WRITE_REFUSED = "WriteRefused"
    GATEWAY_UNAVAILABLE = "GatewayUnavailable"
    OVERLAP = "Overlap"
    KINDS_MISSING = "KindsMissing"


_TRANSITIONS = {
    DeploymentReason.ROLLOUT_IN_PROGRESS: ("Normal", EventReason.ROLLOUT_STARTED),
    DeploymentReason.NEW_REVISION_ROLLED_OUT: ("Normal", EventReason.ROLLOUT_COMPLETE),
    DeploymentReason.PROGRESS_DEADLINE_EXCEEDED: ("Warning", EventReason.PROGRESS_DEADLINE_EXCEEDED),
    DeploymentReason.DEPLOYMENT_PAUSED: ("Normal", EventReason.ROLLOUT_PAUSED),
    DeploymentReason.FAILURE_POLICY: ("Warning", EventReason.ROLLOUT_STOPPED),
    DeploymentReason.GATEWAY_UNAVAILABLE: ("Warning", EventReason.GATEWAY_UNAVAILABLE),
    DeploymentReason.INVALID_SPEC: ("Warning", EventReason.INVALID_SPEC),
    DeploymentReason.REFERENCE_PENDING: ("Warning", EventReason.REFERENCE_PENDING),
    DeploymentReason.NO_DEVICES: ("Warning", EventReason.NO_DEVICES),
    DeploymentReason.WAVE_MATCHES_NOTHING: ("Warning", EventReason.WAVE_MATCHES_NOTHING),
    DeploymentReason.WAVE_HAS_NO_ELIGIBLE_DEVICE: ("Warning", EventReason.WAVE_HAS_NO_ELIGIBLE_DEVICE),
    DeploymentReason.WAVE_UNCHANGED: ("Warning", EventReason.WAVE_UNCHANGED),
    DeploymentReason.WAVE_LOST_ITS_DEVICES: ("Warning", EventReason.WAVE_LOST_ITS_DEVICES),
    DeploymentReason.WAVE_FAILED: ("Warning", EventReason.WAVE_FAILED),
    DeploymentReason.BUDGET_MATCHES_NOTHING: ("Warning", EventReason.BUDGET_MATCHES_NOTHING),
}


_ADDED = (
    (ConditionType.REMOVAL_HELD, EventReason.REMOVAL_HELD),
    (ConditionType.OVERLAP, EventReason.OVERLAP),
    (ConditionType.OVERRIDE_INVALID, EventReason.OVERRIDE_INVALID),
    (ConditionType.KINDS_MISSING, EventReason.KINDS_MISSING),
)
"""Conditions that are there only while there is something to say: the first time is an event."""


@frozen
class DeploymentEvent:
    """An event about a deployment; the fields are those of events.k8s.io/v1."""

    type: str
    reason: EventReason
    action: str
    note: str


def transition_events(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> tuple[DeploymentEvent, ...]:
    """Return the events of the transition from conditions *old* to *new*, as far as it is worth any."""
    added = ((reason, get_condition(new, kind)) for kind, reason in _ADDED if get_condition(old, kind) is None)
    events = (DeploymentEvent("Warning", reason, "Rollout", each.message) for reason, each in added if each is not None)
    return (*_progress_events(old, new), *events)


def _progress_events(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> tuple[DeploymentEvent, ...]:
    before, after = get_condition(old, ConditionType.PROGRESSING), get_condition(new, ConditionType.PROGRESSING)
    if after is None or (before is not None and before.reason == after.reason):
        return ()
    found = _TRANSITIONS.get(DeploymentReason(after.reason))
    return (DeploymentEvent(found[0], found[1], "Rollout", after.message),) if found else ()


def write_events(
    created: int, updated: int, deleted: int, refused: str, adopted: int = 0
) -> tuple[DeploymentEvent, ...]:
    """Return one event for each kind of write that happened."""
    counted = (
        ("Adopt", EventReason.ADOPTED, adopted),
        ("Create", EventReason.CREATED, created),
        ("Update", EventReason.UPDATED, updated),
        ("Delete", EventReason.DELETED, deleted),
    )
    events = [
        DeploymentEvent(
            "Normal", reason, action, f"{action.lower().removesuffix('e')}ed {count} process{'es' if count > 1 else ''}"
        )
        for action, reason, count in counted
        if count
    ]
    if refused:
        events.append(
            DeploymentEvent("Warning", EventReason.WRITE_REFUSED, "Rollout", f"the API refused a process: {refused}")
        )
    return tuple(events)

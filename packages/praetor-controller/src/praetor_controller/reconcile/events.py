# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes events that a change of a deployment's conditions and a round of writes are worth. Pure."""

from __future__ import annotations

from attrs import frozen

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import Condition

_TRANSITIONS = {
    DeploymentReason.ROLLOUT_IN_PROGRESS: ("Normal", "RolloutStarted"),
    DeploymentReason.NEW_REVISION_ROLLED_OUT: ("Normal", "RolloutComplete"),
    DeploymentReason.PROGRESS_DEADLINE_EXCEEDED: ("Warning", "ProgressDeadlineExceeded"),
    DeploymentReason.DEPLOYMENT_PAUSED: ("Normal", "RolloutPaused"),
    DeploymentReason.FAILURE_POLICY: ("Warning", "RolloutStopped"),
    DeploymentReason.INVALID_SPEC: ("Warning", "InvalidSpec"),
}


@frozen
class DeploymentEvent:
    """An event about a deployment; the fields are those of events.k8s.io/v1."""

    type: str
    reason: str
    action: str
    note: str


def transition_events(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> tuple[DeploymentEvent, ...]:
    """Return the event of the transition from conditions *old* to *new*, if it is worth one."""
    before, after = get_condition(old, ConditionType.PROGRESSING), get_condition(new, ConditionType.PROGRESSING)
    if after is None or (before is not None and before.reason == after.reason):
        return ()
    found = _TRANSITIONS.get(DeploymentReason(after.reason))
    return (DeploymentEvent(found[0], found[1], "Rollout", after.message),) if found else ()


def write_events(created: int, updated: int, deleted: int, refused: str) -> tuple[DeploymentEvent, ...]:
    """Return one event for each kind of write that happened."""
    counted = (("Create", "Created", created), ("Update", "Updated", updated), ("Delete", "Deleted", deleted))
    events = [
        DeploymentEvent(
            "Normal", f"{done}Processes", action, f"{done.lower()} {count} process{'es' if count > 1 else ''}"
        )
        for action, done, count in counted
        if count
    ]
    if refused:
        events.append(DeploymentEvent("Warning", "WriteRefused", "Rollout", f"the API refused a process: {refused}"))
    return tuple(events)

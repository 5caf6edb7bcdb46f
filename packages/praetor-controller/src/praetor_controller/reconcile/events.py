"""Which events a change of a deployment's conditions and a round of writes are worth. Pure: transitions only."""

from __future__ import annotations

from attrs import frozen

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import Condition

_WORTH_TELLING = {
    DeploymentReason.ROLLOUT_IN_PROGRESS: ("Normal", "RolloutStarted"),
    DeploymentReason.NEW_REVISION_ROLLED_OUT: ("Normal", "RolloutComplete"),
    DeploymentReason.PROGRESS_DEADLINE_EXCEEDED: ("Warning", "ProgressDeadlineExceeded"),
    DeploymentReason.DEPLOYMENT_PAUSED: ("Normal", "RolloutPaused"),
    DeploymentReason.FAILURE_POLICY: ("Warning", "RolloutStopped"),
    DeploymentReason.INVALID_SPEC: ("Warning", "InvalidSpec"),
}


@frozen
class Notice:
    """An event to record about a deployment."""

    type: str
    reason: str
    action: str
    note: str


def transition_notices(old: tuple[Condition, ...], new: tuple[Condition, ...]) -> tuple[Notice, ...]:
    """Return what is worth telling about the way from *old* to *new*."""
    before, after = get_condition(old, ConditionType.PROGRESSING), get_condition(new, ConditionType.PROGRESSING)
    if after is None or (before is not None and before.reason == after.reason):
        return ()
    told = _WORTH_TELLING.get(DeploymentReason(after.reason))
    return (Notice(told[0], told[1], "Rollout", after.message),) if told else ()


def write_notices(created: int, updated: int, deleted: int, refused: str) -> tuple[Notice, ...]:
    """Return one event for each kind of write that happened."""
    counted = (("Create", "Created", created), ("Update", "Updated", updated), ("Delete", "Deleted", deleted))
    notices = [
        Notice("Normal", f"{done}Processes", action, f"{done.lower()} {count} process{'es' if count > 1 else ''}")
        for action, done, count in counted
        if count
    ]
    if refused:
        notices.append(Notice("Warning", "WriteRefused", "Rollout", f"the API refused a process: {refused}"))
    return tuple(notices)

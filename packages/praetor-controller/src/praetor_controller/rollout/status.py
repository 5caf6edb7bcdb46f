"""The status of a deployment, from what a pass counted, and the merge patch that writes it. Pure.

Available: no more devices are unavailable than maxUnavailable, and at least one is available. Progressing: as a
Deployment's, with the deadline counted from the last step forward (an offer, or a device that became available) or
from the rollout's beginning. A revision is the current one once every device has it that can be had, and at least one
has shown it: where there was none to show anything, the next ones still get it in waves and under the failure policy.
For the same reason a first rollout waits a minute after the last step forward for devices that have never connected:
the first agents of a new site do not speak for those that are still starting.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import frozen

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.codec import encode
from praetor_api.kube.conditions import get_condition, set_condition, without_condition
from praetor_api.kube.objects import Condition, ConditionStatus, StrategyType
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import Counts, RolloutStatus

_SETTLED = frozenset(
    {
        ReasonCode.UP_TO_DATE,
        ReasonCode.IN_MAINTENANCE,
        ReasonCode.UPDATE_HELD,
        ReasonCode.OFFLINE_SINCE,
        ReasonCode.NEVER_CONNECTED,
    }
)

CONNECT_S = 60.0
"""So long after the last step forward a first rollout waits for devices that have never connected."""

_PATIENT = frozenset({ReasonCode.SOAKING, ReasonCode.AWAITING_APPROVAL})


@frozen(kw_only=True)
class Facts:
    """What a pass found out: *limit* is maxUnavailable as a number, *progress_at* the last step forward (epoch).

    *wave* is the one that is being rolled out. *stopped* is why the failure policy stopped the revision, empty when it
    did not, and *rolled_back* whether it is taken back.
    """

    counts: Counts
    reasons: Mapping[ReasonCode, int]
    limit: int
    progress_at: float
    wave: str | None = None
    stopped: str = ""
    rolled_back: bool = False


@frozen
class _Verdict:
    status: ConditionStatus
    reason: DeploymentReason
    message: str
    deadline: float | None = None


def rollout_status(deployment: DeploymentRow, facts: Facts, now: datetime) -> tuple[RolloutStatus, float | None]:
    """Return the status, and when time alone may change it (epoch seconds; None when it does not)."""
    revision = deployment.template.revision
    settled = not facts.stopped and all(code in _SETTLED for code in facts.reasons)
    connects_by = _connects_by(deployment, facts)
    shown = settled and ReasonCode.UP_TO_DATE in facts.reasons and connects_by <= now.timestamp()
    complete = shown or (settled and not facts.reasons)
    progressing = _progressing(deployment, facts, now, complete=complete)
    conditions = deployment.status.conditions
    for type_, verdict in ((ConditionType.AVAILABLE, _available(facts)), (ConditionType.PROGRESSING, progressing)):
        conditions = _set(conditions, type_, verdict, deployment.generation, now)
    conditions = _paused(conditions, deployment, facts, now)
    conditions = _rolled_back(conditions, deployment, facts, now)
    status = RolloutStatus(
        observed_generation=deployment.generation,
        counts=facts.counts,
        current_revision=revision if shown else deployment.status.current_revision,
        update_revision=revision,
        reasons=facts.reasons,
        conditions=conditions,
        wave=None if complete else facts.wave,
        failed_revision=revision if facts.stopped else None,
    )
    deadlines = [each for each in (progressing.deadline, connects_by) if each is not None and each > now.timestamp()]
    return status, min(deadlines, default=None)


def _connects_by(deployment: DeploymentRow, facts: Facts) -> float:
    """Return until when devices that have never connected are waited for; 0 when they are not."""
    if ReasonCode.NEVER_CONNECTED not in facts.reasons or deployment.status.current_revision is not None:
        return 0.0
    return facts.progress_at + min(CONNECT_S, float(deployment.policy.progress_deadline_seconds))


def fault_status(deployment: DeploymentRow, fault: str, now: datetime) -> RolloutStatus:
    """Return the status of a deployment that cannot be acted on: nothing is counted, the condition says why."""
    verdict = _Verdict(ConditionStatus.FALSE, DeploymentReason.INVALID_SPEC, fault)
    return RolloutStatus(
        observed_generation=deployment.generation,
        counts=Counts(),
        current_revision=deployment.status.current_revision,
        update_revision=deployment.template.revision,
        reasons={},
        failed_revision=deployment.status.failed_revision,
        conditions=_set(deployment.status.conditions, ConditionType.PROGRESSING, verdict, deployment.generation, now),
    )


def was_rolled_out(deployment: DeploymentRow) -> bool:
    """Tell whether the stored status says that the present template was rolled out."""
    status, revision = deployment.status, deployment.template.revision
    condition = get_condition(status.conditions, ConditionType.PROGRESSING)
    return (
        status.current_revision == status.update_revision == revision
        and condition is not None
        and condition.reason == DeploymentReason.NEW_REVISION_ROLLED_OUT
    )


def rollout_start(deployment: DeploymentRow, started_at: float, now: datetime) -> datetime:
    """Return since when the progress deadline runs: since *started_at* (epoch seconds), or since a pause ended."""
    began = datetime.fromtimestamp(started_at, now.tzinfo)
    progressing = get_condition(deployment.status.conditions, ConditionType.PROGRESSING)
    if progressing is None or progressing.last_transition_time is None:
        return began
    if progressing.status is ConditionStatus.UNKNOWN:
        return now
    return max(began, progressing.last_transition_time) if progressing.status is ConditionStatus.TRUE else began


def _available(facts: Facts) -> _Verdict:
    counts = facts.counts
    message = f"{counts.available} of {counts.desired} devices are available"
    if counts.unavailable <= facts.limit and (counts.available or not counts.desired):
        return _Verdict(ConditionStatus.TRUE, DeploymentReason.MINIMUM_DEVICES_AVAILABLE, message)
    message += f"; at most {facts.limit} may be unavailable" if counts.available else "; at least one must be"
    return _Verdict(ConditionStatus.FALSE, DeploymentReason.TOO_MANY_UNAVAILABLE, message)


def _progressing(deployment: DeploymentRow, facts: Facts, now: datetime, *, complete: bool) -> _Verdict:
    revision, where = deployment.template.revision, _summary(facts.reasons)
    if deployment.policy.paused and not was_rolled_out(deployment):
        return _Verdict(ConditionStatus.UNKNOWN, DeploymentReason.DEPLOYMENT_PAUSED, "nothing is written while paused")
    if facts.stopped:
        return _Verdict(ConditionStatus.FALSE, DeploymentReason.FAILURE_POLICY, f"{facts.stopped}: {where}")
    if complete or was_rolled_out(deployment):
        message = f"revision {revision} was rolled out: {where}" if where else "no device matches the selector"
        return _Verdict(ConditionStatus.TRUE, DeploymentReason.NEW_REVISION_ROLLED_OUT, message)
    if deployment.strategy is StrategyType.ON_DELETE:
        message = f"revision {revision} is used as processes are deleted: {where}"
        return _Verdict(ConditionStatus.TRUE, DeploymentReason.WAITING_FOR_DELETION, message)
    if deployment.strategy is StrategyType.ROLLING_UPDATE and facts.limit == 0:
        where += "; maxUnavailable is 0, so only devices that are unavailable already are updated"
    if facts.reasons.keys() & _PATIENT:
        message = f"revision {revision} waits as asked: {where}"
        return _Verdict(ConditionStatus.TRUE, DeploymentReason.ROLLOUT_IN_PROGRESS, message)
    deadline_s = deployment.policy.progress_deadline_seconds
    deadline = facts.progress_at + deadline_s
    if now.timestamp() >= deadline:
        message = f"revision {revision} made no progress for {deadline_s} s: {where}"
        return _Verdict(ConditionStatus.FALSE, DeploymentReason.PROGRESS_DEADLINE_EXCEEDED, message)
    message = f"revision {revision} is being rolled out: {where}"
    return _Verdict(ConditionStatus.TRUE, DeploymentReason.ROLLOUT_IN_PROGRESS, message, deadline)


def _paused(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, facts: Facts, now: datetime
) -> tuple[Condition, ...]:
    if deployment.policy.paused:
        verdict = _Verdict(ConditionStatus.TRUE, DeploymentReason.DEPLOYMENT_PAUSED, "spec.paused is true")
    elif facts.stopped and not facts.rolled_back:
        verdict = _Verdict(ConditionStatus.TRUE, DeploymentReason.FAILURE_POLICY, facts.stopped)
    else:
        return without_condition(conditions, ConditionType.PAUSED)
    return _set(conditions, ConditionType.PAUSED, verdict, deployment.generation, now)


def _rolled_back(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, facts: Facts, now: datetime
) -> tuple[Condition, ...]:
    if not facts.rolled_back:
        return without_condition(conditions, ConditionType.ROLLED_BACK)
    verdict = _Verdict(ConditionStatus.TRUE, DeploymentReason.FAILURE_POLICY, facts.stopped)
    return _set(conditions, ConditionType.ROLLED_BACK, verdict, deployment.generation, now)


def _set(
    conditions: tuple[Condition, ...], type_: ConditionType, verdict: _Verdict, generation: int, now: datetime
) -> tuple[Condition, ...]:
    return set_condition(
        conditions,
        type=type_,
        status=verdict.status,
        reason=verdict.reason,
        message=verdict.message,
        observed_generation=generation,
        now=now,
    )


def _summary(reasons: Mapping[ReasonCode, int]) -> str:
    return ", ".join(f"{count} {code}" for code, count in sorted(reasons.items()))


def status_patch(stored: Mapping[str, Any], status: RolloutStatus) -> dict[str, Any]:
    """Return the merge patch that makes *status* of *stored*, a raw status; empty when they are equal."""
    wanted = _fields(status)
    patch = {name: value for name, value in wanted.items() if stored.get(name) != value}
    patch |= {name: None for name, value in _optional(status).items() if value is None and name in stored}
    if "reasons" in patch:  # a merge patch keeps what it does not name
        gone = (stored.get("reasons") or {}).keys() - wanted["reasons"].keys()
        patch["reasons"] = wanted["reasons"] | dict.fromkeys(gone)
    return patch


def _fields(status: RolloutStatus) -> dict[str, Any]:
    counts = status.counts
    fields: dict[str, Any] = {
        "observedGeneration": status.observed_generation,
        "desiredNumberScheduled": counts.desired,
        "currentNumberScheduled": counts.current,
        "updatedNumberScheduled": counts.updated,
        "numberReady": counts.ready,
        "numberAvailable": counts.available,
        "numberUnavailable": counts.unavailable,
        "updateRevision": status.update_revision,
        "reasons": {code.value: count for code, count in sorted(status.reasons.items())},
        "conditions": [encode(condition) for condition in status.conditions],
    }
    return fields | {name: value for name, value in _optional(status).items() if value is not None}


def _optional(status: RolloutStatus) -> dict[str, str | None]:
    return {
        "currentRevision": status.current_revision,
        "wave": status.wave,
        "failedRevision": status.failed_revision,
    }

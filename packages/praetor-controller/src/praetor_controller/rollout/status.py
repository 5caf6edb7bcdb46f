# SPDX-License-Identifier: Apache-2.0
"""The status of a deployment, from what a pass counted, and the merge patch that writes it. Pure.

* Available: no more devices are unavailable than maxUnavailable, and at least one is available.
* Progressing: as a Deployment's, with the deadline counted from the last step forward (a write to a device, or a device
  that became available) or from the rollout's beginning.
* A revision is the current one once every device has it that can get it, and at least one runs it: while none does,
  further devices still get it in waves and under the failure policy. For the same reason a first rollout waits a minute
  after the last step forward for devices that have never connected: at a new site the first agents say nothing about
  those that are still starting.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import evolve, field, frozen

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.codec import encode, format_time
from praetor_api.kube.conditions import get_condition, set_condition, without_condition
from praetor_api.kube.objects import Condition, ConditionStatus, StrategyType
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Counts, GatewayState, RolloutStatus

_SETTLED = frozenset(
    {
        ReasonCode.UP_TO_DATE,
        ReasonCode.IN_MAINTENANCE,
        ReasonCode.UPDATE_HELD,
        ReasonCode.AGENT_TOO_OLD,
        ReasonCode.REFERENCE_MISSING,
        ReasonCode.REFERENCE_REFUSED,
        ReasonCode.REQUIREMENT_NOT_MET,
        ReasonCode.FACTS_NOT_REPORTED,
        ReasonCode.OFFLINE_SINCE,
        ReasonCode.NEVER_CONNECTED,
        ReasonCode.REMOVING,
        ReasonCode.REMOVAL_HELD,
    }
)

_GATEWAY = {
    GatewayState.GONE: "no gateway judges the devices: its Lease is not renewed; check that it runs",
    GatewayState.RETURNING: "a gateway judges the devices again, and may not have noticed every silent one yet",
}
"""Why nothing is offered; AWAITED is shown as what it was before."""

_SHOWN = 3

CONNECT_S = 60.0
"""How long a first rollout waits, after its last step forward, for devices that have never connected, in seconds."""

_STARTING = frozenset({ReasonCode.NEVER_CONNECTED, ReasonCode.FACTS_NOT_REPORTED})

_PATIENT = frozenset({ReasonCode.SOAKING, ReasonCode.AWAITING_APPROVAL})

_FAILS = frozenset({ReasonCode.FAILING, ReasonCode.SILENT_SINCE_OFFER})
_STANDS = _FAILS | _SETTLED - {ReasonCode.REMOVING} | {ReasonCode.BUDGET_EXHAUSTED, ReasonCode.WAITING_FOR_WAVE}

_APPROVE = "check that the revision is good, then: praetorctl rollout approve"
_HOLDS = {
    ReasonCode.WAVE_MATCHES_NOTHING: "no device matches wave {}; correct its selector, or set allowEmpty",
    ReasonCode.BUDGET_MATCHES_NOTHING: "no device has the labels of budget {}; correct groupBy, or set allowEmpty",
    ReasonCode.WAVE_UNCHANGED: (
        "the overrides change nothing for the devices of wave {}; add a device that they change, set allowEmpty, or: "
        "praetorctl rollout approve"
    ),
    ReasonCode.WAVE_LOST_ITS_DEVICES: f"wave {{}} lost its devices before it was passed; {_APPROVE}",
    ReasonCode.WAVE_FAILED: f"wave {{}}, and these devices left; {_APPROVE}",
}
"""What holds a rollout until a user acts, and what to do, with the detail of the reason in the place of `{}`."""


_COUNTS = {
    "desired": "desiredNumberScheduled",
    "current": "currentNumberScheduled",
    "updated": "updatedNumberScheduled",
    "ready": "numberReady",
    "available": "numberAvailable",
}
_MAX_SENTENCE = 1024
"""How much of an answer of the API is repeated, in characters."""


@frozen(kw_only=True)
class FleetSummary:
    """What a pass over the devices came to.

    *limit* is maxUnavailable as a number of devices, *progress_at* the last step forward and *since* the rollout's
    beginning as it is known, both in seconds since the epoch, *wave* the one that is being rolled out, *hold* what the
    next one waits for. *removals_held* are devices that no
    longer match and keep their process, because more than *removal_limit* do, or only because of their facts
    (*held_by_facts*). *withheld*: no device would be given what the template refers to. *stopped* is why the failure
    policy stopped the revision, empty when it did not; *rolled_back*: devices go back to the current revision.
    *invalid* are devices that cannot be given what the overrides make of the template, and why.
    """

    counts: Counts
    reasons: Mapping[ReasonCode, int]
    limit: int
    progress_at: float
    since: float = -math.inf
    wave: str | None = None
    hold: Reason | None = None
    removals_held: Sequence[str] = ()
    held_by_facts: bool = False
    withheld: bool = False
    removal_limit: int = 1
    stopped: str = ""
    rolled_back: bool = False
    gateway: GatewayState = GatewayState.JUDGING
    refused: str = ""
    kept: str = ""
    invalid: Mapping[str, str] = field(factory=dict)


@frozen
class _ConditionState:
    status: ConditionStatus
    reason: DeploymentReason
    message: str
    deadline: float | None = None


def rollout_status(
    deployment: DeploymentRow, summary: FleetSummary, now: datetime
) -> tuple[RolloutStatus, float | None]:
    """Return the status, and when time alone may change it (epoch seconds; None when it does not)."""
    revision = deployment.template.revision
    settled = not summary.stopped and not summary.withheld and all(code in _SETTLED for code in summary.reasons)
    connects_by = _connects_by(deployment, summary)
    shown = settled and ReasonCode.UP_TO_DATE in summary.reasons and connects_by <= now.timestamp()
    complete = shown or (settled and not summary.reasons)  # a revision without devices is over, and not proven
    progressing = _progressing(deployment, summary, now, complete=complete)
    conditions = deployment.status.conditions
    for type_, state in (
        (ConditionType.AVAILABLE, _available(deployment, summary)),
        (ConditionType.PROGRESSING, progressing),
    ):
        conditions = _set(conditions, type_, state, deployment.generation, now)
    conditions = _paused(conditions, deployment, summary, now)
    conditions = _rolled_back(conditions, deployment, summary, now)
    conditions = _removal_held(conditions, deployment, summary, now)
    conditions = _gateway_available(conditions, deployment, summary, now)
    conditions = _writes_refused(conditions, deployment, summary.refused, now)
    conditions = _override_invalid(conditions, deployment, summary, now)
    status = RolloutStatus(
        observed_generation=deployment.generation,
        counts=summary.counts,
        current_revision=revision if shown else deployment.status.current_revision,
        update_revision=revision,
        reasons=summary.reasons,
        conditions=conditions,
        wave=None if complete else summary.wave,
        failed_revision=revision if summary.stopped else None,
    )
    deadlines = [each for each in (progressing.deadline, connects_by) if each is not None and each > now.timestamp()]
    return status, min(deadlines, default=None)


def cannot_move(reasons: Collection[str]) -> bool:
    """Return whether a rollout with devices of these *reasons* waits for devices that fail, and for nothing else."""
    return not _FAILS.isdisjoint(reasons) and _STANDS.issuperset(reasons)


def _connects_by(deployment: DeploymentRow, summary: FleetSummary) -> float:
    """Return until when a rollout waits for devices that have shown nothing yet (epoch seconds); 0 when it does not."""
    if _STARTING.isdisjoint(summary.reasons) or deployment.status.current_revision is not None:
        return 0.0
    return summary.progress_at + min(CONNECT_S, float(deployment.policy.progress_deadline_seconds))


_PENDING = (
    "no gateway has said what these hold, so that a change of them cannot be rolled out; create them, with the label "
    'azure.com/deliver: "true", apply the component references in this namespace and start the gateway with '
    "--references-namespace, or write onChange: Signal or None. An event DigestsLeftOut says so where the labelled "
    "objects of this namespace have too many keys"
)


def fault_status(deployment: DeploymentRow, fault: str, now: datetime) -> RolloutStatus:
    """Return the status of a deployment that cannot be acted on: the condition says why, and the counts stay.

    Its processes run on, and what was counted last is nearer to the truth than zeros.
    """
    reason, message = DeploymentReason.INVALID_SPEC, fault
    if fault.startswith(f"{DeploymentReason.REFERENCE_PENDING}("):
        reason, message = DeploymentReason.REFERENCE_PENDING, f"{fault}: {_PENDING}"
    state = _ConditionState(ConditionStatus.FALSE, reason, message)
    return RolloutStatus(
        observed_generation=deployment.generation,
        counts=_stored_counts(deployment.status.raw),
        current_revision=deployment.status.current_revision,
        update_revision=deployment.template.revision,
        reasons={},
        failed_revision=deployment.status.failed_revision,
        conditions=_set(deployment.status.conditions, ConditionType.PROGRESSING, state, deployment.generation, now),
    )


def _stored_counts(raw: Mapping[str, Any]) -> Counts:
    counted = {name: raw.get(field) for name, field in _COUNTS.items()}
    return Counts(**{name: count for name, count in counted.items() if isinstance(count, int)})


def was_rolled_out(deployment: DeploymentRow) -> bool:
    """Return whether the stored status says that the template was rolled out."""
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


def _no_devices(deployment: DeploymentRow, summary: FleetSummary) -> tuple[str, str]:
    """Return why no device is to have a process, and what to do."""
    if ReasonCode.REQUIREMENT_NOT_MET in summary.reasons:
        return "no device that matches meets spec.requirements", "correct them, or see: praetorctl explain"
    if deployment.policy.fact_selector is not None:
        return "no device matches spec.selector and spec.factSelector", "correct them, or label devices"
    return "no device matches spec.selector", "correct it, or label devices"


def _available(deployment: DeploymentRow, summary: FleetSummary) -> _ConditionState:
    counts = summary.counts
    if not counts.desired:
        return _ConditionState(ConditionStatus.FALSE, DeploymentReason.NO_DEVICES, _no_devices(deployment, summary)[0])
    message = f"{counts.available} of {counts.desired} devices are available"
    if counts.unavailable <= summary.limit and counts.available:
        return _ConditionState(ConditionStatus.TRUE, DeploymentReason.MINIMUM_DEVICES_AVAILABLE, message)
    message += f"; at most {summary.limit} may be unavailable" if counts.available else "; at least one must be"
    return _ConditionState(ConditionStatus.FALSE, DeploymentReason.TOO_MANY_UNAVAILABLE, message)


def _progressing(deployment: DeploymentRow, summary: FleetSummary, now: datetime, *, complete: bool) -> _ConditionState:
    revision, where = deployment.template.revision, _reasons_text(summary.reasons)
    if deployment.policy.paused and not was_rolled_out(deployment):
        message = "nothing is written while paused"
        return _ConditionState(ConditionStatus.UNKNOWN, DeploymentReason.DEPLOYMENT_PAUSED, message)
    if summary.stopped:
        return _ConditionState(ConditionStatus.FALSE, DeploymentReason.FAILURE_POLICY, f"{summary.stopped}: {where}")
    if not summary.counts.desired:
        message = "; ".join(_no_devices(deployment, summary))
        return _ConditionState(ConditionStatus.FALSE, DeploymentReason.NO_DEVICES, message)
    if summary.hold is not None and summary.hold.code in _HOLDS and summary.hold.code in summary.reasons:
        why = _HOLDS[summary.hold.code].format(summary.hold.detail)
        message = f"revision {revision} is held: {why}: {where}"
        return _ConditionState(ConditionStatus.FALSE, DeploymentReason(summary.hold.code.value), message)
    if complete or was_rolled_out(deployment):
        message = f"revision {revision} was rolled out: {where}"
        return _ConditionState(ConditionStatus.TRUE, DeploymentReason.NEW_REVISION_ROLLED_OUT, message)
    known = get_condition(deployment.status.conditions, ConditionType.PROGRESSING)
    gateway = _GATEWAY.get(summary.gateway)
    if gateway is not None:
        state = f"revision {revision} waits, for {gateway}: {where}"
        return _ConditionState(ConditionStatus.UNKNOWN, DeploymentReason.GATEWAY_UNAVAILABLE, state)
    if summary.gateway is GatewayState.AWAITED and known and known.reason == DeploymentReason.GATEWAY_UNAVAILABLE:
        return _ConditionState(known.status, DeploymentReason.GATEWAY_UNAVAILABLE, known.message)
    if deployment.strategy is StrategyType.ON_DELETE:
        message = f"revision {revision} is used as processes are deleted: {where}"
        return _ConditionState(ConditionStatus.TRUE, DeploymentReason.WAITING_FOR_DELETION, message)
    if deployment.strategy is StrategyType.ROLLING_UPDATE and summary.limit == 0:
        where += "; maxUnavailable is 0, so only devices that are unavailable already are updated"
    if summary.kept:
        where += f"; {summary.kept}"
    if summary.refused:
        where += f"; {summary.refused}"
    if summary.reasons.keys() & _PATIENT:
        message = f"revision {revision} waits as asked: {where}"
        return _ConditionState(ConditionStatus.TRUE, DeploymentReason.ROLLOUT_IN_PROGRESS, message)
    deadline_s = deployment.policy.progress_deadline_seconds
    deadline = summary.progress_at + deadline_s
    if now.timestamp() >= deadline or (summary.progress_at <= summary.since and _was_exceeded(deployment)):
        message = f"revision {revision} made no progress for {deadline_s} s: {where}"
        return _ConditionState(ConditionStatus.FALSE, DeploymentReason.PROGRESS_DEADLINE_EXCEEDED, message)
    waits = ReasonCode.WAVE_HAS_NO_ELIGIBLE_DEVICE in summary.reasons
    reason = DeploymentReason.WAVE_HAS_NO_ELIGIBLE_DEVICE if waits else DeploymentReason.ROLLOUT_IN_PROGRESS
    message = f"revision {revision} is being rolled out: {where}"
    if cannot_move(summary.reasons):
        undo = (
            f"praetorctl rollout undo {deployment.name}" if deployment.status.current_revision else "another template"
        )
        message = f"revision {revision} cannot move until the devices that fail are well: {where}; fix them, or: {undo}"
    return _ConditionState(ConditionStatus.TRUE, reason, message, deadline)


def _was_exceeded(deployment: DeploymentRow) -> bool:
    """Return whether the deadline was exceeded when the stored status was written, for the present spec."""
    stored = get_condition(deployment.status.conditions, ConditionType.PROGRESSING)
    exceeded = stored is not None and stored.reason == DeploymentReason.PROGRESS_DEADLINE_EXCEEDED
    return exceeded and stored is not None and stored.observed_generation == deployment.generation


def _paused(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, summary: FleetSummary, now: datetime
) -> tuple[Condition, ...]:
    if deployment.policy.paused:
        state = _ConditionState(ConditionStatus.TRUE, DeploymentReason.DEPLOYMENT_PAUSED, "spec.paused is true")
    elif summary.stopped and not summary.rolled_back:
        state = _ConditionState(ConditionStatus.TRUE, DeploymentReason.FAILURE_POLICY, summary.stopped)
    else:
        return without_condition(conditions, ConditionType.PAUSED)
    return _set(conditions, ConditionType.PAUSED, state, deployment.generation, now)


def _rolled_back(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, summary: FleetSummary, now: datetime
) -> tuple[Condition, ...]:
    if not summary.rolled_back:
        return without_condition(conditions, ConditionType.ROLLED_BACK)
    state = _ConditionState(ConditionStatus.TRUE, DeploymentReason.FAILURE_POLICY, summary.stopped)
    return _set(conditions, ConditionType.ROLLED_BACK, state, deployment.generation, now)


def _gateway_available(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, summary: FleetSummary, now: datetime
) -> tuple[Condition, ...]:
    if summary.gateway is GatewayState.AWAITED:
        return conditions
    message = _GATEWAY.get(summary.gateway)
    if message is None:
        return without_condition(conditions, ConditionType.GATEWAY_AVAILABLE)
    state = _ConditionState(ConditionStatus.FALSE, DeploymentReason.GATEWAY_UNAVAILABLE, message)
    return _set(conditions, ConditionType.GATEWAY_AVAILABLE, state, deployment.generation, now)


def writes_refused(deployment: DeploymentRow, refused: str, now: datetime) -> tuple[Condition, ...]:
    """Return the conditions of *deployment* with what the API refuses, as refusal_text() says it; empty: nothing."""
    return _writes_refused(deployment.status.conditions, deployment, refused, now)


def with_overlap(deployment: DeploymentRow, status: RolloutStatus, overlap: str, now: datetime) -> RolloutStatus:
    """Return *status* with the condition that says *overlap*, and without it when that is empty."""
    conditions = status.conditions
    if overlap:
        state = _ConditionState(ConditionStatus.TRUE, DeploymentReason.SAME_COMMAND, overlap)
        conditions = _set(conditions, ConditionType.OVERLAP, state, deployment.generation, now)
    elif get_condition(conditions, ConditionType.OVERLAP) is not None:
        conditions = without_condition(conditions, ConditionType.OVERLAP)
    return status if conditions is status.conditions else evolve(status, conditions=conditions)


def refusal_text(name: str, refusals: Mapping[str, str], retry_at: float) -> str:
    """Return what the API says of most of the refused writes of the deployment *name*; empty without any.

    *retry_at* is when some are tried again, in seconds since the epoch.
    """
    if not refusals:
        return ""
    ((sentence, _),) = Counter(refusals.values()).most_common(1)
    writes = f"{len(refusals)} write{'' if len(refusals) == 1 else 's'}"
    at = format_time(datetime.fromtimestamp(retry_at, UTC))
    again = f"next attempt at {at}, or now with: praetorctl rollout retry {name}"
    return f"the API refuses {writes}: {sentence[:_MAX_SENTENCE]}; {again}"


def _writes_refused(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, refused: str, now: datetime
) -> tuple[Condition, ...]:
    if not refused:
        return without_condition(conditions, ConditionType.WRITES_REFUSED)
    state = _ConditionState(ConditionStatus.TRUE, DeploymentReason.REFUSED_BY_API, refused)
    return _set(conditions, ConditionType.WRITES_REFUSED, state, deployment.generation, now)


def _shown(devices: Sequence[str]) -> str:
    """Return the names of the first of *devices*, and how many more there are."""
    more = f" and {len(devices) - _SHOWN} more" if len(devices) > _SHOWN else ""
    return f"{', '.join(devices[:_SHOWN])}{more}"


def _override_invalid(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, summary: FleetSummary, now: datetime
) -> tuple[Condition, ...]:
    names = sorted(summary.invalid)
    if not names:
        return without_condition(conditions, ConditionType.OVERRIDE_INVALID)
    keeps = "1 device keeps what it has" if len(names) == 1 else f"{len(names)} devices keep what they have"
    message = f"{keeps} ({_shown(names)}): {summary.invalid[names[0]]}"
    state = _ConditionState(ConditionStatus.TRUE, DeploymentReason.INVALID_SPEC, message)
    return _set(conditions, ConditionType.OVERRIDE_INVALID, state, deployment.generation, now)


def _removal_held(
    conditions: tuple[Condition, ...], deployment: DeploymentRow, summary: FleetSummary, now: datetime
) -> tuple[Condition, ...]:
    held = sorted(summary.removals_held)
    if not held:
        return without_condition(conditions, ConditionType.REMOVAL_HELD)
    count = f"{len(held)} device{'' if len(held) == 1 else 's'} no longer match{'es' if len(held) == 1 else ''}"
    message = (
        f"{count}, at most {summary.removal_limit} may leave at once, and not all: {_shown(held)}; "
        f"correct the selector or the labels, or: praetorctl rollout approve {deployment.name} --removal"
    )
    reason = DeploymentReason.DEVICES_NO_LONGER_MATCH
    if summary.held_by_facts:
        reason = DeploymentReason.FACTS_NO_LONGER_MATCH
        message = (
            f"{count} spec.factSelector, and what a device reports removes no process: "
            f"{_shown(held)}; correct the selector or the devices, "
            f"or: praetorctl rollout approve {deployment.name} --removal"
        )
    state = _ConditionState(ConditionStatus.TRUE, reason, message)
    return _set(conditions, ConditionType.REMOVAL_HELD, state, deployment.generation, now)


def _set(
    conditions: tuple[Condition, ...], type_: ConditionType, state: _ConditionState, generation: int, now: datetime
) -> tuple[Condition, ...]:
    return set_condition(
        conditions,
        type=type_,
        status=state.status,
        reason=state.reason,
        message=state.message,
        observed_generation=generation,
        now=now,
    )


def _reasons_text(reasons: Mapping[ReasonCode, int]) -> str:
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
        **{field: getattr(counts, name) for name, field in _COUNTS.items()},
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

# SPDX-License-Identifier: Apache-2.0
"""How an observation and the device's liveness become the status of a DeviceProcess. Pure.

The same facts give an equal status, so that what is unchanged is never written.
Text from devices goes into messages only, never into reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from operator import itemgetter

from attrs import evolve

from praetor_api.conditions import ConditionType, ProcessReason
from praetor_api.kube.codec import parse_time
from praetor_api.kube.conditions import get_condition, next_condition
from praetor_api.kube.objects import Condition, ConditionStatus, DeviceProcessStatus, Phase, Reported
from praetor_api.protocol import Observation
from praetor_api.spec import RestartPolicy
from praetor_api.wire import clean_text
from praetor_gateway.fleet.order import following, supersedes
from praetor_gateway.fleet.rows import CachedProcess
from praetor_gateway.status.connected import Connected, connection, set_absent, set_connected, set_fetched
from praetor_gateway.status.findings import findings_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_STATUS: Mapping[bool | None, ConditionStatus] = {
    True: ConditionStatus.TRUE,
    False: ConditionStatus.FALSE,
    None: ConditionStatus.UNKNOWN,
}
_OF_SPEC = (ConditionType.SPEC_OBSERVED, ConditionType.ROLLED_BACK, ConditionType.UPDATE_HELD)
"""What is said of the current spec, though the device may run an older one."""

_REPORTED = {
    ConditionType.SPEC_OBSERVED,
    ConditionType.ARTIFACT_DOWNLOADED,
    ConditionType.ARTIFACT_VERIFIED,
    ConditionType.PROCESS_STARTED,
    ConditionType.HEALTHY,
    ConditionType.SPEC_WARNING,
    ConditionType.UPDATE_HELD,
    ConditionType.ROLLED_BACK,
    ConditionType.ON_TRIAL,
    ConditionType.VALUES_OUTDATED,
}
"""What reports say; AgentConnected comes from heartbeats, and other types from other writers."""
REFUSED = {
    ProcessReason.FOREIGN_NAMESPACE: (
        ConditionType.REFUSED,
        "spec.deviceRef.namespace names another namespace than the object's own; no device runs it, and a device that "
        "ran it stops it. Create it in that namespace",
    ),
    ProcessReason.BOUND_ELSEWHERE: (
        ConditionType.NAME_CONFLICT,
        "another namespace has a device of this name, which stays as it is; use another name, or ask an administrator "
        "for praetorctl devices transfer",
    ),
    ProcessReason.BOUND_TO_ANOTHER_KIND: (
        ConditionType.NAME_CONFLICT,
        "this namespace has a device of this name and of another kind, which stays as it is; use another name or kind, "
        "or ask an administrator for praetorctl devices transfer",
    ),
}
"""Why an object counts for no device: the condition that says so, and its message."""
_HELD = (
    "the device keeps what it runs and gets nothing new: another namespace or kind declares its name, and its own "
    "object is gone. Create it again, or ask an administrator for praetorctl devices transfer"
)


def merge(
    row: CachedProcess,
    observation: Observation | None,
    *,
    reported: Reported | None = None,
    connected: Connected,
    now: datetime,
    fetched: int | None = None,
    standing: ProcessReason | None = None,
    absence: ProcessReason | None = None,
) -> DeviceProcessStatus:
    """Return the status of *row* after what the device saw of it, and whether it is *connected*.

    *observation* None: there is no new one; one that was *reported* before what *row* holds is ignored. *connected*,
    *standing* (`DeviceIndex.standing`) None: it is not known, or not ours to say. *fetched* is the generation that a
    device which is not connected fetched last; None when that is not known. *absence* is why a device was never heard.
    """
    status, conditions, spec_hash = row.status, by_type(row.status.conditions), row.spec_hash
    set_standing(conditions, standing, row.generation, now)
    if standing in REFUSED:  # no device runs it: what was said of an earlier run is over
        gone = {*_REPORTED, ConditionType.AGENT_CONNECTED}
        said = {name: each for name, each in conditions.items() if name not in gone}
        refused = DeviceProcessStatus(phase=Phase.PENDING, conditions=in_order(said, status.conditions))
        return _with_reason(refused, row.status)
    known = status.reported
    if observation is not None and (known is None or not supersedes(known, reported)):
        generation = row.generation if observation.observed_spec_hash == spec_hash else status.observed_generation
        _set_observed(conditions, row, spec_hash, generation, observation, now)
        status = _observed(status, generation, observation)
        status = evolve(status, reported=following(known, reported))
    if connected is not None:
        set_connected(conditions, connected, row.generation if connected is True else fetched, now)
        set_fetched(conditions, fetched)
    elif absence is not None:
        set_absent(conditions, absence, row.generation, now)
    status = evolve(status, conditions=in_order(conditions, row.status.conditions))
    return _with_reason(evolve(status, phase=_phase(row.shared.restart_policy, spec_hash, status)), row.status)


def _with_reason(status: DeviceProcessStatus, before: DeviceProcessStatus) -> DeviceProcessStatus:
    """Return *status* with the reason why the process is not ready.

    It is added with other changes alone: an upgrade causes no writes, nor do CRDs of an earlier release, which drop it.
    """
    if before.reason is None and evolve(status, reason=None) == before:
        return before
    return evolve(status, reason=_reason(status))


_IN_THE_WAY = (
    (ConditionType.REFUSED, ConditionStatus.TRUE),
    (ConditionType.NAME_CONFLICT, ConditionStatus.TRUE),
    (ConditionType.AGENT_CONNECTED, ConditionStatus.FALSE),
    (ConditionType.AGENT_CONNECTED, ConditionStatus.UNKNOWN),
    (ConditionType.ROLLED_BACK, ConditionStatus.TRUE),
    (ConditionType.SPEC_OBSERVED, ConditionStatus.FALSE),
    (ConditionType.ARTIFACT_DOWNLOADED, ConditionStatus.FALSE),
    (ConditionType.ARTIFACT_VERIFIED, ConditionStatus.FALSE),
    (ConditionType.PROCESS_STARTED, ConditionStatus.FALSE),
    (ConditionType.HEALTHY, ConditionStatus.FALSE),
    (ConditionType.HEALTHY, ConditionStatus.UNKNOWN),
    (ConditionType.ON_TRIAL, ConditionStatus.TRUE),
)
"""What keeps a process from being ready, or relied on, the cause before what follows from it."""


def _reason(status: DeviceProcessStatus) -> str | None:
    found = by_type(status.conditions)
    causes = (found[kind].reason for kind, bad in _IN_THE_WAY if kind in found and found[kind].status is bad)
    return None if status.phase is Phase.SUCCEEDED else next(causes, None)


def by_type(conditions: tuple[Condition, ...]) -> dict[str, Condition]:
    """Return *conditions* by their type, to be changed."""
    return {condition.type: condition for condition in conditions}


def in_order(conditions: Mapping[str, Condition], before: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Return *conditions* as a status holds them, sorted by type; *before* itself when it says the same."""
    if conditions == by_type(before):
        return before
    return tuple(conditions[type] for type in sorted(conditions))


def set_standing(
    conditions: dict[str, Condition], standing: ProcessReason | None, generation: int, now: datetime
) -> None:
    """Set the conditions that only objects have which once counted for no device; None: it is not ours to say."""
    if standing is None:
        return
    refusal = REFUSED.get(standing)
    if standing is ProcessReason.OWNER_GONE:
        refusal = (ConditionType.NAME_CONFLICT, _HELD)
    for kind in (ConditionType.REFUSED, ConditionType.NAME_CONFLICT):
        refused = refusal is not None and refusal[0] is kind
        if refused or kind in conditions:
            conditions[kind] = next_condition(
                conditions.get(kind),
                type=kind,
                status=_STATUS[refused],
                reason=standing if refused else ProcessReason.ACCEPTED,
                message=refusal[1] if refusal is not None and refused else "",
                observed_generation=generation,
                now=now,
            )


def _phase(policy: RestartPolicy, spec_hash: str, status: DeviceProcessStatus) -> Phase:
    """Return in one word where the process is; what ran to completion stays so when the device is gone."""
    current = status.observed_spec_hash == spec_hash
    started = get_condition(status.conditions, ConditionType.PROCESS_STARTED)
    if current and not status.pid and _ran_out(policy, status.exit_code):
        return Phase.SUCCEEDED if status.exit_code == 0 else Phase.FAILED
    if connection(status.conditions) not in (True, None):
        return Phase.UNKNOWN
    if started is not None and started.status is ConditionStatus.TRUE:
        return Phase.RUNNING
    if current and started is not None and started.reason == ProcessReason.START_FAILED:
        return Phase.FAILED
    return Phase.PENDING


def reported(status: DeviceProcessStatus) -> tuple[object, ...]:
    """Return what of *status* comes from reports, to compare: no times, no order, no connection, no words of others."""
    said = (
        (each.type, each.status, each.reason, each.message, each.observed_generation)
        for each in status.conditions
        if each.type in _REPORTED
    )
    return evolve(status, phase=Phase.PENDING, reason=None, conditions=(), reported=None), *sorted(
        said, key=itemgetter(0)
    )


def start_time(text: str | None) -> datetime | None:
    """Return the start time that a device reports, in whole seconds; ValueError when it is none.

    Before 1970 nothing was started: it is the zero of some language, and the API takes no year below 1000.
    """
    if not text:
        return None
    try:
        moment = parse_time(text).astimezone(UTC).replace(microsecond=0)
    except OverflowError as e:
        raise ValueError(f"{text!r} is out of range") from e
    return moment if moment >= EPOCH else None


def _ran_out(policy: RestartPolicy, exit_code: int | None) -> bool:
    """Return whether a process that ended so is not started again."""
    if exit_code is None or policy is RestartPolicy.ALWAYS:
        return False
    return exit_code == 0 or policy is RestartPolicy.NEVER


def _observed(status: DeviceProcessStatus, generation: int, seen: Observation) -> DeviceProcessStatus:
    """Return *status* with the fields that *seen* gives, all but the conditions and the phase."""
    return evolve(
        status,
        observed_generation=generation,
        observed_spec_hash=clean_text(seen.observed_spec_hash) or None,
        artifact_digest=clean_text(seen.artifact_digest) if seen.artifact_digest else None,
        pid=seen.pid,
        start_time=start_time(seen.start_time),
        restart_count=seen.restart_count,
        exit_code=seen.exit_code,
        last_termination_reason=seen.termination_reason,
        artifact_attempts=seen.artifact_attempts,
        failed_spec_hash=clean_text(seen.failed_spec_hash) if seen.failed_spec_hash else None,
        drift_count=seen.drift_count,
        output_tail=seen.output_tail,
    )


def _set_observed(
    conditions: dict[str, Condition],
    row: CachedProcess,
    spec_hash: str,
    generation: int,
    seen: Observation,
    now: datetime,
) -> None:
    """Set what *seen* says; *generation* is the one that the device acts on, as far as it is known."""
    if generation != row.status.observed_generation:
        # an older spec was observed so far: that this one is observed is a transition, and readiness counts from now
        conditions.pop(ConditionType.SPEC_OBSERVED, None)
    for finding in findings_of(row, spec_hash, conditions, seen):
        conditions[finding.type] = next_condition(
            conditions.get(finding.type),
            type=finding.type,
            status=_STATUS[finding.holds],
            reason=finding.reason,
            message=finding.message,
            observed_generation=row.generation if finding.type in _OF_SPEC else generation or None,
            now=now,
        )

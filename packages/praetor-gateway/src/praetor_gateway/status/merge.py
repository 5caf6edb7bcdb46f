# SPDX-License-Identifier: Apache-2.0
"""How an observation and the device's liveness become the status of a DeviceProcess. Pure.

The same facts give an equal status, so that what is unchanged is never written.
Text from devices goes into messages only, never into reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import TypeAlias

from attrs import evolve, frozen

from praetor_api.conditions import ConditionType, ProcessReason
from praetor_api.kube.codec import parse_time
from praetor_api.kube.conditions import get_condition, next_condition
from praetor_api.kube.objects import Condition, ConditionStatus, DeviceProcessStatus, Phase, Reported
from praetor_api.protocol import ArtifactReason, Observation, PendingReason, RollbackReason
from praetor_api.spec import RestartPolicy
from praetor_api.values import Resolved, lacks_an_object
from praetor_api.wire import clean_text
from praetor_gateway.fleet.order import following, supersedes
from praetor_gateway.fleet.references import Refusal
from praetor_gateway.fleet.rows import CachedProcess


class Silence(Enum):
    """That a device is silent together with many others, which is not its own failure.

    STORM: others of the fleet are heard. FLEET: none is.
    """

    STORM = auto()
    FLEET = auto()


Connected: TypeAlias = bool | Silence | None
"""Whether a device is connected; None while that is not known."""


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
ABSENT: Mapping[str, str] = {
    ProcessReason.NEVER_CONNECTED: "the device has never connected; check that its agent runs, its token, and the "
    "address of the gateway",
    ProcessReason.NOT_DECLARED: "no device has the kind and name in spec.deviceRef, and no agent of this name has ever "
    "connected; check the name, or declare the device",
}
"""Why a device was never heard, and what to do about it."""
_TRIAL = "the device has not run this version for long enough to rule out that it makes the device reboot"
_OUTDATED = "the process runs with the values that it was started with; restart it to have the new ones"
_TOO_OLD = f"{ProcessReason.AGENT_TOO_OLD}("
_MISSING = f"{ProcessReason.REFERENCE_MISSING}("
_REFUSED = f"{ProcessReason.REFERENCE_REFUSED}("
_ARTIFACT = {reason.value: reason for reason in ArtifactReason}
_PENDING = {reason.value: reason for reason in PendingReason}
_ROLLED_BACK = {reason.value: reason for reason in RollbackReason}


@frozen
class Finding:
    """What one condition is to say; *holds* None stands for Unknown."""

    type: ConditionType
    holds: bool | None
    reason: ProcessReason | ArtifactReason | PendingReason | RollbackReason
    message: str = ""


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
    if observation is not None and not supersedes(status.reported, reported):
        generation = row.generation if observation.observed_spec_hash == spec_hash else status.observed_generation
        _set_observed(conditions, row, spec_hash, generation, observation, now)
        status = _observed(status, generation, observation)
        status = evolve(status, reported=following(status.reported, reported))
    if connected is not None:
        set_connected(conditions, connected, row.generation if connected is True else fetched, now)
        _set_fetched(conditions, fetched)
    elif absence is not None:
        set_absent(conditions, absence, row.generation, now)
    status = evolve(status, conditions=in_order(conditions, row.status.conditions))
    return _with_reason(evolve(status, phase=_phase(row.restart_policy, spec_hash, status)), row.status)


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


def too_old(missing: Iterable[str]) -> str:
    """Return why a device whose agent does not know the features *missing* is not sent the spec."""
    return f"{_TOO_OLD}{','.join(sorted(missing))}): upgrade praetor-agent; until then the device keeps what it has"


_REMEDIES: Mapping[str, str] = {
    Refusal.NOT_ENABLED.value: "apply deploy/components/references there and start the gateway with "
    "--references-namespace",
    Refusal.NOT_READABLE.value: "apply deploy/components/references in that namespace",
    Refusal.TOO_LARGE.value: "refer to less",
    Refusal.INVALID_SPEC.value: "everyone on the device can read arguments; have the program read its environment",
    Refusal.PLAIN_TEXT.value: "Secrets are given over TLS only; start the gateway with --tls-cert, or with "
    "--tls-terminated behind a proxy that ends TLS",
    Refusal.SHARED_TOKEN.value: "Secrets are given to a device with a token of its own; give it one, see praetorctl "
    "devices token",
}
_LACKS_OBJECT = (
    'its namespace has no such object with the label azure.com/deliver: "true", or no such key in it; until it has one '
    "the device keeps what it runs. Or write optional: true"
)
_LACKS_FIELD = "the device has no such value; until it has one it keeps what it runs. Or write optional: true"


def withholds(resolved: Resolved) -> str | None:
    """Return why a device is not sent the spec with the values *resolved*; None when it is."""
    held = resolved.held
    if not held:
        return None
    if resolved.refused:
        remedy = _REMEDIES[resolved.refused.partition(" ")[0]]
        return f"{clean_text(held)}: {remedy}; until then the device keeps what it runs"
    return f"{clean_text(held)}: {_LACKS_OBJECT if lacks_an_object(held) else _LACKS_FIELD}"


def by_type(conditions: tuple[Condition, ...]) -> dict[str, Condition]:
    """Return *conditions* by their type, to be changed."""
    return {condition.type: condition for condition in conditions}


def in_order(conditions: Mapping[str, Condition], before: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Return *conditions* as a status holds them, sorted by type; *before* itself when it says the same."""
    if conditions == by_type(before):
        return before
    return tuple(conditions[type] for type in sorted(conditions))


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
    condition = get_condition(conditions, ConditionType.AGENT_CONNECTED)
    status, reason, _ = _CONNECTED[connected]
    if condition is None or condition.status is not status:
        return False
    return status is not ConditionStatus.UNKNOWN or condition.reason == reason


def shows_absence(conditions: tuple[Condition, ...], absence: ProcessReason) -> bool:
    """Return whether AgentConnected says *absence*, or something better: that a device was heard once."""
    known = get_condition(conditions, ConditionType.AGENT_CONNECTED)
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


def _set_fetched(conditions: dict[str, Condition], fetched: int | None) -> None:
    """Correct what a disconnected device is said to have fetched: it fetched more, but was not heard for long."""
    known = conditions[ConditionType.AGENT_CONNECTED]
    if known.status is ConditionStatus.FALSE and (fetched or 0) > (known.observed_generation or 0):
        conditions[ConditionType.AGENT_CONNECTED] = evolve(known, observed_generation=fetched)


def fetched_generation(conditions: tuple[Condition, ...]) -> int:
    """Return the generation that a disconnected device is said to have fetched; 0 when it is not known."""
    condition = get_condition(conditions, ConditionType.AGENT_CONNECTED)
    return (condition.observed_generation or 0) if condition is not None else 0


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
                status=_status_of(refused),
                reason=standing if refused else ProcessReason.ACCEPTED,
                message=refusal[1] if refusal is not None and refused else "",
                observed_generation=generation,
                now=now,
            )


def connection(conditions: tuple[Condition, ...]) -> Connected:
    """Return what AgentConnected says; None while no replica has decided yet."""
    condition = get_condition(conditions, ConditionType.AGENT_CONNECTED)
    if condition is None:
        return None
    return _SAID.get((condition.status, condition.reason), _OTHERWISE.get(condition.status))


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


def reported(status: DeviceProcessStatus) -> DeviceProcessStatus:
    """Return what of *status* comes from reports, without times and order: not the connection, nor others' words."""
    said = (evolve(each, last_transition_time=None) for each in status.conditions if each.type in _REPORTED)
    conditions = tuple(sorted(said, key=lambda each: each.type))
    return evolve(status, phase=Phase.PENDING, reason=None, conditions=conditions, reported=None)


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
    for finding in _findings(row, spec_hash, conditions, seen):
        conditions[finding.type] = next_condition(
            conditions.get(finding.type),
            type=finding.type,
            status=_status_of(finding.holds),
            reason=finding.reason,
            message=finding.message,
            observed_generation=row.generation if finding.type in _OF_SPEC else generation or None,
            now=now,
        )


def _status_of(holds: bool | None) -> ConditionStatus:
    if holds is None:
        return ConditionStatus.UNKNOWN
    return ConditionStatus.TRUE if holds else ConditionStatus.FALSE


def _findings(
    row: CachedProcess, spec_hash: str, known: Mapping[str, Condition], seen: Observation
) -> Iterator[Finding]:
    current = seen.observed_spec_hash == spec_hash
    completed = current and not seen.pid and seen.exit_code == 0 and row.restart_policy is not RestartPolicy.ALWAYS
    yield _spec(spec_hash, seen)
    yield from _artifact(seen)
    yield from _started(completed, seen)
    yield from _healthy(completed, seen, probed=row.probed)
    yield from _lasting(seen, spec_hash, known)


def _spec(spec_hash: str, seen: Observation) -> Finding:
    kind = ConditionType.SPEC_OBSERVED
    if seen.observed_spec_hash == spec_hash:
        return Finding(kind, True, ProcessReason.CURRENT)
    if not seen.observed_spec_hash and seen.pending_reason not in _PENDING:
        return Finding(kind, False, ProcessReason.HASH_MISSING, "the device names no spec")
    if seen.failed_spec_hash == spec_hash:
        return Finding(kind, False, ProcessReason.GIVEN_UP, "the device went back to an older spec")
    if seen.update_held_message is not None:
        return Finding(kind, False, _why_held(seen), seen.update_held_message)
    if seen.error_message and seen.artifact_downloaded is False:
        return Finding(kind, False, _why(seen, ArtifactReason.DOWNLOAD_FAILED), seen.error_message)
    if seen.error_message and seen.artifact_verified is False:
        return Finding(kind, False, _why(seen, ArtifactReason.VERIFICATION_FAILED), seen.error_message)
    message = seen.pending_message or "the device does not act on the current spec yet"
    return Finding(kind, False, _PENDING.get(seen.pending_reason or "", ProcessReason.OUTDATED), message)


def _artifact(seen: Observation) -> Iterator[Finding]:
    error = seen.error_message or ""
    if seen.artifact_downloaded:
        yield Finding(ConditionType.ARTIFACT_DOWNLOADED, True, ProcessReason.DOWNLOADED)
    elif seen.artifact_downloaded is False:
        missing = _why(seen, ArtifactReason.DOWNLOAD_FAILED) if error else ProcessReason.NOT_DOWNLOADED
        yield Finding(ConditionType.ARTIFACT_DOWNLOADED, False, missing, error)
    kind = ConditionType.ARTIFACT_VERIFIED
    if seen.artifact_verified:
        yield Finding(kind, True, ProcessReason.VERIFIED)
    elif seen.artifact_verified is False:
        if error and seen.artifact_downloaded:
            yield Finding(kind, False, _why(seen, ArtifactReason.VERIFICATION_FAILED), error)
        else:
            yield Finding(kind, False, ProcessReason.NOT_VERIFIED)
    elif seen.artifact_downloaded:
        # said, for what was found of an older spec, which pinned its artifact, is not so any more
        yield Finding(kind, None, ProcessReason.NOT_PINNED, "the spec gives no checksum to verify the artifact by")


def _why(seen: Observation, otherwise: ArtifactReason) -> ArtifactReason:
    """Return the word that the device gave if it is one of ours; its own words never become a reason."""
    return _ARTIFACT.get(seen.artifact_reason or "", otherwise)


def _started(completed: bool, seen: Observation) -> Iterator[Finding]:
    kind, error = ConditionType.PROCESS_STARTED, seen.error_message or ""
    if completed:
        yield Finding(kind, True, ProcessReason.COMPLETED)
    elif seen.process_started:
        yield Finding(kind, True, ProcessReason.STARTED)
    elif seen.process_started is False:
        if error:
            yield Finding(kind, False, ProcessReason.START_FAILED, error)
        elif seen.exit_code is not None:
            message = f"the process ended with exit code {seen.exit_code}"
            yield Finding(kind, False, ProcessReason.EXITED, message)
        else:
            yield Finding(kind, False, ProcessReason.NOT_STARTED)


def _healthy(completed: bool, seen: Observation, *, probed: bool) -> Iterator[Finding]:
    kind = ConditionType.HEALTHY
    if completed:
        yield Finding(kind, True, ProcessReason.COMPLETED)
    elif seen.process_started is False:
        yield Finding(kind, False, ProcessReason.NOT_RUNNING)
    elif seen.healthy:
        yield Finding(kind, True, ProcessReason.HEALTHY)
    elif seen.healthy is False:
        yield Finding(kind, False, ProcessReason.UNHEALTHY, seen.error_message or "")
    elif seen.process_started:
        yield Finding(kind, None, ProcessReason.NOT_PROBED if probed else ProcessReason.JUST_STARTED)


def _why_held(seen: Observation) -> ProcessReason:
    said = seen.update_held_message or ""
    if said.startswith(_MISSING):
        return ProcessReason.REFERENCE_MISSING
    if said.startswith(_REFUSED):
        return ProcessReason.REFERENCE_REFUSED
    return ProcessReason.AGENT_TOO_OLD if said.startswith(_TOO_OLD) else ProcessReason.HELD


def _lasting(seen: Observation, spec_hash: str, known: Mapping[str, Condition]) -> Iterator[Finding]:
    """Yield the conditions that only exceptions have: once there, they are False when the exception is over."""
    rolled_back = _ROLLED_BACK.get(seen.rolled_back_reason or "", ProcessReason.OTHER)
    outdated = _OUTDATED if seen.values_outdated else None
    message = seen.rolled_back_message or "" if seen.failed_spec_hash == spec_hash else None
    for kind, said, reason, otherwise in (
        (ConditionType.SPEC_WARNING, seen.warning_message or None, ProcessReason.WARNED, ProcessReason.NOT_WARNED),
        (ConditionType.ROLLED_BACK, message, rolled_back, ProcessReason.NOT_ROLLED_BACK),
        (ConditionType.UPDATE_HELD, seen.update_held_message, _why_held(seen), ProcessReason.NOT_HELD),
        (ConditionType.ON_TRIAL, _TRIAL if seen.on_trial else None, ProcessReason.NOT_PROVEN, ProcessReason.PROVEN),
        (ConditionType.VALUES_OUTDATED, outdated, ProcessReason.VALUES_CHANGED, ProcessReason.VALUES_CURRENT),
    ):
        if said is not None:
            yield Finding(kind, True, reason, said)
        elif kind in known:
            yield Finding(kind, False, otherwise)

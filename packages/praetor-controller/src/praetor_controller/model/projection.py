# SPDX-License-Identifier: Apache-2.0
"""Rows from raw objects of the API. Pure and tolerant: what a newer API added is kept or ignored."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from praetor_api.annotations import (
    APPROVED_WAVES_ANNOTATION,
    CHANGE_CAUSE_ANNOTATION,
    DEPLOYMENT_LABEL,
    MANAGED_ANNOTATION,
    MIN_READY_ANNOTATION,
    OFFERED_AT_ANNOTATION,
    REMOVAL_ANNOTATION,
    RESTARTED_AT_ANNOTATION,
    RETRY_ANNOTATION,
    REVISION_ANNOTATION,
    WAVE_ANNOTATION,
)
from praetor_api.canonical import spec_hash
from praetor_api.conditions import CRASH_LOOP_COUNT, ConditionType, ProcessReason
from praetor_api.kube.codec import DecodeError, decode, parse_time
from praetor_api.kube.objects import (
    DeviceProcessDeploymentStatus,
    LabelSelector,
    Phase,
)
from praetor_api.kube.texts import kept
from praetor_api.names import device_reference
from praetor_api.spec import DeviceKind
from praetor_api.wire import clean_text
from praetor_controller.errors import InvalidDeployment
from praetor_controller.model.annotations import OWN_ANNOTATIONS, deployment_label, managed_keys
from praetor_controller.model.overrides import check_overrides
from praetor_controller.model.requirements import check_requirements
from praetor_controller.model.rows import (
    DeploymentRow,
    DeviceRow,
    LabelItems,
    ProcessRow,
    RolloutPolicy,
    Stamps,
    StoredStatus,
    Template,
)
from praetor_controller.model.selectors import Matches, compile_fact_selector, compile_selector
from praetor_controller.model.spec_faults import process_fault

_KINDS = {kind.value: kind for kind in DeviceKind}
_MARSHAL = 2  # the newest version whose bytes depend on nothing but the value
_MAX_SHORT = 4096
_MAX_DETAIL = 200
_MAX_CAUSE = 1024
_READY = (ConditionType.AGENT_CONNECTED, ConditionType.SPEC_OBSERVED, ConditionType.HEALTHY)
_STORMS = (ProcessReason.STORM, ProcessReason.FLEET_SILENT)
_RUNNING = (Phase.RUNNING.value, Phase.SUCCEEDED.value)


Seen: TypeAlias = Callable[[str, Stamps], Mapping[str, Any]]
"""Returns fields of a ProcessRow by its uid and its stamps: what the reader has seen of the object itself."""


class _Fact(NamedTuple):
    status: str
    since: float | None
    reason: str
    message: str
    generation: int | None = None


_UNKNOWN = _Fact("Unknown", None, "", "")


def project_device(obj: Mapping[str, Any], kind: DeviceKind = DeviceKind.NETWORK_SWITCH) -> DeviceRow:
    """Return the row of a device of *kind*."""
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    maintenance, status = spec.get("maintenance"), obj.get("status") or {}
    connected = _facts(status).get(ConditionType.AGENT_CONNECTED, _UNKNOWN)
    reported = status.get("facts")
    return DeviceRow(
        name=device_reference(kind, metadata["name"]),
        namespace=metadata.get("namespace", ""),
        kind=kind,
        labels=metadata.get("labels") or {},
        connected=_truth(connected),
        connected_since=connected.since,
        in_maintenance=maintenance is not None,
        maintenance_until=epoch((maintenance or {}).get("until")),
        facts=None if reported is None else {kept(name): kept(str(reported[name])) for name in reported},
        features=_features(str((reported or {}).get("features", ""))),
        address=spec.get("managementAddress") or "",
    )


@lru_cache(maxsize=64)
def _features(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


def project_process(obj: Mapping[str, Any], seen: Seen | None = None) -> ProcessRow:
    """Return the row of a DeviceProcess; what *seen* returns for its uid and its stamps replaces what the object says.

    A row is built once: to change one costs as much as all that is read from the object.
    """
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    namespace, annotations = metadata.get("namespace", ""), metadata.get("annotations") or {}
    facts = _facts(status)
    connected = facts.get(ConditionType.AGENT_CONNECTED, _UNKNOWN)
    offered_at = epoch(annotations.get(OFFERED_AT_ANNOTATION))
    generation, observed_generation = metadata.get("generation", 0), status.get("observedGeneration") or 0
    if "deletionTimestamp" in metadata and observed_generation == generation - 1:
        generation = observed_generation  # a deletion raises it, and changes no spec
    observed = observed_generation == generation and observed_generation > 0
    ready = _ready(status, facts) if observed else None
    settled = _settled(status, facts) if observed else None
    failure = _failure(status, facts) if observed or _gave_up(metadata, facts) else ""
    crashed = _crashed(status, facts) if observed and not failure else None
    run, ends, terminating = status.get("startTime"), _ends(status), metadata.get("deletionTimestamp")
    is_silent, uid = connected.status == "False", metadata.get("uid", "")
    stamps = Stamps(
        offered_at=hash(generation),
        ready_since=_stamp(generation, ready),
        settled_since=_stamp(generation, settled),
        silent_since=_stamp(generation, (connected,)) if is_silent else None,
        run_since=hash((generation, run, ends)),
        terminating_since=hash(terminating) if "deletionTimestamp" in metadata else None,
        crashed_at=None if crashed is None else hash((generation, run, ends, crashed.since)),
    )
    shown: dict[str, Any] = {
        "offered_at": offered_at,
        "ready_since": _latest(offered_at, ready),
        "settled_since": _latest(offered_at, settled),
        "silent_since": connected.since if is_silent else None,
        "run_since": epoch(run),
        "terminating_since": epoch(terminating),
        "crashed_at": crashed.since if crashed is not None else None,
        "failure": failure if crashed is None else _words(f"ended {ends} times", crashed),
    }
    if seen is not None:
        shown |= seen(uid, stamps)
    return ProcessRow(
        name=metadata["name"],
        namespace=namespace,
        uid=uid,
        resource_version=metadata.get("resourceVersion", ""),
        device=_device(spec.get("deviceRef") or {}, namespace),
        owner=owner_of(metadata),
        spec_hash=_own_hash(spec),
        labels=_shared(frozenset((metadata.get("labels") or {}).items())),
        annotations=_shared(frozenset(item for item in annotations.items() if item[0] not in OWN_ANNOTATIONS)),
        annotated=bool(annotations),
        revision=kept(annotations.get(REVISION_ANNOTATION, "")),
        managed=kept(annotations.get(MANAGED_ANNOTATION, "")),
        wave=kept(annotations.get(WAVE_ANNOTATION, "")),
        min_ready=kept(annotations.get(MIN_READY_ANNOTATION, "")),
        offer_stamp=offered_at or 0.0,
        created_at=epoch(metadata.get("creationTimestamp")) or 0.0,
        terminating=terminating is not None,
        grace_s=float((spec.get("execution") or {}).get("terminationGracePeriodSeconds") or 0),
        finalizers=tuple(metadata.get("finalizers") or ()),
        connected=_truth(connected),
        connected_since=connected.since,
        fetched=_fetched(metadata, connected),
        in_storm=connected.status != "True" and connected.reason in _STORMS,
        reported=observed_generation > 0,
        observed=observed,
        on_trial=observed and facts.get(ConditionType.ON_TRIAL, _UNKNOWN).status == "True",
        stamps=stamps,
        removal=annotations.get(REMOVAL_ANNOTATION, ""),
        held=_held(facts),
        **shown,
    )


def _own_hash(spec: Mapping[str, Any]) -> str:
    """Return the hash of *spec* without deviceRef."""
    own = {name: value for name, value in spec.items() if name != "deviceRef"}
    packed = marshal.dumps(own, _MARSHAL)
    return _hash_of_short(packed) if len(packed) <= _MAX_SHORT else kept(spec_hash(own))


@lru_cache(maxsize=1024)
def _hash_of_short(packed: bytes) -> str:
    """Return the hash of a marshalled spec, computed once for the many processes that have it.

    These bytes tell true and 1.0 from 1 as the hash does; a comparison of the specs would not.
    """
    return kept(spec_hash(marshal.loads(packed)))  # noqa: S302  # our own bytes


def project_deployment(obj: Mapping[str, Any]) -> DeploymentRow:
    """Return the row of a DeviceProcessDeployment; a spec that cannot be acted on becomes the row's fault."""
    metadata, spec, fault = obj["metadata"], obj.get("spec") or {}, ""
    annotations = metadata.get("annotations") or {}
    policy = RolloutPolicy(selector=LabelSelector())
    overrides = spec.get("overrides") or ()
    matches: Matches = _nothing
    fact_matches = None
    try:
        policy = decode(spec, RolloutPolicy)
        matches = compile_selector(policy.selector)
        fact_matches = compile_fact_selector(policy.fact_selector)
        if policy.requirements:
            check_requirements(policy.requirements)
        if overrides:
            check_overrides(overrides)
        fault = _fault(policy, (spec.get("template") or {}).get("spec") or {})
    except DecodeError as e:
        fault = "; ".join(f"spec.{each.path}: {each.message}" for each in e.faults)
    except InvalidDeployment as e:
        fault = str(e)
    return DeploymentRow(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        generation=metadata.get("generation", 0),
        terminating=metadata.get("deletionTimestamp") is not None,
        template=project_template(metadata["name"], spec.get("template") or {}, overrides),
        policy=policy,
        matches=matches,
        fact_matches=fact_matches,
        approved=_approved(annotations.get(APPROVED_WAVES_ANNOTATION) or ""),
        change_cause=clean_text(annotations.get(CHANGE_CAUSE_ANNOTATION) or "")[:_MAX_CAUSE],
        retry=(annotations.get(RETRY_ANNOTATION) or "")[:_MAX_CAUSE],
        status=_stored_status(obj.get("status") or {}),
        fault=fault,
    )


def _fault(policy: RolloutPolicy, process: Mapping[str, Any]) -> str:
    """Return the first thing in a spec that cannot work, though its schema, or an API without CEL, lets it pass."""
    deadline, ready = policy.progress_deadline_seconds, policy.min_ready_seconds
    if deadline <= ready:
        return (
            f"spec.progressDeadlineSeconds: {deadline} is not more than minReadySeconds: no device would be available "
            f"in time; write more than {ready}"
        )
    rolling = policy.update_strategy.rolling_update
    for index, wave in enumerate(rolling.waves[:-1]):
        if (wave.selector is None or wave.selector == LabelSelector()) and wave.limit is None:
            where = f"spec.updateStrategy.rollingUpdate.waves[{index}]"
            return f"{where}: takes every device, and leaves none to the waves after it; write a selector or a limit"
    wrong = process_fault(process)
    return f"spec.template.spec.{wrong}" if wrong else ""


def _nothing(labels: Mapping[str, str]) -> bool:
    return False


def project_template(deployment: str, raw: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]] = ()) -> Template:
    """Return the template of every process from *raw*, the spec.template of *deployment*, and from its overrides."""
    spec, metadata = raw.get("spec") or {}, raw.get("metadata") or {}
    labels = (metadata.get("labels") or {}) | {DEPLOYMENT_LABEL: deployment_label(deployment)}
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k not in OWN_ANNOTATIONS}
    if RESTARTED_AT_ANNOTATION in annotations:  # only a changed spec makes a device restart anything
        spec = {**spec, "restartedAt": annotations[RESTARTED_AT_ANNOTATION]}
    identity = {"spec": spec, "labels": labels, "annotations": annotations}
    revision = spec_hash({**identity, "overrides": [*overrides]} if overrides else identity)
    return Template(
        spec=spec,
        spec_hash=spec_hash(spec),
        labels=frozenset(labels.items()),
        annotations=frozenset(annotations.items()),
        revision=revision.removeprefix("sha256:")[:10],
        managed=managed_keys(labels, annotations),
        raw=raw,
        overrides=tuple(overrides),
    )


def _approved(note: str) -> frozenset[str]:
    return frozenset(each.strip() for each in note.split(",") if each.strip())


def _stored_status(raw: Mapping[str, Any]) -> StoredStatus:
    try:
        status = decode(raw, DeviceProcessDeploymentStatus)
    except DecodeError:  # another client wrote there; the controller writes it again
        return StoredStatus(raw=raw)
    return StoredStatus(
        current_revision=status.current_revision,
        update_revision=status.update_revision,
        failed_revision=status.failed_revision,
        conditions=status.conditions,
        raw=raw,
    )


def _device(ref: Mapping[str, Any], namespace: str) -> str:
    kind = _KINDS.get(ref.get("kind") or DeviceKind.NETWORK_SWITCH)
    here = (ref.get("namespace") or namespace) == namespace
    return device_reference(kind, ref.get("name", "")) if here and kind is not None else ""


def owner_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the uid of the controlling owner; None without one."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller"):
            return kept(reference.get("uid", ""))
    return None


def _facts(status: Mapping[str, Any]) -> dict[str, _Fact]:
    return {
        condition["type"]: _Fact(
            condition.get("status", "Unknown"),
            epoch(condition.get("lastTransitionTime")),
            condition.get("reason") or "",
            condition.get("message") or "",
            condition.get("observedGeneration"),
        )
        for condition in status.get("conditions") or ()
    }


def _fetched(metadata: Mapping[str, Any], connected: _Fact) -> bool | None:
    if connected.status == "True" or connected.generation is None:
        return None
    return connected.generation >= (metadata.get("generation") or 0)


def _ready(status: Mapping[str, Any], facts: Mapping[str, _Fact]) -> Sequence[_Fact] | None:
    """Return the conditions that make it ready; None when it is not."""
    needed = [facts.get(name, _UNKNOWN) for name in _READY]
    ready = status.get("phase") in _RUNNING and all(fact.status == "True" for fact in needed)
    return needed if ready else None


def _settled(status: Mapping[str, Any], facts: Mapping[str, _Fact]) -> Sequence[_Fact] | None:
    """Return the conditions that make it settled, whether its device is connected or not; None when it is not."""
    observed, healthy = facts.get(ConditionType.SPEC_OBSERVED, _UNKNOWN), facts.get(ConditionType.HEALTHY, _UNKNOWN)
    if healthy.status == "False" or status.get("phase") in (Phase.PENDING, Phase.FAILED, None):
        return None
    return (observed, healthy) if healthy.status == "True" else (observed,)  # Unknown since the device went silent


def _latest(offered_at: float | None, facts: Sequence[_Fact] | None) -> float | None:
    # A condition that stayed True while the spec changed is older than the write: before, it is about another spec.
    return None if facts is None else max(offered_at or 0.0, *(fact.since or 0.0 for fact in facts))


def _stamp(generation: int, facts: Sequence[_Fact] | None) -> int | None:
    return None if facts is None else hash((generation, *(fact.since for fact in facts)))


def _gave_up(metadata: Mapping[str, Any], facts: Mapping[str, _Fact]) -> bool:
    """Return whether the device gave up the current spec; its status is about the older one, which runs again."""
    fact = facts.get(ConditionType.ROLLED_BACK, _UNKNOWN)
    return fact.status == "True" and fact.generation == metadata.get("generation", 0)


def _failure(status: Mapping[str, Any], facts: Mapping[str, _Fact]) -> str:
    rolled_back, healthy = facts.get(ConditionType.ROLLED_BACK, _UNKNOWN), facts.get(ConditionType.HEALTHY, _UNKNOWN)
    started = facts.get(ConditionType.PROCESS_STARTED, _UNKNOWN)
    if rolled_back.status == "True":
        return _words(ConditionType.ROLLED_BACK, rolled_back)
    if status.get("phase") == Phase.FAILED:
        not_started = started.message if started.status == "False" else ""
        why = status.get("lastTerminationReason") or not_started or healthy.message
        return _bounded(f"phase Failed: {why}" if why else "phase Failed")
    if healthy.status == "False" and started.status == "True":
        return _words("not healthy", healthy)
    return ""


def _crashed(status: Mapping[str, Any], facts: Mapping[str, _Fact]) -> _Fact | None:
    """Return the condition by which the process ended, if it did so too often since its spec was started first."""
    started = facts.get(ConditionType.PROCESS_STARTED, _UNKNOWN)
    exited = started.status == "False" and started.reason == ProcessReason.EXITED
    return started if exited and _ends(status) >= CRASH_LOOP_COUNT else None


def _ends(status: Mapping[str, Any]) -> int:
    return (status.get("restartCount") or 0) + 1


def _held(facts: Mapping[str, _Fact]) -> str:
    held = facts.get(ConditionType.UPDATE_HELD, _UNKNOWN)
    if held.status != "True" or facts.get(ConditionType.AGENT_CONNECTED, _UNKNOWN).status != "True":
        return ""  # what a device reported before it went silent may be outdated
    return kept(_bounded(held.message) or "held on the device")


def _words(what: str, fact: _Fact) -> str:
    return _bounded(": ".join(part for part in (what, fact.message or fact.reason) if part))


def _bounded(text: str) -> str:
    return clean_text(text)[:_MAX_DETAIL]


def _truth(fact: _Fact) -> bool | None:
    return {"True": True, "False": False}.get(fact.status)


@lru_cache(maxsize=1024)  # writes and reports of a fleet come many in a second
def epoch(text: str | None) -> float | None:
    """Return the time in *text* in seconds since the epoch; None when there is none."""
    if not text:
        return None
    try:
        return parse_time(text).timestamp()
    except ValueError:  # an edited annotation
        return None


@lru_cache(maxsize=1024)
def _shared(items: LabelItems) -> LabelItems:
    """Return an equal set: one object for all rows with these items, to save memory."""
    return items

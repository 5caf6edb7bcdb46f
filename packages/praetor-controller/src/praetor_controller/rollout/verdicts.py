# SPDX-License-Identifier: Apache-2.0
"""What is to be done about each device, by itself: a verdict from one table. Pure.

The table says for what a device *runs* of the deployment, which *gate* keeps the controller from writing to it, and how
the device *fares*: the reason that is shown, whether the device counts as unavailable, and the step to take. What the
budgets have to admit is decided afterwards, over all devices, by admission. docs/rollouts.md shows the same table.

Why these costs: a device that is down by our doing counts as unavailable, also while it waits, but after
progressDeadlineSeconds no longer, or it would hold up the waves before its own without end. A device that is connected
and unavailable is updated at once: it cannot get worse, and the update may fix it. Recreate asks for no budget, but
defers offline devices, too: what is held against them would be forgotten with a new target, and the budget is back
when the strategy changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from itertools import chain, product
from typing import Final, assert_never

from attrs import evolve, frozen

from praetor_api.kube.codec import format_time
from praetor_api.kube.objects import StrategyType
from praetor_api.names import hashed_process_name, process_name
from praetor_api.protocol import features_needed
from praetor_api.values import lacks_an_object, references_of
from praetor_controller.model.requirements import NO_FACTS
from praetor_controller.model.rows import DeviceRow, ProcessRow, Template
from praetor_controller.model.specs import Specs, variant_key
from praetor_controller.rollout.assignment import Assignment
from praetor_controller.rollout.availability import OVERTAKEN, Availability, blamed_until, offline_since
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Snapshot
from praetor_controller.rollout.waves import WaveProgress

NAME_RETRY_S = 10.0
"""After this time a name that another process has is tried again: its deletion makes no event for this deployment."""


class Runs(StrEnum):
    """What a device has of the deployment."""

    NOTHING = "nothing"
    TARGET = "the target revision"
    OTHER = "another revision"


class Gate(StrEnum):
    """What keeps the controller from writing to a device; the first that applies, in this order."""

    MAINTENANCE = "in maintenance"
    TERMINATING = "its process is being deleted"
    KEPT = "its process is being deleted, is past its grace period, and ready"
    IN_FLIGHT = "a write with an unknown outcome"
    REFUSED = "the API refused the write"
    PAUSED = "`spec.paused`"
    ON_DELETE = "`OnDelete`"
    UNMET = "it does not meet `spec.requirements`, or has not reported its facts"
    INVALID = "what the overrides make of the template for it cannot run"
    HELD = "the device holds updates, its agent is too old, or it lacks a value"
    WAVE = "its wave is closed"
    WAVE_CURRENT = "its wave is closed, and a revision was rolled out before"
    NAME_LEFTOVER = "a deleted deployment's process has the name"
    NAME_TAKEN = "another owner's process has the name"
    LEFT_BEHIND = "a process of a deployment that no longer matches is there"
    RECREATE = "none, `Recreate`"
    OPEN = "none"


class Health(StrEnum):
    """How a process and its device fare: Availability, and why it is not available."""

    AVAILABLE = "available"
    BECOMING_AVAILABLE = "ready, not available yet"
    FAILING = "fails"
    UNREADY = "not ready"
    UNREPORTED = "not reported since the last write"
    HELD = "holds updates"
    NEVER_CONNECTED = "has never connected"
    NEVER_REPORTED = "disconnected, has never reported the process"
    OFFLINE = "offline since before the last write"
    SILENT = "silent since the last write"


class Cost(StrEnum):
    """Whether a device counts as unavailable."""

    FREE = "no"
    DOWN = "yes"
    UNTIL_DEADLINE = "until `progressDeadlineSeconds` after the last write"


class Step(StrEnum):
    """What is written to a device."""

    NONE = "none"
    CREATE = "create"
    CREATE_CURRENT = "create with `status.currentRevision`"
    UPDATE = "update"
    UPDATE_IN_BUDGET = "update unless a budget is exceeded"
    UPDATE_WITH_PLACE = "update when every budget has a place"


@frozen
class Rule:
    """One row of the table: what follows for any of *runs*, of *gates* and of *healths* together.

    *reason* is None where the wave gives the reason.
    """

    runs: tuple[Runs, ...]
    gates: tuple[Gate, ...]
    healths: tuple[Health | None, ...]  # None where there is no process
    reason: ReasonCode | None
    cost: Cost = Cost.FREE
    step: Step = Step.NONE

    def cases(self) -> Iterator[tuple[Runs, Gate, Health | None]]:
        """Yield the combinations that the rule is for."""
        return product(self.runs, self.gates, self.healths)


_NOTHING, _TARGET, _OTHER = Runs
_AVAILABLE: Final = Availability.AVAILABLE
_HEALTHY = Health.AVAILABLE
_OPEN_GATE, _ON_DELETE, _ROLLING = Gate.OPEN, StrategyType.ON_DELETE, StrategyType.ROLLING_UPDATE
"""Members that every device asks for have names: in Python 3.11 each look-up in an enumeration calls a function."""

_NO_PROCESS = (None,)
_ANY = tuple(Health)
_UNAVAILABLE = (Health.UNREADY, Health.UNREPORTED)
_DOWN = (*_UNAVAILABLE, Health.BECOMING_AVAILABLE)
_NEVER_REPORTED = (Health.NEVER_CONNECTED, Health.NEVER_REPORTED)
_DEFERRED = (Health.HELD, *_NEVER_REPORTED, Health.OFFLINE)
_AS_BEFORE = (Health.AVAILABLE, Health.HELD)  # held: by a template that is not the target any more
_MAY_UPDATE = (Gate.OPEN, Gate.RECREATE)

TABLE: tuple[Rule, ...] = (
    Rule((*Runs,), (Gate.MAINTENANCE,), (None, *_ANY), ReasonCode.IN_MAINTENANCE),
    Rule((_NOTHING,), (Gate.IN_FLIGHT,), _NO_PROCESS, ReasonCode.CREATING),
    Rule((_NOTHING,), (Gate.REFUSED,), _NO_PROCESS, ReasonCode.CANNOT_CONVERGE),
    Rule((_NOTHING,), (Gate.PAUSED,), _NO_PROCESS, ReasonCode.PAUSED),
    Rule((_NOTHING,), (Gate.UNMET,), _NO_PROCESS, ReasonCode.REQUIREMENT_NOT_MET),
    Rule((_NOTHING,), (Gate.INVALID,), _NO_PROCESS, ReasonCode.OVERRIDE_INVALID),
    Rule((_NOTHING,), (Gate.HELD,), _NO_PROCESS, ReasonCode.AGENT_TOO_OLD),
    Rule((_NOTHING,), (Gate.WAVE,), _NO_PROCESS, None),
    Rule((_NOTHING,), (Gate.NAME_LEFTOVER,), _NO_PROCESS, ReasonCode.TERMINATING),
    Rule((_NOTHING,), (Gate.NAME_TAKEN,), _NO_PROCESS, ReasonCode.NAME_TAKEN),
    Rule((_NOTHING,), (Gate.LEFT_BEHIND,), _NO_PROCESS, ReasonCode.WAITING_FOR_REMOVAL),
    Rule((_NOTHING,), (Gate.WAVE_CURRENT,), _NO_PROCESS, ReasonCode.CREATING, step=Step.CREATE_CURRENT),
    Rule((_NOTHING,), (Gate.OPEN,), _NO_PROCESS, ReasonCode.CREATING, step=Step.CREATE),
    Rule((_TARGET, _OTHER), (Gate.TERMINATING,), _ANY, ReasonCode.TERMINATING, Cost.DOWN),
    Rule((_TARGET, _OTHER), (Gate.KEPT,), _ANY, ReasonCode.TERMINATING),
    Rule((_TARGET, _OTHER), (Gate.IN_FLIGHT,), _ANY, ReasonCode.UPDATING, Cost.DOWN),
    Rule((_TARGET,), (Gate.OPEN,), (Health.AVAILABLE,), ReasonCode.UP_TO_DATE),
    Rule((_TARGET,), (Gate.OPEN,), (Health.BECOMING_AVAILABLE,), ReasonCode.BECOMING_AVAILABLE, Cost.DOWN),
    Rule((_TARGET,), (Gate.OPEN,), (Health.FAILING,), ReasonCode.FAILING, Cost.DOWN),
    Rule((_TARGET,), (Gate.OPEN,), (Health.UNREADY,), ReasonCode.NOT_READY, Cost.DOWN),
    Rule((_TARGET,), (Gate.OPEN,), (Health.UNREPORTED,), ReasonCode.UPDATING, Cost.DOWN),
    Rule((_TARGET,), (Gate.OPEN,), (Health.SILENT,), ReasonCode.SILENT_SINCE_OFFER, Cost.DOWN),
    Rule((_TARGET,), (Gate.OPEN,), (Health.HELD,), ReasonCode.UPDATE_HELD),
    Rule((_TARGET,), (Gate.OPEN,), (Health.NEVER_CONNECTED,), ReasonCode.NEVER_CONNECTED),
    Rule((_TARGET,), (Gate.OPEN,), (Health.NEVER_REPORTED, Health.OFFLINE), ReasonCode.OFFLINE_SINCE),
    Rule((_OTHER,), (Gate.REFUSED,), (Health.AVAILABLE,), ReasonCode.CANNOT_CONVERGE),
    Rule((_OTHER,), (Gate.REFUSED,), (*_DOWN, Health.SILENT, *_DEFERRED), ReasonCode.CANNOT_CONVERGE, Cost.DOWN),
    Rule((_OTHER,), (Gate.PAUSED,), _ANY, ReasonCode.PAUSED),
    Rule((_OTHER,), (Gate.ON_DELETE,), _ANY, ReasonCode.WAITING_FOR_DELETION),
    Rule((_OTHER,), (Gate.UNMET,), (*_DOWN, Health.SILENT), ReasonCode.REQUIREMENT_NOT_MET, Cost.UNTIL_DEADLINE),
    Rule((_OTHER,), (Gate.UNMET,), (Health.AVAILABLE, *_DEFERRED), ReasonCode.REQUIREMENT_NOT_MET),
    Rule((_OTHER,), (Gate.INVALID,), (*_DOWN, Health.SILENT), ReasonCode.OVERRIDE_INVALID, Cost.UNTIL_DEADLINE),
    Rule((_OTHER,), (Gate.INVALID,), (Health.AVAILABLE, *_DEFERRED), ReasonCode.OVERRIDE_INVALID),
    Rule((_OTHER,), (Gate.HELD,), (*_DOWN, Health.SILENT), ReasonCode.UPDATE_HELD, Cost.UNTIL_DEADLINE),
    Rule((_OTHER,), (Gate.HELD,), (Health.AVAILABLE, *_DEFERRED), ReasonCode.UPDATE_HELD),
    Rule((_OTHER,), (Gate.WAVE,), (*_DOWN, Health.SILENT), None, Cost.UNTIL_DEADLINE),
    Rule((_OTHER,), (Gate.WAVE,), (Health.AVAILABLE, *_DEFERRED), None),
    Rule((_OTHER,), (Gate.OPEN,), _AS_BEFORE, ReasonCode.UPDATING, Cost.FREE, Step.UPDATE_WITH_PLACE),
    Rule((_OTHER,), (Gate.OPEN,), (Health.BECOMING_AVAILABLE,), ReasonCode.UPDATING, Cost.DOWN, Step.UPDATE_IN_BUDGET),
    Rule((_OTHER,), (Gate.OPEN,), _UNAVAILABLE, ReasonCode.UPDATING, Cost.DOWN, Step.UPDATE),
    Rule((_OTHER,), (Gate.RECREATE,), (*_AS_BEFORE, *_DOWN), ReasonCode.UPDATING, Cost.FREE, Step.UPDATE),
    Rule((_OTHER,), _MAY_UPDATE, _NEVER_REPORTED, ReasonCode.UPDATING, Cost.FREE, Step.UPDATE),
    Rule((_OTHER,), _MAY_UPDATE, (Health.SILENT,), ReasonCode.SILENT_SINCE_OFFER, Cost.UNTIL_DEADLINE),
    Rule((_OTHER,), _MAY_UPDATE, (Health.OFFLINE,), ReasonCode.OFFLINE_SINCE),
)
"""Every case, once. An update of labels and annotations alone is not part of it: it costs nothing."""

RULES = {key: rule for rule in TABLE for key in rule.cases()}


@frozen
class Verdict:
    """What is to be done about one device.

    *down*: it counts as unavailable. *recheck_at* is when time alone may change the verdict, in seconds since the
    epoch. *name* is that of the process to create. *on_target*: its process has the target, and is left to settle.
    """

    reason: Reason
    step: Step = Step.NONE
    down: bool = False
    on_target: bool = False
    recheck_at: float = math.inf
    name: str = ""


@frozen(kw_only=True)
class Context:
    """What the verdicts of one pass depend on besides the device. *at* is now, in seconds since the epoch.

    *target* is what devices are to have, *on_target* which have it, in their order, and *faults* why some cannot.
    *waves* is None when every device may have the target.
    """

    snapshot: Snapshot
    at: float
    target: Specs
    on_target: Sequence[bool]
    faults: Mapping[str, str]
    waves: WaveProgress | None
    strategy: StrategyType
    paused: bool
    min_ready_s: float
    deadline_s: float

    @classmethod
    def of(
        cls, snapshot: Snapshot, at: float, target: Specs, on_target: Sequence[bool], waves: WaveProgress | None
    ) -> Context:
        """Return the context of a pass over *snapshot*."""
        policy = snapshot.deployment.policy
        return cls(
            snapshot=snapshot,
            at=at,
            target=target,
            on_target=on_target,
            faults=target.faults(),
            waves=waves,
            strategy=snapshot.deployment.strategy,
            paused=policy.paused,
            min_ready_s=float(policy.min_ready_seconds),
            deadline_s=float(policy.progress_deadline_seconds),
        )

    def current_of(self, number: int) -> Template:
        """Return what the device at *number* gets while its wave is closed: that of the current revision."""
        device, current = self.snapshot.devices[number], self.snapshot.current or self.target.template
        applied = current.applying(device.labels)
        known = self.snapshot.variants.get(variant_key(current, applied)) if applied else current
        return known or current.with_overrides(applied)

    def closed(self, number: int) -> Reason | None:
        """Return why the wave of the device at *number* is closed; None when it is open."""
        return None if self.waves is None else self.waves.closed(number)


@frozen
class Verdicts:
    """The verdicts of all devices, in their order; *others* are the numbers of those that are not simply up to date.

    *special* are those of the devices that had to be looked at one by one. Of the rest none is down, waits for a time,
    or has a process that is being deleted.
    """

    all: Sequence[Verdict]
    others: Sequence[int]
    special: Sequence[int]

    def with_step(self, *steps: Step) -> list[int]:
        """Return the numbers of the devices for which one of *steps* is to be taken."""
        return sorted(chain.from_iterable(self._by_step[step] for step in steps))

    @cached_property
    def on_target(self) -> Sequence[int]:
        """The numbers of the devices whose process has the target, and is left to settle."""
        return [number for number, verdict in enumerate(self.all) if verdict.on_target]

    @cached_property
    def _by_step(self) -> Mapping[Step, list[int]]:
        found: dict[Step, list[int]] = {step: [] for step in Step}
        verdicts = self.all
        for number in self.others:
            found[verdicts[number].step].append(number)
        return found


def classify_all(context: Context, assignment: Assignment) -> Verdicts:
    """Return the verdict of each device."""
    snapshot, faults = context.snapshot, context.faults
    special, named = assignment.special, snapshot.in_flight | snapshot.refusals.keys() | faults.keys()
    if named:
        special = sorted({*special, *(number for number, name in enumerate(assignment.names) if name in named)})
    verdicts = [
        _UP_TO_DATE if has else outdated  # as most are, so not worth a call
        for has, outdated in zip(context.on_target, _of_outdated(context), strict=True)
    ]
    for number in special:
        device, process = assignment.devices[number], assignment.processes[number]
        verdicts[number] = classify(context, number, device, process, assignment.availabilities[number])
    others = [number for number, verdict in enumerate(verdicts) if verdict is not _UP_TO_DATE]
    return Verdicts(verdicts, others, special)


def without_steps(verdicts: Verdicts, why: Reason) -> Verdicts:
    """Return *verdicts* without their steps: *why* is the reason of each device that would be written to."""
    waits = {down: Verdict(why, down=down) for down in (False, True)}
    changed = [waits[each.down] if each.step is not Step.NONE else each for each in verdicts.all]
    return evolve(verdicts, all=changed)


def _of_outdated(context: Context) -> Sequence[Verdict]:
    """Return the verdict that classify() gives each device if it is available with another revision.

    Half of a large fleet may be such devices. They share one, or one for each reason why a wave is closed.
    """
    gate, waves, devices = _gate(context), context.waves, len(context.on_target)
    is_open = _SHARED[_OTHER, gate, _HEALTHY]
    if waves is None or gate not in _MAY_UPDATE:
        return [is_open] * devices
    if not waves.place:
        return [is_open if waves.blocker is None else Verdict(waves.blocker)] * devices
    closed = [waves.closed_wave(index) for index in range(len(waves.waves))]
    by_wave = [is_open if reason is None else Verdict(reason) for reason in closed]
    return [by_wave[index] for index in waves.place]


def classify(
    context: Context, number: int, device: DeviceRow, process: ProcessRow | None, availability: Availability | None
) -> Verdict:
    """Return the verdict of the device at *number* in the order of the snapshot; *availability* is its process's."""
    if process is None or availability is None:
        gate, name = _gate_of_creation(context, number, device)
        return _verdict(context, RULES[_NOTHING, gate, None], number, device, None, name)
    runs = _TARGET if context.on_target[number] else _OTHER
    gate = _gate_of_update(context, number, device, process, runs)
    key = runs, gate, _health(context, device, process, availability, runs)
    return _SHARED.get(key) or _verdict(context, RULES[key], number, device, process)


def _gate_of_creation(context: Context, number: int, device: DeviceRow) -> tuple[Gate, str]:
    """Return what keeps a process from being created, and the name that it would have."""
    snapshot, name = context.snapshot, device.name
    if device.maintained(context.at):
        return Gate.MAINTENANCE, ""
    if name in snapshot.in_flight:
        return Gate.IN_FLIGHT, ""
    if name in snapshot.refusals:
        return Gate.REFUSED, ""
    if context.paused:
        return Gate.PAUSED, ""
    if device.unmet:
        return Gate.UNMET, ""
    if name in context.faults:
        return Gate.INVALID, ""
    if device.withheld:
        return Gate.HELD, ""
    closed = context.closed(number) is not None
    if closed and (snapshot.current is None or context.current_of(number).fault):
        return Gate.WAVE, ""
    wanted = process_name(snapshot.deployment.name, name)
    if wanted in snapshot.taken_names:  # rare, and the leftovers are among these
        if wanted in snapshot.leftovers:
            return Gate.NAME_LEFTOVER, wanted
        if f"{name}/{wanted}" in snapshot.occupied:  # what runs there would have a second one beside it
            return Gate.NAME_TAKEN, wanted
        wanted = hashed_process_name(snapshot.deployment.name, name)
        if wanted in snapshot.taken_names:
            return Gate.NAME_TAKEN, wanted
    if name in snapshot.left_behind:  # both might want the same port
        return Gate.LEFT_BEHIND, wanted
    return Gate.WAVE_CURRENT if closed else Gate.OPEN, wanted


def _gate_of_update(context: Context, number: int, device: DeviceRow, process: ProcessRow, runs: Runs) -> Gate:
    if device.in_maintenance and device.maintained(context.at):
        return Gate.MAINTENANCE
    if process.terminating:
        return Gate.KEPT if process.kept_at <= context.at else Gate.TERMINATING
    if device.name in context.snapshot.in_flight:
        return Gate.IN_FLIGHT
    if runs is _TARGET:
        return _OPEN_GATE
    if device.name in context.snapshot.refusals:
        return Gate.REFUSED
    gate = _gate(context)
    if device.unmet and gate in _MAY_UPDATE:
        return Gate.UNMET
    if device.name in context.faults and gate in _MAY_UPDATE:
        return Gate.INVALID
    if process.held and process.held != OVERTAKEN and gate in _MAY_UPDATE:
        return Gate.HELD
    closed = gate in _MAY_UPDATE and context.waves is not None and context.waves.closed(number) is not None
    return Gate.WAVE if closed else gate


def _gate(context: Context) -> Gate:
    """Return what the deployment itself keeps from every device that does not have the target."""
    if context.paused:
        return Gate.PAUSED
    if context.strategy is _ON_DELETE:
        return Gate.ON_DELETE
    return _OPEN_GATE if context.strategy is _ROLLING else Gate.RECREATE


def _health(context: Context, device: DeviceRow, process: ProcessRow, availability: Availability, runs: Runs) -> Health:
    if availability is _AVAILABLE:
        return _HEALTHY
    match availability:
        case Availability.UNAVAILABLE:
            if process.failure and runs is _TARGET:
                return Health.FAILING
            if process.ready_since is not None:
                return Health.BECOMING_AVAILABLE
            return Health.UNREADY if process.observed else Health.UNREPORTED
        case Availability.HELD:
            return Health.HELD
        case Availability.NEVER_REPORTED:
            return Health.NEVER_CONNECTED if offline_since(process, device) is None else Health.NEVER_REPORTED
        case Availability.OFFLINE_BEFORE_OFFER:
            return Health.OFFLINE
        case Availability.SILENT_AFTER_OFFER | Availability.SILENT:
            blamed = blamed_until(process, context.snapshot.deployment.policy, context.snapshot.proven)
            return Health.SILENT if runs is _TARGET or context.at < blamed else Health.OFFLINE
        case _:
            assert_never(availability)


def _verdict(
    context: Context, rule: Rule, number: int, device: DeviceRow, process: ProcessRow | None, name: str = ""
) -> Verdict:
    down, recheck_at = rule.cost is Cost.DOWN, math.inf
    if rule.cost is Cost.UNTIL_DEADLINE and process is not None:
        recheck_at = _deadline(context, process)
        down = context.at < recheck_at
    elif rule.reason is ReasonCode.IN_MAINTENANCE and device.maintenance_until is not None:
        recheck_at = device.maintenance_until
    elif rule.gates[0] in (Gate.NAME_LEFTOVER, Gate.NAME_TAKEN, Gate.LEFT_BEHIND):
        recheck_at = context.at + NAME_RETRY_S
    elif rule.gates[0] is Gate.TERMINATING and process is not None:
        recheck_at = process.kept_at
    reason = _reason(context, rule, number, device, process, name)
    return Verdict(reason, rule.step, down, _on_target(rule), recheck_at, name)


def _deadline(context: Context, process: ProcessRow) -> float:
    """Return until when a device that waits is held against the budget."""
    deadline = (process.offered_at or process.created_at) + context.deadline_s
    return deadline if process.ready_since is None else max(deadline, process.available_at(context.min_ready_s))


def _reason(
    context: Context, rule: Rule, number: int, device: DeviceRow, process: ProcessRow | None, name: str
) -> Reason:
    if rule.reason is None:
        return context.closed(number) or Reason(ReasonCode.WAITING_FOR_WAVE)
    detail = _detail(context, rule, device, process, name)
    if rule.reason in (ReasonCode.UPDATE_HELD, ReasonCode.AGENT_TOO_OLD):
        for code in _WITHHELD:
            if detail.startswith(f"{code}("):
                return Reason(code, detail.removeprefix(f"{code}(").partition("): ")[0].removesuffix(")"))
    if rule.reason is ReasonCode.REQUIREMENT_NOT_MET and detail == NO_FACTS:
        return Reason(ReasonCode.FACTS_NOT_REPORTED)
    return Reason(rule.reason, detail)


_WITHHELD = (ReasonCode.AGENT_TOO_OLD, ReasonCode.REFERENCE_MISSING, ReasonCode.REFERENCE_REFUSED)
"""Why the gateway does not send a spec, as the text before the first colon that says so."""
_BY_GATEWAY = tuple(f"{code}(" for code in _WITHHELD)


def with_withheld(snapshot: Snapshot, specs: Specs, of_all: Mapping[str, str]) -> Snapshot:
    """Return *snapshot* with the processes held whose devices the gateway would not send what *specs* give them.

    Their agents do not know a feature that it needs, or they lack a value that it refers to. All would take it at once
    when that changes. *of_all* is withheld_from_all() of the snapshot.
    """
    why: dict[str, str] = {}
    for template, devices in specs.groups():
        needed, withheld = features_needed(template.spec), of_all.get(template.spec_hash, "")
        why |= {
            device.name: device.missing or withheld
            if needed <= device.features
            else str(Reason(ReasonCode.AGENT_TOO_OLD, ",".join(sorted(needed - device.features))))
            for device in devices
            if withheld or device.missing or (needed and not needed <= device.features)
        }
    overtaken = {
        process.uid
        for process in snapshot.processes
        if process.held
        and process.held.startswith(_BY_GATEWAY)
        and process.device not in why
        and not specs.runs(process)
    }
    if not why and not overtaken:
        return snapshot
    devices = [
        evolve(device, withheld=why[device.name]) if device.name in why and device.connected else device
        for device in snapshot.devices
    ]
    missing = {device.name for device in snapshot.devices if device.missing} if of_all else frozenset()
    on_target = why if not of_all else {name for name in why if not of_all.get(specs.of(name).spec_hash)} | missing
    processes = [
        evolve(process, held=OVERTAKEN)
        if process.uid in overtaken
        else evolve(process, held=why[process.device])
        if process.device in why and process.device in (on_target if specs.runs(process) else why)
        else process
        for process in snapshot.processes
    ]
    return evolve(snapshot, devices=devices, processes=processes)


def withheld_from_all(snapshot: Snapshot, specs: Specs) -> Mapping[str, str]:
    """Return why no device would be sent what it is to be given, as those say that have it, by the hash of the spec.

    The controller cannot read what a template refers to. What is missing in the namespace is missing for all. What is
    refused to those that have a spec is refused to all that would get it, unless one of them runs it. Devices with
    other overrides may lack nothing.
    """
    found = {}
    for template, devices in specs.groups():
        if any(each.source is not None for each in references_of(template.spec)):
            names = {device.name for device in devices} if specs.varies else None
            has = [each for each in snapshot.processes if (names is None or each.device in names) and specs.runs(each)]
            if why := _withheld_from(devices, has):
                found[template.spec_hash] = why
    return found


def _withheld_from(devices: Sequence[DeviceRow], on_target: Sequence[ProcessRow]) -> str:
    for process in on_target:
        if process.held and lacks_an_object(process.held):
            return process.held
    if any(each.observed and not each.held for each in on_target):
        return ""
    maintained = {device.name for device in devices if device.in_maintenance}
    refused = f"{ReasonCode.REFERENCE_REFUSED}("
    said = (each.held for each in on_target if each.device not in maintained)
    return next((each for each in said if each.startswith(refused)), "")


def _detail(context: Context, rule: Rule, device: DeviceRow, process: ProcessRow | None, name: str) -> str:
    ahead_s = context.snapshot.ahead_s
    match rule.reason:
        case ReasonCode.IN_MAINTENANCE:
            return "" if device.maintenance_until is None else f"until {_time(device.maintenance_until - ahead_s)}"
        case ReasonCode.CANNOT_CONVERGE:
            return context.snapshot.refusals[device.name]
        case ReasonCode.TERMINATING if name:
            return f"{name} of a deleted deployment is not collected yet"
        case ReasonCode.TERMINATING if process is not None and process.finalizers:
            return f"kept by the finalizer {', '.join(process.finalizers)}"
        case ReasonCode.NAME_TAKEN:
            return f"{name} belongs to another owner or to none"
        case ReasonCode.REQUIREMENT_NOT_MET:
            return device.unmet
        case ReasonCode.OVERRIDE_INVALID:
            return context.faults[device.name]
        case ReasonCode.AGENT_TOO_OLD:
            return device.withheld
        case ReasonCode.WAITING_FOR_REMOVAL:
            return context.snapshot.left_behind[device.name]
        case ReasonCode.UPDATE_HELD if process is not None:
            return process.held
        case ReasonCode.FAILING if process is not None:
            return process.failure
        case ReasonCode.BECOMING_AVAILABLE if process is not None and process.on_trial:
            return "once its device has proven the version"
        case ReasonCode.BECOMING_AVAILABLE if process is not None:
            return f"at {_time((process.ready_since or 0.0) + context.min_ready_s - ahead_s)}"
        case ReasonCode.OFFLINE_SINCE | ReasonCode.SILENT_SINCE_OFFER if process is not None:
            since = offline_since(process, device)
            unknown = rule.reason is ReasonCode.SILENT_SINCE_OFFER and process.fetched is None
            return ("" if since is None else _time(since)) + (" or before the offer" if unknown else "")
    return ""


def _on_target(rule: Rule) -> bool:
    return rule.runs == (_TARGET,)


def _time(epoch: float) -> str:
    return format_time(datetime.fromtimestamp(epoch, UTC))


_WITHOUT_DETAIL = (
    ReasonCode.UP_TO_DATE,
    ReasonCode.UPDATING,
    ReasonCode.NOT_READY,
    ReasonCode.PAUSED,
    ReasonCode.NEVER_CONNECTED,
    ReasonCode.WAITING_FOR_DELETION,
)
_SHARED = {
    key: Verdict(Reason(rule.reason), rule.step, rule.cost is Cost.DOWN, _on_target(rule))
    for key, rule in RULES.items()
    if key[0] is not _NOTHING and rule.reason in _WITHOUT_DETAIL and rule.cost is not Cost.UNTIL_DEADLINE
}
"""Verdicts that depend on the rule alone: most devices share them."""
_UP_TO_DATE = _SHARED[_TARGET, Gate.OPEN, Health.AVAILABLE]

# SPDX-License-Identifier: Apache-2.0
"""The rollout planner: a function of a snapshot and of now. No I/O, no clock, no logs.

In four steps: which revision is the target and which waves are open; a verdict for each device; which of those that are
up the budgets admit; and the writes and the status that follow. When the failure policy stops a revision no wave is
open; when it rolls back, the target is the current revision instead, under the same budgets and without waves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from attrs import evolve, frozen

from praetor_api.kube.objects import Budget, StrategyType
from praetor_controller.errors import InvalidDeployment
from praetor_controller.model.actions import Create, Delete, Update
from praetor_controller.model.amounts import max_unavailable
from praetor_controller.model.specs import Specs
from praetor_controller.model.wave_record import WaveRecord
from praetor_controller.rollout.admission import Admission, admit
from praetor_controller.rollout.assignment import Assignment, Updated, assign
from praetor_controller.rollout.availability import Availability
from praetor_controller.rollout.budgets import Domains, matches_nothing
from praetor_controller.rollout.failure_policy import Failures, Stop, stopped
from praetor_controller.rollout.reasons import Reason, ReasonCode, Reasons
from praetor_controller.rollout.removals import Removals, removal_limit, removals
from praetor_controller.rollout.snapshot import (
    Aggregate,
    Counts,
    GatewayState,
    Plan,
    Snapshot,
    delete_refusal_key,
    specs_of,
)
from praetor_controller.rollout.status import FleetSummary, fault_status, refusal_text, rollout_status, was_rolled_out
from praetor_controller.rollout.verdicts import (
    Context,
    Step,
    Verdicts,
    classify_all,
    with_withheld,
    withheld_from_all,
    without_steps,
)
from praetor_controller.rollout.waves import WaveProgress, wave_progress


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """Return what brings the deployment one safe step closer to its spec."""
    deployment = snapshot.deployment
    if deployment.terminating:
        return Plan()  # owner references do the rest
    try:
        if deployment.fault:
            raise InvalidDeployment(deployment.fault)
        return _planned(_steady(snapshot), now)
    except InvalidDeployment as e:
        return Plan(status=fault_status(deployment, str(e), now))


def _steady(snapshot: Snapshot) -> Snapshot:
    """Return *snapshot* with the times that users wrote in the time of the rows."""
    if not snapshot.ahead_s:
        return snapshot
    devices = [
        row
        if row.maintenance_until is None
        else evolve(row, maintenance_until=row.maintenance_until + snapshot.ahead_s)
        for row in snapshot.devices
    ]
    return evolve(snapshot, devices=devices)


@frozen(kw_only=True)
class _Writes:
    deletes: tuple[Delete, ...]
    updates: Sequence[Update]
    creates: Sequence[Create]

    @property
    def offer(self) -> bool:
        """Whether devices are given something."""
        return bool(self.updates or self.creates)


def _planned(snapshot: Snapshot, now: datetime) -> Plan:
    specs = specs_of(snapshot, snapshot.deployment.template, snapshot.stored_as)
    of_all = withheld_from_all(snapshot, specs)
    snapshot = with_withheld(snapshot, specs, of_all)
    deployment, ahead_s = snapshot.deployment, snapshot.ahead_s
    at, since = now.timestamp() + ahead_s, snapshot.rollout_since.timestamp()
    domains = _domains(snapshot)
    assignment = assign(snapshot.devices, snapshot.processes, float(deployment.policy.min_ready_seconds), at)
    limit = max_unavailable(deployment.max_unavailable, assignment.desired)
    updated = Updated.of(specs, snapshot, assignment)
    stop, stop_at, record = _stop(snapshot, assignment, updated, at)
    target = _target(snapshot, specs, stop)
    progress = _wave_progress(snapshot, specs, assignment, updated, stop, at)
    record = evolve(progress.record, counted=record.counted) if progress is not None else record
    waves = _waves(snapshot, assignment, updated, stop, progress)
    on_target = updated.all if target is specs else target.run_by(assignment.hashes)
    context = Context.of(snapshot, at, target, on_target, waves)
    verdicts = classify_all(context, assignment)
    if snapshot.gateway is not GatewayState.JUDGING:
        verdicts = without_steps(verdicts, Reason(ReasonCode.GATEWAY_UNAVAILABLE))
    down = [number for number in verdicts.special if verdicts.all[number].down]
    for number in down:
        domains.take(assignment.devices[number])
    leave = removals(snapshot, assignment, len(down), domains)
    admission = admit(verdicts, assignment, waves, limit, len(down) + leave.places, domains)
    writes = _writes(context, target, assignment, verdicts, admission, leave)
    reasons = _reasons(verdicts, admission)

    counts, available_at = _counts(snapshot, assignment, updated, context.min_ready_s)
    progress_at = _progress_at(context, assignment, verdicts)
    summary = FleetSummary(
        counts=counts,
        reasons=_reason_counts(reasons, verdicts.others, leave),
        withheld=bool(of_all),
        held_by_facts=not leave.bulk,
        removals_held=[each.process.device or each.process.name for each in leave.held],
        removal_limit=removal_limit(deployment, assignment.desired + len(assignment.orphans)),
        limit=limit,
        progress_at=(at if writes.offer else max(progress_at, since)) - ahead_s,
        since=since - ahead_s,
        wave=waves.current if waves else None,
        hold=waves.blocker if waves else None,
        stopped=stop.message if stop else "",
        rolled_back=stop.rollback if stop else False,
        gateway=snapshot.gateway,
        kept=_kept(assignment, reasons, verdicts.special),
        invalid=context.faults,
        refused=refusal_text(deployment.name, snapshot.refusals, snapshot.retry_at),
    )
    status, deadline = rollout_status(deployment, summary, now)
    recheck = {verdicts.all[number].recheck_at for number in verdicts.special}
    recheck |= {
        snapshot.elsewhere_changes_at,
        snapshot.removals_change_at,
        stop_at,
        available_at,
        waves.recheck_at if waves else math.inf,
    }
    recheck_at = _earliest(recheck, at)
    moves = summary.kept or waves or stop or writes.offer or admission.refused
    shared = of_all or context.faults  # what one device says of all, or the status of several
    steady = not (moves or shared) and _is_steady(snapshot, counts)
    # Before a rollback begins the status must say so: the failures that call for it go away with it.
    # And before anything else changes it must say that removals are held: with new processes, not all would leave.
    rolls_back = stop is not None and stop.rollback and not stop.remembered
    withheld = deployment.policy.paused or rolls_back or (leave.bulk and not leave.remembered)
    return Plan(
        actions=() if withheld else (*writes.deletes, *writes.updates, *writes.creates),
        status=status,
        recheck_at=_time(_earliest((recheck_at, math.inf if deadline is None else deadline + ahead_s), at) - ahead_s),
        reasons=Reasons(assignment.names, reasons),
        waves=waves.waves if waves else (),
        waits_for=waves.blocker if waves else None,
        removals=leave.stay,
        wave_record=record if record != snapshot.wave_record else None,
        aggregate=Aggregate(counts=counts, reasons=summary.reasons, progress_at=progress_at, recheck_at=recheck_at)
        if steady
        else None,
    )


def _domains(snapshot: Snapshot) -> Domains:
    deployment = snapshot.deployment
    rolling = deployment.strategy is StrategyType.ROLLING_UPDATE
    budgets = deployment.policy.update_strategy.rolling_update.budgets if rolling else ()
    shared = snapshot.shared_budgets if rolling else ()
    devices = [*snapshot.devices, *snapshot.leaving] if snapshot.leaving else snapshot.devices
    return Domains(budgets, devices, snapshot.down_elsewhere, shared)


def _stop(
    snapshot: Snapshot, assignment: Assignment, updated: Updated, at: float
) -> tuple[Stop | None, float, WaveRecord]:
    deployment, current = snapshot.deployment, snapshot.current
    if deployment.policy.failure_policy is None:
        return None, math.inf, snapshot.wave_record
    can_roll_back = current is not None and current.revision != deployment.template.revision
    judged_since = snapshot.judged_since if snapshot.gateway is GatewayState.JUDGING else None
    record = snapshot.wave_record
    return stopped(deployment, assignment, updated, at, judged_since, record, can_roll_back=can_roll_back)


def _target(snapshot: Snapshot, specs: Specs, stop: Stop | None) -> Specs:
    """Return what devices of open waves shall run."""
    current = snapshot.current
    if stop is not None and stop.rollback and current is not None:
        return specs_of(snapshot, current, snapshot.current_stored_as)
    return specs


def _wave_progress(
    snapshot: Snapshot, specs: Specs, assignment: Assignment, updated: Updated, stop: Stop | None, at: float
) -> WaveProgress | None:
    """Return how far the waves of the template are; None without waves, and when they matter no more."""
    deployment = snapshot.deployment
    rolling = deployment.strategy is StrategyType.ROLLING_UPDATE
    over = was_rolled_out(deployment) or (stop is not None and stop.rollback and stop.remembered)
    if not rolling or over or not deployment.policy.update_strategy.rolling_update.waves:
        return None
    since = (snapshot.revision_since or snapshot.rollout_since).timestamp()
    judged = snapshot.gateway is GatewayState.JUDGING
    failures = Failures(deployment, at, snapshot.judged_since) if judged else None
    is_first = snapshot.current is None and not _moves(assignment, updated)
    stamp, record = snapshot.revision_stamp, snapshot.wave_record
    return wave_progress(
        deployment,
        assignment,
        updated,
        specs.faults(),
        at,
        since,
        since if stamp is None else stamp,
        record,
        failures,
        is_first=is_first,
        proven=snapshot.proven,
    )


def _waves(
    snapshot: Snapshot,
    assignment: Assignment,
    updated: Updated,
    stop: Stop | None,
    progress: WaveProgress | None,
) -> WaveProgress | None:
    """Return which waves are open; None when all devices may have the target."""
    if stop is not None:
        halted = Reason(ReasonCode.PAUSED, "the failure policy stopped the revision")
        return None if stop.rollback else WaveProgress(blocker=halted)
    stormy = _in_storm(assignment, updated)
    if stormy:
        return WaveProgress(blocker=Reason(ReasonCode.FLEET_SILENT, f"{stormy} with the revision"))
    unmatched = _unmatched_budget(snapshot)
    if unmatched is None or not _moves(assignment, updated):
        return progress
    return WaveProgress(blocker=Reason(ReasonCode.BUDGET_MATCHES_NOTHING, ",".join(unmatched.group_by)))


def _in_storm(assignment: Assignment, updated: Updated) -> int:
    """Return how many devices fell silent with many others before the new revision settled on them."""
    updates = (assignment.processes[number] for number in assignment.special if updated.all[number])
    silent = [process for process in updates if process is not None and process.in_storm]
    return sum(process.settled_since is None and process.fetched is not False for process in silent)


def _unmatched_budget(snapshot: Snapshot) -> Budget | None:
    """Return the first budget that no device belongs to, and that does not allow that: it may be a mistake."""
    if snapshot.deployment.strategy is not StrategyType.ROLLING_UPDATE or not snapshot.devices:
        return None
    budgets = snapshot.deployment.policy.update_strategy.rolling_update.budgets
    return next((each for each in budgets if matches_nothing(each, snapshot.devices)), None)


def _moves(assignment: Assignment, updated: Updated) -> bool:
    """Return whether any device has another spec than the template gives it."""
    return any(not has and each is not None for each, has in zip(assignment.hashes, updated.all, strict=True))


def _writes(
    context: Context,
    target: Specs,
    assignment: Assignment,
    verdicts: Verdicts,
    admission: Admission,
    leave: Removals,
) -> _Writes:
    snapshot, waves, processes = context.snapshot, context.waves, assignment.processes
    updates: dict[int, Update] = {}
    creates: list[Create] = []

    def wave(number: int) -> str:
        return waves.name_of(number) if waves is not None else ""

    for number in verdicts.with_step(Step.CREATE, Step.CREATE_CURRENT, Step.UPDATE):
        verdict, process, name = verdicts.all[number], processes[number], assignment.names[number]
        if process is not None:
            updates[number] = Update(process, target.of(name), wave=wave(number))
        elif verdict.step is Step.CREATE:
            creates.append(Create(name, verdict.name, target.of(name), wave(number)))
        else:
            creates.append(Create(name, verdict.name, context.current_of(number)))
    updates |= _metadata_updates(context, target, assignment, verdicts)
    ordered = [updates[number] for number in sorted(updates)]
    ordered += [
        Update(process, target.of(assignment.names[number]), wave=wave(number))
        for number in admission.admitted
        if (process := processes[number]) is not None
    ]
    return _Writes(deletes=_deletes(snapshot, assignment, leave), updates=ordered, creates=creates)


def _metadata_updates(context: Context, specs: Specs, assignment: Assignment, verdicts: Verdicts) -> dict[int, Update]:
    """Return what gives processes of the target its labels and annotations, by the number of the device."""
    if context.paused or context.strategy is StrategyType.ON_DELETE:
        return {}
    target = specs.template
    revision, managed, labels, annotations = target.revision, target.managed, target.labels, target.annotations
    processes = assignment.processes
    return {
        number: Update(process, specs.of(process.device), spec=False)
        for number in verdicts.on_target
        if (process := processes[number]) is not None
        and not (
            process.revision == revision
            and process.managed == managed
            and labels <= process.labels
            and annotations <= process.annotations
        )
        and process.device not in context.snapshot.refusals
    }


def _kept(assignment: Assignment, reasons: Sequence[Reason], special: Iterable[int]) -> str:
    """Return the first of the devices whose old process a finalizer keeps, with its name; empty without any."""
    terminating = ReasonCode.TERMINATING
    found = (number for number in special if reasons[number].code is terminating and reasons[number].detail)
    return next((f"{assignment.names[number]}: {reasons[number].detail}" for number in found), "")


def _deletes(snapshot: Snapshot, assignment: Assignment, leave: Removals) -> tuple[Delete, ...]:
    orphans = [Delete(process, "its device is gone or no longer matches") for process in leave.now]
    surplus = [Delete(process, "the device has an older process of the deployment") for process in assignment.surplus]
    return tuple(each for each in (*orphans, *surplus) if delete_refusal_key(each.process) not in snapshot.refusals)


def _reasons(verdicts: Verdicts, admission: Admission) -> list[Reason]:
    reasons = [verdict.reason for verdict in verdicts.all]
    for number, reason in admission.refused.items():
        reasons[number] = reason
    return reasons


def _reason_counts(reasons: Sequence[Reason], others: Sequence[int], leave: Removals) -> Counter[ReasonCode]:
    """Return how many devices there are for each reason; all that are none of the *others* are up to date."""
    found = Counter([*(reasons[number].code for number in others), *(each.reason.code for each in leave.stay)])
    if len(others) < len(reasons):
        found[ReasonCode.UP_TO_DATE] += len(reasons) - len(others)
    return found


def _counts(snapshot: Snapshot, assignment: Assignment, updated: Updated, min_ready_s: float) -> tuple[Counts, float]:
    """Return the counts, and when the first of the devices that are ready becomes available (inf: none does).

    A device that was ready before the controller began to watch is shown as available, as it was likely shown before,
    though no rollout relies on it yet.
    """
    available = assignment.availabilities.count(Availability.AVAILABLE)
    processes, availabilities, unavailable = assignment.processes, assignment.availabilities, Availability.UNAVAILABLE
    ready = [
        process
        for number in assignment.special
        if availabilities[number] is unavailable
        and (process := processes[number]) is not None
        and process.ready_since is not None
    ]
    watched_since = snapshot.watched_since.timestamp() if snapshot.watched_since else -math.inf
    shown = available + sum(process.available_at(0.0) <= watched_since for process in ready)
    counts = Counts(
        desired=assignment.desired,
        current=len(assignment.devices) - assignment.hashes.count(None),
        updated=updated.all.count(True),
        ready=available + len(ready),
        available=shown,
    )
    return counts, min((process.available_at(min_ready_s) for process in ready), default=math.inf)


def _progress_at(context: Context, assignment: Assignment, verdicts: Verdicts) -> float:
    """Return when the last step forward was made: a wave opened, a device got the target or became available."""
    min_ready_s, at = context.min_ready_s, context.at
    latest = context.waves.progress_at if context.waves is not None else 0.0
    processes = (assignment.processes[number] for number in verdicts.on_target)
    for process in filter(None, processes):  # one loop: it is over the fleet
        offered_at, ready_since = process.offered_at, process.ready_since
        if offered_at is not None and offered_at > latest:
            latest = offered_at
        if ready_since is not None and latest < ready_since + min_ready_s <= at and not process.on_trial:
            latest = ready_since + min_ready_s
    return latest


def _is_steady(snapshot: Snapshot, counts: Counts) -> bool:
    """Return whether every device has its one process and each is judged by itself, so that an aggregate may do."""
    watched = snapshot.deployment.policy.failure_policy is not None and not was_rolled_out(snapshot.deployment)
    one_each = counts.current == counts.desired == len(snapshot.processes)
    return one_each and not (watched or snapshot.in_flight or snapshot.refusals)


def _earliest(times: Iterable[float], at: float) -> float:
    """Return the first of *times* after *at*, in seconds since the epoch (inf: none)."""
    return min((each for each in times if each > at), default=math.inf)


def _time(epoch: float) -> datetime | None:
    return None if epoch == math.inf else datetime.fromtimestamp(epoch, UTC)

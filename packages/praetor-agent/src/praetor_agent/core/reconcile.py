# SPDX-License-Identifier: Apache-2.0
"""Decide on actions from the desired state, the observed device and the memory. Pure: no I/O, no clock, no logging.

A running process is stopped only if it is no longer desired, or if everything
that its successor needs is ready. While the device is frozen it is not stopped
at all, except for a rollback that has begun or that is due because the change
was not confirmed. While memory cannot be stored, nothing is replaced and no job
is started, because the next agent would not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Optional, Union

from praetor_agent.core import environment, files, reboot, refresh, restart, rollback
from praetor_agent.core.faults import fault
from praetor_agent.core.model import (
    Failure,
    FailureReason,
    Memory,
    Observed,
    ObservedDevice,
    ProcessStage,
    Record,
    Revision,
)
from praetor_agent.errors import unforeseen
from praetor_api.backports import TypeAlias, dataclass
from praetor_api.conditions import STABILITY_WINDOW_SECONDS
from praetor_api.protocol import Desired, DesiredItem, InvalidItem
from praetor_api.spec import Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Fetch the item's artifact; nothing is stopped for it."""

    item: DesiredItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start the revision; its predecessor has ended. *at_boot*: init starts it at boot from now on.

    *as_they_are*: its files stay as they are on the device, which is frozen.
    """

    revision: Revision
    at_boot: bool = False
    as_they_are: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Ask the process to end, by force if *force* is set."""

    uid: str
    backend: Backend
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Remove what is left of a process that ended."""

    uid: str
    backend: Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Write the definition of the revision again; the process runs on.

    *edited* is whether it was changed on the device, *at_boot* whether init starts the process at boot from now on.
    """

    revision: Revision
    at_boot: bool = False
    edited: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """Give the running process the files of the revision, another version or one whose files were changed."""

    revision: Revision


_NAMED = 3
"""How many processes a message names."""

Faults: TypeAlias = Mapping[str, Optional[str]]
_UNKNOWN: Faults = {}

Action: TypeAlias = Union[Fetch, Start, Stop, Remove, Repair, Refresh]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Actions in their order, the memory to store before acting, and the latest time of the next check.

    From *ask_at* on, an exchange with the gateway would confirm a change. Times are in seconds since boot.
    """

    actions: tuple[Action, ...] = ()
    memory: Memory
    wake_at: Optional[float] = None
    ask_at: Optional[float] = None


def reconcile(
    desired: Desired, device: ObservedDevice, memory: Memory, now: float, faults: Faults = _UNKNOWN
) -> Decision:
    """Return what brings the device one safe step closer to *desired*; *faults* are known already, by uid."""
    if any(record.boot_id != device.boot_id for record in memory.values()):
        memory = reboot.counted(memory, device.boot_id)
    steps = [*_wanted(desired, device, memory, now, faults)]
    kept = {step.record.uid for step in steps}
    known = {uid for uid, seen in device.observed.items() if not seen.unknown}  # what others started is left alone
    named = bool(desired.items or desired.invalid)
    leaving = (memory.get(uid) or Record(uid=uid) for uid in sorted({*memory, *known} - kept))
    steps += [_guarded(record, partial(_retire, record, device, now, named=named)) for record in leaving]
    wakes = [step.wake_at for step in steps if step.wake_at is not None]
    waiting = [step.record for step in steps if step.record.confirmation is not None]
    asks = [at for record in waiting if (at := rollback.ask_at(record, device)) is not None]
    return Decision(
        actions=tuple(action for step in steps for action in step.actions),
        memory={step.record.uid: _numbered(step.record, memory) for step in steps if not step.forget},
        wake_at=min(wakes, default=None),
        ask_at=min(asks, default=None),
    )


def _numbered(record: Record, memory: Memory) -> Record:
    """Return the record with the next number if another version of it began in this pass."""
    before = memory.get(record.uid)
    if record.current is None or (before is not None and before.current == record.current):
        return record
    if before is not None and before.spec_hash == record.spec_hash:
        return record
    return replace(record, trial=1 + max((known.trial for known in memory.values()), default=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    record: Record
    actions: tuple[Action, ...] = ()
    wake_at: Optional[float] = None
    forget: bool = False


def _wanted(desired: Desired, device: ObservedDevice, memory: Memory, now: float, faults: Faults) -> Iterator[_Step]:
    wanted = {item.uid for item in desired.items}
    leaving = {
        (record.namespace, record.name): unknown(record, device)
        for uid, record in memory.items()
        if uid not in wanted
        and ((uid in device.observed and device.observed[uid].running) or unknown(record, device) is not None)
    }
    leavers = (record for uid, record in memory.items() if uid not in wanted and device.freeze is None)
    others = [record for record in leavers if _is_ending(record, device, now)]
    for item in desired.items:
        record = memory.get(item.uid) or _adopted(item, device.observed.get(item.uid))
        record = replace(record, namespace=item.namespace, name=item.name)
        step = _guarded(record, partial(_step, item, record, device, now, faults))
        key, starts = (item.namespace, item.name), any(isinstance(action, Start) for action in step.actions)
        if starts and key in leaving:
            # deleted and created again under the same name: the two must not run side by side
            step = _Step(record=replace(record, failure=_waits(leaving[key], others)))
        elif others and _begins(step, record):
            step = _Step(record=replace(record, failure=_waits(None, others)))
            if record.current is not None and not starts:  # the old version runs on meanwhile
                kept = rollback.judged(_caught_up(record, device, now), device, now)
                step = _fall_back(replace(kept, failure=step.record.failure), device, now)
        yield step
    for bad in desired.invalid:
        record = _of_invalid(bad, memory)
        yield _guarded(record, partial(_unreadable, bad, record, device, now))


def _guarded(record: Record, decide: Callable[[], _Step]) -> _Step:
    """Return what *decide* returns. An error that one process causes must not end the supervision of the others."""
    try:
        return decide()
    except Exception as e:
        why = Failure(reason=FailureReason.BACKEND_UNAVAILABLE, message=unforeseen(e))
        return _Step(record=replace(record, failure=why))


def _unreadable(bad: InvalidItem, record: Record, device: ObservedDevice, now: float) -> _Step:
    record = rollback.judged(_caught_up(record, device, now), device, now)
    why = Failure(reason=FailureReason.INVALID_SPEC, message="; ".join(map(str, bad.faults)))
    return _fall_back(replace(record, failure=why), device, now)


def _of_invalid(bad: InvalidItem, memory: Memory) -> Record:
    if bad.uid:
        return memory.get(bad.uid) or Record(uid=bad.uid, namespace=bad.namespace, name=bad.name)
    named = (record for record in memory.values() if (record.namespace, record.name) == (bad.namespace, bad.name))
    uid = f"{bad.namespace}/{bad.name}"  # no uid holds a slash
    return next(named, Record(uid=uid, namespace=bad.namespace, name=bad.name))


def _adopted(item: DesiredItem, seen: Observed | None) -> Record:
    """Return a record for a process that memory does not know; one that runs or ran this spec is adopted."""
    if seen is None or seen.spec_hash != item.spec_hash:
        return Record(uid=item.uid)
    return Record(
        uid=item.uid, stage=ProcessStage.RUNNING, current=Revision(item=refresh.unwritten(item)), handle=seen.handle
    )


_PENDING = (
    "the content of {} is not the one that this version was approved with, and the device has no copy of that; the "
    "next version brings the new one"
)


def _step(item: DesiredItem, record: Record, device: ObservedDevice, now: float, faults: Faults) -> _Step:
    old = record.current.item if record.current is not None else None
    whole = files.completed(item, old) if item.kept_files else item
    if whole is None:
        kept = rollback.judged(_caught_up(record, device, now), device, now)
        why = Failure(reason=FailureReason.REFERENCE_PENDING, message=_PENDING.format(", ".join(item.kept_files or ())))
        return _fall_back(replace(kept, failure=why), device, now)
    item = whole
    newest = record.spec_hash == item.spec_hash
    if record.current is not None and newest:
        record = replace(record, current=_as_started(record.current, item))
    record = rollback.judged(_caught_up(record, device, now), device, now)
    gave_up = record.rollback is not None and record.rollback.spec_hash == item.spec_hash
    if gave_up or device.freeze is not None:
        return _fall_back(record, device, now)
    why_not = _why_not(item, record, device, faults)
    if why_not is not None:
        return _fall_back(replace(record, failure=why_not), device, now)
    if record.current and newest and _startable(record.current, device):
        revision = replace(record.current, item=replace(item, spec_hash=record.current.item.spec_hash))
        return _supervise(revision, _settled(record), device, now)
    placed = _placed(Revision(item=item), record, device.observed.get(item.uid))
    if placed is not None:
        return _supervise(placed, _settled(record), device, now)
    if item.spec.artifact is None:
        return _supervise(Revision(item=item), _settled(record), device, now)
    artifact = device.artifacts.get(item.spec_hash)
    if artifact is None or artifact.path is None:
        failure = artifact.failure if artifact else None
        step = _fall_back(replace(record, failure=failure), device, now)
        return replace(step, actions=(Fetch(item=item), *step.actions))
    revision = Revision(item=item, artifact_path=artifact.path, artifact_digest=artifact.digest)
    return _supervise(revision, _settled(record), device, now)


def _as_started(revision: Revision, item: DesiredItem) -> Revision:
    """Return *revision* as *item* describes it now, but for the mark, values and contents that it has."""
    if revision.item == item:
        return revision
    return replace(revision, item=refresh.as_started(revision, item))


def _placed(revision: Revision, record: Record, seen: Observed | None) -> Revision | None:
    """Return what the running process becomes by the files of *revision* alone; None if it has none to write."""
    item = revision.item
    if not item.spec.execution.files and item.file_values is None:
        return None
    return refresh.target(revision, record, seen)


def _why_not(item: DesiredItem, record: Record, device: ObservedDevice, faults: Faults) -> Failure | None:
    silent = device.unavailable.get(item.spec.execution.backend)
    reason = silent or device.unseen.get(item.uid) or unknown(record, device)
    if reason is not None:
        return Failure(reason=FailureReason.BACKEND_UNAVAILABLE, message=reason)
    wrong = faults[item.uid] if item.uid in faults else fault(item)
    if wrong is not None:
        return Failure(reason=FailureReason.INVALID_SPEC, message=wrong)
    container = item.spec.execution.container
    refusal = device.allowances.refusal(container) if container is not None else None
    if refusal is not None:
        return Failure(reason=FailureReason.NOT_ALLOWED, message=refusal)
    if item.uid in device.file_problems and record.spec_hash != item.spec_hash:
        return device.file_problems[item.uid]
    if device.persistence_error is None or (record.current is None and record.uid not in device.observed):
        return None
    return _not_kept("not changed", device) if record.spec_hash != item.spec_hash else None


def unknown(record: Record, device: ObservedDevice) -> str | None:
    """Return why it is unknown now whether the current revision runs; None if it is known, as of a job that ended."""
    if record.current is None or record.stage is ProcessStage.COMPLETED:
        return None
    return device.unseen.get(record.uid) or device.silent.get(record.current.item.spec.execution.backend)


def _is_ending(record: Record, device: ObservedDevice, now: float) -> bool:
    """Return whether a process that is no longer desired still runs, and has time to end by itself."""
    seen = device.observed.get(record.uid)
    runs = seen is not None and seen.running and unknown(record, device) is None
    return runs and (record.stop_deadline is None or now < record.stop_deadline)


def _begins(step: _Step, record: Record) -> bool:
    """Return whether *step* starts a version that is not proven, or stops the running one to make room for it.

    A process that is no longer desired may hold what it needs, such as a port, until it has ended.
    """
    if any(isinstance(action, Start) for action in step.actions):
        return not reboot.is_proven(step.record)
    stops = any(isinstance(action, Stop) for action in step.actions)
    return stops and record.stop_deadline is None and step.record.rollback is None


def _waits(why: str | None, others: Sequence[Record]) -> Failure | None:
    if why is not None:
        message = f"not started, because its predecessor of this name may still run: {why}"
        return Failure(reason=FailureReason.BACKEND_UNAVAILABLE, message=message)
    names = ", ".join(sorted(f"{record.namespace}/{record.name}" for record in others)[:_NAMED])
    return Failure(reason=FailureReason.WAITING, message=f"waits for {names or 'its predecessor of this name'} to end")


def _not_kept(what: str, device: ObservedDevice) -> Failure:
    message = f"{what}: the state directory cannot be written: {device.persistence_error}"
    return Failure(reason=FailureReason.MEMORY_NOT_KEPT, message=message)


def _startable(revision: Revision, device: ObservedDevice) -> bool:
    """Return whether *revision* has its artifact, or needs none because its definition runs already."""
    seen = device.observed.get(revision.item.uid)
    running = seen is not None and seen.running and seen.spec_hash == revision.item.spec_hash and not seen.edited
    return _is_whole(revision) or running


def _is_whole(revision: Revision) -> bool:
    return revision.item.spec.artifact is None or revision.artifact_path is not None


def _settled(record: Record) -> Record:
    """Return the record without the failures that are over, now that the desired spec can run.

    A failure to start the current spec stays.
    """
    record = replace(record, rollback=None)
    if record.failure is not None and record.failure.reason != FailureReason.START_ERROR:
        return replace(record, failure=None)
    return record


def _fall_back(record: Record, device: ObservedDevice, now: float) -> _Step:
    """Keep the current revision, or the last good one, while the desired spec cannot run."""
    old = record.last_good if record.rollback is not None else record.current
    if old is None:
        return _withdraw(record, device, now) if record.rollback is not None else _Step(record=record)
    if old.item.kept_files or environment.lacking(old.item):  # found running: what it was started with is not known
        return _Step(record=record)
    if old.item.spec.execution.backend in device.unavailable or unknown(record, device) is not None:
        return _Step(record=record)
    seen = device.observed.get(record.uid)
    runs = seen is not None and seen.running and _is_of(old, seen)
    if not runs and not _is_whole(old):  # its artifact was removed
        artifact = device.artifacts.get(old.item.spec_hash)
        if artifact is None or artifact.path is None:
            return _Step(record=record, actions=(Fetch(item=old.item),))
        old = replace(old, artifact_path=artifact.path, artifact_digest=artifact.digest)
    return _supervise(old, record, device, now)


def _withdraw(record: Record, device: ObservedDevice, now: float) -> _Step:
    """Roll back a first version, to nothing: it must not start again at boot, either."""
    seen = device.observed.get(record.uid)
    if seen is None:
        return _Step(record=record)
    if seen.running:
        return _stop(record, seen, now)
    return _Step(record=restart.fresh(record), actions=(Remove(uid=record.uid, backend=seen.backend),))


def _caught_up(record: Record, device: ObservedDevice, now: float) -> Record:
    """Return the record updated by what is observed of the current revision."""
    current, seen = record.current, device.observed.get(record.uid)
    if record.checking:
        record = reboot.decided(record, device.health.get(record.uid))
    if current is None or record.stop_deadline is not None:
        return record
    if current.item.spec.execution.backend in device.unavailable or record.uid in device.unseen:
        return record
    mine = _is_of(current, seen)
    if seen is not None and seen.running:
        if mine:
            record = restart.seen_running(record, seen, device, now)
            record = replace(record, healthy_since=rollback.healthy_since(record, seen, device, now))
        return record
    seen = seen if mine else None
    record = reboot.job_cut(record, seen, device.boot_id, now)
    record = reboot.waits_again(record, device.boot_id, now)
    if restart.has_ended(record, seen, device.boot_id):
        return restart.ended(record, current.item.spec.restart_policy, seen, device.boot_id, now)
    return record


def _is_of(revision: Revision, seen: Observed | None) -> bool:
    item = revision.item
    return seen is not None and seen.spec_hash == item.spec_hash and seen.backend is item.spec.execution.backend


def _supervise(revision: Revision, record: Record, device: ObservedDevice, now: float) -> _Step:
    item, seen = revision.item, device.observed.get(record.uid)
    if seen is not None and seen.running:
        if record.current is None and _is_of(revision, seen):  # memory did not know it
            record = replace(record, current=replace(revision, item=refresh.unwritten(item)))
        placed = _placed(revision, record, seen) if record.stop_deadline is None else None
        if placed is not None and record.current is not None:
            kept = _keep(record.current, record, device, now)
            return replace(kept, actions=(Refresh(revision=placed),))
        if _is_of(revision, seen) and record.stop_deadline is None:
            if record.stage is not ProcessStage.RUNNING:  # memory did not know it
                record = restart.seen_running(record, seen, device, now)
            if record.current is not None and record.acts_on(revision):
                revision = replace(revision, item=_as_started(record.current, item).item)
            actions = (*_refreshes(revision, device), *_repairs(revision, record, seen, device))
            return replace(_keep(revision, record, device, now), actions=actions)
        if device.freeze is not None and record.rollback is None:
            return _Step(record=record)
        return _stop(record, seen, now)
    revision = revision.restarted()
    new = not record.acts_on(revision)
    counters_reset = new or record.stop_deadline is not None
    if record.stage is ProcessStage.COMPLETED and not counters_reset:
        return _Step(record=record)
    if record.stage is ProcessStage.WAITING and now < record.not_before and not counters_reset:
        return _Step(record=record, wake_at=record.not_before)
    if device.persistence_error is not None and not reboot.is_kept(revision):
        return _Step(record=replace(record, failure=_not_kept("not started, because it might run twice", device)))
    if new:
        record = rollback.begun(record, revision, device.boot_id, now)
    step = _start(revision, restart.fresh(record) if counters_reset else record, seen, device, now)
    if new or device.freeze is None or not revision.item.spec.execution.files:
        return step
    frozen = (replace(each, as_they_are=True) if isinstance(each, Start) else each for each in step.actions)
    return replace(step, actions=tuple(frozen))


def _keep(revision: Revision, record: Record, device: ObservedDevice, now: float) -> _Step:
    record = replace(record, current=revision)
    resets_at = record.started_at + STABILITY_WINDOW_SECONDS if record.failures else None
    wakes = [at for at in (resets_at, rollback.wake_at(record, device, now)) if at is not None]
    return _Step(record=record, wake_at=min(wakes, default=None))


def _repairs(revision: Revision, record: Record, seen: Observed, device: ObservedDevice) -> tuple[Action, ...]:
    if seen.at_boot is None and not seen.edited:
        return ()
    at_boot = _at_boot(revision, record)
    # an adopted process lacks its artifact's path, which the definition contains
    stale = seen.at_boot is not None and (seen.renamed or seen.unknown or (at_boot and not seen.at_boot))
    if device.freeze is not None or not _is_whole(revision) or not (seen.edited or stale):
        return ()
    return (Repair(revision=revision, at_boot=at_boot, edited=seen.edited),)


def _refreshes(revision: Revision, device: ObservedDevice) -> tuple[Action, ...]:
    edited = revision.item.uid in device.edited_files and device.freeze is None
    return (Refresh(revision=revision),) if edited else ()


def _at_boot(revision: Revision, record: Record) -> bool:
    """Return whether init may start *revision* without us: not before it is proven, for it may be why we reboot."""
    return reboot.is_kept(revision) and reboot.is_proven(record)


def _stop(record: Record, seen: Observed, now: float) -> _Step:
    if record.stop_deadline is None:
        grace = record.current.item.spec.execution.termination_grace_period_seconds if record.current else 0
        stopping = replace(record, stop_deadline=now + grace)
        action = Stop(uid=record.uid, backend=seen.backend)
        return _Step(record=stopping, actions=(action,), wake_at=stopping.stop_deadline)
    if now < record.stop_deadline:
        return _Step(record=record, wake_at=record.stop_deadline)
    again = now + restart.KILL_AGAIN_SECONDS
    force = Stop(uid=record.uid, backend=seen.backend, force=True)
    return _Step(record=record, actions=(force,), wake_at=again)


def _start(revision: Revision, record: Record, seen: Observed | None, device: ObservedDevice, now: float) -> _Step:
    record = restart.starting(record, revision, device.boot_id, now)
    actions: tuple[Action, ...] = (Start(revision=revision, at_boot=_at_boot(revision, record)),)
    if seen is not None and seen.backend is not revision.item.spec.execution.backend:
        actions = (Remove(uid=record.uid, backend=seen.backend), *actions)
    return _Step(record=record, actions=actions)


def _retire(record: Record, device: ObservedDevice, now: float, *, named: bool) -> _Step:
    """Stop a process that is no longer desired, then remove what it left.

    What was started under another name of the device waits until the desired state *named* a process, because the new
    name may be a mistake.
    """
    seen = device.observed.get(record.uid)
    if seen is not None and seen.renamed and not named:
        return _Step(record=record)
    if device.freeze is not None:
        return _fall_back(rollback.judged(_caught_up(record, device, now), device, now), device, now)
    if unknown(record, device) is not None:
        return _Step(record=record)
    if seen is not None and seen.running:
        return _stop(record, seen, now)
    actions = (Remove(uid=record.uid, backend=seen.backend),) if seen is not None else ()
    if device.persistence_error is not None and record.current is not None and not reboot.is_kept(record.current):
        # the desired state on disk may still contain the job, which the next agent must not run again
        return _Step(record=replace(record, stage=ProcessStage.COMPLETED, stop_deadline=None), actions=actions)
    return _Step(record=record, actions=actions, forget=True)

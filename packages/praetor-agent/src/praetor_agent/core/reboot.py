# SPDX-License-Identifier: Apache-2.0
"""Decide what a reboot of the device says about what it cut. Pure.

Only boot ids and the time since boot count. The wall clock of a device that reboots may be anything.
"""

from __future__ import annotations

from dataclasses import replace

from praetor_agent.core.backoff import crash_delay, doubling
from praetor_agent.core.health import Health
from praetor_agent.core.model import Memory, Observed, ProcessStage, Record, Revision, TerminationReason
from praetor_api.protocol import DesiredItem
from praetor_api.spec import ExecProbe, HealthCheck, ProcessSpec, Reboot, RestartPolicy

MAX_ATTEMPTS = 3
"""A job that this many reboots of the device cut is not run again."""

JOB_FIRST_SECONDS = 30.0
JOB_CAP_SECONDS = 300.0
"""A job that a reboot cut runs again at the earliest this long after the boot, doubled with each attempt, up to the
cap: time for a user, or another version, to stop it."""

_UNDER_WAY = (ProcessStage.STARTING, ProcessStage.RUNNING)


def is_kept(revision: Revision | None) -> bool:
    """Return whether *revision* is a service, which is kept running, and not a job."""
    return revision is not None and revision.item.spec.restart_policy is RestartPolicy.ALWAYS


def is_proven(record: Record) -> bool:
    """Return whether no reboot is the fault of the current version."""
    good = record.last_good
    return record.proven or (good is not None and good.spec_hash == record.spec_hash)


def _tried(record: Record) -> Revision | None:
    """Return the current version if it is a service that is not proven; None if not."""
    return record.current if is_kept(record.current) and not is_proven(record) else None


def passes_at(record: Record, item: DesiredItem, proving: float) -> float:
    """Return until when a rollout waits for the running instance of *item*, in seconds since boot.

    *proving* is how long a version must be up at least, in seconds.
    """
    return record.started_at + max(proving, item.min_ready_seconds or 0)


def proves_at(record: Record, item: DesiredItem, proving: float) -> float:
    """Return when the running instance of *item* has been up for as long as its trial, in seconds since boot."""
    trial = item.spec.confirm.timeout_seconds if item.spec.confirm is not None else 0
    return max(passes_at(record, item, proving), record.started_at + trial)


def is_on_trial(record: Record, now: float, proving: float) -> bool:
    """Return whether a rollout must not rely on the current version yet: it was not up for long, or is to be confirmed.

    One that was confirmed is relied on, though a reboot within its trial would still be its fault.
    """
    current = _tried(record)
    if current is None:
        return False
    ran = record.stage is ProcessStage.RUNNING and now >= passes_at(record, current.item, proving)
    return record.confirmation is not None or not ran


def trial_ends_at(record: Record, proving: float) -> tuple[float, ...]:
    """Return until when a rollout waits for the running instance, and a reboot is its fault; empty without a trial."""
    current = _tried(record)
    if current is None:
        return ()
    return passes_at(record, current.item, proving), proves_at(record, current.item, proving)


def proved(record: Record, now: float, proving: float) -> Record:
    """Return the record of a running process; the reboots that cut its trial no longer count once it is proven."""
    current = record.current
    if current is None or not is_kept(current) or record.proven or now < proves_at(record, current.item, proving):
        return record
    return replace(record, proven=True, reboots=0, failures=max(0, record.failures - record.reboots))


def counted(memory: Memory, boot_id: str) -> Memory:
    """Return *memory* with a reboot counted as a crash of the newest version on trial that it cut.

    Versions that began at one time are equally new. A reboot counts once, whenever a backend answers.
    """
    cut = [record for record in memory.values() if _is_cut(record, boot_id)]
    newest = max((record.trial for record in cut), default=0)
    return {**memory, **{record.uid: _counted(record, boot_id, record.trial == newest) for record in cut}}


def _is_cut(record: Record, boot_id: str) -> bool:
    another = record.boot_id != "" and boot_id not in (record.boot_id, record.rebooted_in)
    cut = record.stage in _UNDER_WAY or _was_killed(record)
    return another and cut and _tried(record) is not None


def _was_killed(record: Record) -> bool:
    """Return whether the process waits since a signal ended it, as those end that run while a device shuts down."""
    return record.stage is ProcessStage.WAITING and _by_signal(record)


def _by_signal(record: Record) -> bool:
    return (record.termination_reason or "").startswith(TerminationReason.SIGNAL)


def _counted(record: Record, boot_id: str, is_newest: bool) -> Record:
    return replace(
        record,
        failures=record.failures + (is_newest and not _was_killed(record)),  # that it was killed is counted already
        reboots=record.reboots + is_newest,
        rebooted_in=boot_id,
    )


def waits_again(record: Record, boot_id: str, now: float) -> Record:
    """Return the record of a process that waited for its next start when the device rebooted.

    The time until when it waited was one of that boot, so the whole wait begins again. A proven version is not held
    responsible for its ends: shutting the device down may be what ended it.
    """
    if record.stage is not ProcessStage.WAITING or record.boot_id in ("", boot_id):
        return record
    failures = 0 if is_kept(record.current) and is_proven(record) else record.failures
    return replace(record, boot_id=boot_id, failures=failures, not_before=now + crash_delay(failures))


def not_while_shutting_down(record: Record, now: float) -> Record:
    """Return the record of a process that waits for its next start; of a job that expects a reboot, and that a signal
    ended, so late that the device has gone down by then, if that is why.
    """
    current = record.current
    if current is None or current.item.spec.execution.reboot is not Reboot.EXPECTED or not _was_killed(record):
        return record
    return replace(record, not_before=max(record.not_before, now + JOB_FIRST_SECONDS))


def fault(spec: ProcessSpec) -> str | None:
    """Return why *spec* cannot say that it reboots the device; an API server before 1.25 lets it through."""
    if (spec.execution.reboot is Reboot.EXPECTED) != (spec.post_check is not None):
        return "execution.reboot: Expected and postCheck go together; write both or none"
    if spec.post_check is not None and spec.restart_policy is RestartPolicy.ALWAYS:
        return "only a job may reboot the device; write restartPolicy: OnFailure or Never"
    return None


def job_cut(record: Record, seen: Observed | None, boot_id: str, now: float) -> Record:
    """Return the record of a job that does not run in the boot *boot_id*, if another boot cut it.

    An exit with 0 is final, wherever it was recorded. A job that expects a reboot is never run again after one; its
    post-check decides. Another one that is to be repeated is, after a while, and not without end. One that a signal
    ended before the device rebooted counts as cut: shutting down ends processes so.
    """
    current = record.current
    if current is None or is_kept(current) or record.boot_id == boot_id or (seen is not None and seen.exit_code == 0):
        return record
    killed = _by_signal(record)
    under_way = record.stage in _UNDER_WAY
    waiting = record.stage is ProcessStage.WAITING
    if current.item.spec.execution.reboot is Reboot.EXPECTED:
        ended = record.stage is ProcessStage.COMPLETED and killed
        return _checking(record, boot_id, now) if under_way or waiting or ended or record.checking else record
    again = current.item.spec.restart_policy is RestartPolicy.ON_FAILURE and record.boot_id != ""
    if not again or not (under_way or (waiting and killed)):
        return record
    attempts = record.attempts + 1
    cut = replace(
        record,
        boot_id=boot_id,
        attempts=attempts,
        exit_code=None,
        termination_reason=TerminationReason.REBOOTED,
        output_tail=None if under_way else record.output_tail,
    )
    if attempts >= MAX_ATTEMPTS:
        return replace(cut, stage=ProcessStage.COMPLETED)
    wait = doubling(attempts, first=JOB_FIRST_SECONDS, cap=JOB_CAP_SECONDS)
    return replace(cut, stage=ProcessStage.WAITING, not_before=max(now, wait))


def _checking(record: Record, boot_id: str, now: float) -> Record:
    attempts = record.attempts + 1
    record = replace(record, stage=ProcessStage.COMPLETED, boot_id=boot_id, started_at=now, attempts=attempts)
    reason = TerminationReason.POST_CHECK_FAILED if attempts > MAX_ATTEMPTS else TerminationReason.REBOOTED
    return replace(record, exit_code=None, termination_reason=reason, checking=attempts <= MAX_ATTEMPTS)


def check_handle(record: Record) -> str:
    """Return the name of the instance of *record* that its post-check is about: one in each boot."""
    return f"postCheck/{record.boot_id}"


def check_of(record: Record) -> HealthCheck | None:
    """Return the post-check that is to be run now, as a health check; None if there is none."""
    check = record.current.item.spec.post_check if record.current is not None and record.checking else None
    if check is None:
        return None
    return HealthCheck(
        exec=ExecProbe(command=check.command),
        period_seconds=check.period_seconds,
        timeout_seconds=check.timeout_seconds,
        failure_threshold=check.failure_threshold,
    )


def decided(record: Record, health: Health | None) -> Record:
    """Return the record after its post-check said whether the job succeeded; unchanged before."""
    if not record.checking or health is None or health.handle != check_handle(record) or health.healthy is None:
        return record
    if health.healthy:
        return replace(record, checking=False, exit_code=0, termination_reason=TerminationReason.COMPLETED)
    return replace(record, checking=False, termination_reason=TerminationReason.POST_CHECK_FAILED)


def outcome(record: Record) -> str | None:
    """Return why a job has no exit code and is not run again; None if that is not so."""
    if record.stage is not ProcessStage.COMPLETED or record.checking:
        return None
    if record.termination_reason == TerminationReason.REBOOTED:
        return f"the device rebooted {record.attempts} times while it ran; it is not run again before its spec changes"
    if record.termination_reason == TerminationReason.POST_CHECK_FAILED:
        return "after the reboot postCheck.command did not succeed; the job is not run again before its spec changes"
    return None

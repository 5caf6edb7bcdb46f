# SPDX-License-Identifier: Apache-2.0
"""Restart policies: the record of a process that started or ended, and when it starts again. Pure.

`Never` and `OnFailure` run to completion once per spec, even if the agent restarts meanwhile.
"""

from __future__ import annotations

import signal
from dataclasses import replace

from praetor_agent.core import reboot
from praetor_agent.core.backoff import crash_delay
from praetor_agent.core.model import (
    Failure,
    FailureReason,
    Observed,
    ObservedDevice,
    ProcessStage,
    Record,
    Revision,
    TerminationReason,
)
from praetor_api.conditions import STABILITY_WINDOW_SECONDS
from praetor_api.spec import RestartPolicy

BACKGROUND = "it ends by itself; if it goes to the background, tell it to stay in the foreground"
"""What to say of a service that ends with 0 again and again."""

KILL_AGAIN_SECONDS = 5.0
"""Between two forced stops of a process that does not end."""

START_ERROR_EXIT_CODE = 128
"""Exit code of a process that could not be executed, as container runtimes report it."""


def fresh(record: Record) -> Record:
    """Return the record for the first start of a spec, or the next after we stopped it: all counters are reset."""
    return replace(
        record,
        stage=ProcessStage.PENDING,
        restart_count=0,
        failures=0,
        not_before=0.0,
        exit_code=None,
        termination_reason=None,
        stop_deadline=None,
        failure=None,
        healthy_since=None,
        output_tail=None,
        attempts=0,
        checking=False,
    )


def starting(record: Record, revision: Revision, boot_id: str, now: float) -> Record:
    """Return the record to store before *revision* is started. The handle stays that of the previous run."""
    again = record.stage is ProcessStage.WAITING
    return replace(
        record,
        stage=ProcessStage.STARTING,
        current=revision,
        boot_id=boot_id,
        started_at=now,
        healthy_since=None,
        restart_count=record.restart_count + again,
    )


def started(record: Record, start_time: str) -> Record:
    """Return the record of a successful start; *start_time* is RFC 3339, for people."""
    return replace(record, stage=ProcessStage.RUNNING, handle=None, start_time=start_time, failure=None)


def start_failed(record: Record, message: str, now: float) -> Record:
    """Return the record of a failed start; `Never` is not retried."""
    record = replace(record, failure=Failure(reason=FailureReason.START_ERROR, message=message), start_time=None)
    policy = record.current.item.spec.restart_policy if record.current else RestartPolicy.ALWAYS
    if policy is RestartPolicy.NEVER:
        return replace(
            record,
            stage=ProcessStage.COMPLETED,
            exit_code=START_ERROR_EXIT_CODE,
            termination_reason=TerminationReason.START_ERROR,
        )
    return _waiting(record, now)


def artifact_gone(record: Record) -> Record:
    """Return the record of a start whose artifact is missing; it is fetched again."""
    current, good = record.current and replace(record.current, artifact_path=None), record.last_good
    same = good is not None and good.spec_hash == record.spec_hash
    return replace(record, stage=ProcessStage.PENDING, current=current, last_good=current if same else good)


def seen_running(record: Record, seen: Observed, device: ObservedDevice, now: float) -> Record:
    """Return the record of a running process; an instance that we did not start counts as a restart, or as drift."""
    rebooted, starting = record.boot_id != device.boot_id, record.stage is ProcessStage.STARTING
    replaced = record.stage is ProcessStage.RUNNING and record.handle not in (None, seen.handle)
    replaced = replaced or (starting and rebooted)  # how far the start came was not flushed before the power cut
    drifted = replaced and not rebooted  # after a restart of the device, init starts it
    if replaced or rebooted or record.stage is not ProcessStage.RUNNING:
        started_at = record.started_at if starting and not rebooted else now
        record = replace(
            record, stage=ProcessStage.RUNNING, boot_id=device.boot_id, started_at=started_at, healthy_since=None
        )
    if now - record.started_at >= STABILITY_WINDOW_SECONDS:
        record = replace(record, failures=0)
    return replace(
        reboot.proved(record, now, device.proving_seconds),
        handle=seen.handle,
        restart_count=record.restart_count + replaced,
        drift_count=record.drift_count + drifted,
    )


def repaired(record: Record) -> Record:
    """Return the record after an edited definition was written again."""
    return replace(record, drift_count=record.drift_count + 1)


def wants_output(record: Record) -> bool:
    """Return whether a run has ended whose output was not read yet; a failed start has no output."""
    ended_so = record.termination_reason not in (None, TerminationReason.START_ERROR)
    return ended_so and record.stage is not ProcessStage.RUNNING and record.output_tail is None


def ends_by_itself(record: Record) -> bool:
    """Return whether a service ended with 0, twice in a row: as one does whose program goes to the background."""
    return reboot.is_kept(record.current) and record.failures - record.reboots >= 2 and record.exit_code == 0


def has_ended(record: Record, seen: Observed | None, boot_id: str) -> bool:
    """Return whether a process that does not run now did run, and its end is not in the record yet.

    A recorded start without a trace did not happen, unless the device restarted since and the trace is gone. The trace
    of the previous run does not count: systemd still has it when the new unit is written already.
    """
    if record.stage is ProcessStage.STARTING:
        return (seen is not None and seen.handle not in (None, record.handle)) or record.boot_id != boot_id
    return record.stage is ProcessStage.RUNNING


def ended(record: Record, policy: RestartPolicy, seen: Observed | None, boot_id: str, now: float) -> Record:
    """Return the record after the process ended; *seen* is its trace, if there is one."""
    code = seen.exit_code if seen else None
    reason = (seen.termination_reason if seen else None) or TerminationReason.LOST
    handle = seen.handle if seen else record.handle
    record = replace(record, exit_code=code, termination_reason=reason, handle=handle, healthy_since=None)
    record = replace(record, output_tail=None)
    if seen is not None and seen.error:
        record = replace(record, failure=Failure(reason=FailureReason.START_ERROR, message=seen.error))
    if policy is RestartPolicy.NEVER or (policy is RestartPolicy.ON_FAILURE and code == 0):
        return replace(record, stage=ProcessStage.COMPLETED)
    if record.boot_id != boot_id:  # the device restarted: no fault of a version that is proven
        failures = 0 if reboot.is_proven(record) else record.failures
        waiting = replace(record, stage=ProcessStage.WAITING, boot_id=boot_id, failures=failures)
        return replace(waiting, not_before=now + crash_delay(failures))
    if now - record.started_at >= STABILITY_WINDOW_SECONDS:
        record = replace(record, failures=0)
    return reboot.not_while_shutting_down(_waiting(record, now), now)


def _waiting(record: Record, now: float) -> Record:
    failures = record.failures + 1
    return replace(record, stage=ProcessStage.WAITING, failures=failures, not_before=now + crash_delay(failures))


def reason_of(code: int, *, signalled: bool, out_of_memory: bool = False) -> str:
    """Return in one word how a process with the exit code *code* ended; *signalled* adds 128 to the signal's number."""
    if out_of_memory:
        return TerminationReason.OUT_OF_MEMORY
    if not signalled:
        return TerminationReason.ERROR if code else TerminationReason.COMPLETED
    try:
        return f"{TerminationReason.SIGNAL}:{signal.Signals(code - 128).name}"
    except ValueError:
        return f"{TerminationReason.SIGNAL}:{code - 128}"

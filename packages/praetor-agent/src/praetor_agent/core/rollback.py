# SPDX-License-Identifier: Apache-2.0
"""Decide when a new version is good, when it is confirmed, and when it is rolled back. Pure.

Only services (policy Always) are rolled back: to run an old job again would break once-per-spec.
"""

from __future__ import annotations

from dataclasses import replace

from praetor_agent.core import reboot, restart
from praetor_agent.core.model import (
    Confirmation,
    FailureReason,
    Observed,
    ObservedDevice,
    ProcessStage,
    Record,
    Revision,
    Rollback,
)
from praetor_agent.core.reboot import is_kept
from praetor_api.conditions import CRASH_LOOP_COUNT
from praetor_api.protocol import RollbackReason
from praetor_api.spec import Confirm, ConfirmMode

STABLE_SECONDS = 2.0
"""A process without a health check counts as healthy after this uptime."""

GOOD_SECONDS = 60.0
"""A version that was healthy this long without a break is what a later one rolls back to."""

START_FAILURES = 2
"""Failed starts in a row after which a version that never became good is rolled back."""

SETTLE_SECONDS = 5.0
"""A change may take this long to cut the device off, so an earlier exchange with the gateway confirms nothing."""

CONFIRMATION_CHECK_SECONDS = 1.0
"""Between two checks for an operator's confirmation, while a change waits for it."""


def begun(record: Record, revision: Revision, boot_id: str, now: float) -> Record:
    """Return the record for the first start of a spec: what to roll back to, and the timer for a confirmation."""
    old, kept = record.current, is_kept(revision)
    good = record.last_good if kept else None
    if good is None and kept and record.healthy_since is not None and is_kept(old):
        good = old  # healthy for a short time only, but better than nothing
    confirm = revision.item.spec.confirm
    pending = kept and not _is(revision, good) and not _by_annotation(revision)
    timer = None
    if confirm is not None and pending:
        seconds = float(confirm.timeout_seconds)
        timer = Confirmation(boot_id=boot_id, seconds=seconds, deadline=now + seconds)
    return replace(record, last_good=good, confirmation=timer, proven=False, reboots=0)


def judged(record: Record, device: ObservedDevice, now: float) -> Record:
    """Return the record with the verdict on the current version: good, confirmed, rolled back or none yet."""
    current = record.current
    if current is None or record.rollback is not None or not is_kept(current):
        return record
    record = _confirmed(record, device, now)
    reason, message = _timed_out(record, now) or _failed(record, device) or (None, "")
    if reason is not None:
        failed = Rollback(spec_hash=current.spec_hash, reason=reason, message=message)
        return replace(record, rollback=failed, confirmation=None, healthy_since=None)
    if record.stop_deadline is None and record.confirmation is None and _proven(record, now):
        return replace(record, last_good=current)
    return record


def healthy_since(record: Record, seen: Observed, device: ObservedDevice, now: float) -> float | None:
    """Return since when the running instance is healthy; None if it is not, or not yet."""
    check = record.current.item.spec.health_check if record.current is not None else None
    if check is None:
        healthy = now >= record.started_at + STABLE_SECONDS
    else:
        health = device.health.get(record.uid)
        if health is None or health.handle != (seen.handle or ""):
            return record.healthy_since  # nothing new is known
        healthy = health.healthy is True
    if not healthy:
        return None
    return now if record.healthy_since is None else record.healthy_since


def ask_at(record: Record, device: ObservedDevice) -> float | None:
    """Return from when on an exchange with the gateway would confirm the change; None if no change waits for one."""
    confirm, settled = _confirm(record), _settled_at(record)
    if record.confirmation is None or confirm is None or confirm.mode is not ConfirmMode.GATEWAY_REACHABLE:
        return None
    return None if settled is None or _heard_since(device, settled) else settled


def wake_at(record: Record, device: ObservedDevice, now: float) -> float | None:
    """Return when time alone changes the verdict on a running process."""
    times = []
    current = record.current
    kept = is_kept(current)
    if record.healthy_since is None and current and current.item.spec.health_check is None:
        times.append(record.started_at + STABLE_SECONDS)
    if record.healthy_since is not None and kept and not _is(current, record.last_good):
        times.append(record.healthy_since + GOOD_SECONDS)
    times += reboot.trial_ends_at(record, device.proving_seconds)
    if record.confirmation is not None:
        times += [record.confirmation.deadline, now + CONFIRMATION_CHECK_SECONDS]
    return min((at for at in times if at > now), default=None)


def _confirmed(record: Record, device: ObservedDevice, now: float) -> Record:
    timer, confirm = record.confirmation, _confirm(record)
    if timer is None:
        return record
    if confirm is None or _by_annotation(record.current) or device.confirmed.get(record.uid) == record.spec_hash:
        return replace(record, confirmation=None)
    if timer.boot_id != device.boot_id:
        # How much of the window was used is unknown. Half of it remains, so that a change that makes the device
        # restart again and again runs out of time.
        timer = Confirmation(boot_id=device.boot_id, seconds=timer.seconds / 2, deadline=now + timer.seconds / 2)
        return replace(record, confirmation=timer)
    settled = _settled_at(record)
    by_exchange = confirm.mode is ConfirmMode.GATEWAY_REACHABLE and settled is not None
    if by_exchange and settled is not None and _heard_since(device, settled) and now < timer.deadline:
        return replace(record, confirmation=None)
    return record


def _timed_out(record: Record, now: float) -> tuple[RollbackReason, str] | None:
    timer, confirm = record.confirmation, _confirm(record)
    if timer is None or confirm is None or now < timer.deadline:
        return None
    what = "no exchange with the gateway" if confirm.mode is ConfirmMode.GATEWAY_REACHABLE else "no user"
    message = f"{what} confirmed the change within {confirm.timeout_seconds} s"
    return RollbackReason.CONFIRM_TIMED_OUT, message


def _failed(record: Record, device: ObservedDevice) -> tuple[RollbackReason, str] | None:
    """Return why the current version is rolled back; None if it is not, or has no good predecessor."""
    if record.last_good is None or _is(record.current, record.last_good):
        return None
    if device.freeze is not None or record.stop_deadline is not None:
        return None
    failure, health = record.failure, device.health.get(record.uid)
    if failure is not None and failure.reason == FailureReason.START_ERROR and record.failures >= START_FAILURES:
        return RollbackReason.START_FAILED, failure.message
    if record.failures >= CRASH_LOOP_COUNT:
        code = "an unknown exit code" if record.exit_code is None else f"exit code {record.exit_code}"
        rebooted = f", {record.reboots} of them because the device rebooted" if record.reboots else ""
        last = f"last with {code} ({record.termination_reason})"
        how = f"it ended {record.failures} times in a row{rebooted}, {last}"
        if restart.ends_by_itself(record):
            how = f"{how}: {restart.BACKGROUND}"
        return RollbackReason.CRASH_LOOP, how
    runs = record.stage is ProcessStage.RUNNING and health is not None and health.handle == record.handle
    if health is not None and runs and health.healthy is False:
        return RollbackReason.HEALTH_CHECK_FAILED, f"health check failed: {health.message}"
    return None


def _proven(record: Record, now: float) -> bool:
    good = record.healthy_since is not None and now >= record.healthy_since + GOOD_SECONDS
    return good and record.current != record.last_good


def _settled_at(record: Record) -> float | None:
    confirm = _confirm(record)
    if confirm is None or record.healthy_since is None:
        return None
    return max(record.healthy_since, record.started_at + min(SETTLE_SECONDS, confirm.timeout_seconds / 2))


def _heard_since(device: ObservedDevice, moment: float) -> bool:
    return device.heard_at is not None and device.heard_at >= moment


def _confirm(record: Record) -> Confirm | None:
    return record.current.item.spec.confirm if record.current else None


def _by_annotation(revision: Revision | None) -> bool:
    return revision is not None and revision.item.confirmed_spec_hash == revision.spec_hash


def _is(revision: Revision | None, other: Revision | None) -> bool:
    return revision is not None and other is not None and revision.spec_hash == other.spec_hash

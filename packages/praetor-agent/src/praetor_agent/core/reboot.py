# SPDX-License-Identifier: Apache-2.0
"""Decide what a reboot of the device says about what it cut. Pure.

Only boot ids and the time since boot count. The wall clock of a device that reboots may be anything.
"""

from __future__ import annotations

from dataclasses import replace

from praetor_agent.core.backoff import crash_delay
from praetor_agent.core.model import Memory, ProcessStage, Record, Revision
from praetor_api.protocol import DesiredItem
from praetor_api.spec import RestartPolicy

PROVING_SECONDS = 10.0
"""A version that was up for this time in one boot is not what makes the device reboot, if nothing asks for longer."""

_UNDER_WAY = (ProcessStage.STARTING, ProcessStage.RUNNING)


def is_kept(revision: Revision | None) -> bool:
    """Return whether *revision* is a service, which is kept running, and not a job."""
    return revision is not None and revision.item.spec.restart_policy is RestartPolicy.ALWAYS


def is_proven(record: Record) -> bool:
    """Return whether no reboot is the fault of the current version."""
    good = record.last_good
    return record.proven or (good is not None and good.item.spec_hash == record.spec_hash)


def proves_at(record: Record, item: DesiredItem) -> float:
    """Return when the running instance of *item* has been up for as long as its trial, in seconds since boot."""
    trial = item.spec.confirm.timeout_seconds if item.spec.confirm is not None else 0
    return record.started_at + max(PROVING_SECONDS, item.min_ready_seconds or 0, trial)


def proved(record: Record, now: float) -> Record:
    """Return the record of a running process; the reboots that cut its trial no longer count once it is proven."""
    current = record.current
    if current is None or not is_kept(current) or record.proven or now < proves_at(record, current.item):
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
    return another and record.stage in _UNDER_WAY and is_kept(record.current) and not is_proven(record)


def _counted(record: Record, boot_id: str, is_newest: bool) -> Record:
    return replace(
        record,
        failures=record.failures + is_newest,
        reboots=record.reboots + is_newest,
        rebooted_in=boot_id,
    )


def waits_again(record: Record, boot_id: str, now: float) -> Record:
    """Return the record of a process that waited for its next start when the device rebooted.

    The time until when it waited was one of that boot, so the whole wait begins again.
    """
    if record.stage is not ProcessStage.WAITING or record.boot_id in ("", boot_id):
        return record
    return replace(record, boot_id=boot_id, not_before=now + crash_delay(record.failures))

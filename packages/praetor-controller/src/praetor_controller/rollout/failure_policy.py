# SPDX-License-Identifier: Apache-2.0
"""The failure policy: which devices failed at the revision that is being rolled out, and whether to stop. Pure.

A stopped revision stays stopped, although its failures may go away: a pause until the spec changes, a rollback until
the template does. The status records which revision that is, so a restarted controller knows it, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from attrs import evolve, frozen

from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import ConditionStatus, FailureAction, StrategyType
from praetor_api.protocol import features_needed
from praetor_api.spec import REBOOT_FEATURE
from praetor_controller.model.amounts import amount
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.model.wave_record import MAX_FAILURES, WaveRecord
from praetor_controller.rollout.assignment import Assignment, Updated
from praetor_controller.rollout.availability import Availability
from praetor_controller.rollout.status import was_rolled_out

_Counted: TypeAlias = tuple[str, str]
_SHOWN = 3
_PATH = "spec.failurePolicy.maxFailures"


@frozen
class Stop:
    """Why the update revision goes no further.

    *rollback*: devices go back to the current revision. *remembered*: the stored status says so already.
    """

    message: str
    rollback: bool
    remembered: bool = False


def stopped(
    deployment: DeploymentRow,
    assignment: Assignment,
    updated: Updated,
    now: float,
    judged_since: float | None,
    record: WaveRecord,
    *,
    can_roll_back: bool,
) -> tuple[Stop | None, float, WaveRecord]:
    """Return why the rollout stops (None while it goes on), and when time alone may stop it (epoch; inf: never).

    *updated* are the devices that have what the update revision gives them. One that got something else from it, by
    labels that it has no more, counts as well, and so does one that the deployment has no more: they show what the
    revision does. *record* is what is remembered of the rollout; the last value is what is to be from now on.
    *judged_since* is since when a gateway judges the devices (epoch): while none does (None), no device is found to
    have failed, and then each has its whole time again. InvalidDeployment for a bad limit.
    """
    policy = deployment.policy.failure_policy
    if policy is None or deployment.strategy is StrategyType.ON_DELETE:
        return None, math.inf, record
    limit = amount(policy.max_failures, assignment.desired, _PATH)
    remembered = _remembered(deployment, can_roll_back=can_roll_back)
    if remembered is not None or judged_since is None or deployment.policy.paused or was_rolled_out(deployment):
        return remembered, math.inf, record
    failures = Failures(deployment, now, judged_since)
    failed = {
        process.uid: (assignment.names[number], why)
        for number in assignment.special  # what is available has not failed
        if (process := assignment.processes[number]) is not None
        and (updated.all[number] or process.revision == deployment.template.revision)
        and not updated.is_unchanged(number)
        and (why := failures.of(assignment.devices[number], process, assignment.availabilities[number]))
    }
    failed |= {each.uid: (each.device, each.failure) for each in assignment.orphans if _left_failed(deployment, each)}
    gone, unsettled = _remembered_failures(record, assignment)
    counted = {(device, uid) for uid, (device, _) in failed.items()} | gone | unsettled
    record = evolve(record, counted=tuple(sorted(counted)[:MAX_FAILURES]))
    shown = [*failed.values(), *((device, "failed before it left") for device, uid in gone if uid not in failed)]
    if len(shown) <= limit:
        return None, failures.next_deadline, record
    rollback = can_roll_back and policy.action is FailureAction.ROLLBACK
    return Stop(_message(deployment, shown, limit), rollback), math.inf, record


def _left_failed(deployment: DeploymentRow, process: ProcessRow) -> bool:
    return is_failed(process) and not process.terminating and process.revision == deployment.template.revision


def is_failed(process: ProcessRow) -> bool:
    """Return whether *process* fails; it may have, unseen, before a user took its device away."""
    return bool(process.failure) and process.ready_since is None


def _remembered_failures(record: WaveRecord, assignment: Assignment) -> tuple[set[_Counted], set[_Counted]]:
    """Return which of the failures on *record* are of processes that are gone, and of those that are not ready yet."""
    if not record.counted:
        return set(), set()
    ready = {each.uid: each.ready_since is not None for each in assignment.processes if each is not None}
    ready |= {each.uid: each.ready_since is not None for each in assignment.orphans}
    gone = {each for each in record.counted if each[1] not in ready}
    return gone, {each for each in record.counted if ready.get(each[1]) is False}


class Failures:
    """Which of the devices that have what the update revision gives them failed with it."""

    def __init__(self, deployment: DeploymentRow, now: float, judged_since: float) -> None:
        self._now = now
        self._judged_since = judged_since
        self._deadline_s = float(deployment.policy.progress_deadline_seconds)
        self._reboots = REBOOT_FEATURE in features_needed(deployment.template.spec)  # no override changes that
        self.next_deadline = math.inf  # when the first of those that are not ready yet fails

    def of(self, device: DeviceRow, process: ProcessRow, availability: Availability | None) -> str:
        """Return why *device*, which has its spec, failed; empty when it did not."""
        if process.ready_since is not None:
            return ""
        if process.terminating or device.maintained(self._now):
            return ""
        if availability is Availability.SILENT_AFTER_OFFER:
            return self._late(process) if self._reboots else "silent since the offer"
        if availability is not Availability.UNAVAILABLE:
            return ""
        return process.failure or self._late(process)

    def _late(self, process: ProcessRow) -> str:
        deadline = max(process.offered_at or process.created_at, self._judged_since) + self._deadline_s
        if deadline <= self._now:
            return "not ready in time"
        self.next_deadline = min(self.next_deadline, deadline)
        return ""


def _remembered(deployment: DeploymentRow, *, can_roll_back: bool) -> Stop | None:
    status = deployment.status
    if status.failed_revision != deployment.template.revision:
        return None
    rolled_back = get_condition(status.conditions, ConditionType.ROLLED_BACK)
    if rolled_back is not None and rolled_back.status is ConditionStatus.TRUE:
        return Stop(rolled_back.message, rollback=can_roll_back, remembered=True)
    paused = get_condition(status.conditions, ConditionType.PAUSED)
    if paused is not None and (paused.reason, paused.observed_generation) == (
        DeploymentReason.FAILURE_POLICY,
        deployment.generation,
    ):
        return Stop(paused.message, rollback=False, remembered=True)
    return None


def _message(deployment: DeploymentRow, failed: Sequence[tuple[str, str]], limit: int) -> str:
    shown = "; ".join(f"{device}: {why}" for device, why in sorted(failed)[:_SHOWN])
    more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    revision = deployment.template.revision
    devices = "device" if len(failed) == 1 else "devices"
    return f"{len(failed)} {devices} failed at revision {revision}, at most {limit} may: {shown}{more}"

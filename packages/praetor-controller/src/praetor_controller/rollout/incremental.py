"""Keeps account of a fleet at rest: what a pass counted, corrected device by device. Pure.

At rest every device can be judged by itself, so what a few of them were before and what they are now is all that has to
be looked at: planner.plan() is asked about these alone, twice. Whatever else changed, only a pass over all can tell.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypeAlias

from attrs import evolve

from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.rollout.amounts import max_unavailable
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Counts, Plan, Snapshot, Tally
from praetor_controller.rollout.status import Facts, rollout_status, was_rolled_out

_Rows: TypeAlias = tuple[dict[str, DeviceRow], dict[str, ProcessRow]]
"""The devices, and the process of each, by the device's name."""

MOST = 0.1
"""If a greater share of the devices changed, a pass over all is cheaper."""


class Account:
    """The account of one deployment, opened with a pass over all of its devices."""

    def __init__(self, snapshot: Snapshot, tally: Tally, now: datetime) -> None:
        self._whole = snapshot
        self._rows: _Rows | None = None  # until somebody asks
        self._tally = tally
        self._knows_progress = True  # nobody asks once the revision was rolled out
        self._judged_at = now.timestamp()
        self._limit = max_unavailable(snapshot.deployment.max_unavailable, len(snapshot.devices))

    def processes_of(self, devices: Iterable[str]) -> list[str]:
        """Return the names of the processes of those of the *devices* that are in the account."""
        _, processes = self._counted()
        return [processes[name].name for name in devices if name in processes]

    def plan(self, changed: Snapshot, now: datetime) -> Plan | None:
        """Return what plan() would say of the whole fleet if *changed*, a snapshot of some of its devices as they are
        now, is all that changed. None when that cannot be told from these devices. Its reasons are theirs only.
        """
        if not self._still_holds(changed, now):
            return None
        if not changed.devices:
            return self._told(changed, Plan(), now)
        before = self._before(changed)
        if before is None:
            return None
        had, has = plan(before, now), plan(changed, now)
        if had.tally is None or has.tally is None:
            return None
        forgotten = had.tally.progress_at >= self._tally.progress_at > has.tally.progress_at
        knows_progress = self._knows_progress and not forgotten
        if not knows_progress and not was_rolled_out(changed.deployment):
            return None  # somebody else came forward last, and nobody noted who
        self._knows_progress = knows_progress
        self._tally = _replaced(self._tally, had.tally, has.tally)
        self._take(changed)
        return self._told(changed, has, now)

    def _still_holds(self, changed: Snapshot, now: datetime) -> bool:
        whole, at = self._whole, now.timestamp()
        return (
            self._judged_at <= at < self._tally.next_look
            and (self._knows_progress or was_rolled_out(changed.deployment))
            and _spec(changed.deployment) == _spec(whole.deployment)
            and (changed.stored_as, changed.in_flight, changed.refusals)
            == (whole.stored_as, whole.in_flight, whole.refusals)
            and len(changed.devices) <= max(1, MOST * len(whole.devices))
        )

    def _before(self, changed: Snapshot) -> Snapshot | None:
        """Return the devices of *changed* as they were when they were counted; None when some were not."""
        devices, processes = self._counted()
        names = [device.name for device in changed.devices]
        if not all(name in devices for name in names):
            return None
        return evolve(changed, devices=[devices[name] for name in names], processes=[processes[name] for name in names])

    def _counted(self) -> _Rows:
        if self._rows is None:
            whole = self._whole
            self._rows = {each.name: each for each in whole.devices}, {each.device: each for each in whole.processes}
        return self._rows

    def _take(self, changed: Snapshot) -> None:
        devices, processes = self._counted()
        devices.update({each.name: each for each in changed.devices})
        processes.update({each.device: each for each in changed.processes})

    def _told(self, changed: Snapshot, made: Plan, now: datetime) -> Plan:
        self._judged_at = now.timestamp()
        tally = self._tally
        facts = Facts(
            counts=tally.counts,
            reasons=tally.reasons,
            limit=self._limit,
            progress_at=max(tally.progress_at, changed.rollout_since.timestamp()),
        )
        status, deadline = rollout_status(changed.deployment, facts, now)
        look = min(tally.next_look, math.inf if deadline is None else deadline)
        next_look = None if look == math.inf else datetime.fromtimestamp(look, UTC)
        return Plan(status=status, next_look=next_look, reasons=made.reasons, tally=tally)


def _spec(deployment: DeploymentRow) -> tuple[object, ...]:
    """Return what decides how devices are judged; the status does not, once they are at rest."""
    return deployment.uid, deployment.generation, deployment.approved, deployment.terminating, deployment.fault


def _replaced(total: Tally, had: Tally, has: Tally) -> Tally:
    """Return *total* with *has* in the place of *had*; it may look again earlier than it would have to."""
    reasons = Counter(total.reasons)
    reasons.subtract(had.reasons)
    reasons.update(has.reasons)
    return Tally(
        counts=Counts(
            desired=total.counts.desired - had.counts.desired + has.counts.desired,
            current=total.counts.current - had.counts.current + has.counts.current,
            updated=total.counts.updated - had.counts.updated + has.counts.updated,
            ready=total.counts.ready - had.counts.ready + has.counts.ready,
            available=total.counts.available - had.counts.available + has.counts.available,
        ),
        reasons={code: count for code, count in reasons.items() if count},
        progress_at=max(total.progress_at, has.progress_at),
        next_look=min(total.next_look, has.next_look),
    )

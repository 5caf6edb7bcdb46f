# SPDX-License-Identifier: Apache-2.0
"""Plans a deployment in steady state from the devices that changed, without a pass over all of them. Pure.

In steady state every device is judged by itself, so the aggregate over the fleet is corrected by what the changed
devices were before and what they are now: planner.plan() is asked about these alone, twice. Whatever else changed needs
a pass over all devices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypeAlias

from attrs import evolve

from praetor_controller.model.amounts import max_unavailable
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Aggregate, Counts, Plan, Snapshot
from praetor_controller.rollout.status import FleetSummary, rollout_status, was_rolled_out

_Rows: TypeAlias = tuple[dict[str, DeviceRow], dict[str, ProcessRow]]
"""The devices, and the process of each, by the device's name."""

MAX_SHARE = 0.1
"""The greatest share of the devices that is planned incrementally; above, two plans cost about as much as one pass."""


class IncrementalAggregate:
    """The aggregate of one deployment, which begins with a pass over all of its devices.

    snapshot: what the pass was made from.
    aggregate: what the pass came to.
    now: the time of the pass.
    """

    def __init__(self, snapshot: Snapshot, aggregate: Aggregate, now: datetime) -> None:
        self._whole = snapshot
        self._rows: _Rows | None = None  # made when they are needed
        self._aggregate = aggregate
        self._knows_progress = True  # of no use once the revision was rolled out
        self._planned_at = now.timestamp() + snapshot.ahead_s
        self._limit = max_unavailable(snapshot.deployment.max_unavailable, aggregate.counts.desired)

    def processes_of(self, devices: Iterable[str]) -> list[str]:
        """Return the names of the processes of those of *devices* that are part of the aggregate."""
        _, processes = self._members()
        return [processes[name].name for name in devices if name in processes]

    def plan(self, changed: Snapshot, now: datetime) -> Plan | None:
        """Return the plan of the whole fleet; None when it takes a pass over all devices.

        *changed* is a snapshot of all devices that changed since the last plan. The plan has the reasons of these only.
        """
        if not self._still_holds(changed, now):
            return None
        if not changed.devices:
            return self._planned(changed, Plan(), now)
        before = self._before(changed)
        if before is None:
            return None
        had, has = plan(before, now), plan(changed, now)
        if had.aggregate is None or has.aggregate is None:
            return None
        lost = had.aggregate.progress_at >= self._aggregate.progress_at > has.aggregate.progress_at
        knows_progress = self._knows_progress and not lost
        if not knows_progress and not was_rolled_out(changed.deployment):
            return None  # another device made the last step forward, and which one is not recorded
        self._knows_progress = knows_progress
        self._aggregate = _replaced(self._aggregate, had.aggregate, has.aggregate)
        self._update(changed)
        return self._planned(changed, has, now)

    def _still_holds(self, changed: Snapshot, now: datetime) -> bool:
        whole, at = self._whole, now.timestamp() + changed.ahead_s
        return (
            self._planned_at <= at < self._aggregate.recheck_at
            and (self._knows_progress or was_rolled_out(changed.deployment))
            and _spec(changed.deployment) == _spec(whole.deployment)
            and (changed.stored_as, changed.in_flight, changed.refusals, changed.gateway)
            == (whole.stored_as, whole.in_flight, whole.refusals, whole.gateway)
            and len(changed.devices) <= max(1, MAX_SHARE * len(whole.devices))
        )

    def _before(self, changed: Snapshot) -> Snapshot | None:
        """Return the devices of *changed* as they are in the aggregate; None when some are not part of it."""
        devices, processes = self._members()
        names = [device.name for device in changed.devices]
        if not all(name in devices for name in names):
            return None
        served = [processes[name] for name in names if name in processes]
        return evolve(changed, devices=[devices[name] for name in names], processes=served)

    def _members(self) -> _Rows:
        if self._rows is None:
            whole = self._whole
            self._rows = {each.name: each for each in whole.devices}, {each.device: each for each in whole.processes}
        return self._rows

    def _update(self, changed: Snapshot) -> None:
        devices, processes = self._members()
        devices.update({each.name: each for each in changed.devices})
        processes.update({each.device: each for each in changed.processes})

    def _planned(self, changed: Snapshot, made: Plan, now: datetime) -> Plan:
        ahead_s, since = changed.ahead_s, changed.rollout_since.timestamp()
        self._planned_at = now.timestamp() + ahead_s
        aggregate = self._aggregate
        summary = FleetSummary(
            counts=aggregate.counts,
            reasons=aggregate.reasons,
            limit=self._limit,
            progress_at=max(aggregate.progress_at, since) - ahead_s,
            since=since - ahead_s,
            gateway=changed.gateway,
        )
        status, deadline = rollout_status(changed.deployment, summary, now)
        recheck = min(aggregate.recheck_at - ahead_s, math.inf if deadline is None else deadline)
        recheck_at = None if recheck == math.inf else datetime.fromtimestamp(recheck, UTC)
        return Plan(status=status, recheck_at=recheck_at, reasons=made.reasons, aggregate=aggregate)


def _spec(deployment: DeploymentRow) -> tuple[object, ...]:
    """Return what the verdicts depend on; in steady state they do not depend on the status."""
    revision = deployment.template.revision  # contents of files change it, and not the generation
    return (
        deployment.uid,
        deployment.generation,
        revision,
        deployment.approved,
        deployment.terminating,
        deployment.fault,
    )


def _replaced(total: Aggregate, had: Aggregate, has: Aggregate) -> Aggregate:
    """Return *total* with *has* in the place of *had*; its recheck may be earlier than needed."""
    reasons = Counter(total.reasons)
    reasons.subtract(had.reasons)
    reasons.update(has.reasons)
    return Aggregate(
        counts=Counts(
            desired=total.counts.desired - had.counts.desired + has.counts.desired,
            current=total.counts.current - had.counts.current + has.counts.current,
            updated=total.counts.updated - had.counts.updated + has.counts.updated,
            ready=total.counts.ready - had.counts.ready + has.counts.ready,
            available=total.counts.available - had.counts.available + has.counts.available,
        ),
        reasons={code: count for code, count in reasons.items() if count},
        progress_at=max(total.progress_at, has.progress_at),
        recheck_at=min(total.recheck_at, has.recheck_at),
    )

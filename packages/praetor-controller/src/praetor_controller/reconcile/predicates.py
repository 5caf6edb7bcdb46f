# SPDX-License-Identifier: Apache-2.0
"""Which events concern a deployment, and how much of it. Pure."""

from __future__ import annotations

from enum import Enum, auto

from attrs import evolve

from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow


class Impact(Enum):
    """How much of a deployment may be different after an event.

    NONE: nothing that a pass reads. STATUS: the state of a device. SPEC: what a device shall be. MEMBERSHIP: which
    devices and processes there are.
    """

    NONE = auto()
    STATUS = auto()
    SPEC = auto()
    MEMBERSHIP = auto()


def process_impact(before: ProcessRow | None, after: ProcessRow | None) -> Impact:
    """Return the impact on the owner when a process, as a pass sees it, changes from *before* to *after*."""
    if before is None or after is None:
        return Impact.NONE if before is after else Impact.MEMBERSHIP
    unread = {name: getattr(after, name) for name in ("resource_version", "stamps", "run_since", "crashed_at")}
    if evolve(before, **unread) == after:
        return Impact.NONE  # only what no pass reads has changed
    if (before.uid, before.owner, before.device) != (after.uid, after.owner, after.device):
        return Impact.MEMBERSHIP
    return Impact.STATUS if _wanted(before) == _wanted(after) else Impact.SPEC


def _wanted(row: ProcessRow) -> tuple[object, ...]:
    annotations = row.revision, row.managed, row.wave, row.offered_at
    return row.spec_hash, row.labels, row.annotations, row.annotated, row.terminating, annotations


def device_impact(
    before: DeviceRow | None, after: DeviceRow | None, *, matched: bool, matches: bool, reads_facts: bool
) -> Impact:
    """Return the impact on a deployment whose selector *matched* the device *before*, and now *matches* it or not.

    *reads_facts*: what the device reports of itself decides there, too.
    """
    if before is None or after is None or matched != matches:
        return Impact.MEMBERSHIP if matched or matches else Impact.NONE
    if not matches:
        return Impact.NONE
    if not reads_facts and before.facts != after.facts:
        after = evolve(after, facts=before.facts)
        if after == before:
            return Impact.NONE
    as_before = evolve(after, connected=before.connected, connected_since=before.connected_since)
    return Impact.STATUS if as_before == before else Impact.SPEC


def deployment_impact(before: DeploymentRow | None, after: DeploymentRow | None) -> Impact:
    """Return the impact of a change of the deployment itself."""
    if before is None or after is None:
        return Impact.MEMBERSHIP
    as_before = evolve(after, status=before.status, resource_version=before.resource_version)
    return Impact.STATUS if as_before == before else Impact.SPEC


def availability_changed(before: ProcessRow | None, after: ProcessRow | None) -> bool:
    """Return whether other deployments may have to count the device of a process differently."""
    return before is None or after is None or _availability(before) != _availability(after)


def _availability(row: ProcessRow) -> tuple[object, ...]:
    since = row.ready_since, row.connected_since, row.settled_since, row.offered_at
    return *since, row.connected, row.reported, row.held, row.failure, row.on_trial

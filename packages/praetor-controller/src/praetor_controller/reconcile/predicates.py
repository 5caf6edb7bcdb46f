"""What an event says to the deployment that it concerns. Pure."""

from __future__ import annotations

from enum import Enum, auto

from attrs import evolve

from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow


class News(Enum):
    """How much of a deployment may be another after an event.

    NONE: nothing that it does not know. STATUS: how a device is. SPEC: what a device shall be. MEMBERSHIP: which
    devices and processes there are.
    """

    NONE = auto()
    STATUS = auto()
    SPEC = auto()
    MEMBERSHIP = auto()


def process_news(before: ProcessRow | None, after: ProcessRow | None) -> News:
    """Return what is new in *after*, a process as a pass would see it, for who saw it as *before*."""
    if before is None or after is None:
        return News.NONE if before is after else News.MEMBERSHIP
    if evolve(before, resource_version=after.resource_version) == after:
        return News.NONE  # our own write comes back, or nobody looks at what changed
    if (before.uid, before.owner, before.device) != (after.uid, after.owner, after.device):
        return News.MEMBERSHIP
    return News.STATUS if _wanted(before) == _wanted(after) else News.SPEC


def _wanted(row: ProcessRow) -> tuple[object, ...]:
    notes = row.revision, row.managed, row.wave, row.offered_at
    return row.spec_hash, row.labels, row.annotations, row.annotated, row.terminating, notes


def device_news(before: DeviceRow | None, after: DeviceRow | None, *, matched: bool, matches: bool) -> News:
    """Return what is new in *after* for a deployment whose selector *matched* it as it was *before*."""
    if before is None or after is None or matched != matches:
        return News.MEMBERSHIP if matched or matches else News.NONE
    if not matches:
        return News.NONE
    as_before = evolve(after, connected=before.connected, connected_since=before.connected_since)
    return News.STATUS if as_before == before else News.SPEC


def deployment_news(before: DeploymentRow | None, after: DeploymentRow | None) -> News:
    """Return what is new in *after*; the status is its own, and ours."""
    if before is None or after is None:
        return News.MEMBERSHIP
    as_before = evolve(after, status=before.status, resource_version=before.resource_version)
    return News.STATUS if as_before == before else News.SPEC

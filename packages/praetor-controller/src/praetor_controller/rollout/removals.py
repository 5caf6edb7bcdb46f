# SPDX-License-Identifier: Apache-2.0
"""Which processes may be deleted because their device no longer matches: within the budgets, and few at a time. Pure.

One change of a selector or of labels may be a mistake that empties a fleet. So a process is deleted only after it was
unmatched for a while, during which a change that comes device by device is seen whole; when it unmatches more devices
than may be unavailable, or all of them, nothing is deleted until a user approves it. The approval stands on each of
the processes and names the selector and the labels that it is for: it is for no other change, and needs no memory.

What a device reports is no wish of a user: a process whose device only its facts unmatch always waits for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from praetor_api.canonical import spec_hash
from praetor_api.conditions import ConditionType, DeploymentReason
from praetor_api.kube.codec import encode
from praetor_api.kube.conditions import get_condition
from praetor_api.kube.objects import ConditionStatus
from praetor_controller.model.amounts import max_unavailable
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.rollout.assignment import Assignment
from praetor_controller.rollout.budgets import Domains
from praetor_controller.rollout.reasons import Reason, ReasonCode
from praetor_controller.rollout.snapshot import Removal, Snapshot


@frozen(kw_only=True)
class Removals:
    """The processes to delete *now*, and those that *stay* for now, with why.

    *places* are the devices that are down by removals. *bulk*: some are held because too many left at once, and
    *remembered*: the stored status says so. Others are held because only their facts unmatch them.
    """

    now: Sequence[ProcessRow] = ()
    stay: Sequence[Removal] = ()
    places: int = 0
    bulk: bool = False
    remembered: bool = False

    @property
    def held(self) -> Sequence[Removal]:
        """The processes that stay until a user approves their removal."""
        return [each for each in self.stay if each.reason.code is ReasonCode.REMOVAL_HELD]


def removals(snapshot: Snapshot, assignment: Assignment, down: int, domains: Domains) -> Removals:
    """Return which processes to delete when *down* devices are down already; *domains* count those that go down."""
    for device in snapshot.removed:
        domains.take(device)
    stored = get_condition(snapshot.deployment.status.conditions, ConditionType.REMOVAL_HELD)
    remembered = (
        stored is not None
        and stored.status is ConditionStatus.TRUE
        and stored.reason != DeploymentReason.FACTS_NO_LONGER_MATCH
    )
    places = len(snapshot.removed)
    if not assignment.orphans:
        return Removals(places=places, remembered=remembered)
    deployment, rows = snapshot.deployment, {each.name: each for each in snapshot.leaving}
    tokens = {
        each.uid: removal_token(deployment, rows.get(each.device), snapshot.unselected.get(each.device))
        for each in assignment.orphans
    }
    limit = removal_limit(deployment, assignment.desired + len(assignment.orphans))
    waiting = [each for each in assignment.orphans if each.removal != tokens[each.uid]]
    unapproved = [each for each in waiting if each.device not in snapshot.unselected]
    is_all = bool(unapproved) and all(each is None for each in assignment.processes)
    bulk = bool(unapproved) and (remembered or is_all or len(unapproved) > limit)
    held = {each.uid for each in waiting if bulk or each.device in snapshot.unselected}
    now: list[ProcessRow] = []
    stay: list[Removal] = []
    room = limit - down - places
    for process in sorted(assignment.orphans, key=lambda each: each.name):
        row, is_up = rows.get(process.device), process.ready_since is not None
        why = _why(snapshot, process, held)
        if why is None and is_up:
            exhausted = f"maxUnavailable={limit}" if room <= 0 else domains.full(row) if row is not None else ""
            why = Reason(ReasonCode.REMOVING, exhausted) if exhausted else None
        if why is not None:
            stay.append(Removal(process, why, tokens[process.uid]))
            continue
        now.append(process)
        if is_up:
            room, places = room - 1, places + 1
            if row is not None:
                domains.take(row)
    return Removals(now=now, stay=stay, places=places, bulk=bulk, remembered=remembered)


def _why(snapshot: Snapshot, process: ProcessRow, held: Iterable[str]) -> Reason | None:
    """Return why *process* is not deleted now, whatever the budgets; None when it may be."""
    if process.uid in held:
        facts = snapshot.unselected.get(process.device)
        return Reason(ReasonCode.REMOVAL_HELD, process.name if facts is None else f"{process.name}: {facts}")
    return None if process.uid in snapshot.removable else Reason(ReasonCode.REMOVING, "waits for other changes")


def removal_limit(deployment: DeploymentRow, devices: int) -> int:
    """Return how many of *devices*, those that match and those that did, may leave at a time."""
    return max(1, max_unavailable(deployment.max_unavailable, devices))


def removal_token(deployment: DeploymentRow, device: DeviceRow | None, facts: str | None = None) -> str:
    """Return the approval that lets a process go from *device*, None if that is not declared, by what unmatched it.

    *facts* are those of the device that alone unmatch it, None when its labels do.
    """
    labels: Mapping[str, str] | None = device.labels if device is not None else None
    part = {"selector": encode(deployment.policy.selector), "labels": dict(labels) if labels is not None else None}
    if facts is not None:
        part |= {"factSelector": encode(deployment.policy.fact_selector), "facts": facts}
    return spec_hash(part).removeprefix("sha256:")[:10]

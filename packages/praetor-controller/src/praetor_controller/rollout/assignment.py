# SPDX-License-Identifier: Apache-2.0
"""Which process belongs to which device: one each, which of them are up to date, and which are to be deleted. Pure.

All that a pass asks of a fleet is in sequences of one order, which are walked side by side: a look-up by name for each
question would be most of what a pass over 100,000 devices costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from attrs import frozen

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.names import hashed_process_name, process_name
from praetor_controller.model.annotations import deployment_label
from praetor_controller.model.requirements import NO_FACTS
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.model.specs import Specs
from praetor_controller.rollout.availability import Availability, availabilities
from praetor_controller.rollout.snapshot import Snapshot, specs_of


@frozen(kw_only=True)
class Assignment:
    """The process of each device. All sequences are in the order of the *devices*; None where there is no process.

    *hashes* are of the specs of the *processes*. *special* are the numbers of all devices but those whose process is
    available, and that are not in maintenance, lack no requirement, and whose process is neither held, nor being
    deleted, nor in a storm. *orphans* are processes without a matching device, and *surplus* the younger ones of
    several on one device; both are without those that are being deleted already. *desired* is how many devices have a
    process or are to have one: without those that have none and do not meet the requirements, as a DaemonSet counts no
    node that its affinity leaves out. What has reported no facts is to have one, as far as we know.
    """

    devices: Sequence[DeviceRow]
    names: Sequence[str]
    processes: Sequence[ProcessRow | None]
    hashes: Sequence[str | None]
    availabilities: Sequence[Availability | None]
    special: Sequence[int]
    orphans: tuple[ProcessRow, ...]
    surplus: tuple[ProcessRow, ...]
    desired: int

    def __iter__(self) -> Iterator[tuple[DeviceRow, ProcessRow | None, Availability | None]]:
        return zip(self.devices, self.processes, self.availabilities, strict=True)


class _Matched(NamedTuple):
    processes: Sequence[ProcessRow | None]
    orphans: tuple[ProcessRow, ...]
    surplus: tuple[ProcessRow, ...]


def assign(devices: Sequence[DeviceRow], processes: Sequence[ProcessRow], min_ready_s: float, now: float) -> Assignment:
    """Return the process of each device at *now* (seconds since the epoch), and those that are to be deleted."""
    names = [device.name for device in devices]
    excluded = 0
    if names == [process.device for process in processes]:  # as the API lists a fleet: nothing has to be looked up
        matched, orphans, surplus = _Matched(processes, (), ())
    else:
        matched, orphans, surplus = _matched(names, processes)
        unserved = (device for device, process in zip(devices, matched, strict=True) if process is None)
        excluded = sum(device.unmet not in ("", NO_FACTS) for device in unserved)
    found, special = availabilities(devices, matched, min_ready_s, now)
    return Assignment(
        devices=devices,
        names=names,
        processes=matched,
        hashes=[process.spec_hash if process is not None else None for process in matched],
        availabilities=found,
        special=special,
        orphans=orphans,
        surplus=surplus,
        desired=len(devices) - excluded,
    )


def adoptable(
    deployment: DeploymentRow, ownerless: Iterable[ProcessRow], find: Callable[[str], DeviceRow | None]
) -> Iterator[ProcessRow]:
    """Yield the *ownerless* processes that are as if *deployment* had made them; *find* returns a device by its name.

    A deployment that was deleted without its processes, or a restored backup, leaves such. They have its label and its
    name for a device that it matches.
    """
    label = (DEPLOYMENT_LABEL, deployment_label(deployment.name))
    for row in ownerless:
        device = find(row.device)
        if row.owner is not None or row.terminating or label not in row.labels or device is None:
            continue
        names = process_name(deployment.name, row.device), hashed_process_name(deployment.name, row.device)
        if row.namespace == deployment.namespace and row.name in names and deployment.selects(device):
            yield row


def _matched(names: Sequence[str], processes: Iterable[ProcessRow]) -> _Matched:
    process_of: dict[str, ProcessRow] = {}
    younger: list[ProcessRow] = []
    for process in processes:
        known = process_of.setdefault(process.device, process)
        if known is not process:
            first, second = sorted((known, process), key=_age)
            process_of[process.device] = first
            younger.append(second)
    matching = frozenset(names if younger else ())
    matched = [process_of.pop(name, None) for name in names]  # what is left belongs to none of them
    orphans = (*process_of.values(), *(process for process in younger if process.device not in matching))
    surplus = (process for process in younger if process.device in matching)
    return _Matched(matched, _staying(orphans), _staying(surplus))


def _age(process: ProcessRow) -> tuple[bool, float, str]:
    return process.terminating, process.created_at, process.name


def _staying(processes: Iterable[ProcessRow]) -> tuple[ProcessRow, ...]:
    return tuple(process for process in processes if not process.terminating)


@frozen
class Updated:
    """In the order of the devices: *all* have the spec that the template gives them.

    *unchanged* are those of them that had it before, for the template with its overrides gives them what the revision
    before gave them. They have shown nothing of this rollout: no wave passes by them, and they do not fail at it. It is
    empty where all devices are given the same.
    """

    all: Sequence[bool]
    unchanged: Sequence[bool] = ()

    @classmethod
    def of(cls, specs: Specs, snapshot: Snapshot, assignment: Assignment) -> Updated:
        """Return these of *assignment*; *specs* are what the template gives."""
        has, current = specs.run_by(assignment.hashes), snapshot.current
        if current is None or current.revision == specs.template.revision:
            return cls(has)
        if not (specs.varies or current.overrides):
            return cls(has)
        before = specs_of(snapshot, current, snapshot.current_stored_as)
        since = snapshot.revision_stamp
        if since is None:
            since = (snapshot.revision_since or snapshot.rollout_since).timestamp()
        found = [
            each and same and process is not None and not _offered(process, since)
            for process, each, same in zip(assignment.processes, has, specs.same_as(before), strict=True)
        ]
        return cls(has, found if any(found) else ())

    def is_unchanged(self, number: int) -> bool:
        """Return whether the rollout gives nothing to the device at *number*."""
        return bool(self.unchanged) and self.unchanged[number]


def _offered(process: ProcessRow, since: float) -> bool:
    """Return whether *process* was offered its spec since the stamp *since*."""
    stamp = process.offered_at if process.offer_stamp is None else process.offer_stamp
    return stamp is not None and stamp >= since

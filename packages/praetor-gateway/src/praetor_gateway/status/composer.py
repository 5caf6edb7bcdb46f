# SPDX-License-Identifier: Apache-2.0
"""The write that a status needs, computed when it is about to be sent: from the newest object and the newest facts.

What changes, and the events that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from attrs import define, frozen

from praetor_api.conditions import ConditionType, ProcessReason
from praetor_api.kube.client.patches import diff_merge_patch
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_api.kube.codec import encode
from praetor_api.kube.conditions import is_true
from praetor_api.kube.objects import ConditionStatus, DeviceProcessStatus, NetworkSwitchStatus, Phase, Reported
from praetor_api.protocol import Observation
from praetor_gateway.fleet.devices import DeclaredDevice, DeviceIndex
from praetor_gateway.fleet.rows import CachedProcess, CachedSwitch, Row
from praetor_gateway.status import events
from praetor_gateway.status.connected import Connected
from praetor_gateway.status.events import StatusEvent
from praetor_gateway.status.merge import merge
from praetor_gateway.status.pending import COUNTS_DEBOUNCE_S, PendingStatuses, StatusKey
from praetor_gateway.status.switch import SwitchFacts, counts, merge_switch

ProcessFacts: TypeAlias = tuple[
    Observation | None, Reported | None, Connected, int | None, ProcessReason | None, ProcessReason | None
]
_STANDINGS = (ConditionType.REFUSED, ConditionType.NAME_CONFLICT)


@frozen(kw_only=True)
class StatusPatch:
    """A merge patch of the status of *row* and the events to record once it is written.

    *facts* are what the new status was computed from.
    """

    row: Row
    body: Mapping[str, Any]
    events: tuple[StatusEvent, ...]
    facts: object


def patch_of_process(
    row: CachedProcess, status: DeviceProcessStatus, facts: object, *, has_switch: bool
) -> StatusPatch | None:
    """Return how to make *status* that of *row*; None when it is so already."""
    return _patch(row, status, facts, events.of_process(row.status, status, has_switch=has_switch))


def patch_of_switch(row: CachedSwitch, status: NetworkSwitchStatus, facts: object) -> StatusPatch | None:
    """Return how to make *status* that of *row*; None when it is so already."""
    return _patch(row, status, facts, events.of_switch(row.status, status))


def _patch(
    row: Row,
    status: DeviceProcessStatus | NetworkSwitchStatus,
    facts: object,
    happened: tuple[StatusEvent, ...],
) -> StatusPatch | None:
    if status == row.status:
        return None
    # the write holds for this version only: conditions are replaced as a whole, and another writer's must not be lost
    body = {
        "metadata": {"resourceVersion": str(row.resource_version)},
        "status": diff_merge_patch(encode(row.status), encode(status)),
    }
    return StatusPatch(row=row, body=body, events=happened, facts=facts)


@define(eq=False)
class StatusComposer:
    """Composes status writes for the devices of *fleet*.

    *connected* returns whether a device is connected, and None while this replica does not lead or does not know;
    *fetched* the generation of a process that its device fetched last, None when it is not known.
    *absence* returns why a device was never heard, None if it was or if it is not known.
    *leads* returns whether this replica leads: it alone writes which objects count for no device.
    """

    _fleet: DeviceIndex
    _pending: PendingStatuses
    _connected: Callable[[str], Connected]
    _fetched: Callable[[CachedProcess], int | None]
    _leads: Callable[[], bool]
    _absence: Callable[[DeclaredDevice], ProcessReason | None]

    def compose(self, key: StatusKey, now: datetime) -> StatusPatch | None:
        """Return the write that *key* needs; None when its status says all, or when the object is gone."""
        if key.resource is DEVICE_PROCESSES:
            return self._compose_process(key.object, now)
        return self._compose_switch(key, now)

    def is_current(self, key: StatusKey, written: StatusPatch) -> bool:
        """Return whether *written* is composed of the facts as they are now, or the object is gone."""
        if key.resource is DEVICE_PROCESSES:
            row = self._fleet.process(key.object)
            return row is None or self._process_facts(row) == written.facts
        facts = self._switch_facts(key)
        return facts is None or facts == written.facts

    def on_process(self, _: Key, old: CachedProcess | None, new: CachedProcess | None) -> None:
        """Have the counts of the switch written after a process changed. Called once the fleet has the change."""
        row = new or old
        if new is not None:
            self._check_standing(new)
        if row is None or _counts_alike(old, new):
            return
        device = self._fleet.device(row.device)
        if device is not None and device.switch is not None and device.owner == row.owner:
            self._pending.submit(StatusKey.of(device.switch), COUNTS_DEBOUNCE_S)

    def on_switch(self, _: Key, old: CachedSwitch | None, new: CachedSwitch | None) -> None:
        """Check a change of a switch. Called once the fleet has the change."""
        if new is not None:
            self._check_standing(new)

    def changed(self, name: str) -> None:
        """Have written which objects of the name count for no device, after their claims on it changed."""
        device = self._fleet.device(name)
        if device is not None:
            for switch in device.switches:
                self._check_standing(switch)
            for process in device.processes:
                self._check_standing(process)

    def take_over(self) -> None:
        """Have written of all objects what was not while no replica led."""
        for row in self._fleet.rows():
            self._check_standing(row)

    def _check_standing(self, row: Row) -> None:
        known = [each for each in row.status.conditions if each.type in _STANDINGS]
        standing = self._fleet.standing(row)
        if standing is not ProcessReason.ACCEPTED or known:
            said = [each.reason for each in known if each.status is ConditionStatus.TRUE]
            if said != ([] if standing is ProcessReason.ACCEPTED else [standing]):
                self._pending.submit(StatusKey.of(row))

    def _compose_process(self, key: Key, now: datetime) -> StatusPatch | None:
        row = self._fleet.process(key)
        if row is None:
            return None
        observation, reported, connected, fetched, standing, absence = facts = self._process_facts(row)
        device = self._fleet.device(row.device)
        status = merge(
            row,
            observation,
            reported=reported,
            connected=connected,
            now=now,
            fetched=fetched,
            standing=standing,
            absence=absence,
        )
        return patch_of_process(row, status, facts, has_switch=device is not None and device.switch is not None)

    def _compose_switch(self, key: StatusKey, now: datetime) -> StatusPatch | None:
        row, facts = self._fleet.row(key.resource, key.object), self._switch_facts(key)
        if not isinstance(row, CachedSwitch) or facts is None:
            return None
        return patch_of_switch(row, merge_switch(row, facts, now), facts)

    def _process_facts(self, row: CachedProcess) -> ProcessFacts:
        device = self._fleet.device(row.device)
        served = device is not None and row in device.served
        connected = self._connected(row.device) if served else None
        fetched = self._fetched(row) if connected not in (True, None) else None
        standing = self._fleet.standing(row) if self._leads() else None
        absence = self._absence(device) if device is not None and served else None
        return *self._pending.observation(row), connected, fetched, standing, absence

    def _switch_facts(self, key: StatusKey) -> SwitchFacts | None:
        device, row = self._fleet.device(key.object.name), self._fleet.row(key.resource, key.object)
        if device is None or row is None:
            return None
        standing = self._fleet.standing(row) if self._leads() else None
        if row is not device.switch:
            return SwitchFacts(standing=standing)
        connected = self._connected(device.name)
        return SwitchFacts(
            agent_version=device.session.agent_version,
            boot_id=device.session.boot_id,
            facts=device.session.facts,
            reported=device.session.reported,
            duplicate=device.session.duplicate,
            processes=counts(device.served) if connected is not None else None,
            connected=connected,
            standing=standing,
            absence=self._absence(device),
        )


def _counts_alike(old: CachedProcess | None, new: CachedProcess | None) -> bool:
    """Return whether the counts are the same with *new* as with *old*."""
    if old is not None and new is not None and old.deleting is new.deleting and old.status == new.status:
        return True  # a spec changed
    return _counted(old) == _counted(new)


def _counted(row: CachedProcess | None) -> tuple[bool, bool] | None:
    if row is None or row.deleting:
        return None
    return (row.status.phase is Phase.RUNNING, is_true(row.status.conditions, ConditionType.HEALTHY))

# SPDX-License-Identifier: Apache-2.0
"""The write that a status needs, computed when it is about to be sent: from the newest object and the newest facts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attrs import define

from praetor_api.conditions import ConditionType
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_api.kube.conditions import is_true
from praetor_api.kube.objects import Phase, Reported
from praetor_api.protocol import Observation
from praetor_gateway.fleet.devices import DeviceIndex
from praetor_gateway.fleet.rows import CachedProcess
from praetor_gateway.status import patch
from praetor_gateway.status.merge import merge
from praetor_gateway.status.patch import StatusPatch
from praetor_gateway.status.pending import COUNTS_DEBOUNCE_S, PendingStatuses, StatusKey
from praetor_gateway.status.switch import SwitchFacts, counts, merge_switch


@define(eq=False)
class StatusComposer:
    """Composes status writes for the devices of *fleet*.

    *connected* returns whether a device is connected, and None while this replica does not lead or does not know.
    """

    _fleet: DeviceIndex
    _pending: PendingStatuses
    _connected: Callable[[str], bool | None]

    def compose(self, key: StatusKey, now: datetime) -> StatusPatch | None:
        """Return the write that *key* needs; None when its status says all, or when the object is gone."""
        if key.resource is DEVICE_PROCESSES:
            return self._compose_process(key.object, now)
        return self._compose_switch(key.object, now)

    def is_current(self, key: StatusKey, written: StatusPatch) -> bool:
        """Return whether *written* is composed of the facts as they are now, or the object is gone."""
        if key.resource is DEVICE_PROCESSES:
            row = self._fleet.process(key.object)
            return row is None or self._process_facts(row) == written.facts
        facts = self._switch_facts(key.object)
        return facts is None or facts == written.facts

    def on_process(self, _: Key, old: CachedProcess | None, new: CachedProcess | None) -> None:
        """Have the counts of the switch written after a process changed. Called once the fleet has the change."""
        row = new or old
        if row is None or _counted(old) == _counted(new):
            return
        device = self._fleet.device(row.device)
        if device is not None and device.switch is not None:
            self._pending.submit(StatusKey(NETWORK_SWITCHES, device.switch.key), COUNTS_DEBOUNCE_S)

    def _compose_process(self, key: Key, now: datetime) -> StatusPatch | None:
        row = self._fleet.process(key)
        if row is None:
            return None
        observation, reported, connected = facts = self._process_facts(row)
        device = self._fleet.device(row.device)
        status = merge(row, observation, reported=reported, connected=connected, now=now)
        return patch.of_process(row, status, facts, has_switch=device is not None and device.switch is not None)

    def _compose_switch(self, key: Key, now: datetime) -> StatusPatch | None:
        row, facts = self._fleet.switch(key), self._switch_facts(key)
        if row is None or facts is None:
            return None
        return patch.of_switch(row, merge_switch(row, facts, now), facts)

    def _process_facts(self, row: CachedProcess) -> tuple[Observation | None, Reported | None, bool | None]:
        device = self._fleet.device(row.device)
        served = device is not None and row in device.served
        return *self._pending.observation(row), self._connected(row.device) if served else None

    def _switch_facts(self, key: Key) -> SwitchFacts | None:
        device = self._fleet.device(key.name)
        if device is None or device.switch is None:
            return None
        connected = self._connected(device.name)
        return SwitchFacts(
            agent_version=device.session.agent_version,
            boot_id=device.session.boot_id,
            facts=device.session.facts,
            reported=device.session.reported,
            duplicate=device.session.duplicate,
            processes=counts(device.served) if connected is not None else None,
            connected=connected,
        )


def _counted(row: CachedProcess | None) -> tuple[bool, bool] | None:
    if row is None or row.deleting:
        return None
    return (row.status.phase is Phase.RUNNING, is_true(row.status.conditions, ConditionType.HEALTHY))

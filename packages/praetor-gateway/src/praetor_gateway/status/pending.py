"""What devices reported and is not written yet, one entry an object, and the status that it makes.

A status is computed when it is about to be written, from the facts and from the
newest object: the latest facts win, and a conflict is computed anew.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_api.protocol import Observation
from praetor_gateway.fleet.fleet import Device, Fleet, is_older, went_back
from praetor_gateway.fleet.rows import ProcessRow
from praetor_gateway.status import patch
from praetor_gateway.status.merge import EPOCH, merge, reported
from praetor_gateway.status.patch import Draft, Target
from praetor_gateway.status.switch import counts, merge_switch


class Judgement(Protocol):
    """Whether a device is connected; None while that is not ours to say."""

    def __call__(self, device: str) -> bool | None: ...


class Statuses:
    """Composes the statuses to write."""

    def __init__(self, fleet: Fleet, connected: Judgement) -> None:
        self._fleet = fleet
        self._connected = connected
        self._observed: dict[Key, tuple[str, Observation]] = {}

    def __len__(self) -> int:
        return len(self._observed)

    def is_waiting(self, target: Target) -> bool:
        """Tell whether facts about *target* wait to be written."""
        return target.key in self._observed

    def observe(self, row: ProcessRow, observation: Observation) -> None:
        """Keep what the device saw of *row* until it is written."""
        self._observed[row.key] = (row.uid, observation)

    def on_process(self, _: Key, old: ProcessRow | None, new: ProcessRow | None) -> None:
        """Take a change that an informer tells, before the fleet takes it."""
        if new is not None:
            self.saw(new, restored=went_back(old, new))

    def saw(self, row: ProcessRow, *, restored: bool) -> None:
        """Have the device asked again if another one than we changed what it reported to us.

        Who writes last need not be who heard last: a write may be held up while the device talks to another replica.
        Without the question nobody would notice, since devices report what changes and nothing else.
        """
        known = self._fleet.process(row.key)
        if known is None or known.uid != row.uid or known.resource_version == row.resource_version:
            return
        if (is_older(row, known) and not restored) or reported(known.status) == reported(row.status):
            return
        device = self._fleet.device(row.device)
        if device is not None and not self._is_ours(row):
            device.session.doubt(row.uid)

    def _is_ours(self, row: ProcessRow) -> bool:
        """Tell whether *row* says what waits to be written: our own write, seen before its answer."""
        uid, observation = self._observed.get(row.key, ("", None))
        if observation is None or uid != row.uid:
            return False
        return reported(merge(row, observation, connected=None, now=EPOCH)) == reported(row.status)

    def forget(self, target: Target, now: datetime) -> None:
        """Drop the facts of *target* if its status, as known, says all that they do."""
        if target.resource is DEVICE_PROCESSES and self.compose(target, now) is None:
            self._observed.pop(target.key, None)

    def drop(self, target: Target) -> None:
        """Drop the facts of *target*: they cannot be written."""
        if target.resource is DEVICE_PROCESSES:
            self._observed.pop(target.key, None)

    def compose(self, target: Target, now: datetime) -> Draft | None:
        """Return the write that *target* needs; None when its status says all, or when it is gone."""
        if target.resource is DEVICE_PROCESSES:
            return self._compose_process(target.key, now)
        return self._compose_switch(target.key, now)

    def _compose_process(self, key: Key, now: datetime) -> Draft | None:
        row = self._fleet.process(key)
        if row is None:
            return None
        uid, observation = self._observed.get(key, ("", None))
        if uid != row.uid:  # it was deleted and created again meanwhile
            observation = None
        device = self._fleet.device(row.device)
        served = device is not None and row in device.served
        status = merge(row, observation, connected=self._connected(row.device) if served else None, now=now)
        return patch.of_process(row, status, has_switch=device is not None and device.switch is not None)

    def _compose_switch(self, key: Key, now: datetime) -> Draft | None:
        row = self._fleet.switch(key)
        device = self._fleet.device(key.name)
        if row is None or device is None or device.switch is None:
            return None
        connected = self._connected(device.name)
        status = merge_switch(
            row,
            agent_version=device.session.agent_version,
            boot_id=device.session.boot_id,
            facts=device.session.facts,
            processes=counts(device.served) if connected is not None else None,
            connected=connected,
            now=now,
        )
        return patch.of_switch(row, status)


def targets(device: Device) -> tuple[Target, ...]:
    """Return all objects whose status says whether *device* is connected."""
    from_switch = (Target(NETWORK_SWITCHES, device.switch.key),) if device.switch is not None else ()
    return (*from_switch, *(Target(DEVICE_PROCESSES, row.key) for row in device.served))

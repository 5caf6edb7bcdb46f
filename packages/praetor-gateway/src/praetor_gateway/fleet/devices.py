# SPDX-License-Identifier: Apache-2.0
"""The declared devices by name, and the desired processes of each: every request is answered from them.

Kept up to date by the informers and by our own writes, never by devices: a name
that is not declared leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from attrs import define, field

from praetor_api.canonical import desired_etag
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key, Resource
from praetor_api.kube.objects import Reported
from praetor_gateway.fleet.order import following, supersedes
from praetor_gateway.fleet.rows import CachedProcess, CachedSwitch, Row
from praetor_gateway.fleet.session import DeviceSession

R = TypeVar("R", CachedProcess, CachedSwitch)

EMPTY_ETAG = desired_etag(())


@define(eq=False, weakref_slot=False)
class DeclaredDevice:
    """One declared device: its processes and its NetworkSwitch (several of one name are ambiguous)."""

    name: str
    processes: tuple[CachedProcess, ...] = ()
    switches: tuple[CachedSwitch, ...] = ()
    session: DeviceSession = field(factory=DeviceSession)
    _etag: str | None = None

    @property
    def switch(self) -> CachedSwitch | None:
        """Its NetworkSwitch, if there is exactly one."""
        return self.switches[0] if len(self.switches) == 1 else None

    @property
    def ambiguous(self) -> bool:
        """Whether the name alone does not say which device is meant."""
        if self.switches:
            return len(self.switches) > 1
        return len(self.processes) > 1 and len({row.device_namespace for row in self.processes}) > 1

    @property
    def epoch(self) -> int:
        """The credential epoch that its tokens must be of: the highest where several switches have its name."""
        return max((row.credential_epoch for row in self.switches), default=0)

    @property
    def served(self) -> tuple[CachedProcess, ...]:
        """The processes that are served to it, sorted by namespace and name.

        A declared switch is one device in one namespace: processes that refer to another one of its name are not its.
        """
        if self.ambiguous:
            return ()
        namespace = self.switches[0].key.namespace if self.switches else None
        return tuple(row for row in self.processes if not row.deleting and namespace in (None, row.device_namespace))

    def superseded(self, boot_id: str) -> bool:
        """Return whether a later boot than *boot_id* is known to have reported."""
        return any(
            reported is not None and reported.previous_boot_id == boot_id
            for reported in (self.reported, *(row.status.reported for row in self.served))
        )

    @property
    def reported(self) -> Reported | None:
        """The latest known report of its agent about itself."""
        written = self.switch.status.reported if self.switch is not None else None
        return written if supersedes(written, self.session.reported) else following(written, self.session.reported)

    @property
    def etag(self) -> str:
        """The ETag of its desired state."""
        if self._etag is None:
            served = self.served
            self._etag = desired_etag(row.version for row in served) if served else EMPTY_ETAG
        return self._etag

    def put(self, row: Row) -> None:
        """Add *row*, or replace the one of the same key."""
        if isinstance(row, CachedProcess):
            self.processes = _with(self.processes, row)
        else:
            self.switches = _with(self.switches, row)

    def remove(self, row: Row) -> None:
        """Remove the row of that key."""
        if isinstance(row, CachedProcess):
            self.processes = _without(self.processes, row.key)
        else:
            self.switches = _without(self.switches, row.key)

    def changed(self) -> None:
        """Drop what was derived from the rows, after they changed."""
        self._etag = None
        self.session.expect(row.uid for row in self.served)


@define(eq=False)
class DeviceIndex:
    """All declared devices, by name.

    *changed* is called with a device's name when its desired state or its credential epoch may have changed.
    """

    _changed: Callable[[str], None]
    unordered_until: float = field(default=0.0, init=False)
    """Until when no order of reports is written, in monotonic seconds: CRDs of an earlier release do not keep it."""
    _devices: dict[str, DeclaredDevice] = field(factory=dict, init=False)
    _processes: dict[Key, CachedProcess] = field(factory=dict, init=False)
    _switches: dict[Key, CachedSwitch] = field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[DeclaredDevice]:
        return iter(self._devices.values())

    def device(self, name: str) -> DeclaredDevice | None:
        return self._devices.get(name)

    def epoch(self, name: str) -> int:
        """Return the credential epoch of the device *name*, 0 if it is not declared."""
        device = self._devices.get(name)
        return 0 if device is None else device.epoch

    def row(self, resource: Resource, key: Key) -> Row | None:
        return self.process(key) if resource is DEVICE_PROCESSES else self.switch(key)

    def process(self, key: Key) -> CachedProcess | None:
        return self._processes.get(key)

    def switch(self, key: Key) -> CachedSwitch | None:
        return self._switches.get(key)

    def on_change(self, _: Key, old: Row | None, new: Row | None) -> None:
        """Apply a change that an informer reports; *new* is None for a deletion."""
        if new is not None:
            self._put(new, restored=went_back(old, new))
        elif old is not None:
            self._drop(old)

    def update(self, row: Row, *, restored: bool = False, own: bool = False) -> None:
        """Apply what the API answered; not if the object is gone by now.

        *own*: the answer to a write of ours. *restored*: an older version than ours means a restored backup.
        """
        known: Row | None = self._table(row).get(row.key)
        if known is not None and known.uid == row.uid:
            self._put(row, restored=restored, own=own)

    def _put(self, row: Row, *, restored: bool, own: bool = False) -> None:
        table = self._table(row)
        known: Row | None = table.get(row.key)
        if known is not None and known.uid == row.uid and is_older(row, known) and not restored:
            return
        if known is not None and known.device != row.device:
            self._drop(known)
            known = None
        table[row.key] = row
        device = self._devices.get(row.device)
        if device is None:
            device = self._devices[row.device] = DeclaredDevice(row.device)
        device.put(row)
        if isinstance(known, CachedSwitch) and isinstance(row, CachedSwitch) and known.uid == row.uid and not own:
            device.session.superseded(known.status, row.status)
        if known is None or known.declaration != row.declaration:
            self._notify(device)

    def _drop(self, row: Row) -> None:
        known: Row | None = self._table(row).pop(row.key, None)
        if known is not None:
            device = self._devices[known.device]
            device.remove(known)
            self._notify(device)

    def _table(self, row: Row) -> dict[Key, Any]:
        return self._processes if isinstance(row, CachedProcess) else self._switches

    def _notify(self, device: DeclaredDevice) -> None:
        if not device.processes and not device.switches:
            del self._devices[device.name]
        device.changed()
        self._changed(device.name)


def _with(rows: tuple[R, ...], row: R) -> tuple[R, ...]:
    changed = [other for other in rows if other.key != row.key]
    changed.append(row)
    return tuple(sorted(changed, key=lambda each: each.key))


def _without(rows: tuple[R, ...], key: Key) -> tuple[R, ...]:
    return tuple(row for row in rows if row.key != key)


def is_older(row: Row, known: Row) -> bool:
    """Return whether *row* is a version from before *known*: the echo of a write that another one overtook."""
    new, old = row.resource_version, known.resource_version
    return new.isdecimal() and old.isdecimal() and int(new) < int(old)


def went_back(old: Row | None, new: Row) -> bool:
    """Return whether an informer went back to an older version: the store was restored from a backup."""
    return old is not None and old.uid == new.uid and is_older(new, old)

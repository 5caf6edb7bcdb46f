"""The declared devices by name, and the desired processes of each: every request is answered from them.

Kept up to date by the informers and by our own writes, never by devices: a name
that is not declared leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from praetor_api.canonical import desired_etag
from praetor_api.kube.client.resource import Key
from praetor_gateway.fleet.rows import CachedProcess, CachedSwitch
from praetor_gateway.fleet.session import DeviceSession

Row = TypeVar("Row", CachedProcess, CachedSwitch)

EMPTY_ETAG = desired_etag(())


class DeclaredDevice:
    """One declared device: its processes and its NetworkSwitch (several of one name are ambiguous)."""

    __slots__ = ("_etag", "name", "processes", "session", "switches")

    def __init__(self, name: str) -> None:
        self.name = name
        self.processes: tuple[CachedProcess, ...] = ()
        self.switches: tuple[CachedSwitch, ...] = ()
        self.session = DeviceSession()
        self._etag: str | None = None

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

    @property
    def etag(self) -> str:
        """The ETag of its desired state."""
        if self._etag is None:
            served = self.served
            self._etag = desired_etag(row.version for row in served) if served else EMPTY_ETAG
        return self._etag

    def changed(self) -> None:
        """Drop what was derived from the rows, after they changed."""
        self._etag = None
        self.session.expect(row.uid for row in self.served)


class DeviceIndex:
    """All declared devices, by name.

    *changed* is called with a device's name when its desired state or its credential epoch may have changed.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._devices: dict[str, DeclaredDevice] = {}
        self._processes: dict[Key, CachedProcess] = {}
        self._switches: dict[Key, CachedSwitch] = {}

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

    def process(self, key: Key) -> CachedProcess | None:
        return self._processes.get(key)

    def switch(self, key: Key) -> CachedSwitch | None:
        return self._switches.get(key)

    def on_process(self, key: Key, old: CachedProcess | None, new: CachedProcess | None) -> None:
        """Apply a change that an informer reports; *new* is None for a deletion."""
        if new is None:
            self._drop_process(key)
        else:
            self._put_process(new, restored=went_back(old, new))

    def on_switch(self, key: Key, old: CachedSwitch | None, new: CachedSwitch | None) -> None:
        """Apply a change that an informer reports; *new* is None for a deletion."""
        if new is None:
            self._drop_switch(key)
        else:
            self._put_switch(new, restored=went_back(old, new))

    def wrote_process(self, row: CachedProcess) -> None:
        """Apply the answer to a write of ours, ahead of its echo; not if the object is gone by now."""
        known = self._processes.get(row.key)
        if known is not None and known.uid == row.uid:
            self._put_process(row)

    def wrote_switch(self, row: CachedSwitch) -> None:
        """Apply the answer to a write of ours, ahead of its echo; not if the object is gone by now."""
        known = self._switches.get(row.key)
        if known is not None and known.uid == row.uid:
            self._put_switch(row, own=True)

    def read_process(self, row: CachedProcess, *, newest: bool) -> None:
        """Apply what was read; *newest*: no change came meanwhile, so that an older version means a restored backup."""
        known = self._processes.get(row.key)
        if known is not None and known.uid == row.uid:
            self._put_process(row, restored=newest)

    def read_switch(self, row: CachedSwitch, *, newest: bool) -> None:
        """Apply what was read; *newest*: no change came meanwhile, so that an older version means a restored backup."""
        known = self._switches.get(row.key)
        if known is not None and known.uid == row.uid:
            self._put_switch(row, restored=newest)

    def _put_process(self, row: CachedProcess, *, restored: bool = False) -> None:
        known = self._processes.get(row.key)
        if known is not None and known.uid == row.uid and is_older(row, known) and not restored:
            return
        if known is not None and known.device != row.device:
            self._drop_process(row.key)
            known = None
        self._processes[row.key] = row
        device = self._declared(row.device)
        device.processes = _with(device.processes, row)
        if known is None or _identity(known) != _identity(row):
            self._notify(device)

    def _drop_process(self, key: Key) -> None:
        row = self._processes.pop(key, None)
        if row is not None:
            device = self._devices[row.device]
            device.processes = _without(device.processes, key)
            self._notify(device)

    def _put_switch(self, row: CachedSwitch, *, restored: bool = False, own: bool = False) -> None:
        known = self._switches.get(row.key)
        if known is not None and known.uid == row.uid and is_older(row, known) and not restored:
            return
        self._switches[row.key] = row
        device = self._declared(row.key.name)
        device.switches = _with(device.switches, row)
        if known is not None and known.uid == row.uid and not own:
            device.session.superseded(known.status, row.status)
        if known is None or _declaration(known) != _declaration(row):
            self._notify(device)

    def _drop_switch(self, key: Key) -> None:
        row = self._switches.pop(key, None)
        if row is not None:
            device = self._devices[key.name]
            device.switches = _without(device.switches, key)
            self._notify(device)

    def _declared(self, name: str) -> DeclaredDevice:
        device = self._devices.get(name)
        if device is None:
            device = self._devices[name] = DeclaredDevice(name)
        return device

    def _notify(self, device: DeclaredDevice) -> None:
        if not device.processes and not device.switches:
            del self._devices[device.name]
        device.changed()
        self._changed(device.name)


def _identity(row: CachedProcess) -> tuple[object, ...]:
    return (row.uid, row.generation, row.parts, row.deleting, row.device_namespace, row.confirmed)


def _declaration(row: CachedSwitch) -> tuple[object, ...]:
    return (row.uid, row.site, row.credential_epoch)


def _with(rows: tuple[Row, ...], row: Row) -> tuple[Row, ...]:
    changed = [other for other in rows if other.key != row.key]
    changed.append(row)
    return tuple(sorted(changed, key=lambda each: each.key))


def _without(rows: tuple[Row, ...], key: Key) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.key != key)


def is_older(row: Row, known: Row) -> bool:
    """Return whether *row* is a version from before *known*: the echo of a write that another one overtook."""
    new, old = row.resource_version, known.resource_version
    return new.isdecimal() and old.isdecimal() and int(new) < int(old)


def went_back(old: Row | None, new: Row) -> bool:
    """Return whether an informer went back to an older version: the store was restored from a backup."""
    return old is not None and old.uid == new.uid and is_older(new, old)

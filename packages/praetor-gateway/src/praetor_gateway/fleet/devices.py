# SPDX-License-Identifier: Apache-2.0
"""The declared devices by name, and the desired processes of each: every request is answered from them.

A device knows its name alone, so that a name belongs to one kind of device in one namespace, whatever others declare.
All is kept up to date by the informers and by our own writes, never by devices: a name that is not declared leaves no
trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from attrs import define, field, frozen

from praetor_api.canonical import ItemVersion, desired_etag
from praetor_api.conditions import ProcessReason
from praetor_api.kube.client.resource import DEVICE_PROCESSES, DEVICES, Key, Resource
from praetor_api.kube.objects import Reported
from praetor_api.spec import DeviceKind
from praetor_api.values import DeviceFields, Resolved
from praetor_gateway.fleet.order import following, supersedes
from praetor_gateway.fleet.references import ReferenceStore, Refusal
from praetor_gateway.fleet.rows import CachedProcess, CachedSwitch, Owner, Row, owner
from praetor_gateway.fleet.session import DeviceSession

R = TypeVar("R", CachedProcess, CachedSwitch)

EMPTY_ETAG = desired_etag(())


_BY_PROCESSES = "/processes"
_KINDS = {kind.value: kind for kind in DeviceKind}
_RANK = {kind: rank for rank, kind in enumerate(DEVICES)}
"""Of two kinds that are declared within one second the switch is first, as it was when there was no other kind."""


@frozen
class Binding:
    """The namespace to which a name belongs while several claim it, and the kind of the device there.

    *declared*: it has, or had, a device of that name; else its processes alone claim the name.
    """

    namespace: str
    declared: bool = True
    kind: DeviceKind = DeviceKind.NETWORK_SWITCH

    @property
    def owner(self) -> Owner:
        return owner(self.namespace, self.kind)

    def __str__(self) -> str:
        kind = "" if self.kind is DeviceKind.NETWORK_SWITCH else f"/{self.kind}"
        return f"{self.namespace}{kind}" if self.declared else f"{self.namespace}{kind}{_BY_PROCESSES}"

    @classmethod
    def parse(cls, text: str) -> Binding:
        """Return the binding that *text* is the string form of."""
        namespace, _, kind = text.removesuffix(_BY_PROCESSES).partition("/")
        declared, found = not text.endswith(_BY_PROCESSES), _KINDS.get(kind or DeviceKind.NETWORK_SWITCH)
        if found is None:  # of a later release: it is not followed, so that the name is held
            return cls(f"{namespace}/{kind}", declared)
        return cls(namespace, declared, found)


@define(eq=False, weakref_slot=False)
class DeclaredDevice:
    """One declared device: the processes and devices of its name, of whichever kinds and in whichever namespaces.

    It belongs to one *owner*; bind() decides which. It is *held* while that one does not claim it but another
    does: then it keeps what it runs, and is told nothing new.
    """

    name: str
    references: ReferenceStore = field(factory=ReferenceStore)
    processes: tuple[CachedProcess, ...] = ()
    switches: tuple[CachedSwitch, ...] = ()
    session: DeviceSession = field(factory=DeviceSession)
    owner: Owner = ("", DeviceKind.NETWORK_SWITCH)
    held: bool = False
    switch: CachedSwitch | None = field(default=None, init=False)
    """The row that declares it, if one does. Both are kept, for each request asks for them several times."""
    served: tuple[CachedProcess, ...] = field(default=(), init=False)
    """The processes that are served to it, sorted by name."""
    _etag: str | None = None
    _limited: tuple[Refusal, str] | None = None
    _secret: bool | None = None

    @property
    def namespace(self) -> str:
        """The namespace that it belongs to."""
        return self.owner[0]

    @property
    def epoch(self) -> int:
        """The credential epoch that its tokens must be of."""
        switch = self.switch
        return 0 if switch is None else switch.credential_epoch

    def bind(self, binding: Binding | None, *, remember: bool) -> Binding | None:
        """Decide to whom the device belongs; return the binding to keep, None while one alone claims it.

        Args:
            binding: the binding that is kept at present.
            remember: whether the owner that was served so far stays it; else the oldest claim counts.
        """
        declaring, using = _oldest_first(self.switches), _oldest_first(self.processes)
        claims = declaring or using
        if not claims:
            return binding
        if binding is None and {*declaring, *using} == {claims[0]}:  # so it is of nearly all
            self.owner, self.held = claims[0], False
            self._select()
            return None
        if binding is None or (declaring and not binding.declared):  # processes alone never beat a declared device
            served = binding.owner if binding is not None else self.owner if remember else None
            namespace, kind = served if served in claims else claims[0]
            binding = Binding(namespace, bool(declaring), kind)
        self.owner = binding.owner
        self._select()
        self.held = self.owner not in (declaring if binding.declared else using)
        return binding if self.held or {*declaring, *using} != {self.owner} else None

    def superseded(self, boot_id: str) -> bool:
        """Return whether a later boot than *boot_id* is known to have reported."""
        known = self.reported
        if known is not None and known.previous_boot_id == boot_id:
            return True
        for row in self.served:  # no generator: each heartbeat asks
            known = row.status.reported
            if known is not None and known.previous_boot_id == boot_id:
                return True
        return False

    @property
    def reported(self) -> Reported | None:
        """The latest known report of its agent about itself."""
        written = self.switch.status.reported if self.switch is not None else None
        said = self.session.reported
        if said is None or said == written:  # so it is nearly always, and each heartbeat asks several times
            return written
        return written if supersedes(written, said) else following(written, said)

    @property
    def etag(self) -> str:
        """The ETag of its desired state, with all values."""
        if self._etag is None:
            served = self.served
            self._etag = desired_etag([self._version(row) for row in served]) if served else EMPTY_ETAG
        return self._etag

    def etag_for(self, access: Refusal | None) -> str:
        """Return the ETag of its desired state on a connection; *access* is why no Secrets are sent there, None if any.

        The last one is kept: a device that is asked for it again has the same kind of connection.
        """
        if access is None or not self._is_secret():
            return self.etag
        if self._limited is None or self._limited[0] is not access:
            self._limited = access, desired_etag([self._version(row, access) for row in self.served])
        return self._limited[1]

    def _is_secret(self) -> bool:
        if self._secret is None:
            self._secret = any(row.shared.references and self.references.is_secret(row) for row in self.served)
        return self._secret

    def _version(self, row: CachedProcess, access: Refusal | None = None) -> ItemVersion:
        if not row.shared.features <= self.session.features:
            return row.withheld
        if not row.shared.references:
            return row.version
        resolved, version = self.resolved(row, access), row.version
        said = resolved.held or f"{version[4]} {resolved.digest}"
        return (*version[:4], said)

    def resolved(self, row: CachedProcess, access: Refusal | None = None) -> Resolved:
        """Return the values of the references of *row*, which it serves, on a connection with *access*.

        Facts are those on record, so that all replicas serve the same.
        """
        return self.references.resolve(row, self._fields, access)

    def _fields(self) -> DeviceFields:
        switch = self.switch
        fields = DeviceFields(name=self.name, namespace=self.namespace)
        if switch is None:
            return fields
        labels = dict(zip(switch.labels[::2], switch.labels[1::2], strict=True))
        return replace(fields, labels=labels, address=switch.address, facts=switch.status.facts or {})

    @property
    def refers(self) -> bool:
        """Whether a process of its name has references."""
        return any(row.shared.references for row in self.processes)

    def knows(self, features: frozenset[str]) -> None:
        """Record which *features* its agent names."""
        if features != self.session.features:
            self.session.features, self._etag, self._limited = features, None, None

    def put(self, row: Row) -> None:
        """Add *row*, or replace the one of the same key."""
        if isinstance(row, CachedProcess):
            self.processes = _with(self.processes, row)
        else:
            self.switches = _with(self.switches, row)
        self._select()

    def remove(self, row: Row) -> None:
        """Remove the row of that key."""
        if isinstance(row, CachedProcess):
            self.processes = _without(self.processes, row)
        else:
            self.switches = _without(self.switches, row)
        self._select()

    def _select(self) -> None:
        owner = self.owner
        self.switch = next((row for row in self.switches if row.owner == owner), None)
        served = tuple([row for row in self.processes if not row.deleting and row.owner == owner])
        self.served = self.processes if len(served) == len(self.processes) else served  # most often the same, kept once

    def changed(self) -> None:
        """Drop what was derived from the rows, after they changed."""
        self._etag = self._limited = self._secret = None
        self.session.expect([row.uid for row in self.served])
        for row in self.served:
            if row.shared.references:  # whether it is held, and why, is said with its next report
                self.session.request_resync(row.uid)


@define(eq=False)
class DeviceIndex:
    """All declared devices, by name.

    *changed* is called with a device's name when its desired state or its credential epoch may have changed.

    Until begin() it is not known who was served before, for objects come in no order.
    """

    _changed: Callable[[str], None]
    references: ReferenceStore = field(factory=ReferenceStore)
    bindings: dict[str, Binding] = field(factory=dict, init=False)
    """The owners of the names that several claim, or claimed when their owner went away."""
    unordered_until: float = field(default=0.0, init=False)
    """Until when no order of reports is written, in monotonic seconds: CRDs of an earlier release do not keep it."""
    _devices: dict[str, DeclaredDevice] = field(factory=dict, init=False)
    _processes: dict[Key, CachedProcess] = field(factory=dict, init=False)
    _switches: dict[DeviceKind, dict[Key, CachedSwitch]] = field(
        factory=lambda: {k: {} for k in DeviceKind}, init=False
    )
    begun: bool = field(default=False, init=False)

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

    def rows(self) -> Iterator[Row]:
        """Yield every row, those of no device too."""
        for switches in self._switches.values():
            yield from switches.values()
        yield from self._processes.values()

    def standing(self, row: Row) -> ProcessReason:
        """Return ACCEPTED if *row* counts for the device that it names, else why it does not."""
        if row.foreign:
            return ProcessReason.FOREIGN_NAMESPACE
        device = self._devices.get(row.device)
        if device is None:
            return ProcessReason.ACCEPTED
        if device.owner != row.owner:
            elsewhere = device.owner[0] != row.key.namespace
            return ProcessReason.BOUND_ELSEWHERE if elsewhere else ProcessReason.BOUND_TO_ANOTHER_KIND
        return ProcessReason.OWNER_GONE if device.held else ProcessReason.ACCEPTED

    def begin(self) -> None:
        """Have the owner that is served stay it from now on: all objects are known."""
        self.begun = True
        for device in tuple(self._devices.values()):
            if device.bind(self.bindings.get(device.name), remember=True) is not None:
                self._notify(device)

    def rebind(self, changed: Mapping[str, Binding | None]) -> None:
        """Take bindings that were changed elsewhere, by name; None for one that was dropped."""
        for name, binding in changed.items():
            if binding is None:
                self.bindings.pop(name, None)
            else:
                self.bindings[name] = binding
            device = self._devices.get(name)
            if device is not None:
                self._notify(device)

    def row(self, resource: Resource, key: Key) -> Row | None:
        return self.process(key) if resource is DEVICE_PROCESSES else self.switch(key, DeviceKind(resource.kind))

    def process(self, key: Key) -> CachedProcess | None:
        return self._processes.get(key)

    def switch(self, key: Key, kind: DeviceKind = DeviceKind.NETWORK_SWITCH) -> CachedSwitch | None:
        return self._switches[kind].get(key)

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
        if known is not None and (known.device, known.foreign) != (row.device, row.foreign):
            self._drop(known)
            known = None
        table[row.key] = row
        if isinstance(row, CachedProcess):
            before = known if isinstance(known, CachedProcess) else None
            if row.shared.references or (before is not None and before.shared.references):
                self.references.replace(before, row)
        if row.foreign:
            return
        device = self._devices.get(row.device)
        if device is None:
            device = self._devices[row.device] = DeclaredDevice(row.device, self.references)
        device.put(row)
        if isinstance(known, CachedSwitch) and known.uid == row.uid and row is device.switch and not own:
            device.session.superseded(known.status, row.status)
        if isinstance(row, CachedSwitch) and row is device.switch:
            device.session.share(row.status)
        if known is None or known.declaration != row.declaration or _differs(known, row, device):
            self._notify(device)

    def _drop(self, row: Row) -> None:
        known: Row | None = self._table(row).pop(row.key, None)
        if isinstance(known, CachedProcess):
            self.references.replace(known, None)
        if known is not None and not known.foreign:
            device = self._devices[known.device]
            device.remove(known)
            self._notify(device)

    def wake(self, key: Key) -> None:
        """Compare the desired state of the device of the process *key* again: an object that it names changed."""
        row = self._processes.get(key)
        device = self._devices.get(row.device) if row is not None else None
        if device is not None:
            device.changed()
            self._changed(device.name)

    def _table(self, row: Row) -> dict[Key, Any]:
        return self._processes if isinstance(row, CachedProcess) else self._switches[row.kind]

    def _notify(self, device: DeclaredDevice) -> None:
        if not device.processes and not device.switches:
            del self._devices[device.name]
        binding = device.bind(self.bindings.get(device.name), remember=self.begun)
        if self.begun and binding is not None:
            self.bindings[device.name] = binding
        elif self.begun:
            self.bindings.pop(device.name, None)
        device.changed()
        self._changed(device.name)


def _differs(known: Row, row: Row, device: DeclaredDevice) -> bool:
    """Return whether what references of the device's processes may name changed."""
    if not (isinstance(known, CachedSwitch) and isinstance(row, CachedSwitch)):
        return False
    return known.fields != row.fields and device.refers


def _oldest_first(rows: tuple[R, ...]) -> list[Owner]:
    """Return the owners of *rows*, that of the oldest first."""
    if len(rows) == 1:
        return [rows[0].owner]
    oldest_first = sorted(rows, key=lambda row: (row.created, _place(row)))
    return list(dict.fromkeys(row.owner for row in oldest_first))


def _with(rows: tuple[R, ...], row: R) -> tuple[R, ...]:
    changed = list(_without(rows, row))
    changed.append(row)
    return tuple(sorted(changed, key=_place)) if len(changed) > 1 else (row,)


def _place(row: Row) -> tuple[Key, int]:
    return row.key, _RANK[row.owner[1]]


def _without(rows: tuple[R, ...], row: R) -> tuple[R, ...]:
    """Return *rows* without that of the key of *row*: a process has no other kind, a device is another one then."""
    other = isinstance(row, CachedSwitch)
    return tuple([each for each in rows if each.key != row.key or (other and each.owner != row.owner)])


def is_older(row: Row, known: Row) -> bool:
    """Return whether *row* is a version from before *known*: the echo of a write that another one overtook."""
    new, old = row.resource_version, known.resource_version
    return isinstance(new, int) and isinstance(old, int) and new < old


def went_back(old: Row | None, new: Row) -> bool:
    """Return whether an informer went back to an older version: the store was restored from a backup."""
    return old is not None and old.uid == new.uid and is_older(new, old)

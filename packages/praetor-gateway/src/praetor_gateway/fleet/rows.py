# SPDX-License-Identifier: Apache-2.0
"""The compact rows that the informers keep of DeviceProcesses and of devices of all kinds.

A fleet has a hundred thousand of them: raw objects are dropped at once, and
conditions and texts that many devices share are pooled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, ClassVar, TypeAlias, TypeVar

from attrs import define, evolve, field, frozen

from praetor_api.annotations import CONFIRMED_ANNOTATION, MIN_READY_ANNOTATION, TRACEPARENT_ANNOTATION
from praetor_api.canonical import ItemVersion, canonical_json
from praetor_api.keyrefs import FILE_REFERENCES_FEATURE
from praetor_api.kube.client.resource import DEVICE_PROCESSES, DEVICES, Key, Resource
from praetor_api.kube.codec import DecodeError, decode
from praetor_api.kube.objects import Condition, DeviceProcessStatus, NetworkSwitchStatus
from praetor_api.kube.texts import kept
from praetor_api.protocol import features_needed, valid_traceparent
from praetor_api.spec import VALUES_FEATURE, DeviceKind, RestartPolicy
from praetor_api.values import Reference, references_of
from praetor_gateway.fleet.judges import MANAGER

Owner: TypeAlias = tuple[str, DeviceKind]
"""To whom the name of a device may belong: a namespace, and the kind of the device there."""
Status = TypeVar("Status", DeviceProcessStatus, NetworkSwitchStatus)

POOL_SIZE = 65_536
"""Conditions, and texts, that a pool holds before it is emptied: messages of devices differ without end."""
TUPLES = 4_096
"""Tuples of conditions that a pool holds: those of a rollout's step are alike, and of an older one most differ."""
_MAX_HASH = 128  # characters; a hash has 71, and an annotation may hold 256 KiB
_MAX_DIGITS = 10
_MAX_VERSION = 20  # digits
_KINDS = {kind.value: kind for kind in DeviceKind}
_REFERRING = {VALUES_FEATURE, FILE_REFERENCES_FEATURE}
_Pooled = TypeVar("_Pooled")
_CONDITION_FIELDS = ("type", "status", "reason", "message", "lastTransitionTime", "observedGeneration")


def _number(version: int | str) -> int | str:
    """Return a resourceVersion as a number, which takes half of the memory, where one is written so."""
    is_number = isinstance(version, str) and version.isdecimal() and len(version) < _MAX_VERSION
    return int(version) if is_number and str(int(version)) == version else version


@lru_cache(maxsize=4096)
def owner(namespace: str, kind: DeviceKind) -> Owner:
    """Return the owner; one object for all devices of it."""
    return (namespace, kind)


@frozen(kw_only=True, weakref_slot=False)
class SharedSpec:
    """What the processes of a deployment have in common, whose specs differ in the device's name: one object for all.

    *parts* are the canonical JSON before and after the name, *device_namespace* and *kind* are what the deviceRef
    names. Only an agent that knows *features* gets the spec, and only a device that has what its *references* name.
    *min_ready_seconds* is the deployment's, 0 where none is known.
    """

    parts: tuple[bytes, bytes]
    device_namespace: str
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    features: frozenset[str] = frozenset()
    references: tuple[Reference, ...] = ()
    kind: DeviceKind = DeviceKind.NETWORK_SWITCH
    min_ready_seconds: int = 0


@frozen(kw_only=True, weakref_slot=False)
class CachedProcess:
    """A DeviceProcess of the device that it names.

    *confirmed* is the hash of the spec that a user confirmed by the annotation. *created* is when, as the API writes
    it. *judges* are the field managers that judged its device, each with when it wrote last. *traceparent* is the span
    that wrote its spec, "" if none is recorded.
    """

    key: Key
    uid: str
    resource_version: int | str = field(converter=_number)
    generation: int
    device: str
    deleting: bool
    shared: SharedSpec
    status: DeviceProcessStatus
    confirmed: str = ""
    created: str = ""
    judges: tuple[tuple[str, str], ...] = ()
    traceparent: str = ""
    owner: Owner = field(init=False, eq=False, repr=False)
    """Whose device it is for. Each event asks for it and for *foreign* several times, so both are kept."""
    foreign: bool = field(init=False, eq=False, repr=False)
    """Whether it names a device of another namespace, which it never reaches."""

    @owner.default
    def _owner(self) -> Owner:
        return owner(self.key.namespace, self.shared.kind)

    @foreign.default
    def _foreign(self) -> bool:
        return self.shared.device_namespace != self.key.namespace

    @property
    def parts(self) -> tuple[bytes, bytes]:
        return self.shared.parts

    @property
    def device_namespace(self) -> str:
        return self.shared.device_namespace

    @property
    def features(self) -> frozenset[str]:
        return self.shared.features

    @property
    def references(self) -> tuple[Reference, ...]:
        return self.shared.references

    @property
    def min_ready_seconds(self) -> int:
        return self.shared.min_ready_seconds

    @property
    def spec(self) -> bytes:
        """The stored spec as canonical JSON."""
        before, after = self.shared.parts
        return b"%b%b%b" % (before, _quoted(self.device), after)

    @property
    def probed(self) -> bool:
        """Whether its spec has a health check; a quote inside of a text is escaped, so no text looks like one."""
        return any(b'"healthCheck":{' in part for part in self.shared.parts)

    @property
    def spec_hash(self) -> str:
        """The hash that devices echo; not kept, since it takes a microsecond and would cost 120 bytes a row."""
        return "sha256:" + hashlib.sha256(self.spec).hexdigest()

    @property
    def declaration(self) -> tuple[object, ...]:
        """What devices learn of it, or are found by: all but its status."""
        shared = self.shared
        return (self.uid, self.generation, shared.parts, self.deleting, shared.device_namespace, self.confirmed)

    @property
    def version(self) -> ItemVersion:
        """What the ETag covers of it."""
        said = f"{self.spec_hash} {self.confirmed}" if self.confirmed else self.spec_hash
        return (self.uid, self.key.namespace, self.key.name, self.generation, said)

    @property
    def withheld(self) -> ItemVersion:
        """What the ETag covers of it for an agent that does not know its features."""
        return (self.uid, self.key.namespace, self.key.name, self.generation, "")


@frozen(kw_only=True, weakref_slot=False)
class CachedSwitch:
    """A device of some *kind*; *site* is the value of the site label, a group of devices that one fault may silence.

    Tokens of its device are valid in *credential_epoch* only. *created* is when, as the API writes it. *labels* are
    keys and values in turn: a dictionary for each device of a fleet would take twice the memory. *address* is the
    management address.
    """

    key: Key
    uid: str
    resource_version: int | str = field(converter=_number)
    generation: int
    site: str
    status: NetworkSwitchStatus
    credential_epoch: int = 0
    created: str = ""
    judges: tuple[tuple[str, str], ...] = ()
    labels: tuple[str, ...] = ()
    address: str = ""
    kind: DeviceKind = DeviceKind.NETWORK_SWITCH
    owner: Owner = field(init=False, eq=False, repr=False)
    """Who declares the device."""
    device: str = field(init=False, eq=False, repr=False)
    """The name of its device."""
    foreign: ClassVar[bool] = False
    """It declares a device of its own namespace."""

    @owner.default
    def _owner(self) -> Owner:
        return owner(self.key.namespace, self.kind)

    @device.default
    def _device(self) -> str:
        return self.key.name

    @property
    def resource(self) -> Resource:
        """Where the API keeps it."""
        return DEVICES[self.kind]

    @property
    def fields(self) -> tuple[object, ...]:
        """What references may name of it, besides its name."""
        return (self.labels, self.address, self.status.facts)

    @property
    def declaration(self) -> tuple[object, ...]:
        """What devices are found and admitted by: all but its status."""
        return (self.uid, self.site, self.credential_epoch)


Row: TypeAlias = CachedProcess | CachedSwitch


def _no_row(_: Resource, __: Key) -> Row | None:
    return None


@define
class Projection:
    """Makes rows of objects as the API delivers them; what many rows have in common is one object for all of them.

    *site_label* is the label of switches that names their site; *traced* is whether rows keep the span of their spec.
    *known* returns the row of an object from before, whose identity the next one takes: other tables hold it, too.
    """

    site_label: str
    traced: bool = False
    _known: Callable[[Resource, Key], Row | None] = _no_row
    _pool: dict[tuple[Any, ...], Condition] = field(factory=dict, init=False)
    _shared: dict[Any, Any] = field(factory=dict, init=False)
    _together: dict[tuple[int, ...], tuple[Condition, ...]] = field(factory=dict, init=False)

    def row(self, resource: Resource, obj: Mapping[str, Any]) -> Row:
        """Return the row of an object of *resource*."""
        return self.process(obj) if resource is DEVICE_PROCESSES else self.switch(obj, DeviceKind(resource.kind))

    def process(self, obj: Mapping[str, Any]) -> CachedProcess:
        """Return the row of a DeviceProcess; KeyError or ValueError for one that breaks its schema."""
        metadata, spec = obj["metadata"], obj["spec"]
        annotations = metadata.get("annotations") or {}
        key, uid, created, device = self._identity(DEVICE_PROCESSES, metadata, spec["deviceRef"]["name"])
        return CachedProcess(
            key=key,
            uid=uid,
            resource_version=metadata["resourceVersion"],
            generation=metadata.get("generation", 0),
            device=device,
            deleting="deletionTimestamp" in metadata,
            shared=self._spec(spec, key.namespace, _seconds(annotations.get(MIN_READY_ANNOTATION) or "")),
            status=self._lean(key, self._status(obj, DeviceProcessStatus)),
            confirmed=(annotations.get(CONFIRMED_ANNOTATION) or "")[:_MAX_HASH],
            created=created,
            judges=self._judges(metadata),
            traceparent=valid_traceparent(annotations.get(TRACEPARENT_ANNOTATION)) if self.traced else "",
        )

    def switch(self, obj: Mapping[str, Any], kind: DeviceKind = DeviceKind.NETWORK_SWITCH) -> CachedSwitch:
        """Return the row of a device of *kind*."""
        metadata = obj["metadata"]
        key, uid, created, _ = self._identity(DEVICES[kind], metadata)
        status = self._status(obj, NetworkSwitchStatus)
        if status.facts is not None:
            facts = {kept(name): kept(value) for name, value in status.facts.items()}
            status = evolve(status, facts=facts)
        labels = metadata.get("labels") or {}
        return CachedSwitch(
            key=key,
            uid=uid,
            resource_version=metadata["resourceVersion"],
            generation=metadata.get("generation", 0),
            site=kept(labels.get(self.site_label, "")),
            status=status,
            credential_epoch=_epoch(obj),
            created=created,
            judges=self._judges(metadata),
            labels=self._one(tuple(kept(text) for pair in labels.items() for text in pair)),
            address=(obj.get("spec") or {}).get("managementAddress") or "",
            kind=kind,
        )

    @property
    def pooled(self) -> int:
        """How many conditions are pooled."""
        return len(self._pool)

    def _identity(self, resource: Resource, metadata: Mapping[str, Any], device: str = "") -> tuple[Key, str, str, str]:
        """Return key, uid, time of creation and *device* of an object: those that are kept of it, if it is known."""
        namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
        created = metadata.get("creationTimestamp") or ""
        known = self._known(resource, Key(namespace, name))
        if known is None:
            return Key(kept(namespace), name), uid, kept(created), device
        return (
            known.key,
            known.uid if known.uid == uid else uid,
            known.created if known.created == created else kept(created),
            known.device if known.device == device else device,
        )

    def _spec(self, spec: Mapping[str, Any], namespace: str, min_ready_s: int) -> SharedSpec:
        """Return what *spec*, that of a process in *namespace*, shares with all that differ in the device alone."""
        ref = spec["deviceRef"]
        key = parts, within, _ = _parts(spec), _within(ref, namespace), min_ready_s
        found: SharedSpec | None = self._shared.get(key)
        if found is None:
            features = features_needed(spec)
            found = SharedSpec(
                parts=parts,
                device_namespace=within,
                restart_policy=RestartPolicy(spec.get("restartPolicy", RestartPolicy.ALWAYS)),
                features=features,
                references=references_of(spec) if features & _REFERRING else (),
                kind=_KINDS.get(ref.get("kind") or "", DeviceKind.NETWORK_SWITCH),  # others need an API without schema
                min_ready_seconds=min_ready_s,
            )
            self._keep(self._shared, key, found)
        return found

    def _one(self, value: _Pooled) -> _Pooled:
        """Return the one object that is kept of all that equal *value*."""
        found: _Pooled | None = self._shared.get(value)
        return self._keep(self._shared, value, value) if found is None else found

    @staticmethod
    def _keep(pool: dict[Any, Any], key: object, value: _Pooled, size: int = POOL_SIZE) -> _Pooled:
        """Return *value*, kept in *pool*, which is emptied when it has *size* objects."""
        if len(pool) >= size:
            pool.clear()
        pool[key] = value
        return value

    def _status(self, obj: Mapping[str, Any], cls: type[Status]) -> Status:
        raw = obj.get("status") or {}
        try:
            conditions = self._conditions(tuple(map(self._condition, raw.get("conditions") or ())))
            return evolve(decode({**raw, "conditions": None}, cls), conditions=conditions)
        except (DecodeError, AttributeError, TypeError):  # not a status: what the device reports next replaces it
            return cls()

    def _condition(self, raw: Mapping[str, Any]) -> Condition:
        """Return the condition that *raw* says, one object for all devices that have an equal one."""
        key = tuple(map(raw.get, _CONDITION_FIELDS))
        condition = self._pool.get(key)
        if condition is None:
            key = tuple(kept(each) if type(each) is str else each for each in key)
            condition = decode(
                {name: each for name, each in zip(_CONDITION_FIELDS, key, strict=True) if name in raw}, Condition
            )
            at = condition.last_transition_time
            condition = evolve(condition, last_transition_time=at and self._one(at))
            self._keep(self._pool, key, condition)
        return condition

    def _conditions(self, found: tuple[Condition, ...]) -> tuple[Condition, ...]:
        """Return the tuple of pooled conditions that is kept of all that hold these."""
        key = tuple(map(id, found))  # those in a tuple that is kept live on, and no others get their ids
        return self._together.get(key) or self._keep(self._together, key, found, TUPLES)

    def _lean(self, key: Key, status: DeviceProcessStatus) -> DeviceProcessStatus:
        """Return *status* of the process *key* with what a fleet shares kept once, and with the boot that is known."""
        digest, reported = status.artifact_digest, status.reported
        return evolve(
            status,
            artifact_digest=digest if digest is None else kept(digest),
            start_time=status.start_time and self._one(status.start_time),
            reported=reported if reported is None else evolve(reported, boot_id=self._boot(key, reported.boot_id)),
        )

    def _boot(self, key: Key, boot_id: str) -> str:
        """Return the text that is kept of the boot of a device, of which each has its own."""
        known = self._known(DEVICE_PROCESSES, key)
        before = None if known is None else known.status.reported
        return before.boot_id if before is not None and before.boot_id == boot_id else kept(boot_id)

    def _judges(self, metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        return self._one(tuple([(self._one(manager), at) for manager, at in judges_of(metadata)]))


def judges_of(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the managers of *metadata* that stand for a Lease, each with when it wrote last, as the API writes it."""
    entries = metadata.get("managedFields") or ()
    return tuple(
        [(each["manager"], each.get("time") or "") for each in entries if MANAGER.fullmatch(each.get("manager") or "")]
    )


def _parts(spec: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return the canonical JSON of *spec* before and after the device's name.

    A quote inside of a text is escaped, so that no text looks like the reference or like a field of it.
    """
    before, reference, found = canonical_json(spec).partition(b'"deviceRef":{')
    within, field_name, rest = found.partition(b'"name":')
    return before + reference + within + field_name, rest.removeprefix(_quoted(spec["deviceRef"]["name"]))


def _quoted(text: str) -> bytes:
    """Return *text* as canonical JSON."""
    return encode_basestring(text).encode("utf-8", "surrogatepass")


def _within(ref: Mapping[str, Any], namespace: str) -> str:
    """Return the namespace of the device that *ref* names in an object of *namespace*."""
    named = ref.get("namespace")
    return kept(named) if named and named != namespace else namespace


def _seconds(text: str) -> int:
    """Return the number of seconds that an annotation holds; 0 for what is none, for any user may write it."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _MAX_DIGITS else 0


def _epoch(obj: Mapping[str, Any]) -> int:
    """Return the credential epoch of a device; 0 for what its schema refuses, and JSON's true is no number."""
    said = (obj.get("spec") or {}).get("credentialEpoch")
    return said if type(said) is int and said > 0 else 0

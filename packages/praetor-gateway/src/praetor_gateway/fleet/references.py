# SPDX-License-Identifier: Apache-2.0
"""The ConfigMaps and Secrets that processes refer to: what they hold, and which processes a change of one concerns.

Values are resolved once for all processes of a namespace with the same references, and kept until an object changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any

from attrs import define, field, frozen

from praetor_api.kube.client.resource import Key
from praetor_api.kube.delivered import DELIVERED, KINDS
from praetor_api.values import (
    ABSENT,
    INVALID,
    SECRET,
    DeviceFields,
    Reference,
    Resolved,
    Source,
    Value,
    content_digest,
    too_large,
)
from praetor_api.values import resolve as resolve_references
from praetor_gateway.fleet.rows import CachedProcess

_IN_NO_DEVICE = DeviceFields(name="", namespace="")


class Refusal(Enum):
    """Why a process is given no values, whatever is there: the word that begins the reason's detail."""

    INVALID_SPEC = "InvalidSpec"
    NOT_ENABLED = "NotEnabled"
    NOT_READABLE = "NotReadable"
    TOO_LARGE = "TooLarge"
    PLAIN_TEXT = "PlainText"
    SHARED_TOKEN = "SharedToken"  # noqa: S105 - a reason


@frozen
class DeliveredObject:
    """What a ConfigMap or Secret with the label holds: *values* by key. They are not shown in logs."""

    key: Key
    values: Mapping[str, Value] = field(repr=False)


def project(kind: str, obj: Mapping[str, Any]) -> DeliveredObject:
    """Return what processes may be given of an object of *kind*."""
    return DeliveredObject(Key.of(obj), DELIVERED[kind](obj))


@define(eq=False)
class _Template:
    """References that processes of one namespace share, and those *users* by their keys.

    *of_devices*: some name fields of the device; the others are resolved once, in *shared*.
    """

    namespace: str
    references: tuple[Reference, ...]
    sources: tuple[Source, ...]
    users: set[Key] = field(factory=set)
    shared: Resolved | None = None

    @property
    def secret(self) -> bool:
        """Whether a Secret is among them, so that not every connection may carry their values."""
        return any(source.kind == SECRET for source in self.sources)

    @property
    def approved(self) -> bool:
        """Whether only approved contents are given of some."""
        return any(each.approved for each in self.references)

    @property
    def of_devices(self) -> bool:
        return len(self.sources) < len(self.references)

    def names(self, kind: str, name: str, keys: Collection[str]) -> bool:
        """Return whether one of *keys* of the object *name* of *kind* is among them."""
        return any(each.kind == kind and each.name == name and each.key in keys for each in self.sources)


@define(eq=False)
class ReferenceStore:
    """The objects of the *namespaces* that the gateway may read, and the processes that refer to them.

    *changed* is called with the keys of the processes that are concerned when an object changes. Values with a Secret
    among them are digested with *key*.
    """

    namespaces: frozenset[str] = frozenset()
    changed: Callable[[Iterable[Key]], None] = lambda _: None
    _keys: tuple[bytes, ...] = field(default=(b"",), repr=False)
    _objects: dict[tuple[str, Key], Mapping[str, Value]] = field(factory=dict, init=False, repr=False)
    _readable: set[tuple[str, str]] = field(factory=set, init=False)
    _templates: dict[tuple[str, int], _Template] = field(factory=dict, init=False)
    _naming: dict[tuple[str, Key], list[_Template]] = field(factory=dict, init=False)
    _digested: dict[tuple[str, Key], Mapping[str, Sequence[str]]] = field(factory=dict, init=False, repr=False)
    _rekeyed: int = field(default=0, init=False)
    _versions: Counter[str] = field(factory=Counter, init=False)

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def templates(self) -> int:
        """How many different sets of references there are: each is resolved once."""
        return len(self._templates)

    def on_change(self, kind: str, key: Key, new: DeliveredObject | None) -> None:
        """Apply a change of an object of *kind*; None for one that is gone, or has lost the label.

        It concerns the processes that name a key whose value is another one now.
        """
        before: Mapping[str, Value] = self._objects.get((kind, key), {})
        after: Mapping[str, Value] = {} if new is None else new.values
        if new is not None:
            self._objects[kind, key] = new.values
        else:
            self._objects.pop((kind, key), None)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if not changed:
            return
        self._digested.pop((kind, key), None)
        self._versions[key.namespace] += 1
        self._forget(each for each in self._naming.get((kind, key), ()) if each.names(kind, key.name, changed))

    def knows(self, namespace: str) -> bool:
        """Return whether all objects of *namespace* are known."""
        return all((kind, namespace) in self._readable for kind in KINDS)

    def set_readable(self, kind: str, namespace: str, *, readable: bool) -> None:
        """Record whether the objects of *kind* in *namespace* are known, and may be read."""
        if readable == ((kind, namespace) in self._readable):
            return
        (self._readable.add if readable else self._readable.discard)((kind, namespace))
        self._forget(
            each
            for each in tuple(self._templates.values())
            if each.namespace == namespace and any(source.kind == kind for source in each.sources)
        )

    def set_keys(self, keys: Sequence[bytes]) -> None:
        """Digest with the first of *keys* from now on; what was approved with another one of them stays so."""
        new = tuple(keys) or (b"",)
        if new == self._keys:  # tokens were changed, and no secret
            return
        self._keys = new
        self._digested.clear()
        self._rekeyed += 1
        self._forget(each for each in tuple(self._templates.values()) if each.secret or each.approved)

    def version(self, namespace: str) -> tuple[int, int]:
        """Return what is another one once digests() or approving() may say something else of *namespace*."""
        return self._rekeyed, self._versions[namespace]

    def approving(self, namespace: str) -> set[str]:
        """Return the sources in *namespace*, as text, of which a process has an approved content."""
        templates = (each for each in self._templates.values() if each.namespace == namespace)
        return {
            str(each.source)
            for template in templates
            if template.approved
            for each in template.references
            if each.approved and each.source is not None
        }

    def is_approved(self, namespace: str, source: Source, approved: str) -> bool:
        """Return whether *approved* is a digest of what *source* in *namespace* holds, with any of the keys."""
        return approved in self._digests(source.kind, Key(namespace, source.name)).get(source.key, (ABSENT,))

    def digests(self, namespace: str, known: Mapping[str, str]) -> dict[str, str]:
        """Return a digest of each value in *namespace*, by its source as text; those *known* that are right stay."""
        found = {}
        for kind, key in self._objects:
            if key.namespace == namespace and (kind != SECRET or self._keys[0]):  # without a key it could be guessed
                for name, right in self._digests(kind, key).items():
                    source = str(Source(kind, key.name, name))
                    before = known.get(source, "")
                    found[source] = before if before in right else right[0]
        return found

    def _digests(self, kind: str, key: Key) -> Mapping[str, Sequence[str]]:
        """Return the digests of the values of an object with each of the keys, by their names; made once."""
        if (kind, key) not in self._digested:
            self._digested[kind, key] = {
                name: [content_digest(each, key.namespace, Source(kind, key.name, name), value) for each in self._keys]
                for name, value in self._objects.get((kind, key), {}).items()
            }
        return self._digested[kind, key]

    def is_secret(self, row: CachedProcess) -> bool:
        """Return whether *row* refers to a Secret."""
        template = self._templates.get((row.key.namespace, id(row.references))) if row.references else None
        return template is not None and template.secret

    def _forget(self, templates: Iterable[_Template]) -> None:
        concerned: list[Key] = []
        for template in templates:
            template.shared = None
            concerned += template.users
        if concerned:
            self.changed(concerned)

    def replace(self, old: CachedProcess | None, new: CachedProcess | None) -> None:
        """Record that *new* takes the place of *old* among the processes that refer to objects."""
        before = old.references if old is not None else ()
        if new is not None and new.references is before:
            return
        if old is not None and before:
            self._remove(old)
        if new is not None and new.references:
            self._add(new)

    def _add(self, row: CachedProcess) -> None:
        sources = tuple(each.source for each in row.references if each.source is not None)
        if not sources:
            return
        at = row.key.namespace, id(row.references)  # rows share them, and the template keeps them
        template = self._templates.get(at)
        if template is None:
            template = self._templates[at] = _Template(row.key.namespace, row.references, sources)
            for named in _named(template):
                self._naming.setdefault(named, []).append(template)
            if template.approved:
                self._versions[template.namespace] += 1
        template.users.add(row.key)

    def _remove(self, row: CachedProcess) -> None:
        at = row.key.namespace, id(row.references)
        template = self._templates.get(at)
        if template is None:
            return
        template.users.discard(row.key)
        if template.users:
            return
        del self._templates[at]
        if template.approved:
            self._versions[template.namespace] += 1
        for named in _named(template):
            self._naming[named].remove(template)
            if not self._naming[named]:
                del self._naming[named]

    def resolve(
        self, row: CachedProcess, fields: Callable[[], DeviceFields], access: Refusal | None = None
    ) -> Resolved:
        """Return the values of the references of *row*; *fields* returns what they may name of the device.

        *access* is why its connection may not carry values of Secrets; None if it may.
        """
        template = self._templates.get((row.key.namespace, id(row.references)))
        if template is None:
            return resolve_references(row.references, fields())
        shared = template.shared
        if shared is None:
            shared = template.shared = self._shared(template)
        if access is not None and not shared.refused and template.secret:
            return Resolved({}, refused=access.value)
        if not template.of_devices or shared.refused:
            return shared
        own = resolve_references((each for each in row.references if each.source is None), fields())
        return Resolved(
            {**shared.values, **own.values},
            (*own.missing, *shared.missing),
            key=shared.key,
            files=shared.files,
            kept=shared.kept,
        )

    def _shared(self, template: _Template) -> Resolved:
        refused = self._refusal(template)
        if refused:
            return Resolved({}, refused=refused)
        references = (each for each in template.references if each.source is not None)
        namespace = template.namespace

        def is_approved(reference: Reference) -> bool:
            return reference.source is None or self.is_approved(namespace, reference.source, reference.approved)

        read = partial(self._read, namespace)
        found = resolve_references(references, _IN_NO_DEVICE, read, is_approved)
        if refused := too_large(found):
            return Resolved({}, refused=refused)
        key = self._keys[0] if template.secret else b""
        return Resolved(found.values, found.missing, key=key, files=found.files, kept=found.kept)

    def _refusal(self, template: _Template) -> str:
        namespace = template.namespace
        for source in template.sources:
            if source.kind == INVALID:
                return f"{Refusal.INVALID_SPEC.value} {source.name.partition(',')[0]}"
        if namespace not in self.namespaces:
            return f"{Refusal.NOT_ENABLED.value} in {namespace}"
        for kind in dict.fromkeys(source.kind for source in template.sources):
            if (kind, namespace) not in self._readable:
                return f"{Refusal.NOT_READABLE.value} {KINDS[kind].plural} in {namespace}"
        return ""

    def _read(self, namespace: str, source: Source) -> Value | None:
        return self._objects.get((source.kind, Key(namespace, source.name)), {}).get(source.key)


def _named(template: _Template) -> Iterable[tuple[str, Key]]:
    return dict.fromkeys((source.kind, Key(template.namespace, source.name)) for source in template.sources)

# SPDX-License-Identifier: Apache-2.0
"""Digests of what ConfigMaps and Secrets hold, for the controller, which may not read them.

A file with onChange: Restart gets the content that was approved with its version alone: the controller sees here that
it changed, and rolls the new digest out. By namespace the data are JSON: digests by their sources as text.

All namespaces share one ConfigMap, whose size the apiserver limits. Each has its share of the room, so that what does
not fit is left out of the namespace that has too much.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from attrs import define, field

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.resource import Key
from praetor_api.kube.delivered import KINDS, published_digests
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.events import EventRecorder, ObjectRef
from praetor_api.values import ABSENT, INCOMPLETE
from praetor_gateway.fleet.references import ReferenceStore
from praetor_gateway.status.events import EventReason
from praetor_gateway.status.shared_data import Data, SharedData

MAX_DATA = 1_048_576
"""Most bytes of all values of a ConfigMap together: the apiserver takes no more."""
_MAX_DIGITS = 10

_log = structlog.get_logger()


def shared_digests(
    api: KubeApi, key: Key, store: ReferenceStore, clock: Clock, leads: Callable[[], bool], recorder: EventRecorder
) -> SharedData:
    """Return what writes the digests of *store* to the ConfigMap *key* while *leads*."""
    return SharedData("the digests of files", api, key, clock, leads, _Digests(store, recorder))


def shares(sizes: Mapping[str, int], room: int) -> dict[str, int]:
    """Return how much of *room* each of *sizes* gets: what it needs, or as much as each other that needs more."""
    found: dict[str, int] = {}
    for number, name in enumerate(sorted(sizes, key=lambda each: (sizes[each], each))):
        found[name] = min(sizes[name], room // (len(sizes) - number))
        room -= found[name]
    return found


def fitted(digests: Mapping[str, str], used: Collection[str], room: int) -> tuple[str, Sequence[str]]:
    """Return the JSON of what of *digests* fits into *room* bytes, and the sources that are left out.

    Those *used* come before others, and are named even if they are gone: what is left out must not look deleted.
    """
    text = _json(digests)
    if len(text) <= room:
        return text, ()
    wanted = {**dict.fromkeys(used, ABSENT), **digests}
    wanted.pop(INCOMPLETE, None)
    kept: dict[str, str] = {}
    left_out = []
    left = room - len(_json({INCOMPLETE: "9" * _MAX_DIGITS}))
    for source in sorted(wanted, key=lambda each: (each not in used, each)):
        size = len(json.dumps(source)) + len(json.dumps(wanted[source])) + 2  # a colon and a comma
        if size > left:
            left_out.append(source)
        else:
            kept[source], left = wanted[source], left - size
    return _json({**kept, INCOMPLETE: str(len(left_out))}), left_out


def _json(digests: Mapping[str, str]) -> str:
    return json.dumps(digests, sort_keys=True, separators=(",", ":"))


@define(eq=False)
class _Namespace:
    """What is to be said of one namespace; made again only when *basis* is another one."""

    basis: object
    digests: Mapping[str, str]
    used: Collection[str]
    size: int = field(init=False)
    _fitted: tuple[int, str, Sequence[str]] | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.size = len(_json(self.digests))

    def within(self, room: int) -> tuple[str, Sequence[str]]:
        """Return what fitted() does for *room*."""
        if self._fitted is None or self._fitted[0] != room:
            self._fitted = (room, *fitted(self.digests, self.used, room))
        return self._fitted[1:]


@define(eq=False)
class _Digests:
    """Returns the data to be stored from those that are; namespaces that are no longer of *store* are dropped."""

    _store: ReferenceStore
    _recorder: EventRecorder
    _made: dict[str, _Namespace] = field(factory=dict, init=False)
    _incomplete: set[str] = field(factory=set, init=False)

    def __call__(self, stored: Data) -> Data:
        namespaces = [each for each in self._store.namespaces if each in stored or self._store.knows(each)]
        wanted = {each: self._namespace(each, stored.get(each, "")) for each in namespaces}
        rooms = shares({name: each.size for name, each in wanted.items()}, MAX_DATA)
        found: dict[str, str] = {}
        for name, each in wanted.items():
            found[name], left_out = each.within(rooms[name])
            if self._store.knows(name):
                self._say(name, left_out)
        return found

    def _namespace(self, name: str, stored: str) -> _Namespace:
        knows = self._store.knows(name)
        basis = knows, self._store.version(name), stored
        made = self._made.get(name)
        if made is None or made.basis != basis:
            said = published_digests(stored)
            digests = self._store.digests(name, said) if knows else said  # another replica may know more
            made = self._made[name] = _Namespace(basis, digests, self._store.approving(name))
        return made

    def _say(self, namespace: str, left_out: Sequence[str]) -> None:
        """Say that something is *left_out* of *namespace*, or is not any more; once each time."""
        if bool(left_out) == (namespace in self._incomplete):
            return
        if not left_out:
            self._incomplete.discard(namespace)
            _log.info("the digests of files are complete again", namespace=namespace)
            return
        self._incomplete.add(namespace)
        ((largest, _),) = Counter(each.partition(" key ")[0] for each in left_out).most_common(1)
        kind, _, name = largest.partition("/")
        _log.warning("too many digests of files", namespace=namespace, left_out=len(left_out), most_of=largest)
        resource, reason = KINDS[kind], EventReason.DIGESTS_LEFT_OUT
        self._recorder.record(
            ObjectRef(api_version=resource.api_version, kind=resource.kind, namespace=namespace, name=name, uid=""),
            type=reason.type,
            reason=reason,
            action="PublishDigests",
            note=f"{len(left_out)} keys of labelled objects do not fit, most of {largest}: changes of them are not "
            "rolled out to files with onChange: Restart. Remove keys, or the label of objects that no file refers to",
        )

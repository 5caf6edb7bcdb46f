# SPDX-License-Identifier: Apache-2.0
"""What an import changes: the file, what the cluster has, and what the last import set, compared field by field. Pure.

What the import sets it remembers in an annotation of the device, value by value. A field whose value is not the
remembered one is someone else's: it is never removed, and overwritten only by force.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

from attrs import field, frozen

from praetor_api.annotations import IMPORTED_ANNOTATION
from praetor_api.kube.client.resource import DEVICES
from praetor_api.spec import DeviceKind
from praetor_controller.ctl.imports.mapping import FIELDS, NAME, Wanted
from praetor_controller.ctl.imports.table import quoted

Field: TypeAlias = tuple[str, str]
"""`labels` or `spec`, and the name in it."""
Values: TypeAlias = Mapping[Field, str]

REMOVABLE_SHARE = 10
"""One in so many devices of a source may be removed by one import without --allow-removals, at least one."""
_OURS = {name for name in FIELDS if name != NAME}


class Action(StrEnum):
    """What an import does with a device."""

    CONFLICT = "conflict"
    DELETE = "delete"
    UPDATE = "update"
    CREATE = "create"


@frozen(kw_only=True)
class Imported:
    """What the last import set on a device; *created*: it made the object, too."""

    source: str
    created: bool
    values: Values


@frozen(kw_only=True)
class Change:
    """A change of one device. *words* say what, *patch* is the object to create or the merge patch of an update.

    *uid* and *version* are those of the object that it was computed from; they take no part in comparisons.
    """

    device: str
    action: Action
    words: tuple[str, ...] = ()
    patch: Mapping[str, Any] = field(factory=dict)
    uid: str = field(default="", eq=False)
    version: str = field(default="", eq=False)


@frozen(kw_only=True)
class Rules:
    """How an import is made: into which namespace, from which *source*, and whether it overwrites what others set."""

    namespace: str
    source: str
    force: bool = False
    prune: bool = False
    kind: DeviceKind = DeviceKind.NETWORK_SWITCH


@frozen(kw_only=True)
class Comparison:
    """The changes, the most dangerous first; how many devices stay as they are; what is not in the file any more.

    *created* counts the devices that imports from this source created.
    """

    changes: Sequence[Change]
    unchanged: int
    missing: int
    created: int

    def of(self, action: Action) -> Sequence[Change]:
        return [each for each in self.changes if each.action is action]

    @property
    def removal_limit(self) -> int:
        """How many devices may be removed without being allowed expressly."""
        return max(1, self.created // REMOVABLE_SHARE)


def compare(wanted: Iterable[Wanted], switches: Iterable[Mapping[str, Any]], rules: Rules) -> Comparison:
    """Return what makes the *switches* of the namespace those that are *wanted*."""
    live = {each["metadata"]["name"]: each for each in switches}
    names = set()
    changes: list[Change] = []
    unchanged = 0
    for each in wanted:
        names.add(each.name)
        change = change_of(each, live.get(each.name), rules)
        unchanged += change is None
        changes += [change] if change is not None else []
    created = {name for name, switch in live.items() if _created(imported(switch, rules.namespace), rules)}
    missing = sorted(created - names)
    if rules.prune:
        changes += (removal_of(live[name], rules) for name in missing)
    order = list(Action)
    changes.sort(key=lambda each: (order.index(each.action), each.device))
    return Comparison(changes=changes, unchanged=unchanged, missing=len(missing), created=len(created))


def change_of(wanted: Wanted, live: Mapping[str, Any] | None, rules: Rules) -> Change | None:
    """Return what makes *live* as it is *wanted*; None when it is. A conflict changes nothing of the device."""
    want = _values(wanted.labels, wanted.spec)
    if live is None:
        note = Imported(source=rules.source, created=True, values=want)
        words = tuple(f"{name}={_shown(value)}" for (_, name), value in want.items())
        return Change(
            device=wanted.name, action=Action.CREATE, words=words, patch=_manifest(wanted.name, want, note, rules)
        )
    have, before = _live(live), imported(live, rules.namespace)
    mine = before.values if before is not None else {}
    if before is not None and before.source != rules.source and not rules.force:
        words = (f"it is from --source {_shown(before.source)}",)
        return Change(device=wanted.name, action=Action.CONFLICT, words=words)
    sets: dict[Field, str | None] = {}
    kept: dict[Field, str] = {}
    said: list[str] = []
    conflicts: list[str] = []
    for each in dict.fromkeys([*want, *mine]):
        value, present, remembered = want.get(each), have.get(each), mine.get(each)
        _, name = each
        if value is not None and value == present:
            kept |= {each: value} if remembered == value else {}
        elif value is not None and (present in (None, remembered) or rules.force):
            kept[each] = sets[each] = value
            said.append(
                f"{name}={_shown(value)}" if present is None else f"{name} {_shown(present)} -> {_shown(value)}"
            )
        elif value is not None:
            conflicts.append(f"{name} is {_shown(present or '')}, the file has {_shown(value)}")
        elif present is not None and present == remembered:
            sets[each] = None
            said.append(f"-{name}")
    if conflicts:
        return Change(device=wanted.name, action=Action.CONFLICT, words=tuple(conflicts))
    said += [f"{_shown(each[1])} is left to others" for each in mine if each not in kept and each not in sets]
    created = before is not None and before.created
    note = Imported(source=rules.source, created=created, values=kept)
    new = note if created or kept else None
    if not sets and new == before:
        return None
    text = _note(new, wanted.name, rules) if new is not None else None
    said += ["is remembered as imported"] if not said else []
    metadata = live["metadata"]
    return Change(
        device=wanted.name,
        action=Action.UPDATE,
        words=tuple(said),
        patch=_patch(sets, {IMPORTED_ANNOTATION: text}),
        uid=metadata.get("uid", ""),
        version=metadata.get("resourceVersion", ""),
    )


def removal_of(live: Mapping[str, Any], rules: Rules) -> Change:
    """Return the removal of a device that is not in the file; a conflict when others set something on it."""
    metadata = live["metadata"]
    name, before = metadata["name"], imported(live, rules.namespace)
    mine = before.values if before is not None and _created(before, rules) else None
    others = sorted(
        name
        for kind, values in (("labels", metadata.get("labels") or {}), ("spec", live.get("spec") or {}))
        for name, value in values.items()
        if mine is None or mine.get((kind, name)) != value
    )
    if mine is None or (others and not rules.force):
        words = (f"is not in the file, but others set {', '.join(others)}",)
        return Change(device=name, action=Action.CONFLICT, words=words)
    lost = (f"and what others set: {', '.join(others)}",) if others else ()
    return Change(
        device=name,
        action=Action.DELETE,
        words=lost,
        uid=metadata.get("uid", ""),
        version=metadata.get("resourceVersion", ""),
    )


def imported(switch: Mapping[str, Any], namespace: str) -> Imported | None:
    """Return what the annotation of *switch* says; None without one, or when it is damaged or another object's."""
    metadata = switch["metadata"]
    try:
        noted = json.loads((metadata.get("annotations") or {})[IMPORTED_ANNOTATION])
        if noted["device"] != f"{namespace}/{metadata['name']}":  # copied with the manifest of another device
            return None
        values = _values(noted["labels"], noted["spec"])
        source, created = noted["source"], noted["created"]
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    texts = isinstance(source, str) and all(isinstance(value, str) for value in values.values())
    return Imported(source=source, created=created is True, values=values) if texts else None


def _created(found: Imported | None, rules: Rules) -> bool:
    return found is not None and found.created and found.source == rules.source


def _values(labels: Mapping[str, str], spec: Mapping[str, str]) -> dict[Field, str]:
    return {("labels", name): value for name, value in labels.items()} | {
        ("spec", name): value for name, value in spec.items()
    }


def _live(switch: Mapping[str, Any]) -> dict[Field, str]:
    spec = {name: value for name, value in (switch.get("spec") or {}).items() if name in _OURS}
    return _values(switch["metadata"].get("labels") or {}, spec)


def _shown(value: str) -> str:
    return value if quoted(value) == f"'{value}'" and " " not in value else quoted(value)


def _note(note: Imported, name: str, rules: Rules) -> str:
    parts: dict[str, Any] = {"source": note.source, "created": note.created, "device": f"{rules.namespace}/{name}"}
    return json.dumps({**parts, **_parts(note.values)}, sort_keys=True)


def _parts(values: Mapping[Field, str | None]) -> dict[str, dict[str, str | None]]:
    return {
        kind: {name: value for (part, name), value in values.items() if part == kind} for kind in ("labels", "spec")
    }


def _manifest(name: str, values: Values, note: Imported, rules: Rules) -> dict[str, Any]:
    parts = _parts(values)
    metadata = {
        "name": name,
        "namespace": rules.namespace,
        "labels": parts["labels"],
        "annotations": {IMPORTED_ANNOTATION: _note(note, name, rules)},
    }
    head = {"apiVersion": DEVICES[rules.kind].api_version, "kind": rules.kind.value}
    return {**head, "metadata": metadata, "spec": parts["spec"]}


def _patch(sets: Mapping[Field, str | None], annotations: Mapping[str, str | None]) -> dict[str, Any]:
    parts = _parts(sets)
    metadata = {"annotations": annotations} | ({"labels": parts["labels"]} if parts["labels"] else {})
    return {"metadata": metadata} | ({"spec": parts["spec"]} if parts["spec"] else {})

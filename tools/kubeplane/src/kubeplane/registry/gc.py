# SPDX-License-Identifier: Apache-2.0
"""What the controllers of a real control plane do: collect garbage, finish namespaces and definitions.

Changes mark work; `run` does it until none is left. Nothing here waits.
"""

from __future__ import annotations

from collections import defaultdict, deque

from kubeplane.errors import ApiError, Obj
from kubeplane.kinds import definitions
from kubeplane.kinds.resources import Resource
from kubeplane.registry.registry import CLEANUP, FOREGROUND, ORPHAN, Registry
from kubeplane.registry.writing import Options
from kubeplane.storage.store import Change, Key, Stored

Item = tuple[str, Key]  # table and key of an object
_WRITER = Options(manager="garbage-collector")
_BATCH = 200


class Collector:
    """Follows all changes of the registry's store."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._dependents: dict[str, set[Item]] = defaultdict(set)  # by owner's uid
        self._uids: dict[str, Item] = {}
        self._todo: deque[Item] = deque()
        self._marked: set[Item] = set()
        self._scan()
        self._store.subscribe("", self._changed)

    def _scan(self) -> None:
        for table in self._store.tables():
            for stored in self._store.items(table):
                self._index(table, stored)
                self._consider(table, stored)

    def _index(self, table: str, stored: Stored) -> None:
        self._uids[stored.obj["metadata"]["uid"]] = (table, stored.key)
        for owner in stored.obj["metadata"].get("ownerReferences") or ():
            self._dependents[owner["uid"]].add((table, stored.key))

    def _consider(self, table: str, stored: Stored) -> None:
        meta = stored.obj["metadata"]
        if "ownerReferences" in meta or "deletionTimestamp" in meta:
            self._mark((table, stored.key))

    def _mark(self, item: Item) -> None:
        if item not in self._marked:
            self._marked.add(item)
            self._todo.append(item)

    def _changed(self, change: Change) -> None:
        if change.old:
            for owner in change.old.obj["metadata"].get("ownerReferences") or ():
                self._dependents[owner["uid"]].discard((change.table, change.new.key))
        if not change.deleted:
            self._index(change.table, change.new)
            self._consider(change.table, change.new)
            return
        self._gone(change)

    def _gone(self, change: Change) -> None:
        meta = change.new.obj["metadata"]
        self._uids.pop(meta["uid"], None)
        for item in self._dependents.pop(meta["uid"], ()):
            self._mark(item)
        for owner in meta.get("ownerReferences") or ():
            if owner["uid"] in self._uids:
                self._mark(self._uids[owner["uid"]])  # it may wait for this one
        namespace = change.new.key[0]
        space = self._store.get("/namespaces", ("", namespace)) if namespace else None
        if space and "deletionTimestamp" in space.obj["metadata"]:
            self._mark(("/namespaces", ("", namespace)))
        self._mark_definition(change.table)

    def _mark_definition(self, table: str) -> None:
        group, _, plural = table.partition("/")
        key = ("", f"{plural}.{group}")
        definition = self._store.get(definitions.TABLE, key)
        if definition and "deletionTimestamp" in definition.obj["metadata"]:
            self._mark((definitions.TABLE, key))

    @property
    def busy(self) -> bool:
        return bool(self._todo)

    def run(self, limit: int = _BATCH) -> None:
        """Do up to *limit* pieces of the work that is marked."""
        for _ in range(min(limit, len(self._todo))):
            item = self._todo.popleft()
            self._marked.discard(item)
            stored = self._store.get(*item)
            if stored:
                self._settle(item, stored)

    def _settle(self, item: Item, stored: Stored) -> None:
        table, key = item
        meta = stored.obj["metadata"]
        if "deletionTimestamp" in meta:
            self._finish(table, stored)
        elif meta.get("ownerReferences"):
            self._settle_dependent(table, key, stored)

    def _resource(self, table: str) -> Resource | None:
        return self._registry.catalog.by_table(table)

    def _settle_dependent(self, table: str, key: Key, stored: Stored) -> None:
        """Delete an object all of whose owners are gone; drop the references to those that are."""
        owners = stored.obj["metadata"]["ownerReferences"]
        alive = [owner for owner in owners if self._alive(owner, key[0])]
        waiting = [owner for owner in alive if self._foreground(owner)]
        resource = self._resource(table)
        if resource is None or (len(alive) == len(owners) and len(waiting) < len(alive)):
            return
        if not alive or len(waiting) == len(alive):
            # dependents of their own may be waited for in turn
            policy = "Foreground" if waiting and self._blocked(stored) else "Background"
            asked = {"propagationPolicy": policy, "preconditions": {"uid": stored.obj["metadata"]["uid"]}}
            self._registry.delete(resource, *key, asked, _WRITER)
        else:
            self._edit(resource, stored, {"ownerReferences": [owner for owner in alive if owner not in waiting]})

    def _alive(self, owner: Obj, namespace: str) -> bool:
        item = self._uids.get(owner["uid"])
        if item is None:
            return False
        # a namespaced owner is one of the same namespace, or none at all
        return item[1][0] in ("", namespace)

    def _foreground(self, owner: Obj) -> bool:
        stored = self._store.get(*self._uids[owner["uid"]])
        meta = stored.obj["metadata"] if stored else {}
        return "deletionTimestamp" in meta and FOREGROUND in (meta.get("finalizers") or ())

    def _blocked(self, stored: Stored) -> bool:
        return bool(self._dependents.get(stored.obj["metadata"]["uid"]))

    def _edit(self, resource: Resource, stored: Stored, changes: Obj) -> None:
        """Write metadata; a list that becomes empty is removed."""
        meta = {**stored.obj["metadata"], **changes}
        meta = {key: value for key, value in meta.items() if value not in ([], None)}
        obj = {**stored.obj, "metadata": meta}
        if "deletionTimestamp" in meta and not meta.get("finalizers") and resource.table != "/namespaces":
            self._store.delete(resource.table, stored.key)
        else:
            self._store.put(resource.table, stored.key, obj)

    def _finish(self, table: str, stored: Stored) -> None:
        """Move an object that is being deleted one step on."""
        if table == "/namespaces":
            self._finish_namespace(stored)
        elif table == definitions.TABLE and CLEANUP in (stored.obj["metadata"].get("finalizers") or ()):
            self._finish_definition(stored)
        else:
            self._finish_owner(table, stored)

    def _finish_owner(self, table: str, stored: Stored) -> None:
        meta = stored.obj["metadata"]
        finalizers, resource = meta.get("finalizers") or [], self._resource(table)
        dependents = self._dependents.get(meta["uid"], set())
        if resource is None:
            return
        if ORPHAN in finalizers:
            for item in tuple(dependents):
                self._disown(item, meta["uid"])
            self._edit(resource, stored, {"finalizers": [f for f in finalizers if f != ORPHAN]})
        elif FOREGROUND in finalizers:
            for item in dependents:
                self._mark(item)
            if not any(self._blocks(item, meta["uid"]) for item in dependents):
                self._edit(resource, stored, {"finalizers": [f for f in finalizers if f != FOREGROUND]})

    def _disown(self, item: Item, uid: str) -> None:
        stored, resource = self._store.get(*item), self._resource(item[0])
        if stored and resource:
            owners = [owner for owner in stored.obj["metadata"]["ownerReferences"] if owner["uid"] != uid]
            self._edit(resource, stored, {"ownerReferences": owners})

    def _blocks(self, item: Item, uid: str) -> bool:
        stored = self._store.get(*item)
        owners = stored.obj["metadata"].get("ownerReferences") or () if stored else ()
        return any(owner["uid"] == uid and owner.get("blockOwnerDeletion") for owner in owners)

    def _finish_namespace(self, namespace: Stored) -> None:
        name, left = namespace.key[1], False
        for resource in self._registry.catalog:
            if resource.namespaced and resource.view is None:
                left |= self._empty(resource, name)
        if not left and not namespace.obj["metadata"].get("finalizers"):
            self._store.delete("/namespaces", namespace.key)

    def _finish_definition(self, definition: Stored) -> None:
        spec, meta = definition.obj["spec"], definition.obj["metadata"]
        table = f"{spec['group']}/{spec['names']['plural']}"
        resource = self._resource(table)
        if resource and self._empty(resource, ""):
            return
        own = self._resource(definitions.TABLE)
        assert own is not None
        self._edit(own, definition, {"finalizers": [f for f in meta["finalizers"] if f != CLEANUP]})
        if self._store.get(definitions.TABLE, definition.key) is None:
            self._registry.catalog.remove(spec["group"], spec["names"]["plural"])

    def _empty(self, resource: Resource, namespace: str) -> bool:
        """Delete all objects of a kind; whether some are left, because finalizers hold them."""
        for stored in self._store.items(resource.table, namespace):
            if "deletionTimestamp" not in stored.obj["metadata"]:
                try:
                    self._registry.delete(resource, *stored.key, {}, _WRITER)
                except ApiError:  # it went by the deletion of another
                    continue
        return bool(self._store.items(resource.table, namespace))

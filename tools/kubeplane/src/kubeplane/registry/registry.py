# SPDX-License-Identifier: Apache-2.0
"""The operations on objects: create, update, patch, apply and delete, with the rules that every kind obeys."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kubeplane import errors
from kubeplane.errors import Obj, bad_request
from kubeplane.kinds import builtin_rules, definitions
from kubeplane.kinds.resources import Catalog, Resource
from kubeplane.registry import apply, patches, writing
from kubeplane.registry.apply import Writer
from kubeplane.registry.metadata import SYSTEM
from kubeplane.registry.writing import Options
from kubeplane.storage.store import Store, Stored

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_KEPT_BY_SYSTEM = (*SYSTEM, "resourceVersion")


def stamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Registry:
    """Writes go through here; reads go to the store."""

    def __init__(self, store: Store, catalog: Catalog, now: Callable[[], datetime]) -> None:
        self.store = store
        self.catalog = catalog
        self.now = now

    def read(self, resource: Resource, namespace: str, name: str) -> Stored:
        """Return the object; ApiError 404."""
        found = self.store.get(resource.table, (namespace, name))
        if found is None:
            raise errors.not_found(resource.group, resource.plural, name)
        return found

    # create

    def create(self, resource: Resource, namespace: str, body: Any, options: Options) -> Stored:
        obj = writing.decode(resource, namespace, "", body)
        meta = obj["metadata"]
        if "resourceVersion" in meta:
            raise bad_request("resourceVersion should not be set on objects to be created")
        if "name" not in meta and "generateName" in meta:
            space = namespace if resource.namespaced else ""
            meta["name"] = writing.generated_name(
                meta["generateName"], lambda name: self.store.get(resource.table, (space, name)) is not None
            )
        self._check_namespace(resource, namespace, meta.get("name", ""))
        return self._create(resource, obj, options, writer=self._writer(resource, options, "Update"))

    def _writer(self, resource: Resource, options: Options, operation: str, subresource: str = "") -> Writer:
        return Writer(options.manager, operation, resource.api_version, subresource)

    def _check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        if not resource.namespaced:
            return
        found = self.store.get("/namespaces", ("", namespace))
        if found is None:
            raise errors.not_found("", "namespaces", namespace)
        if "deletionTimestamp" in found.obj["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            error = errors.forbidden(resource.group, resource.plural, name, why)
            cause = {"reason": "NamespaceTerminating", "message": f"namespace {namespace} is being terminated"}
            error.details = {**(error.details or {}), "causes": [cause | {"field": "metadata.namespace"}]}
            raise error

    def _create(self, resource: Resource, obj: Obj, options: Options, writer: Writer | None) -> Stored:
        meta = obj["metadata"]
        for field in SYSTEM:
            meta.pop(field, None)
        writing.shape(resource, obj, options)
        obj = resource.stored(obj)
        if resource.status and resource.table != "/namespaces":
            obj.pop("status", None)
        builtin_rules.prepare(resource, obj, None)
        if writer:
            empty = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": {}}
            meta["managedFields"] = apply.track(empty, obj, resource.schema, writer, stamp(self.now())) or []
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp(self.now())}
        if resource.generation:
            meta["generation"] = 1
        writing.check(resource, obj, None, trusted=options.trusted)
        key = (meta.get("namespace", ""), meta["name"])
        if present := self.store.get(resource.table, key):
            error = errors.already_exists(resource.group, resource.plural, meta["name"])
            if "deletionTimestamp" in present.obj["metadata"]:
                error.message = f"object is being deleted: {error.message}"
            raise error
        return Stored(key, obj, 0) if options.dry_run else self._put(resource, key, obj)

    def _put(self, resource: Resource, key: tuple[str, str], obj: Obj) -> Stored:
        stored = self.store.put(resource.table, key, obj)
        if resource.table == definitions.TABLE:
            self._define(stored.obj)
        return stored

    def _define(self, definition: Obj) -> None:
        """Serve what the definition defines, and say so in its status."""
        meta = definition["metadata"]
        if "deletionTimestamp" in meta:
            return
        if CLEANUP not in (meta.get("finalizers") or ()):
            finalizers = [*(meta.get("finalizers") or ()), CLEANUP]
            definition = {**definition, "metadata": {**meta, "finalizers": finalizers}}
        taken = self._taken_kind(definition["spec"])
        if taken:
            refused = definitions.refused(definition, taken, stamp(self.now()))
            if refused != definition:
                self.store.put(definitions.TABLE, ("", meta["name"]), refused)
            return
        established = definitions.established(definition, stamp(self.now()))
        self.install(established)
        if established != definition or established["metadata"] is not meta:
            self.store.put(definitions.TABLE, ("", meta["name"]), established)

    def _taken_kind(self, spec: Obj) -> str:
        """Return the name of this definition that another of its group has already, if any."""
        for resource in self.catalog:
            if resource.group == spec["group"] and resource.plural != spec["names"]["plural"]:
                for name in (spec["names"]["kind"], spec["names"]["listKind"]):
                    if name in (resource.kind, resource.list_kind):
                        return str(name)
        return ""

    def install(self, definition: Obj) -> None:
        """Serve the definition's versions; objects that are there get its defaults."""
        spec = definition["spec"]
        self.catalog.remove(spec["group"], spec["names"]["plural"])
        for resource in definitions.resources(definition):
            self.catalog.add(resource)
            if resource.view is None:
                self.store.refresh(resource.table, resource.schema)

    # update

    def update(
        self, resource: Resource, namespace: str, name: str, body: Any, options: Options, subresource: str = ""
    ) -> tuple[Stored, bool]:
        """Answer PUT: return the object, and whether it was created."""
        obj = writing.decode(resource, namespace, name, body)
        current = self.store.get(resource.table, (namespace, name))
        if current is None:
            if not subresource and resource.plural in builtin_rules.CREATED_BY_PUT:
                obj["metadata"].pop("resourceVersion", None)
                return self.create(resource, namespace, obj, options), True
            raise errors.not_found(resource.group, resource.plural, name)
        version = obj["metadata"].get("resourceVersion")
        if version is None and (resource.custom or resource.plural in builtin_rules.UNCONDITIONAL):
            why = "Invalid value: 0x0: must be specified for an update"
            cause = errors.Cause("FieldValueInvalid", why, "metadata.resourceVersion")
            raise errors.invalid(resource.group, resource.plural, name, [cause])
        self._check_version(resource, current, version)
        uid = obj["metadata"].get("uid")
        if uid and uid != current.obj["metadata"]["uid"]:
            have = current.obj["metadata"]["uid"]
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"
            raise errors.conflict(resource.group, resource.plural, name, why)
        writer = self._writer(resource, options, "Update", subresource)
        return self._replace(resource, current, obj, options, subresource, writer), False

    def _check_version(self, resource: Resource, current: Stored, version: str | None) -> None:
        if version not in (None, "0", str(current.rv)):
            raise errors.modified(resource.group, resource.plural, current.key[1])

    def patch(
        self, resource: Resource, namespace: str, name: str, kind: str, patch: Any, options: Options, sub: str = ""
    ) -> tuple[Stored, bool]:
        """Answer PATCH of any kind: return the object, and whether it was created."""
        if kind == patches.APPLY_PATCH:
            return self._apply(resource, namespace, name, patch, options, sub)
        current = self.read(resource, namespace, name)
        before = resource.wire(current.obj)
        match kind:
            case patches.JSON_PATCH:
                after = patches.json_patch(before, patch)
            case patches.MERGE_PATCH:
                after = patches.merge_patch(before, _object(patch))
            case _:
                after = patches.strategic_merge(before, _object(patch))
        obj = writing.decode(resource, namespace, name, errors.copied(after))
        self._check_version(resource, current, obj["metadata"].get("resourceVersion"))
        writer = self._writer(resource, options, "Update", sub)
        options.patched = True
        return self._replace(resource, current, obj, options, sub, writer), False

    def _apply(
        self, resource: Resource, namespace: str, name: str, config: Any, options: Options, sub: str
    ) -> tuple[Stored, bool]:
        config = self._checked_config(resource, namespace, name, config)
        current = self.store.get(resource.table, (namespace, name))
        version = config["metadata"].pop("resourceVersion", None)
        uid = config["metadata"].pop("uid", None)
        if current is None and (sub or uid):
            raise errors.not_found(resource.group, resource.plural, name)
        if current:
            self._check_version(resource, current, version)
        empty = {"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {}}
        live = resource.wire(current.obj) if current else empty
        writing.shape(resource, config, options, defaults=False)
        writer = self._writer(resource, options, "Apply", sub)
        now = stamp(self.now())
        merged = apply.apply(live, config, resource.schema, writer, force=options.force, now=now)
        merged = errors.copied(merged)
        if current:
            return self._replace(resource, current, merged, options, sub, None), False
        self._check_namespace(resource, namespace, name)
        return self._create(resource, merged, options, None), True

    def _checked_config(self, resource: Resource, namespace: str, name: str, config: Any) -> Obj:
        config = _object(config)
        if config.get("apiVersion") != resource.api_version:
            given = config.get("apiVersion") or ""
            raise bad_request(
                f"Incorrect version specified in apply patch. Specified patch version: {given}, "
                f"expected: {resource.api_version}"
            )
        meta = config.get("metadata") or {}
        if isinstance(meta, dict) and meta.get("managedFields") is not None:
            raise bad_request("metadata.managedFields must be nil")
        return writing.decode(resource, namespace, name, config)

    def _replace(
        self, resource: Resource, current: Stored, obj: Obj, options: Options, sub: str, writer: Writer | None
    ) -> Stored:
        """Store *obj* in place of *current*; *writer* is None when managedFields are already right."""
        old = current.obj
        writing.shape(resource, obj, options)
        obj = self._stored_form(resource, old, resource.stored(obj), sub)
        if writer:
            tracked = apply.track(old, obj, resource.schema, writer, stamp(self.now()))
            obj["metadata"].pop("managedFields", None)
            if tracked:
                obj["metadata"]["managedFields"] = tracked
        if resource.generation and _content(obj, resource) != _content(old, resource):
            obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        writing.check(resource, obj, old)
        if _same(obj, old):
            return current
        if options.dry_run:
            return Stored(current.key, obj, current.rv)
        if "deletionTimestamp" in old["metadata"] and not obj["metadata"].get("finalizers"):
            return self._gone_after(resource, current, obj)
        return self._put(resource, current.key, obj)

    def _gone_after(self, resource: Resource, current: Stored, obj: Obj) -> Stored:
        """Remove an object with the write that removed its last finalizer."""
        if resource.table == "/namespaces":
            return self._put(resource, current.key, obj)
        self.store.replace_quietly(resource.table, Stored(current.key, obj, current.rv))
        return self.store.delete(resource.table, current.key)

    def _stored_form(self, resource: Resource, old: Obj, obj: Obj, sub: str) -> Obj:
        """Return what a write may change of *old*: everything but status, or status alone."""
        before = old["metadata"]
        if sub == "status":
            managed = {"managedFields": obj["metadata"]["managedFields"]} if "managedFields" in obj["metadata"] else {}
            kept = {key: value for key, value in before.items() if key != "managedFields"}
            base = {key: value for key, value in old.items() if key != "status"}
            return {**base, "metadata": kept | managed, **({"status": obj["status"]} if "status" in obj else {})}
        meta = obj["metadata"]
        for key in _KEPT_BY_SYSTEM:
            given = meta.pop(key, None)
            if key in before:
                meta[key] = given if given and key == "uid" else before[key]
        if resource.status and "status" in old:
            obj["status"] = old["status"]
        elif resource.status:
            obj.pop("status", None)
        builtin_rules.prepare(resource, obj, old)
        return obj

    # delete

    def delete(
        self, resource: Resource, namespace: str, name: str, asked: Obj, options: Options
    ) -> tuple[Stored, bool]:
        """Answer DELETE with DeleteOptions: return the object, and whether it is gone at once."""
        current = self.read(resource, namespace, name)
        self._check_preconditions(resource, current, asked.get("preconditions") or {})
        finalizers = self._finalizers_for(current, resource, asked)
        meta = current.obj["metadata"]
        if not finalizers and resource.table != "/namespaces":
            if options.dry_run:
                return current, True
            return self.store.delete(resource.table, current.key), True
        if "deletionTimestamp" in meta and finalizers == (meta.get("finalizers") or []):
            return current, False
        changed = self._marked(resource, current.obj, finalizers)
        if options.dry_run:
            return Stored(current.key, changed, current.rv), False
        return self.store.put(resource.table, current.key, changed), False

    def _marked(self, resource: Resource, obj: Obj, finalizers: list[str]) -> Obj:
        meta = {**obj["metadata"]}
        if finalizers:
            meta["finalizers"] = finalizers
        if "deletionTimestamp" not in meta:
            meta |= {"deletionTimestamp": stamp(self.now()), "deletionGracePeriodSeconds": 0}
            if "generation" in meta:
                meta["generation"] += 1
        obj = {**obj, "metadata": meta}
        if resource.table == "/namespaces":
            meta.pop("deletionGracePeriodSeconds", None)
            obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        return obj

    def _finalizers_for(self, current: Stored, resource: Resource, asked: Obj) -> list[str]:
        """Return the finalizers that the object has once its deletion was asked for."""
        policy = asked.get("propagationPolicy") or ("Orphan" if asked.get("orphanDependents") else "Background")
        if "propagationPolicy" in asked and asked.get("orphanDependents") is not None:
            why = f'Invalid value: "{policy}": orphanDependents and deletionPropagation cannot be both set'
            cause = errors.Cause("FieldValueInvalid", why, "propagationPolicy")
            raise errors.invalid("meta.k8s.io", "DeleteOptions", "", [cause])
        if policy not in ("Background", "Foreground", "Orphan"):
            why = f'Unsupported value: "{policy}": supported values: "Foreground", "Background", "Orphan", "nil"'
            cause = errors.Cause("FieldValueNotSupported", why, "propagationPolicy")
            raise errors.invalid("meta.k8s.io", "DeleteOptions", "", [cause])
        finalizers = [f for f in current.obj["metadata"].get("finalizers") or () if f not in (FOREGROUND, ORPHAN)]
        mark = {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(policy)
        return [*finalizers, mark] if mark and resource.table != "/namespaces" else finalizers

    def _check_preconditions(self, resource: Resource, current: Stored, wanted: Obj) -> None:
        have = {"uid": current.obj["metadata"]["uid"], "resourceVersion": str(current.rv)}
        words = {
            "uid": ("UID", "The object might have been deleted and then recreated"),
            "resourceVersion": ("ResourceVersion", "The object might have been modified"),
        }
        for key, (word, hint) in words.items():
            if wanted.get(key) and wanted[key] != have[key]:
                why = (
                    f"the {word} in the precondition ({wanted[key]}) does not match the {word} in record "
                    f"({have[key]}). {hint}"
                )
                raise errors.conflict(resource.group, resource.kind, current.key[1], why)


def _object(patch: Any) -> Obj:
    if isinstance(patch, dict):
        return patch
    cause = errors.Cause("FieldValueInvalid", f"Invalid value: {patch!r}: a patch must be an object", "patch")
    raise errors.invalid("", "", "", [cause])


def _content(obj: Obj, resource: Resource) -> Obj:
    """Return what a generation counts the changes of."""
    left_out = {"metadata", "apiVersion", "kind"} | ({"status"} if resource.status else set())
    return {key: value for key, value in obj.items() if key not in left_out}


def _same(new: Obj, old: Obj) -> bool:
    """Return whether nothing changed but times in managedFields."""
    return {**new, "metadata": _timeless(new["metadata"])} == {**old, "metadata": _timeless(old["metadata"])}


def _timeless(meta: Obj) -> Obj:
    entries = [{k: v for k, v in entry.items() if k != "time"} for entry in meta.get("managedFields") or ()]
    return {**meta, "managedFields": entries}

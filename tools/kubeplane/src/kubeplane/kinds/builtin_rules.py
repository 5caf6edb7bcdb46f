# SPDX-License-Identifier: Apache-2.0
"""What the built-in kinds do beyond their schemas: preparation on writes, and their own validation."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from kubeplane.errors import Cause, Obj
from kubeplane.kinds import definitions
from kubeplane.kinds.resources import Resource
from kubeplane.schema.validation import invalid_value, required

_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_CONFIG_KEY_WORDS = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  "
    "or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
_DATA_LIMIT = 1024 * 1024
UNCONDITIONAL = frozenset({"leases", definitions.PLURAL})  # of the built-in kinds, those that are NOT updated blindly
CREATED_BY_PUT = frozenset({"leases", "events"})


def prepare(resource: Resource, obj: Obj, old: Obj | None) -> None:
    """Bring *obj*, in place, into the form in which it is stored."""
    match resource.table:
        case "/namespaces":
            labels = {"kubernetes.io/metadata.name": obj["metadata"].get("name", "")}
            obj["metadata"]["labels"] = {**(obj["metadata"].get("labels") or {}), **labels}
            obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
            obj["status"] = (old or {}).get("status") or {"phase": "Active"}
        case "/secrets":
            for key, value in (obj.pop("stringData", None) or {}).items():
                obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
            _drop_empty(obj)
        case "/configmaps":
            _drop_empty(obj)
        case definitions.TABLE:
            definitions.with_defaults(obj)
        case "apps/deployments":
            if isinstance(obj.get("spec"), dict):
                obj["spec"].setdefault("replicas", 1)
        case table if table.startswith("rbac.authorization.k8s.io/"):
            _prepare_role(obj)


def _drop_empty(obj: Obj) -> None:
    """Empty maps are left out of what is stored."""
    for field in ("data", "binaryData"):
        if obj.get(field) == {}:
            del obj[field]


def _prepare_role(obj: Obj) -> None:
    for subject in obj.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")
    if isinstance(obj.get("roleRef"), dict):
        obj["roleRef"].setdefault("apiGroup", "rbac.authorization.k8s.io")


def faults(resource: Resource, new: Obj, old: Obj | None) -> Iterator[Cause]:
    """Yield what is wrong with an object of a built-in kind; *old* is None on create."""
    match resource.table:
        case "/configmaps" | "/secrets":
            yield from _data_faults(new, old)
        case "coordination.k8s.io/leases":
            yield from _lease_faults(new.get("spec") or {})
        case "apps/controllerrevisions":
            yield from _revision_faults(new, old)
        case "/events":
            yield from _event_faults(resource, new, old)
        case definitions.TABLE:
            yield from definitions.faults(new)
            if old:
                yield from definitions.change_faults(new, old)
        case "rbac.authorization.k8s.io/rolebindings" | "rbac.authorization.k8s.io/clusterrolebindings":
            if old and new.get("roleRef") != old.get("roleRef"):
                yield invalid_value("roleRef", new.get("roleRef"), "cannot change roleRef")


def _data_faults(new: Obj, old: Obj | None) -> Iterator[Cause]:
    for field in ("data", "binaryData"):
        for key in sorted(new.get(field) or {}):
            if not _CONFIG_KEY.fullmatch(key):
                yield invalid_value(f"{field}[{key}]", key, _CONFIG_KEY_WORDS)
    if _data_size(new) > _DATA_LIMIT:
        why = f"Too long: must have at most {_DATA_LIMIT} bytes"
        yield Cause("FieldValueTooLong", why, "data" if new.get("kind") == "Secret" else "[]")
    if old and old.get("immutable"):
        if not new.get("immutable"):
            yield _forbidden("immutable", "field is immutable when `immutable` is set")
        for field in ("data", "binaryData"):
            if (new.get(field) or {}) != (old.get(field) or {}):
                yield _forbidden(field, "field is immutable when `immutable` is set")


def _data_size(obj: Obj) -> int:
    """Return how many bytes all values have together: those in base64 count as what they stand for."""
    plain, encoded = ({}, obj.get("data")) if obj.get("kind") == "Secret" else (obj.get("data"), obj.get("binaryData"))
    sizes: list[int] = [len(value.encode()) for value in (plain or {}).values()]
    sizes += [len(value) // 4 * 3 - value[-2:].count("=") for value in (encoded or {}).values()]
    return sum(sizes)


def _forbidden(path: str, why: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {why}", path)


def _lease_faults(spec: Obj) -> Iterator[Cause]:
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and duration <= 0:
        yield invalid_value("spec.leaseDurationSeconds", duration, "must be greater than 0")
    if transitions is not None and transitions < 0:
        yield invalid_value("spec.leaseTransitions", transitions, "must be greater than or equal to 0")


def _revision_faults(new: Obj, old: Obj | None) -> Iterator[Cause]:
    revision = new.get("revision") or 0
    if old is None and new.get("data") is None:
        yield required("data", "data is mandatory")
    if revision < 0:
        yield invalid_value("revision", revision, "must be greater than or equal to 0")
    if old is not None and new.get("data") != old.get("data"):
        yield invalid_value("data", new.get("data"), "field is immutable")


def _event_faults(resource: Resource, new: Obj, old: Obj | None) -> Iterator[Cause]:
    """Yield what is wrong with an event: the namespace is that of its object, and the newer form needs more fields."""
    about = (new.get("involvedObject") or {}).get("namespace") or ""
    namespace = new["metadata"].get("namespace", "")
    modern = bool(new.get("eventTime"))
    if about != namespace and not (about == "" and namespace in ("default", "kube-system")):
        yield invalid_value("involvedObject.namespace", about, "does not match event.namespace")
    if resource.group and old is None and not modern:
        yield required("eventTime")
    if modern and (old is None or resource.group):
        yield from _modern_event_faults(new)


def _modern_event_faults(new: Obj) -> Iterator[Cause]:
    wanted = {
        "reportingController": new.get("reportingComponent"),
        "reportingInstance": new.get("reportingInstance"),
        "action": new.get("action"),
        "reason": new.get("reason"),
    }
    for path, value in wanted.items():
        if not value:
            yield required(path)
    controller = new.get("reportingComponent") or ""
    if controller and not _QUALIFIED.fullmatch(controller):
        yield invalid_value("reportingController", controller, "must be a qualified name")
    for path, limit in (("reportingInstance", 128), ("reason", 128), ("action", 128), ("message", 1024)):
        if len(new.get(path) or "") > limit:
            yield invalid_value(path, "", f"can have at most {limit} characters")
    if new.get("type") not in ("Normal", "Warning"):
        yield invalid_value("type", new.get("type") or "", "has invalid value: ")

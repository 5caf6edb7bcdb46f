# SPDX-License-Identifier: Apache-2.0
"""Schemas of the parts that every kind has: object metadata, conditions, free maps and lists."""

from __future__ import annotations

from typing import Any

from kubeplane.errors import Obj


def string(description: str = "", **more: Any) -> Obj:
    return {"type": "string", **_described(description), **more}


def integer(description: str = "", **more: Any) -> Obj:
    return {"type": "integer", **_described(description), **more}


def boolean(description: str = "", **more: Any) -> Obj:
    return {"type": "boolean", **_described(description), **more}


def time(description: str = "") -> Obj:
    return string(description, format="date-time", nullable=True)


def micro_time(description: str = "") -> Obj:
    return string(description, format="micro-time", nullable=True)


def array(items: Obj, description: str = "", **more: Any) -> Obj:
    return {"type": "array", "items": items, **_described(description), **more}


def strings(description: str = "", **more: Any) -> Obj:
    return array(string(), description, **more)


def mapping(description: str = "", values: Obj | None = None) -> Obj:
    return {"type": "object", "additionalProperties": values or string(), **_described(description)}


def free(description: str = "") -> Obj:
    return {"type": "object", "x-kubernetes-preserve-unknown-fields": True, **_described(description)}


def struct(description: str = "", /, **properties: Obj) -> Obj:
    return {"type": "object", "properties": properties, **_described(description)}


def _described(description: str) -> Obj:
    return {"description": description} if description else {}


def map_list(items: Obj, *keys: str, description: str = "") -> Obj:
    """Return the schema of a list whose items are identified by *keys*."""
    return array(items, description, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)})


NAME = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow "
    "a client to request the generation of an appropriate name automatically. Cannot be updated. "
    "More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
)
API_VERSION = (
    "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized "
    "schemas to the latest internal value, and may reject unrecognized values."
)
KIND = (
    "Kind is a string value representing the REST resource this object represents. Servers may infer this from the "
    "endpoint the client submits requests to. Cannot be updated. In CamelCase."
)
OWNER_REFERENCE = struct(
    "OwnerReference contains enough information to let you identify an owning object in the same namespace.",
    apiVersion=string("API version of the referent."),
    kind=string("Kind of the referent."),
    name=string("Name of the referent."),
    uid=string("UID of the referent."),
    controller=boolean("If true, this reference points to the managing controller."),
    blockOwnerDeletion=boolean("If true, the owner cannot be deleted in the foreground before this object."),
)
OBJECT_META: Obj = struct(
    "Standard object's metadata.",
    name=string(NAME),
    generateName=string("An optional prefix, used by the server, to generate a unique name."),
    namespace=string("Namespace defines the space within which each name must be unique. Cannot be updated."),
    selfLink=string("Deprecated: selfLink is a legacy read-only field that is no longer populated by the system."),
    uid=string("UID is the unique in time and space value for this object. Populated by the system. Read-only."),
    resourceVersion=string("An opaque value that represents the internal version of this object. Read-only."),
    generation=integer("A sequence number representing a specific generation of the desired state.", format="int64"),
    creationTimestamp=time("The time at which this object was created. Populated by the system. Read-only."),
    deletionTimestamp=time("The time at which this resource will be deleted. Populated by the system. Read-only."),
    deletionGracePeriodSeconds=integer("Seconds allowed for graceful termination. Read-only.", format="int64"),
    labels=mapping("Map of string keys and values that can be used to organize and categorize objects."),
    annotations=mapping("Unstructured key value map stored with a resource, to keep arbitrary metadata."),
    ownerReferences=map_list(OWNER_REFERENCE, "uid", description="List of objects depended by this object."),
    finalizers=strings(
        "Must be empty before the object is deleted from the registry.", **{"x-kubernetes-list-type": "set"}
    ),
    managedFields=array(
        struct(
            "ManagedFieldsEntry is a workflow-id, a FieldSet and the group version of the resource it applies to.",
            manager=string(),
            operation=string(),
            apiVersion=string(),
            time=time(),
            fieldsType=string(),
            fieldsV1=free(),
            subresource=string(),
        ),
        "Which fields are managed by which workflow. Mostly for internal housekeeping.",
        **{"x-kubernetes-list-type": "atomic"},
    ),
)


def root(description: str, /, **properties: Obj) -> Obj:
    """Return the schema of a whole object."""
    head = {"apiVersion": string(API_VERSION), "kind": string(KIND), "metadata": OBJECT_META}
    return {"type": "object", "description": description, "properties": head | properties}

# SPDX-License-Identifier: Apache-2.0
"""Protocol buffers as kubectl's typed clients send them: the few kinds that it makes itself, read into JSON objects."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

from kubeplane.errors import Obj, bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# A message is a mapping of field numbers to a name and a type: a scalar by its word, a message by its mapping,
# a list as a tuple of one, a map as ("map", type of the values).
Message: TypeAlias = dict[int, tuple[str, Any]]

_OWNER: Message = {
    1: ("kind", "str"),
    3: ("name", "str"),
    4: ("uid", "str"),
    5: ("apiVersion", "str"),
    6: ("controller", "bool"),
    7: ("blockOwnerDeletion", "bool"),
}
_META: Message = {
    1: ("name", "str"),
    2: ("generateName", "str"),
    3: ("namespace", "str"),
    5: ("uid", "str"),
    6: ("resourceVersion", "str"),
    7: ("generation", "int"),
    8: ("creationTimestamp", "time"),
    11: ("labels", ("map", "str")),
    12: ("annotations", ("map", "str")),
    13: ("ownerReferences", (_OWNER,)),
    14: ("finalizers", ("str",)),
}
_RULE: Message = {
    1: ("verbs", ("str",)),
    2: ("apiGroups", ("str",)),
    3: ("resources", ("str",)),
    4: ("resourceNames", ("str",)),
    5: ("nonResourceURLs", ("str",)),
}
_SUBJECT: Message = {1: ("kind", "str"), 2: ("apiGroup", "str"), 3: ("name", "str"), 4: ("namespace", "str")}
_ROLE_REF: Message = {1: ("apiGroup", "str"), 2: ("kind", "str"), 3: ("name", "str")}
_ROLE: Message = {1: ("metadata", _META), 2: ("rules", (_RULE,))}
_BINDING: Message = {1: ("metadata", _META), 2: ("subjects", (_SUBJECT,)), 3: ("roleRef", _ROLE_REF)}
_ATTRIBUTES: Message = {
    number: (name, "str")
    for number, name in enumerate(("namespace", "verb", "group", "version", "resource", "subresource", "name"), 1)
}
_PATHS: Message = {1: ("path", "str"), 2: ("verb", "str")}
_PRECONDITIONS: Message = {1: ("uid", "str"), 2: ("resourceVersion", "str")}

KINDS: dict[str, Message] = {
    "ConfigMap": {
        1: ("metadata", _META),
        2: ("data", ("map", "str")),
        3: ("binaryData", ("map", "bytes")),
        4: ("immutable", "bool"),
    },
    "Secret": {
        1: ("metadata", _META),
        2: ("data", ("map", "bytes")),
        3: ("type", "str"),
        4: ("stringData", ("map", "str")),
        5: ("immutable", "bool"),
    },
    "Namespace": {1: ("metadata", _META)},
    "ServiceAccount": {1: ("metadata", _META)},
    "Role": _ROLE,
    "ClusterRole": _ROLE,
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
    "SelfSubjectAccessReview": {
        2: ("spec", {1: ("resourceAttributes", _ATTRIBUTES), 2: ("nonResourceAttributes", _PATHS)})
    },
    "SelfSubjectRulesReview": {2: ("spec", {1: ("namespace", "str")})},
    "SelfSubjectReview": {1: ("metadata", _META)},
    "TokenReview": {2: ("spec", {1: ("token", "str")})},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", "int"),
        2: ("preconditions", _PRECONDITIONS),
        3: ("orphanDependents", "bool"),
        4: ("propagationPolicy", "str"),
        5: ("dryRun", ("str",)),
    },
}
_ENVELOPE: Message = {1: ("type", {1: ("apiVersion", "str"), 2: ("kind", "str")}), 2: ("raw", "raw")}


def decode(body: bytes) -> Obj:
    """Return the object in a request's body; ApiError 400 for a broken body or an unknown kind."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body is no Kubernetes protobuf")
    try:
        envelope = _read(body[len(_MAGIC) :], _ENVELOPE)
        head = envelope["type"]
        if head["kind"] not in KINDS:
            raise bad_request(f"a {head['kind']} can be sent as JSON only")
        return {**head, **_read(envelope.get("raw", b""), KINDS[head["kind"]])}
    except (IndexError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise bad_request(f"the protobuf cannot be read: {error!r}") from error


def _read(data: bytes, message: Message) -> Obj:
    found: Obj = {}
    for number, value in _fields(data):
        if number not in message:
            continue
        name, kind = message[number]
        if isinstance(kind, tuple) and kind[0] == "map":
            pair = _read(_bytes(value), {1: ("key", "str"), 2: ("value", kind[1])})
            found.setdefault(name, {})[pair.get("key", "")] = pair.get("value", "")
        elif isinstance(kind, tuple):
            found.setdefault(name, []).append(_value(value, kind[0]))
        else:
            found[name] = _value(value, kind)
    return {name: value for name, value in found.items() if value is not None}


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield tag >> 3, value
            case 2:
                size, at = _varint(data, at)
                yield tag >> 3, data[at : at + size]
                at += size
            case 1:
                at += 8
            case 5:
                at += 4
            case wire_type:
                raise ValueError(f"wire type {wire_type}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where there should be bytes")
    return value


def _value(value: int | bytes, kind: Any) -> Any:
    match kind:
        case "int":
            return value
        case "bool":
            return bool(value)
        case "str":
            return _bytes(value).decode()
        case "raw":
            return value
        case "bytes":
            return base64.b64encode(_bytes(value)).decode()
        case "time":
            seconds = _read(_bytes(value), {1: ("seconds", "int")}).get("seconds")
            return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None
        case _:
            return _read(_bytes(value), kind)

# SPDX-License-Identifier: Apache-2.0
"""The forms in which objects are written: whole, as rows of a table, or as metadata only."""

from __future__ import annotations

from dataclasses import dataclass

from kubeplane.errors import ApiError, Obj, bad_request
from kubeplane.kinds.resources import Resource
from kubeplane.storage.store import Stored, encode

_WRITABLE = ("application/json", "application/*", "*/*")
_TABLE_VERSIONS = ("v1", "v1beta1")


@dataclass(frozen=True, slots=True)
class Form:
    """How objects are to be written: as they are, as rows of a table, or as metadata only."""

    kind: str = ""  # "", Table or PartialObjectMetadata
    include: str = "Metadata"


def asked_form(accept: str, include: str) -> Form:
    """Return the first form in an Accept header that the server can write; ApiError 406 if there is none."""
    if include not in ("", "None", "Metadata", "Object"):
        raise bad_request(f'unrecognized includeObject value: "{include}"')
    for part in accept.split(",") if accept else ["*/*"]:
        if part.partition(";")[0].strip() not in _WRITABLE:
            continue
        options = dict(pair.strip().partition("=")[::2] for pair in part.split(";")[1:])
        kind = options.get("as", "").removesuffix("List")
        if not kind:
            return Form()
        if kind in ("Table", "PartialObjectMetadata") and options.get("v") in _TABLE_VERSIONS:
            return Form(kind, include or "Metadata")
    message = "only the following media types are accepted: application/json"
    raise ApiError(406, "NotAcceptable", message)


def partial(obj: Obj) -> Obj:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def encoded(resource: Resource, stored: Stored) -> bytes:
    return stored.encoded(resource.view_name, resource.view.to_wire if resource.view else None)


def item_head(resource: Resource) -> bytes:
    """Return what items of typed lists go without, as they begin with it; those of custom resources keep it."""
    return encode({"apiVersion": resource.api_version, "kind": resource.kind})[:-1] + b","


def list_item(resource: Resource, stored: Stored, head: bytes) -> bytes:
    raw = encoded(resource, stored)
    return b"{" + raw[len(head) :] if head and raw.startswith(head) else raw

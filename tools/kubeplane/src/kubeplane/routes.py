# SPDX-License-Identifier: Apache-2.0
"""What a request asks for, read from its method and path as kube-apiserver's RequestInfo does it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BY_METHOD = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, slots=True)
class Route:
    """A request for a resource; *name* is empty for collections.

    *selected* is the one name that a field selector leaves of a collection: rights to that object suffice then.
    """

    verb: str
    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    selected: str = ""


def route(method: str, path: str, query: dict[str, str]) -> Route | None:
    """Return the resource request in *path*, or None for paths that name no resource."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = [*rest, "", ""][:3]
    if len(rest) > 3 or "" in rest:
        return None
    selected = "" if name else _selected(query.get("fieldSelector", ""))
    return Route(_verb(method, name, query), group, version, plural, namespace, name, subresource, selected)


def _selected(selector: str) -> str:
    terms = (re.fullmatch(r"metadata\.name==?([^=!]+)", term) for term in selector.split(","))
    return next((term[1] for term in terms if term), "")


def _verb(method: str, name: str, query: dict[str, str]) -> str:
    if method == "DELETE":
        return "delete" if name else "deletecollection"
    if method not in ("GET", "HEAD"):
        return _BY_METHOD.get(method, method.lower())
    if query.get("watch") in ("true", "1"):
        return "watch"
    return "get" if name else "list"

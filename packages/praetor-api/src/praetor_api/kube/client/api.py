# SPDX-License-Identifier: Apache-2.0
"""The verbs of the Kubernetes API that the programs use, as requests on raw objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from enum import StrEnum
from typing import Any, TypeAlias

from attrs import frozen

from praetor_api.kube.client.resource import Key, Resource

__all__ = ["INITIAL_EVENTS_END", "KubeApi", "PatchType", "Query", "WatchEvent", "WatchType"]

Query: TypeAlias = Mapping[str, str | None]
"""The parameters of a request; those that are None are left out."""


INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""The annotation of the bookmark that follows the last of the objects with which a watch begins."""


class PatchType(StrEnum):
    """The two kinds of patch that the programs send; the value is its content type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"


class WatchType(StrEnum):
    """The type of a watch event. Errors are raised; they are no events here."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@frozen
class WatchEvent:
    """One line of a watch."""

    type: WatchType
    object: dict[str, Any]


class KubeApi(ABC):
    """Requests to the Kubernetes API. Every call raises only KubeError and ends within a bounded time.

    *namespace* None means all namespaces, or none for a kind that has none. *label_selector* and *field_selector* are
    in the API's string form, as `rack=r1,role!=spine`. *field_manager* names the writer in `metadata.managedFields`.
    """

    async def get(self, resource: Resource, key: Key) -> dict[str, Any]:
        """Return one object; NotFound when there is none."""
        return await self._call("get", resource, "GET", resource.path(key.namespace, key.name))

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        limit: int = 500,
        continue_token: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str | None = None,
    ) -> dict[str, Any]:
        """Return one page of a list, at most *limit* objects; ``metadata.continue`` is the next one's token, if any.

        *continue_token* is that token, which becomes Gone after some minutes. *resource_version* "0" allows an answer
        from the apiserver's cache; None asks for the newest.
        """
        query = {
            "limit": str(limit),
            "continue": continue_token,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "resourceVersion": resource_version,
        }
        return await self._call("list", resource, "GET", resource.path(namespace), query)

    async def create(
        self,
        resource: Resource,
        namespace: str,
        body: Mapping[str, Any],
        *,
        field_manager: str | None = None,
        strict: bool = False,
    ) -> dict[str, Any]:
        """Create *body* and return it as stored; AlreadyExists when there is one of that name.

        With *strict* an API since Kubernetes 1.25 refuses fields that it does not know; an older one drops them.
        """
        query = {"fieldManager": field_manager, "fieldValidation": "Strict" if strict else None}
        return await self._call("create", resource, "POST", resource.path(namespace), query, body)

    async def patch(
        self,
        resource: Resource,
        key: Key,
        body: Any,
        *,
        patch_type: PatchType = PatchType.MERGE,
        subresource: str | None = None,
        field_manager: str | None = None,
        strict: bool = False,
    ) -> dict[str, Any]:
        """Change an object and return it as stored.

        ``metadata.resourceVersion`` in *body* makes it conditional: Conflict when the object has changed. *subresource*
        is `status` or None for the object itself. *strict* is as for create().
        """
        if isinstance(body, (list, tuple)) != (patch_type is PatchType.JSON):
            raise ValueError(f"{patch_type.value} does not take a {type(body).__name__}: only a JSON patch is a list")
        path = resource.path(key.namespace, key.name, subresource)
        query = {"fieldManager": field_manager, "fieldValidation": "Strict" if strict else None}
        return await self._call("patch", resource, "PATCH", path, query, body, patch_type.value)

    async def delete(
        self, resource: Resource, key: Key, *, uid: str | None = None, resource_version: str | None = None
    ) -> None:
        """Delete an object, and later what it owns.

        With *uid* only if it is still that one, with *resource_version* only if it did not change since; else Conflict.
        """
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        wanted = {"uid": uid, "resourceVersion": resource_version}
        if any(wanted.values()):
            body["preconditions"] = {name: value for name, value in wanted.items() if value}
        await self._call("delete", resource, "DELETE", resource.path(key.namespace, key.name), {}, body)

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str = "",
        label_selector: str | None = None,
        field_selector: str | None = None,
        timeout_s: float,
        listed: bool = False,
        on_open: Callable[[], None] | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield the changes after *resource_version*, and bookmarks, for about *timeout_s* seconds.

        With *listed* it begins with all objects, as ADDED, and a bookmark with INITIAL_EVENTS_END after the last one;
        an ApiError of 422 comes from an API that cannot do that, as before Kubernetes 1.32.
        *on_open* is called once the API has accepted the watch, which may be long before the first event.
        Close it (contextlib.aclosing) when leaving it early.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "sendInitialEvents": "true" if listed else None,
            "resourceVersionMatch": "NotOlderThan" if listed else None,
            "timeoutSeconds": str(max(1, int(timeout_s))),
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        return self._stream(resource, resource.path(namespace), query, on_open)

    @abstractmethod
    async def _call(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request and return the answer; *verb* is RBAC's word for it."""

    @abstractmethod
    def _stream(
        self, resource: Resource, path: str, query: Query, on_open: Callable[[], None] | None
    ) -> AsyncGenerator[WatchEvent, None]:
        """Open a watch, call *on_open* and yield its events."""

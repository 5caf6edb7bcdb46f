# SPDX-License-Identifier: Apache-2.0
"""Get, list and watch: paging over snapshots and the rules of resourceVersion."""

from __future__ import annotations

import base64
import json
import random
from weakref import WeakSet

from kubeplane import errors
from kubeplane.clock import Clock
from kubeplane.errors import ApiError, Obj, bad_request
from kubeplane.http import tables
from kubeplane.http.rendering import Form, encoded, item_head, list_item, partial
from kubeplane.http.watching import Watch
from kubeplane.kinds.resources import Resource
from kubeplane.registry.selection import Selection
from kubeplane.storage.store import Store, Stored, encode


def number(text: str) -> int:
    """Return a resourceVersion as a number; ApiError as a real one answers."""
    if not text:
        return 0
    if not text.isdigit():
        message = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise ApiError(400, "BadRequest", message)
    return int(text)


class Reader:
    """Reads for one store. Watches send a bookmark every *bookmark_s* seconds; 0: none by themselves."""

    def __init__(self, store: Store, clock: Clock, *, bookmark_s: float = 60.0) -> None:
        self._store = store
        self._clock = clock
        self._bookmark_s = bookmark_s
        self._watches: WeakSet[Watch] = WeakSet()

    def one(self, resource: Resource, stored: Stored, form: Form) -> bytes:
        """Return the body for a single object."""
        match form.kind:
            case "Table":
                meta = {"resourceVersion": str(stored.rv)}
                return encode(tables.table(resource, [stored], meta, self._clock.now(), form.include))
            case "PartialObjectMetadata":
                return encode(partial(stored.obj))
        return encoded(resource, stored)

    def listing(self, chosen: Selection, query: dict[str, str], form: Form) -> bytes:
        """Return the body of a list."""
        items, meta = self._page(chosen, query)
        return self.list_of(chosen.resource, items, meta, form)

    def list_of(self, resource: Resource, items: list[Stored], meta: Obj, form: Form) -> bytes:
        if form.kind == "Table":
            return encode(tables.table(resource, items, meta, self._clock.now(), form.include))
        if form.kind:
            parts = [encode(partial(item.obj)) for item in items]
            kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        else:
            head = b"" if resource.custom else item_head(resource)
            parts = [list_item(resource, item, head) for item in items]
            kind, version = resource.list_kind, resource.api_version
        opening = {"kind": kind, "apiVersion": version, "metadata": meta}
        return encode(opening)[:-1] + b',"items":[' + b",".join(parts) + b"]}"

    def _page(self, chosen: Selection, query: dict[str, str]) -> tuple[list[Stored], Obj]:
        limit = _limit(query.get("limit", ""))
        rv, after = self._position(query, limit)
        items = self._store.items_at(chosen.resource.table, chosen.namespace, rv)
        if after:
            items = [item for item in items if item.key > after]
        if not chosen.everything:
            items = [item for item in items if chosen.takes(item)]
        meta: Obj = {"resourceVersion": str(rv)}
        if limit and len(items) > limit:
            meta["continue"] = _token(rv, items[limit - 1].key)
            if chosen.everything:
                meta["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        elif chosen.resource.custom:
            meta["continue"] = ""
        return items, meta

    def _position(self, query: dict[str, str], limit: int) -> tuple[int, tuple[str, str]]:
        """Return the revision to list at, and the key after which to begin."""
        asked, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
        if query.get("continue"):
            if asked not in ("", "0"):
                raise bad_request("specifying resource version is not allowed when using continue")
            return self._continued(query["continue"])
        _check_match(asked, match)
        rv = number(asked)
        if rv > self._store.rv:
            raise errors.timeout(f"Timeout: Too large resource version: {rv}, current: {self._store.rv}", 1)
        exact = match == "Exact" or (not match and limit and rv)
        return (rv if exact else self._store.rv), ("", "")

    def _continued(self, text: str) -> tuple[int, tuple[str, str]]:
        rv, key = _parse_token(text)
        if rv < 0:
            return self._store.rv, key
        if rv < self._store.compacted:
            message = (
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter, or use the continue token in this response to retrieve the "
                "remainder of the results. Continuing with the provided token results in an inconsistent list - "
                "objects that were created, modified, or deleted between the time the first chunk was returned and "
                "now may show up in the list."
            )
            raise errors.expired(message, **{"continue": _token(-1, key)})
        return rv, key

    # watch

    def watch(self, chosen: Selection, query: dict[str, str], form: Form) -> Watch:
        """Return a watch, already listening; ApiError when it cannot begin."""
        asked = query.get("resourceVersion", "")
        rv = number(asked)
        initial = query.get("sendInitialEvents")
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            cause = errors.Cause("FieldValueForbidden", why, "resourceVersionMatch")
            raise errors.invalid("meta.k8s.io", "ListOptions", "", [cause])
        seconds = query.get("timeoutSeconds", "")
        timeout = float(seconds) if seconds.isdigit() and int(seconds) else random.uniform(1800, 3600)  # noqa: S311
        listed = initial == "true" or (initial is None and not rv)
        bookmarks = self._bookmark_s if query.get("allowWatchBookmarks") in ("true", "1") else 0.0
        watch = Watch(self._store, chosen, form, self._clock, timeout_s=timeout, bookmark_s=bookmarks)
        watch.begin(self._store.rv if initial == "false" and not rv else rv, listed=listed, marked=initial == "true")
        self._watches.add(watch)
        return watch

    def send_bookmarks(self) -> None:
        """Send a bookmark on every open watch now."""
        for watch in tuple(self._watches):
            watch.mark()


def _limit(text: str) -> int:
    if text and not text.lstrip("-").isdigit():
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return max(0, int(text or 0))


def _check_match(asked: str, match: str) -> None:
    if match and not asked:
        why = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        cause = errors.Cause("FieldValueForbidden", why, "resourceVersionMatch")
        raise errors.invalid("meta.k8s.io", "ListOptions", "", [cause])
    if match not in ("", "Exact", "NotOlderThan"):
        why = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""'
        cause = errors.Cause("FieldValueNotSupported", why, "resourceVersionMatch")
        raise errors.invalid("meta.k8s.io", "ListOptions", "", [cause])
    if match == "Exact" and asked == "0":
        why = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        cause = errors.Cause("FieldValueForbidden", why, "resourceVersionMatch")
        raise errors.invalid("meta.k8s.io", "ListOptions", "", [cause])


def _token(rv: int, key: tuple[str, str]) -> str:
    raw = encode({"v": "meta.k8s.io/v1", "rv": rv, "start": "/".join(key)})
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _parse_token(text: str) -> tuple[int, tuple[str, str]]:
    try:
        token = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        namespace, _, name = token["start"].partition("/")
        return int(token["rv"]), (namespace, name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error

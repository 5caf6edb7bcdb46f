"""Get, list and watch: selection, paging over snapshots, resourceVersion rules, and the stream of events."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from e2e.embedded import errors, selectors, tables
from e2e.embedded.errors import ApiError, Obj, bad_request
from e2e.embedded.resources import Resource
from e2e.embedded.selectors import FieldTerm, Selector
from e2e.embedded.server import Send
from e2e.embedded.store import Change, Store, Stored, encode

_WRITABLE = ("application/json", "application/*", "*/*")
_TABLE_VERSIONS = ("v1", "v1beta1")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource are meant."""

    resource: Resource
    namespace: str
    labels: Selector
    fields: tuple[FieldTerm, ...]

    def takes(self, stored: Stored) -> bool:
        if self.namespace and stored.key[0] != self.namespace:
            return False
        if self.labels.requirements and not self.labels.matches(stored.obj["metadata"].get("labels") or {}):
            return False
        return not self.fields or selectors.fields_match(self.fields, _fields(stored, self.resource))

    @property
    def everything(self) -> bool:
        return not self.labels.requirements and not self.fields


def selection(resource: Resource, namespace: str, query: dict[str, str], name: str = "") -> Selection:
    """What *query* selects; ApiError 400 for a selector that cannot be understood or that is not supported."""
    fields = selectors.parse_fields(query.get("fieldSelector", ""))
    for term in fields:
        if term.path not in ("metadata.name", "metadata.namespace", *resource.selectable):
            raise bad_request(_unsupported(resource, term.path))
    if name:
        fields = (*fields, FieldTerm("metadata.name", False, name))
    return Selection(resource, namespace, selectors.parse_labels(query.get("labelSelector", "")), fields)


def _unsupported(resource: Resource, path: str) -> str:
    if resource.custom or resource.table == "/events":
        return f"field label not supported: {path}"
    return f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'


def _stored_path(path: str) -> str:
    """Events are stored in their core form, under either group's names."""
    head, dot, tail = path.partition(".")
    names = {"regarding": "involvedObject", "reportingController": "reportingComponent"}
    return names.get(head, head) + dot + tail


def _fields(stored: Stored, resource: Resource) -> dict[str, str]:
    fields = {"metadata.namespace": stored.key[0], "metadata.name": stored.key[1]}
    for path in resource.selectable:
        fields[path] = _field(stored.obj, _stored_path(path))
    if resource.table == "/events":
        source = (stored.obj.get("source") or {}).get("component") or stored.obj.get("reportingComponent") or ""
        fields |= {"source": source, "reportingComponent": source, "reportingController": source}
    return fields


def _field(value: object, path: str) -> str:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def number(text: str) -> int:
    """A resourceVersion as a number; ApiError as a real one answers."""
    if not text:
        return 0
    if not text.isdigit():
        message = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise ApiError(400, "BadRequest", message)
    return int(text)


@dataclass(frozen=True, slots=True)
class Form:
    """How objects are to be written: as they are, as rows of a table, or as metadata only."""

    kind: str = ""  # "", Table or PartialObjectMetadata
    include: str = "Metadata"


def asked_form(accept: str, include: str) -> Form:
    """The first form in an Accept header that the server can write; ApiError 406 if there is none."""
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


class Reader:
    """Reads for one store. *now* is for the ages in tables."""

    def __init__(self, store: Store, now: Callable[[], datetime], *, bookmark_s: float = 60.0) -> None:
        self._store = store
        self._now = now
        self._bookmark_s = bookmark_s

    def one(self, resource: Resource, stored: Stored, form: Form) -> bytes:
        """The body for a single object."""
        match form.kind:
            case "Table":
                meta = {"resourceVersion": str(stored.rv)}
                return encode(tables.table(resource, [stored], meta, self._now(), form.include))
            case "PartialObjectMetadata":
                return encode(_partial(stored.obj))
        return _encoded(resource, stored)

    def listing(self, chosen: Selection, query: dict[str, str], form: Form) -> bytes:
        """The body of a list."""
        items, meta = self._page(chosen, query)
        return self.list_of(chosen.resource, items, meta, form)

    def list_of(self, resource: Resource, items: list[Stored], meta: Obj, form: Form) -> bytes:
        if form.kind == "Table":
            return encode(tables.table(resource, items, meta, self._now(), form.include))
        if form.kind:
            parts = [encode(_partial(item.obj)) for item in items]
            kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        else:
            parts = [_list_item(resource, item) for item in items]
            kind, version = resource.list_kind, resource.api_version
        head = {"kind": kind, "apiVersion": version, "metadata": meta}
        return encode(head)[:-1] + b',"items":[' + b",".join(parts) + b"]}"

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
        """The revision to list at, and the key after which to begin."""
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
        """A watch, already listening; ApiError when it cannot begin."""
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
        watch = Watch(self._store, chosen, form, self._now, timeout_s=timeout, bookmark_s=bookmarks)
        watch.begin(self._store.rv if initial == "false" and not rv else rv, listed=listed, marked=initial == "true")
        return watch


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


def _partial(obj: Obj) -> Obj:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _encoded(resource: Resource, stored: Stored) -> bytes:
    return stored.encoded(resource.view_name, resource.view.to_wire if resource.view else None)


def _list_item(resource: Resource, stored: Stored) -> bytes:
    """Items of typed lists go without kind and apiVersion; those of custom resources keep them."""
    raw = _encoded(resource, stored)
    if resource.custom:
        return raw
    head = encode({"apiVersion": resource.api_version, "kind": resource.kind})[:-1] + b","
    return b"{" + raw[len(head) :] if raw.startswith(head) else raw


class Watch:
    """One watch: changes become lines, which the stream sends as they come."""

    def __init__(
        self,
        store: Store,
        chosen: Selection,
        form: Form,
        now: Callable[[], datetime],
        *,
        timeout_s: float,
        bookmark_s: float,
    ) -> None:
        self._store = store
        self._chosen = chosen
        self._form = form
        self._now = now
        self._timeout_s = timeout_s
        self._bookmark_s = bookmark_s
        self._lines: list[bytes] = []
        self._wake = asyncio.Event()
        self._headed = True
        self._after = 0
        self._unsubscribe: Callable[[], None] = lambda: None
        self.failed = False
        self.frozen = False  # misbehaving on purpose: nothing is sent any more

    def begin(self, rv: int, *, listed: bool, marked: bool) -> None:
        """Queue what is there or what happened after *rv*, and listen from now on."""
        try:
            past = [] if listed else self._store.since(self._chosen.resource.table, rv)
        except ApiError as error:
            self._lines.append(_line(b"ERROR", encode(error.as_status())))
            self.failed = True
            return
        self._after = 0 if listed else rv
        if listed:
            for stored in self._store.items(self._chosen.resource.table, self._chosen.namespace):
                if self._chosen.takes(stored):
                    self._lines.append(_line(b"ADDED", self._object(stored)))
        for change in past:
            self._offer(change)
        if marked:
            self._lines.append(self._bookmark({"k8s.io/initial-events-end": "true"}))
        self._wake.set()
        self._unsubscribe = self._store.subscribe(self._chosen.resource.table, self._offer)

    def _offer(self, change: Change) -> None:
        if self.frozen or change.rv <= self._after:
            return
        after = not change.deleted and self._chosen.takes(change.new)
        before = change.old is not None and self._chosen.takes(change.old)
        if after:
            kind = b"MODIFIED" if before else b"ADDED"
        elif before:
            kind = b"DELETED"
        else:
            return
        self._lines.append(self._event(kind, change))
        self._wake.set()

    def _event(self, kind: bytes, change: Change) -> bytes:
        if self._form.kind:
            return _line(kind, self._object(change.new))
        key = (kind.decode(), self._chosen.resource.view_name)
        if key not in change.lines:
            change.lines[key] = _line(kind, self._object(change.new))
        return change.lines[key]

    def _object(self, stored: Stored) -> bytes:
        resource = self._chosen.resource
        if self._form.kind == "Table":
            meta = {"resourceVersion": str(stored.rv)}
            headed, self._headed = self._headed, False
            return encode(tables.table(resource, [stored], meta, self._now(), self._form.include, headed))
        return encode(_partial(stored.obj)) if self._form.kind else _encoded(resource, stored)

    def _bookmark(self, annotations: dict[str, str] | None = None) -> bytes:
        resource = self._chosen.resource
        meta: Obj = {"resourceVersion": str(max(self._store.rv, self._after)), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        obj: Obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        if self._form.kind == "Table":
            obj = tables.table(resource, [], meta, self._now(), self._form.include, headed=False)
        return _line(b"BOOKMARK", encode(obj))

    async def stream(self, send: Send) -> None:
        """Send until the watch's time is over; a bookmark goes out now and then and before the end."""
        try:
            await self._stream(send)
        finally:
            self._unsubscribe()

    async def _stream(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout_s
        marked = loop.time()
        while True:
            await self._flush(send)
            if self.failed:
                return
            due = min(end, marked + self._bookmark_s) if self._bookmark_s else end
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
                continue
            except TimeoutError:
                marked = loop.time()
            if self._bookmark_s and not self.frozen:
                await self._flush(send)
                await send(self._bookmark())
            if loop.time() >= end:
                return

    async def _flush(self, send: Send) -> None:
        self._wake.clear()
        if self._lines:
            lines, self._lines = self._lines, []
            await send(b"".join(lines))


def _line(kind: bytes, body: bytes) -> bytes:
    return b'{"type":"' + kind + b'","object":' + body + b"}\n"

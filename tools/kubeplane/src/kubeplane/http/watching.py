# SPDX-License-Identifier: Apache-2.0
"""One watch: the store's changes become lines, in the selection and the form that were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kubeplane.clock import Clock
from kubeplane.errors import ApiError, Obj
from kubeplane.http import tables
from kubeplane.http.messages import Send
from kubeplane.http.rendering import Form, encoded, partial
from kubeplane.registry.selection import Selection
from kubeplane.storage.store import Change, Store, Stored, encode


class Watch:
    """One watch: changes become lines, which the stream sends as they come."""

    def __init__(
        self,
        store: Store,
        chosen: Selection,
        form: Form,
        clock: Clock,
        *,
        timeout_s: float,
        bookmark_s: float,
    ) -> None:
        self._store = store
        self._chosen = chosen
        self._form = form
        self._clock = clock
        self._timeout_s = timeout_s
        self._bookmark_s = bookmark_s
        self._lines: list[bytes] = []
        self._wake = asyncio.Event()
        self._headed = True
        self._after = 0
        self._unsubscribe: Callable[[], None] = lambda: None
        self._over = False
        self.frozen = False  # by an injected fault: nothing is sent any more

    def begin(self, rv: int, *, listed: bool, marked: bool) -> None:
        """Queue what is there or what happened after *rv*, and listen from now on."""
        try:
            past = [] if listed else self._store.since(self._chosen.resource.table, rv)
        except ApiError as error:
            self._lines.append(_line(b"ERROR", encode(error.as_status())))
            self._over = True
            return
        self._after = rv if not listed and rv > self._store.rv else 0  # of the future: nothing is new until then
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
            return encode(tables.table(resource, [stored], meta, self._clock.now(), self._form.include, headed))
        return encode(partial(stored.obj)) if self._form.kind else encoded(resource, stored)

    def _bookmark(self, annotations: dict[str, str] | None = None) -> bytes:
        resource = self._chosen.resource
        meta: Obj = {"resourceVersion": str(max(self._store.rv, self._after)), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        obj: Obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        if self._form.kind == "Table":
            obj = tables.table(resource, [], meta, self._clock.now(), self._form.include, headed=False)
        return _line(b"BOOKMARK", encode(obj))

    def mark(self) -> None:
        """Queue a bookmark behind what is queued already.

        It goes through the queue: what is written while older lines go out is in the store's revision already, and a
        client that resumed from a bookmark of that revision would never hear of it.
        """
        if not self.frozen:
            self._lines.append(self._bookmark())
            self._wake.set()

    async def stream(self, send: Send) -> None:
        """Send until the watch's time is over; a bookmark goes out now and then and before the end."""
        timer = asyncio.create_task(self._keep_time(), name="keep a watch's time")
        try:
            while True:
                await self._flush(send)
                if self._over:
                    return
                await self._wake.wait()
        finally:
            timer.cancel()
            self._unsubscribe()

    async def _keep_time(self) -> None:
        """Mark at each interval and at the end."""
        end = self._clock.monotonic() + self._timeout_s
        while (left := end - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, self._bookmark_s or left))
            if self._bookmark_s:
                self.mark()
        self._over = True
        self._wake.set()

    async def _flush(self, send: Send) -> None:
        self._wake.clear()
        if self._lines:
            lines, self._lines = self._lines, []
            await send(b"".join(lines))


def _line(kind: bytes, body: bytes) -> bytes:
    return b'{"type":"' + kind + b'","object":' + body + b"}\n"

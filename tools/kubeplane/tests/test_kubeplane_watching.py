# SPDX-License-Identifier: Apache-2.0
"""A watch sends every change, in order, whatever is written while its reader is slow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from kubeplane.clock import SystemClock
from kubeplane.http.rendering import Form
from kubeplane.http.watching import Watch
from kubeplane.kinds.resources import Resource
from kubeplane.registry.selection import selection
from kubeplane.storage.store import Store

THINGS = Resource(group="example.com", version="v1", kind="Thing", plural="things", table="things", schema={})


class SlowReader:
    """Takes what is sent; during each of the first *writes* sends, another client writes an object."""

    def __init__(self, store: Store, writes: int) -> None:
        self._store = store
        self._writes = writes
        self.frames: list[tuple[str, int]] = []
        self._more = asyncio.Event()

    async def took(self, frames: int) -> None:
        while len(self.frames) < frames:
            self._more.clear()
            await self._more.wait()

    async def send(self, data: bytes) -> None:
        if self._writes:
            self._writes -= 1
            put(self._store, f"late-{self._writes}")
        for frame in map(json.loads, data.splitlines()):
            self.frames.append((frame["type"], int(frame["object"]["metadata"]["resourceVersion"])))
        self._more.set()


def put(store: Store, name: str) -> None:
    store.put("things", ("ns", name), {"metadata": {"name": name, "namespace": "ns"}})


def versions(frames: Iterable[tuple[str, int]], wanted: str) -> list[int]:
    return [version for kind, version in frames if kind == wanted]


async def test_a_bookmark_is_not_ahead_of_what_was_sent() -> None:
    store = Store()
    put(store, "early")
    watch = Watch(store, selection(THINGS, "", {}), Form(), SystemClock(), timeout_s=60, bookmark_s=60)
    watch.begin(1, listed=False, marked=False)
    watch.mark()
    reader = SlowReader(store, writes=1)
    stream = asyncio.create_task(watch.stream(reader.send))
    await reader.took(3)
    stream.cancel()
    kinds = [kind for kind, _ in reader.frames]
    (first, late), (marked,) = (versions(reader.frames, kind) for kind in ("ADDED", "BOOKMARK"))
    assert kinds == ["ADDED", "BOOKMARK", "ADDED"]
    assert first == marked
    assert [change.rv for change in store.since("things", marked)] == [late] == [marked + 1]

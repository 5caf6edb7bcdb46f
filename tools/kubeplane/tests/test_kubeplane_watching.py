"""A watch tells of every change, in order, whatever is written while its reader is slow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from kubeplane.http.rendering import Form
from kubeplane.http.watching import Watch
from kubeplane.kinds.resources import Resource
from kubeplane.registry.selection import selection
from kubeplane.storage.store import Store

THINGS = Resource(group="example.com", version="v1", kind="Thing", plural="things", table="things", schema={})


class SlowReader:
    """Takes what is sent; each of the first *writes* sends lasts so long that somebody writes an object meanwhile."""

    def __init__(self, store: Store, writes: int) -> None:
        self._store = store
        self._writes = writes
        self.frames: list[tuple[str, int]] = []

    async def send(self, data: bytes) -> None:
        if self._writes:
            self._writes -= 1
            put(self._store, f"late-{self._writes}")
        for frame in map(json.loads, data.splitlines()):
            self.frames.append((frame["type"], int(frame["object"]["metadata"]["resourceVersion"])))


def put(store: Store, name: str) -> None:
    store.put("things", ("ns", name), {"metadata": {"name": name, "namespace": "ns"}})


def versions(frames: Iterable[tuple[str, int]], wanted: str) -> list[int]:
    return [version for kind, version in frames if kind == wanted]


async def test_a_bookmark_is_not_ahead_of_what_was_sent() -> None:
    store = Store()
    put(store, "early")
    watch = Watch(store, selection(THINGS, "", {}), Form(), lambda: datetime.now(UTC), timeout_s=60, bookmark_s=60)
    watch.begin(1, listed=False, marked=False)
    reader = SlowReader(store, writes=1)
    await watch.mark(reader.send)
    kinds = [kind for kind, _ in reader.frames]
    (told,), (marked,) = (versions(reader.frames, kind) for kind in ("ADDED", "BOOKMARK"))
    assert kinds == ["ADDED", "BOOKMARK"]
    assert told == marked
    assert [change.rv for change in store.since("things", marked)] == [marked + 1]  # whoever resumes hears of it

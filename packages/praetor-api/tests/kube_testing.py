"""Fakes with real behaviour for the tests of the programs: a clock that the test moves, a Kubernetes API in memory."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import frozen

from kube_selectors import matches
from kube_store import Change, Store, copied
from praetor_api.kube.client.api import PatchType, WatchEvent, WatchType
from praetor_api.kube.client.errors import KubeError, Unreachable, api_error
from praetor_api.kube.client.resource import Key, Resource
from praetor_api.kube.runtime.clock import Clock, SystemClock

_MAX_SPINS = 100_000
_SPINS_UNSEEN = 50  # for loops that do not show whether they have something to run


class FakeClock:
    """Time stands still until the test advances it."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = 0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(self._sleepers, (self._monotonic + seconds, self._sequence, woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Move both clocks on; whoever sleeps meanwhile wakes at its time and runs until everybody waits again."""
        end = self._monotonic + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._move(max(0.0, due - self._monotonic))
            woken.set_result(None)
            await self.settle()
        self._move(max(0.0, end - self._monotonic))
        await self.settle()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as NTP or a person does; the monotonic one does not notice."""
        self._now += timedelta(seconds=seconds)

    def oversleep(self, seconds: float) -> None:
        """Move both clocks on with nobody running meanwhile, as a stopped process or a sleeping machine sees it."""
        self._move(seconds)

    async def settle(self) -> None:
        """Let all tasks run until each waits for time or for the network."""
        ready = getattr(asyncio.get_running_loop(), "_ready", None)
        for _ in range(_MAX_SPINS if ready is not None else _SPINS_UNSEEN):
            await asyncio.sleep(0)
            if ready is not None and not ready:
                return

    def _move(self, seconds: float) -> None:
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)


@frozen
class Request:
    """One request that reached the fake; *verb* as RBAC calls it (get, list, create, patch, delete, watch)."""

    verb: str
    resource: Resource
    key: Key | None = None
    subresource: str | None = None


@frozen
class _Trouble:
    error: KubeError | None  # None: never answers
    verb: str | None
    resource: Resource | None

    def hits(self, request: Request) -> bool:
        return self.verb in (None, request.verb) and self.resource in (None, request.resource)


class FakeKube:
    """A KubeApi in memory. Another client of the same API, with troubles of its own, comes from another_client()."""

    def __init__(self, clock: Clock | None = None, *, store: Store | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._store = store or Store(self._clock)
        self._troubles: list[_Trouble] = []
        self._watches: set[_Watch] = set()
        self.requests: list[Request] = []
        self.unreachable = False  # while true, every request fails; open watches stay silent

    def another_client(self) -> FakeKube:
        """Return a second client of the same objects, as another process has one."""
        return FakeKube(self._clock, store=self._store)

    # The world, for tests to look at and to shape.

    def objects(self, resource: Resource) -> dict[Key, dict[str, Any]]:
        """Return copies of all objects of a kind."""
        return copied(self._store.objects.get(resource, {}))

    def fail_next(
        self, error: KubeError, *, verb: str | None = None, resource: Resource | None = None, times: int = 1
    ) -> None:
        """Let the next *times* requests (of *verb*, of *resource*) fail without effect."""
        self._troubles += [_Trouble(error, verb, resource)] * times

    def hang_next(self, *, verb: str | None = None, resource: Resource | None = None, times: int = 1) -> None:
        """Let the next *times* requests (of *verb*, of *resource*) have no effect and no answer, until cancelled."""
        self._troubles += [_Trouble(None, verb, resource)] * times

    def heal(self) -> None:
        """Forget failures and hangs that were not met yet."""
        self._troubles.clear()
        self.unreachable = False

    def expire_history(self) -> None:
        """Compact: a watch from an older version gets 410; this client's open watches end so, too."""
        self._store.expire()
        self.end_watches(api_error(410, "Expired", "too old resource version"))

    def rewind(self, version: int) -> None:
        """Set the resourceVersion back, as restoring etcd from a backup does."""
        self._store.version = version
        self._store.history.clear()

    def end_watches(self, error: KubeError | None = None) -> None:
        """End this client's open watches, as a server does: normally, or with *error*."""
        for watch in tuple(self._watches):
            watch.end(error)

    def silence_watches(self) -> None:
        """Cut this client's open watches off without a word, as a dead network does."""
        for watch in self._watches:
            watch.silent = True

    def send_bookmarks(self) -> None:
        """Send a bookmark on each of this client's open watches."""
        for watch in self._watches:
            watch.bookmark()

    # KubeApi

    async def get(self, resource: Resource, key: Key) -> dict[str, Any]:
        await self._arrive(Request("get", resource, key))
        return self._store.read(resource, key)

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
        await self._arrive(Request("list", resource))
        version, after = _parse_token(continue_token) if continue_token else (self._store.version, Key("", ""))
        if version < self._store.oldest_watchable:
            raise api_error(410, "Expired", "The provided continue parameter is too old")
        objects = self._store.objects.get(resource, {})
        shown = [key for key in sorted(objects) if key > after]
        shown = [key for key in shown if matches(objects[key], namespace, label_selector, field_selector)]
        page, rest = (shown[:limit], shown[limit:]) if limit else (shown, [])
        metadata = {"resourceVersion": str(version)}
        if rest:
            metadata |= {"continue": f"{version} {page[-1]}", "remainingItemCount": str(len(rest))}
        return {
            "apiVersion": resource.api_version,
            "kind": f"{resource.kind}List",
            "metadata": metadata,
            "items": [copied(objects[key]) for key in page],
        }

    async def create(
        self, resource: Resource, namespace: str, body: Mapping[str, Any], *, field_manager: str | None = None
    ) -> dict[str, Any]:
        name = body.get("metadata", {}).get("name")
        await self._arrive(Request("create", resource, Key(namespace, name) if name else None))
        return self._store.create(resource, namespace, body)

    async def patch(
        self,
        resource: Resource,
        key: Key,
        body: Any,
        *,
        patch_type: PatchType = PatchType.MERGE,
        subresource: str | None = None,
        field_manager: str | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        await self._arrive(Request("patch", resource, key, subresource))
        return self._store.patch(resource, key, body, patch_type, subresource)

    async def delete(
        self, resource: Resource, key: Key, *, uid: str | None = None, propagation: str = "Background"
    ) -> None:
        await self._arrive(Request("delete", resource, key))
        self._store.delete(resource, key, uid)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        resource_version: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        timeout_s: float,
        on_open: Callable[[], None] | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        await self._arrive(Request("watch", resource))
        version = int(resource_version)
        if version < self._store.oldest_watchable:
            raise api_error(410, "Expired", "too old resource version")
        watch = _Watch(self._store, resource, version)
        self._watches.add(watch)
        if on_open is not None:
            on_open()
        timer = asyncio.ensure_future(self._clock.sleep(timeout_s))
        timer.add_done_callback(lambda _: watch.end(None))
        try:
            async for change in watch:
                if isinstance(change, WatchEvent):
                    yield change
                elif event := _event(change, namespace, label_selector, field_selector):
                    yield event
        finally:
            self._watches.discard(watch)
            timer.cancel()

    async def _arrive(self, request: Request) -> None:
        self.requests.append(request)
        await asyncio.sleep(0)  # others get a turn, as with a real network
        if self.unreachable:
            raise Unreachable("the fake API is unreachable")
        trouble = next((trouble for trouble in self._troubles if trouble.hits(request)), None)
        if trouble is None:
            return
        self._troubles.remove(trouble)
        if trouble.error is None:
            await asyncio.get_running_loop().create_future()
        else:
            raise trouble.error


class _Watch:
    """One open watch: reads the history from its version on, waits for more."""

    def __init__(self, store: Store, resource: Resource, version: int) -> None:
        self._store = store
        self._resource = resource
        self._version = version
        self._ended = False
        self._error: KubeError | None = None
        self._marked = False
        self._news = asyncio.Event()
        self.silent = False
        store.listeners.add(self._news.set)

    def end(self, error: KubeError | None) -> None:
        if not self.silent:
            self._ended, self._error = True, error
            self._news.set()

    def bookmark(self) -> None:
        self._marked = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Change | WatchEvent]:
        try:
            while True:
                self._news.clear()  # before taking: what comes while the reader is busy is news, too
                for item in self._take():
                    yield item
                if self._ended and not self.silent:
                    break
                await self._news.wait()
        finally:
            self._store.listeners.discard(self._news.set)
        if self._error is not None:
            raise self._error

    def _take(self) -> list[Change | WatchEvent]:
        if self.silent:
            return []
        news = [c for c in self._store.history_after(self._version) if c.resource == self._resource]
        self._version = max(self._version, self._store.version)
        marked, self._marked = self._marked, False
        return [*news, self._bookmark()] if marked else [*news]

    def _bookmark(self) -> WatchEvent:
        """Return a bookmark of now: one of when it was asked for might be older than the news before it."""
        metadata = {"resourceVersion": str(self._store.version), "creationTimestamp": None}
        obj = {"kind": self._resource.kind, "apiVersion": self._resource.api_version, "metadata": metadata}
        return WatchEvent(WatchType.BOOKMARK, obj)


def _event(
    change: Change, namespace: str | None, label_selector: str | None, field_selector: str | None
) -> WatchEvent | None:
    """Return what a watch with these selectors sees of *change*: an object that stops matching is DELETED to it."""

    def shown(obj: dict[str, Any] | None) -> bool:
        return obj is not None and matches(obj, namespace, label_selector, field_selector)

    match shown(change.old), shown(change.new):
        case False, True:
            return WatchEvent(WatchType.ADDED, copied(change.new or {}))
        case True, True:
            return WatchEvent(WatchType.MODIFIED, copied(change.new or {}))
        case True, False:
            last = copied(change.old or {})
            last["metadata"]["resourceVersion"] = str(change.version)
            return WatchEvent(WatchType.DELETED, last)
    return None


def _parse_token(token: str) -> tuple[int, Key]:
    version, _, key = token.partition(" ")
    namespace, _, name = key.rpartition("/")
    return int(version), Key(namespace, name)

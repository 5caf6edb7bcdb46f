# SPDX-License-Identifier: Apache-2.0
"""An informer: lists and watches one kind into a local store and calls handlers on change.

The store keeps what *project* makes of an object, never the object. It is never emptied:
during a relist it serves the previous rows, and handlers are then called with the differences.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any, Generic, NoReturn, TypedDict, TypeVar

from praetor_api.kube.client.api import INITIAL_EVENTS_END, KubeApi, WatchEvent, WatchType
from praetor_api.kube.client.errors import ApiError, Forbidden, Gone, KubeError, NotFound, Unreachable
from praetor_api.kube.client.resource import Key, Resource
from praetor_api.kube.runtime.backoff import Backoff
from praetor_api.kube.runtime.clock import Clock, first, within
from praetor_api.kube.runtime.indexer import Indexer

__all__ = [
    "ABSENT_S",
    "BACKOFF",
    "CATCH_UP_S",
    "DOUBT_S",
    "HEALTHY_S",
    "LIST_TIMEOUT_S",
    "OPEN_S",
    "OUTAGE_BACKOFF",
    "SHORT_WATCH_S",
    "SILENCE_S",
    "STREAM_PAGES",
    "STREAM_TURN",
    "WATCH_TIMEOUT_S",
    "Handler",
    "Informer",
    "went_back",
]

T = TypeVar("T")

Handler = Callable[[Key, T | None, T | None], None]

BACKOFF = Backoff(base=0.8, factor=2.0, cap=30.0, jitter=1.0)
OUTAGE_BACKOFF = Backoff(base=0.8, factor=2.0, cap=5.0, jitter=1.0)  # no apiserver answers that could be overloaded
SILENCE_S = 120.0
"""Bookmarks come every minute. A watch from a version that the API does not have yet, since its store was restored from
a backup, stays open and silent."""
OPEN_S = 10.0
"""An API answers a watch before it has any event. One that does not is not reached: its connection leads nowhere."""
DOUBT_S = 15.0
"""The least time between two doubts: an API that is slow gets no new watch with each request that it answers late."""
HEALTHY_S = 10.0  # after an attempt of this length, or with an event, the backoff starts over
SHORT_WATCH_S = 1.0
WATCH_TIMEOUT_S = (300.0, 600.0)  # a range, so that replicas do not reconnect together
LIST_TIMEOUT_S = 60.0
STREAM_PAGES = 4
"""A list of more pages than this is read as a stream, if the API can send it so: a current one, which lists from
memory, walks through all that is left for each page. 100,000 objects in pages of 500 keep two cores busy for minutes,
and tokens expire meanwhile."""
STREAM_TURN = 100
"""Objects of a stream after which others get a turn."""
CATCH_UP_S = 1.0
"""A resumed watch delivers missed events for this long, as fast as the API can; the copy counts as behind till then."""
ABSENT_S = (45.0, 60.0)  # a range, as above
"""After this time it is checked again whether a kind that may be absent exists by now."""
_LIST_AGAIN = (400, 410, 504)  # invalid, too old, too new a version: it is of no more use

_log = logging.getLogger(__name__)


class _Silent(Unreachable):
    """An open watch sent nothing for a long time: it is opened again, in case that its connection is lost."""


class _Selectors(TypedDict):
    label_selector: str | None
    field_selector: str | None


class Informer(Generic[T]):
    """A local, read-only copy of one kind.

    *project* turns an object into the row that is kept; it must not change the object. *namespace* None copies all
    namespaces, and the selectors restrict the copy, both in the API's string form. *page_size* is objects per page.
    *optional*: the kind may be absent, or our role of a release that did not have it. While it was never there the copy
    is empty and current, and ``absent`` says why.

    ``last_contact`` is when the API last sent anything, ``behind_until`` when the copy counts as current again after
    the watch failed. Both are monotonic seconds; ``behind_until`` is infinite until the watch works.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        *,
        project: Callable[[dict[str, Any]], T],
        clock: Clock,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        page_size: int = 500,
        optional: bool = False,
    ) -> None:
        self._api = api
        self._resource = resource
        self._project = project
        self._clock = clock
        self._namespace = namespace
        self._selectors = _Selectors(label_selector=label_selector, field_selector=field_selector)
        self._page_size = page_size
        self._optional = optional
        self._store: Indexer[T] = Indexer()
        self._handlers: list[Handler[T]] = []
        self._list_handlers: list[Callable[[float], None]] = []
        self._version: str | None = None  # None: list before watching
        self._failures = 0
        self._may_stream = True
        self._expiries = 0  # 410s in a row: a list fixes one at once, so they do not wait for earlier failures
        self._got_event = False
        self._doubted = asyncio.Event()
        self._doubted_at = -math.inf
        self._is_open = False
        self.synced = asyncio.Event()
        self.last_contact: float | None = None
        self.behind_until = math.inf
        self.last_error: KubeError | None = None
        self.absent: ApiError | None = None

    def add_index(self, name: str, keys_of: Callable[[T], Iterable[str]]) -> None:
        """Add an index before run(): *keys_of* returns the values under which a row is found."""
        self._store.add_index(name, keys_of)

    def add_handler(self, handler: Handler[T]) -> None:
        """Have *handler* called with (key, old, new) when a row changes; it must be quick and must not raise."""
        self._handlers.append(handler)

    def add_list_handler(self, handler: Callable[[float], None]) -> None:
        """Have *handler* called after each list, once its changes are there, with when it began (monotonic seconds).

        A list is consistent: it shows all that was written before it began, unless the store was restored meanwhile.
        """
        self._list_handlers.append(handler)

    def get(self, key: Key) -> T | None:
        return self._store.rows.get(key)

    def by_index(self, name: str, value: str) -> tuple[T, ...]:
        """Return the rows that *name* files under *value*."""
        return self._store.by_index(name, value)

    def items(self) -> Iterable[tuple[Key, T]]:
        return self._store.rows.items()

    def __len__(self) -> int:
        return len(self._store.rows)

    def is_current(self) -> bool:
        """Return whether the copy is current: milliseconds behind the API at most, not as long as an outage lasted."""
        return self._clock.monotonic() >= self.behind_until

    def doubt(self, since: float | None) -> None:
        """Watch again on a new connection, unless anything arrived *since* then (monotonic seconds); list if None.

        Call it when another request had no answer since that time, or found that the API's store was restored from a
        backup. The copy is not current until the watch works.
        """
        now = self._clock.monotonic()
        if self.absent is not None:
            return
        if since is None:
            self._version = None
        elif (self.last_contact or since) > since or now - self._doubted_at < DOUBT_S:
            return
        self._doubted_at, self.behind_until = now, math.inf
        self._doubted.set()

    async def run(self) -> None:
        """Keep the copy up to date until cancelled."""
        while True:
            began, version, self._got_event = self._clock.monotonic(), self._version, False
            try:
                if self._version is None:
                    await self._relist()
                    version = self._version
                self._doubted.clear()
                await first(self._watch(), first(self._watch_for_silence(), self._wait_for_doubt()))
            except KubeError as e:
                if self._optional and isinstance(e, NotFound | Forbidden) and not self._store.rows:
                    delay = self._after_absence(e)
                else:
                    delay = self._after_failure(e, began)
            else:
                delay = self._after_end(began, progressed=self._version != version)
            if delay > 0:
                await self._clock.sleep(delay)

    async def _relist(self) -> None:
        """Read all objects, changing rows as they come; what is not shown was deleted meanwhile."""
        began = self._clock.monotonic()
        seen: set[Key] = set()
        token: str | None = None
        while True:
            page = await self._list_page(token)
            for obj in page["items"]:
                key = Key.of(obj)
                seen.add(key)
                self._upsert(key, obj)
            version, token = page["metadata"]["resourceVersion"], page["metadata"].get("continue")
            if not token:
                break
            left = page["metadata"].get("remainingItemCount") or 0
            if self._may_stream and left > STREAM_PAGES * self._page_size and (streamed := await self._stream_all()):
                version, seen = streamed
                break
        for key in [key for key in self._store.rows if key not in seen]:
            self._remove(key)
        self._version, self.absent = version, None
        for handler in self._list_handlers:
            handler(began)
        now = self._clock.monotonic()
        self.behind_until = now if now - began < CATCH_UP_S else math.inf  # a list is as old as it took
        self.synced.set()

    async def _stream_all(self) -> tuple[str, set[Key]] | None:
        """Read all objects as a stream; return the version that they have, and their keys. None: the API cannot."""
        self._is_open = False
        try:
            return await first(self._read_stream(), self._watch_for_silence(LIST_TIMEOUT_S, LIST_TIMEOUT_S))
        except ApiError as e:
            if e.status not in (400, 422):
                raise
            self._may_stream = False
            return None

    async def _read_stream(self) -> tuple[str, set[Key]]:
        seen: set[Key] = set()
        events = self._api.watch(
            self._resource,
            self._namespace,
            timeout_s=WATCH_TIMEOUT_S[1],
            listed=True,
            on_open=self._stream_opened,
            **self._selectors,
        )
        count = 0
        async with aclosing(events):
            async for event in events:
                self._contacted()
                metadata = event.object["metadata"]
                if event.type is WatchType.BOOKMARK:
                    if (metadata.get("annotations") or {}).get(INITIAL_EVENTS_END) == "true":
                        return metadata["resourceVersion"], seen
                    continue
                key = Key.of(event.object)
                if event.type is WatchType.DELETED:  # since the stream began
                    seen.discard(key)
                    self._remove(key)
                else:
                    seen.add(key)
                    self._upsert(key, event.object)
                count += 1
                if count % STREAM_TURN == 0:
                    await asyncio.sleep(0)
        raise Unreachable(f"the list of {self._resource.plural} ended after {count} objects, before it was whole")

    def _stream_opened(self) -> None:
        self._is_open = True
        self._contacted()

    async def _list_page(self, token: str | None) -> dict[str, Any]:
        request = self._api.list_page(
            self._resource, self._namespace, limit=self._page_size, continue_token=token, **self._selectors
        )
        try:
            page = await within(self._clock, LIST_TIMEOUT_S, request)
        except TimeoutError as e:
            raise Unreachable(f"cannot list {self._resource.plural}: {e}") from e
        self._contacted()
        return page

    async def _watch(self) -> None:
        self._is_open = False
        events = self._api.watch(
            self._resource,
            self._namespace,
            resource_version=self._version or "",
            timeout_s=random.uniform(*WATCH_TIMEOUT_S),  # noqa: S311  # jitter
            on_open=self._opened,
            **self._selectors,
        )
        async with aclosing(events):
            async for event in events:
                self._contacted()
                self._apply(event)
        self._contacted()

    def _opened(self) -> None:
        self._is_open = True
        self._contacted()
        if self.behind_until == math.inf:
            self.behind_until = self._clock.monotonic() + CATCH_UP_S

    def _apply(self, event: WatchEvent) -> None:
        version = event.object["metadata"]["resourceVersion"]
        if went_back(self._version, version):
            raise Gone(410, "Expired", f"the watch went back from version {self._version} to {version}")
        match event.type:
            case WatchType.ADDED | WatchType.MODIFIED:
                self._upsert(Key.of(event.object), event.object)
            case WatchType.DELETED:
                self._remove(Key.of(event.object))
            case WatchType.BOOKMARK:
                pass
        self._version, self._got_event = version, True

    def _upsert(self, key: Key, obj: dict[str, Any]) -> None:
        try:
            new = self._project(obj)
        except Exception:  # one object that breaks a projection must not stop all the others
            _log.exception("cannot project %s %s, keeping the previous row", self._resource.kind, key)
            return
        if self._store.rows.get(key) != new:
            key = getattr(new, "key", key)  # a row's own, if it has one: it is kept once
            self._notify(key, self._store.put(key, new), new)

    def _remove(self, key: Key) -> None:
        old = self._store.remove(key)
        if old is not None:
            self._notify(key, old, None)

    def _notify(self, key: Key, old: T | None, new: T | None) -> None:
        for handler in self._handlers:
            handler(key, old, new)

    def _contacted(self) -> None:
        self.last_contact = self._clock.monotonic()

    async def _watch_for_silence(self, open_s: float = OPEN_S, silence_s: float = SILENCE_S) -> NoReturn:
        began = self._clock.monotonic()
        while True:
            limit = silence_s if self._is_open else open_s
            left = max(began, self.last_contact or began) + limit - self._clock.monotonic()
            if left <= 0:
                if self._is_open:
                    self._version = None  # it may be one that the API does not have
                    raise _Silent(f"the watch of {self._resource.plural} was silent for {limit:g} s")
                raise Unreachable(f"the watch of {self._resource.plural} was not opened within {limit:g} s")
            await self._clock.sleep(left)

    async def _wait_for_doubt(self) -> None:
        await self._doubted.wait()
        raise Unreachable(f"the watch of {self._resource.plural} is in doubt: another request failed")

    def _after_absence(self, error: ApiError) -> float:
        """Show nothing until the kind exists."""
        if self.absent is None:
            _log.info("no %s are followed until there are any to read: %s", self._resource.plural, error)
        self.last_error = self.absent = error
        self._version, self._failures, self._expiries = None, 0, 0
        self._contacted()
        self.behind_until = self._clock.monotonic()
        self.synced.set()
        return random.uniform(*ABSENT_S)  # noqa: S311  # jitter

    def _after_failure(self, error: KubeError, began: float) -> float:
        self.last_error = error
        self.behind_until = math.inf
        if isinstance(error, ApiError):
            self._contacted()
            if error.status in _LIST_AGAIN:
                self._version = None
        self._forget_failures_after_health(began)
        delay = self._delay_of_expiry() if isinstance(error, Gone) else self._next_delay(error)
        delay = max(delay, (error.retry_after or 0.0) * random.uniform(1.0, 1.2))  # noqa: S311
        # Kubernetes before 1.21 sends no bookmark of a kind that never changed: that is no failure to wake anyone for
        level = logging.INFO if isinstance(error, _Silent) else logging.WARNING
        _log.log(level, "cannot follow %s, next attempt in %.1f s: %s", self._resource.plural, delay, error)
        return delay

    def _after_end(self, began: float, *, progressed: bool) -> float:
        self.last_error = None
        if progressed or self._clock.monotonic() - began >= SHORT_WATCH_S:
            self._failures = self._expiries = 0
            return 0.0
        return self._next_delay(None)  # a server that closes at once would otherwise be asked in a hot loop

    def _forget_failures_after_health(self, began: float) -> None:
        if self._got_event or self._clock.monotonic() - began >= HEALTHY_S:
            self._failures = self._expiries = 0

    def _delay_of_expiry(self) -> float:
        self._expiries += 1
        return BACKOFF.delay(self._expiries - 1, random.random())  # noqa: S311  # jitter

    def _next_delay(self, error: KubeError | None) -> float:
        self._failures += 1
        backoff = OUTAGE_BACKOFF if isinstance(error, Unreachable) else BACKOFF
        return backoff.delay(self._failures - 1, random.random())  # noqa: S311  # jitter


def went_back(before: str | None, after: str) -> bool:
    """Return whether versions decrease: a stale watch cache, or a store that was restored from a backup."""
    return before is not None and before.isdecimal() and after.isdecimal() and int(after) < int(before)

# SPDX-License-Identifier: Apache-2.0
"""Events about objects: recorded without waiting, correlated, limited, written in the background.

They are written as core/v1: kubectl sorts by fields that events.k8s.io/v1 does not let a client set. Where the program
may write the latter only, by roles of an earlier release, it does.

An event may be lost, but never delay, fail or overload anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import uuid4

from attrs import evolve, field, frozen, mutable
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import ApiError, Forbidden, KubeError, NotFound, ServerError, TooManyRequests
from praetor_api.kube.client.resource import CORE_EVENTS, EVENTS, Key, Resource
from praetor_api.kube.codec import format_micro_time, format_time
from praetor_api.kube.runtime.backoff import Backoff
from praetor_api.kube.runtime.clock import Clock, within

__all__ = [
    "ATTEMPTS",
    "BACKOFF",
    "BURST",
    "CALL_TIMEOUT_S",
    "COMBINED",
    "MAX_ACTION",
    "MAX_INSTANCE",
    "MAX_NOTE",
    "MAX_REASON",
    "QUEUE_SIZE",
    "REFILL_S",
    "REMEMBERED",
    "SIMILAR_LIMIT",
    "SIMILAR_WINDOW_S",
    "Correlator",
    "EventRecorder",
    "ObjectRef",
    "Occurrence",
    "Series",
    "bounded",
]

QUEUE_SIZE = 1000
ATTEMPTS = 5
BACKOFF = Backoff(base=1.0, factor=2.0, cap=10.0, jitter=0.5)
CALL_TIMEOUT_S = 30.0
# The API's limits, in bytes.
MAX_NOTE = 1024
MAX_REASON = 128
MAX_ACTION = 128
MAX_INSTANCE = 128
_MAX_NAME_OF_REGARDING = 230  # a dot and a suffix follow; the whole may have 253

_NAMES = {
    CORE_EVENTS: ("involvedObject", "message", "reportingComponent"),
    EVENTS: ("regarding", "note", "reportingController"),
}
"""What the two groups call what an event is about, its text, and who reports it; they are one object."""

_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class ObjectRef:
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


R = TypeVar("R", bound=Hashable)
H = TypeVar("H", bound=Hashable)
V = TypeVar("V")

SIMILAR_LIMIT = 10
SIMILAR_WINDOW_S = 600.0
BURST = 25.0
REFILL_S = 300.0
REMEMBERED = 4096
COMBINED = "(combined from similar events) "


@frozen(kw_only=True)
class Occurrence(Generic[R]):
    """One recorded event."""

    regarding: R
    type: str
    reason: str
    action: str
    note: str
    at: datetime = field(eq=False)


@mutable
class Series(Generic[R]):
    """Occurrences that are one object in the API; *name* is that object's, once it was written."""

    last: Occurrence[R]
    count: int = 0
    name: str | None = None

    def restart(self) -> None:
        """Forget the object in the API: it is gone."""
        self.count, self.name = 1, None


@mutable
class _Similar:
    since: float
    notes: set[int] = field(factory=set)


@mutable
class _Bucket:
    filled_at: float
    tokens: float = BURST


class Correlator(Generic[R]):
    """Deduplicates, aggregates and limits events, after client-go's correlator. It does no I/O.

    * The same event again raises the count of its series.
    * From the eleventh alike (all but the note) within ten minutes on, they are one event.
    * Each object may have 25 at once and one every 300 s after that.

    It remembers the last few thousand of each.
    """

    def __init__(self) -> None:
        self._series: OrderedDict[Occurrence[R], Series[R]] = OrderedDict()
        self._similar: OrderedDict[Occurrence[R], _Similar] = OrderedDict()
        self._buckets: OrderedDict[R, _Bucket] = OrderedDict()

    def correlate(self, occurrence: Occurrence[R], now: float) -> Series[R] | None:
        """Return the series of *occurrence*, to be written; None when its object is over its limit: only counted."""
        same, last = occurrence, occurrence
        if self._is_one_of_many(occurrence, now):
            same = evolve(occurrence, note=COMBINED)
            last = evolve(occurrence, note=COMBINED + occurrence.note)
        series = _recall(self._series, same, lambda: Series(last))
        series.last = last
        series.count += 1
        return series if self._admit(occurrence.regarding, now) else None

    def _is_one_of_many(self, occurrence: Occurrence[R], now: float) -> bool:
        alike = evolve(occurrence, note="")
        similar = _recall(self._similar, alike, lambda: _Similar(now))
        if now - similar.since > SIMILAR_WINDOW_S:
            similar = self._similar[alike] = _Similar(now)
        if len(similar.notes) <= SIMILAR_LIMIT:
            similar.notes.add(hash(occurrence.note))
        return len(similar.notes) > SIMILAR_LIMIT

    def _admit(self, regarding: R, now: float) -> bool:
        bucket = _recall(self._buckets, regarding, lambda: _Bucket(now))
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.filled_at) / REFILL_S)
        bucket.filled_at = now
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True


def _recall(memory: OrderedDict[H, V], key: H, new: Callable[[], V]) -> V:
    if key not in memory:
        memory[key] = new()
        if len(memory) > REMEMBERED:
            memory.popitem(last=False)
    memory.move_to_end(key)
    return memory[key]


class EventRecorder:
    """Records for *component* (a program's name), running as *instance*. ``dropped`` counts what was not written."""

    def __init__(self, api: KubeApi, clock: Clock, component: str, instance: str) -> None:
        self._api = api
        self._clock = clock
        self._component = component
        self._instance = bounded(instance, MAX_INSTANCE)
        self._correlator: Correlator[ObjectRef] = Correlator()
        self._queue: deque[Occurrence[ObjectRef]] = deque()
        self._resource = CORE_EVENTS
        self._pending = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    def record(self, regarding: ObjectRef, *, type: str, reason: str, action: str, note: str) -> None:
        """Queue an event: *type* ``Normal`` or ``Warning``, *reason* and *action* CamelCase words for machines."""
        if len(self._queue) >= QUEUE_SIZE:
            self.dropped += 1
            return
        self._queue.append(
            Occurrence(
                regarding=regarding,
                type=type,
                reason=bounded(reason, MAX_REASON),
                action=bounded(action, MAX_ACTION),
                note=bounded(note, MAX_NOTE),
                at=self._clock.now(),
            )
        )
        self._idle.clear()
        self._pending.set()

    async def run(self) -> None:
        """Write recorded events until cancelled."""
        while True:
            while self._queue:
                await self._handle(self._queue.popleft())
            self._idle.set()
            self._pending.clear()
            await self._pending.wait()

    async def flush(self) -> None:
        """Return when everything recorded so far was written or dropped (run() must be running)."""
        await self._idle.wait()

    async def _handle(self, occurrence: Occurrence[ObjectRef]) -> None:
        series = self._correlator.correlate(occurrence, self._clock.monotonic())
        if series is None:
            self.dropped += 1
            return
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=_delay,
            stop=stop_after_attempt(ATTEMPTS),
            sleep=self._clock.sleep,
            reraise=True,
        )

        async def attempt(resource: Resource) -> None:
            await within(self._clock, CALL_TIMEOUT_S, self._write(series, resource))

        try:
            try:
                await retrying(attempt, self._resource)
            except Forbidden:
                if self._resource is EVENTS:
                    raise
                await retrying(attempt, EVENTS)
                self._resource = EVENTS  # only now: a namespace that is being deleted forbids both
        except (KubeError, TimeoutError) as e:
            _log.warning("event dropped: %s", e)
            self.dropped += 1

    async def _write(self, series: Series[ObjectRef], resource: Resource) -> None:
        regarding = series.last.regarding
        namespace = regarding.namespace or "default"
        if series.name is not None:
            try:
                body = {"series": _counted(series), **self._dated(series, resource)}
                await self._api.patch(resource, Key(namespace, series.name), body)
                return
            except NotFound:  # it was kept for its hour; start another one
                series.restart()
        name = f"{regarding.name[:_MAX_NAME_OF_REGARDING].rstrip('.-')}.{uuid4().hex[:16]}"
        await self._api.create(resource, namespace, self._body(namespace, name, series, resource))
        series.name = name

    def _body(self, namespace: str, name: str, series: Series[ObjectRef], resource: Resource) -> dict[str, Any]:
        occurrence, regarding = series.last, series.last.regarding
        about, said, by = _NAMES[resource]
        first = {} if resource is EVENTS else {"firstTimestamp": format_time(occurrence.at)}
        return {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": format_micro_time(occurrence.at),
            by: self._component,
            "reportingInstance": self._instance,
            "type": occurrence.type,
            "reason": occurrence.reason,
            "action": occurrence.action,
            said: bounded(occurrence.note, MAX_NOTE),
            about: {
                "apiVersion": regarding.api_version,
                "kind": regarding.kind,
                "namespace": regarding.namespace,
                "name": regarding.name,
                "uid": regarding.uid,
            },
            **({"series": _counted(series)} if series.count > 1 else {}),
            **first,
            **self._dated(series, resource),
        }

    def _dated(self, series: Series[ObjectRef], resource: Resource) -> dict[str, Any]:
        """Return what kubectl sorts by and counts, where the API takes it."""
        if resource is EVENTS:
            return {}
        source = {"component": self._component}
        return {"lastTimestamp": format_time(series.last.at), "count": series.count, "source": source}


def _may_pass(error: BaseException) -> bool:
    """Return whether a later attempt may succeed: no answer, throttled, or a failure of the server."""
    refused = isinstance(error, ApiError) and not isinstance(error, (TooManyRequests, ServerError))
    return isinstance(error, (KubeError, TimeoutError)) and not refused


def _delay(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after if isinstance(error, KubeError) else None
    return max(asked or 0.0, BACKOFF.delay(state.attempt_number - 1, random.random()))  # noqa: S311  # jitter


def _counted(series: Series[ObjectRef]) -> dict[str, Any]:
    return {"count": series.count, "lastObservedTime": format_micro_time(series.last.at)}


def bounded(text: str, size: int) -> str:
    """Return *text* in at most *size* bytes of UTF-8, cut at a character, with an ellipsis where it was cut."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= size:
        return raw.decode()
    return raw[: size - 3].decode("utf-8", "ignore") + "…"

# SPDX-License-Identifier: Apache-2.0
"""A queue of keys and a limit of what its workers write, after client-go's workqueue.

A key waits at most once and is never handed to two workers at a time. A key
added while it is being processed is handed out again afterwards.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from praetor_api.kube.runtime.backoff import Backoff
from praetor_api.kube.runtime.clock import Clock, within

__all__ = ["DEFAULT_BACKOFF", "TokenBucket", "Workqueue"]


class TokenBucket:
    """Grants *burst* tokens at once and *rate_per_s* per second after that, in the order of the callers.

    Our own writes wait for one, so that they never overload the apiserver.
    """

    def __init__(self, rate_per_s: float, burst: int, clock: Clock) -> None:
        if rate_per_s <= 0 or burst < 1:
            raise ValueError("rate_per_s must be positive and burst at least 1")
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)  # negative: that many callers are waiting
        self._filled_at = clock.monotonic()

    async def acquire(self) -> None:
        """Wait for a token and take it."""
        self._refill()
        self._tokens -= 1.0
        if self._tokens < 0.0:
            await self._wait(-self._tokens / self._rate_per_s)

    async def _wait(self, seconds: float) -> None:
        granted = False
        try:
            await self._clock.sleep(seconds)
            granted = True
        finally:
            if not granted:  # cancelled: its turn goes to those who come later
                self._tokens += 1.0

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate_per_s)
        self._filled_at = now


K = TypeVar("K")

DEFAULT_BACKOFF = Backoff(base=0.05, factor=2.0, cap=60.0, jitter=0.5)


class Workqueue(Generic[K]):
    """Hands keys to any number of workers: ``async with queue.get() as key``.

    *backoff* delays the keys of add_rate_limited(), each by its own number of failures. *waited* is called with the
    seconds for which a key that is handed out waited for a worker.
    """

    def __init__(
        self, clock: Clock, backoff: Backoff = DEFAULT_BACKOFF, waited: Callable[[float], None] = lambda _: None
    ) -> None:
        self._clock = clock
        self._waited = waited
        self._backoff = backoff
        self._queue: deque[K] = deque()
        self._ready_at: dict[K, float] = {}  # when a key in _queue came
        self._dirty: set[K] = set()  # waits, or was added while being processed
        self._processing: set[K] = set()
        self._due: dict[K, float] = {}
        self._delayed: list[tuple[float, int, K]] = []  # a heap; entries that _due does not confirm are void
        self._sequence = 0
        self._failures: dict[K, int] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timekeeper: asyncio.Future[None] | None = None  # the one waiter that also waits for the next delay

    def __len__(self) -> int:
        """Return how many keys could be handed out now."""
        self._promote()
        return len(self._queue)

    @property
    def oldest_s(self) -> float:
        """For how many seconds the first key has waited for a worker; 0 when none waits."""
        self._promote()
        return self._clock.monotonic() - self._ready_at[self._queue[0]] if self._queue else 0.0

    def add(self, key: K) -> None:
        """Hand *key* out as soon as a worker is free."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._ready(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Add *key* after *delay_s*; of several delays the earliest counts."""
        if delay_s <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + delay_s
        if self._due.get(key, due + 1.0) <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._delayed, (due, self._sequence, key))
        if self._delayed[0][2] == key:
            self._wake(self._timekeeper)

    def add_rate_limited(self, key: K) -> None:
        """Add *key* after a delay that grows with each call until forget()."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.add_after(key, self._backoff.delay(failures, random.random()))  # noqa: S311  # jitter

    def forget(self, key: K) -> None:
        """Reset the backoff of add_rate_limited: *key* succeeded, or retrying cannot help."""
        self._failures.pop(key, None)

    @asynccontextmanager
    async def get(self) -> AsyncIterator[K]:
        """Wait for a key; it counts as being processed until the block ends."""
        key = await self._take()
        try:
            yield key
        finally:
            self._done(key)

    async def _take(self) -> K:
        try:
            while True:
                self._promote()
                if self._queue:
                    key = self._queue.popleft()
                    self._waited(self._clock.monotonic() - self._ready_at.pop(key))
                    self._dirty.discard(key)
                    self._processing.add(key)
                    return key
                await self._wait()
        finally:  # also when cancelled just after being woken
            if self._queue or (self._delayed and self._timekeeper is None):
                self._wake()

    def _done(self, key: K) -> None:
        self._processing.discard(key)
        if key in self._dirty:
            self._ready(key)

    def _ready(self, key: K) -> None:
        self._queue.append(key)
        self._ready_at[key] = self._clock.monotonic()
        self._wake()

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            if self._timekeeper is None and self._delayed:
                await self._wait_as_timekeeper(waiter)
            else:
                await waiter
        finally:
            self._waiters.remove(waiter)

    async def _wait_as_timekeeper(self, waiter: asyncio.Future[None]) -> None:
        self._timekeeper = waiter
        try:
            await within(self._clock, self._delayed[0][0] - self._clock.monotonic(), _settled(waiter))
        except TimeoutError:
            return
        finally:
            self._timekeeper = None

    def _wake(self, waiter: asyncio.Future[None] | None = None) -> None:
        for candidate in (waiter,) if waiter is not None else tuple(self._waiters):
            if not candidate.done():
                candidate.set_result(None)
                return

    def _promote(self) -> None:
        now = self._clock.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)


async def _settled(future: asyncio.Future[None]) -> None:
    await future

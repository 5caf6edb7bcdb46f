"""The objects whose statuses are to be written: each waits at most once, whatever happens to it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.workqueue import Workqueue
from praetor_gateway.status.patch import Target


class StatusQueue:
    """A workqueue that can be flushed."""

    def __init__(self, clock: Clock) -> None:
        self._queue: Workqueue[Target] = Workqueue(clock)
        self._pending: set[Target] = set()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Return how many statuses wait to be written, or are being written."""
        return len(self._pending) + self._busy

    def submit(self, target: Target, delay_s: float = 0.0) -> None:
        """Write the status of *target*, if it differs then, after *delay_s*; of several delays the shortest counts."""
        self._pending.add(target)
        self._idle.clear()
        self._queue.add_after(target, delay_s)

    def retry(self, target: Target) -> None:
        """Write it again, after a delay that grows until forget()."""
        self._pending.add(target)
        self._queue.add_rate_limited(target)

    def forget(self, target: Target) -> None:
        """Start the delays of retry() anew."""
        self._queue.forget(target)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Target]:
        """Wait for a target; nobody else gets it until the block ends."""
        async with self._queue.get() as target:
            self._pending.discard(target)
            self._busy += 1
            try:
                yield target
            finally:
                self._busy -= 1
                if not self._pending and not self._busy:
                    self._idle.set()

    async def flush(self) -> None:
        """Return when nothing waits any more, delays cut short."""
        for target in self._pending:
            self._queue.add(target)
        await self._idle.wait()

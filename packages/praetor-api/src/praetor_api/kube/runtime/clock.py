# SPDX-License-Identifier: Apache-2.0
"""Time as a dependency. This is the only module of the Kubernetes machinery that reads a clock or sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

__all__ = ["Clock", "SystemClock", "first", "within"]

T = TypeVar("T")

# Unlike CLOCK_MONOTONIC it counts suspended time too: a lease of a machine that slept has expired.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What the shells know of time."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware, in UTC: for people and for the wire, never for deadlines."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back: for deadlines and ages."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*; at once (but after yielding to others) when that is not positive."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.clock_gettime(_STEADY)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of *work*; cancel it and raise TimeoutError when it takes longer than *seconds*.

    As asyncio.wait_for, but by *clock*, so that tests decide when time is up.
    """

    async def expire() -> T:
        await clock.sleep(seconds)
        raise TimeoutError(f"no answer within {seconds:g} s")

    return await first(work, expire())


async def first(work: Coroutine[Any, Any, T], guard: Coroutine[Any, Any, T]) -> T:
    """Run both and return the result, or raise the error, of whichever ends first; the other is cancelled."""
    tasks = (asyncio.ensure_future(work), asyncio.ensure_future(guard))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        await _discard(*tasks)


async def _discard(*tasks: asyncio.Future[Any]) -> None:
    pending = {task for task in tasks if task.cancel()}
    if pending:
        await asyncio.wait(pending)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it was raised already, or lost the race: never "exception was not retrieved"

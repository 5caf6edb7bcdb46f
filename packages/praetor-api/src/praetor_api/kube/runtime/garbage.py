# SPDX-License-Identifier: Apache-2.0
"""Garbage collection of programs that keep a fleet in memory: objects that come by the million, and stay."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

__all__ = ["GC_THRESHOLDS", "collect_less_often", "spare"]

GC_THRESHOLDS = (10_000, 20, 20)
"""New objects between collections, and how many of those of a generation make one of the next. While a fleet is read,
Python's own 700, 10 and 10 cost a quarter of the processor time."""


def collect_less_often() -> None:
    """Set GC_THRESHOLDS in this process; call it when a program begins."""
    gc.set_threshold(*GC_THRESHOLDS)


async def spare(synced: Callable[[], Awaitable[object]]) -> None:
    """Keep the garbage collector from visiting what is there once *synced* returns: the fleet, which stays.

    A full collection takes 17 µs for each declared device, in which nothing is answered: 1.7 s for 100,000.
    """
    await synced()
    gc.collect()
    gc.freeze()

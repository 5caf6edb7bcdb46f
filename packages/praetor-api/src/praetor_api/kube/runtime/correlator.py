# SPDX-License-Identifier: Apache-2.0
"""Deduplication, aggregation and rate limiting of events, after client-go's correlator. It does no I/O.

* The same event again raises the count of its series.
* From the eleventh alike (all but the note) within ten minutes on, they are one event.
* Each object may have 25 at once and one every 300 s after that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Generic, TypeVar

from attrs import evolve, field, frozen, mutable

__all__ = [
    "BURST",
    "COMBINED",
    "REFILL_S",
    "REMEMBERED",
    "SIMILAR_LIMIT",
    "SIMILAR_WINDOW_S",
    "Correlator",
    "Occurrence",
    "Series",
]

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
    """Remembers the last few thousand of each."""

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

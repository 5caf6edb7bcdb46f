# SPDX-License-Identifier: Apache-2.0
"""Statistics of a simulated fleet: counters, and the latency of changed specs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

WINDOW = 10_000
"""Number of latest changes that latencies are computed over."""


class Statistics:
    """Counters of the whole fleet.

    *spread* is the time from the first device of the fleet that received a spec to each other device, *reported* the
    time from its receipt to the acknowledged report; both in seconds.
    """

    def __init__(self) -> None:
        self.polls = self.changes = self.reports = self.errors = 0
        self.last_error = ""
        self.spread: deque[float] = deque(maxlen=WINDOW)
        self.reported: deque[float] = deque(maxlen=WINDOW)
        self._first_seen: dict[str, float] = {}

    def failed(self, error: Exception) -> None:
        """Count a failed request."""
        self.errors += 1
        self.last_error = str(error)

    def received(self, spec_hash: str, now: float, *, changed: bool) -> None:
        """Count that a device received *spec_hash*; *changed* is whether it had another spec before."""
        self.changes += 1
        spread = now - self._first_seen.setdefault(spec_hash, now)
        if changed:  # the first spec of a device is not a change
            self.spread.append(spread)

    def line(self, devices: int, connected: int) -> str:
        """Return the summary in one line."""
        last = f" last_error={self.last_error!r}" if self.last_error else ""
        return (
            f"devices={devices} connected={connected} polls={self.polls} reports={self.reports} "
            f"changes={self.changes} spread_ms[p50={_ms(self.spread, 0.5)} p99={_ms(self.spread, 0.99)}] "
            f"reported_ms[p50={_ms(self.reported, 0.5)} p99={_ms(self.reported, 0.99)}] errors={self.errors}{last}"
        )


def percentile(values: Iterable[float], share: float) -> float | None:
    """Return the value that *share* of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _ms(values: Iterable[float], share: float) -> str:
    value = percentile(values, share)
    return "-" if value is None else f"{value * 1000:.0f}"

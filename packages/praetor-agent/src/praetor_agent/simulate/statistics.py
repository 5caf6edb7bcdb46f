# SPDX-License-Identifier: Apache-2.0
"""What a simulated fleet did: counters and latencies, which several processes add up. Pure."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from praetor_agent.simulate.disconnections import Contact

WINDOW = 100_000
"""Number of latest changes that the spread is computed over."""

_STEPS = 16
"""Steps of a histogram per doubling: a quantile is exact to 4 %."""


class Histogram:
    """Durations in seconds, in steps that grow with them."""

    __slots__ = ("_counts", "largest")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[math.ceil(math.log2(max(seconds, 1e-6)) * _STEPS)] += 1
        self.largest = max(self.largest, seconds)

    def merge(self, other: Histogram) -> None:
        """Count what *other* has."""
        self._counts.update(other._counts)
        self.largest = max(self.largest, other.largest)

    def __len__(self) -> int:
        return self._counts.total()

    def quantile(self, share: float) -> float | None:
        """Return what *share* of the durations do not exceed, in seconds; None without any."""
        left = share * len(self)
        for step, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return min(math.pow(2.0, step / _STEPS), self.largest)
        return None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A device got the spec with *spec_hash*, *at* seconds since boot, at the time of day *wall*.

    *version* is the same for all devices with this spec, which names each; *changed* is whether it had another before.
    """

    device: str
    spec_hash: str
    version: str
    at: float
    wall: str
    changed: bool


def _latencies() -> dict[str, Histogram]:
    return {name: Histogram() for name in ("poll", "report", "reported")}


@dataclass(slots=True)
class Tally:
    """What happened in some time. Latencies are in seconds, by name.

    *poll* is how long a first poll took, and how late a held one was answered; *report* how long a report took;
    *reported* the time from the receipt of a spec to the acknowledged report on it. *receipts* are of changed specs,
    and *contacts* those that changed, as they are now.
    """

    polls: int = 0
    reports: int = 0
    changes: int = 0
    errors: int = 0
    last_error: str = ""
    latencies: dict[str, Histogram] = field(default_factory=_latencies)
    receipts: list[Receipt] = field(default_factory=list)
    contacts: list[Contact] = field(default_factory=list)

    def failed(self, error: Exception) -> None:
        """Count a failed request."""
        self.errors += 1
        self.last_error = str(error)

    def received(self, receipt: Receipt) -> None:
        """Count that a device got a spec."""
        self.changes += 1
        self.receipts.append(receipt)

    def merge(self, other: Tally) -> None:
        """Count what *other* has, without its receipts and contacts."""
        self.polls += other.polls
        self.reports += other.reports
        self.changes += other.changes
        self.errors += other.errors
        self.last_error = other.last_error or self.last_error
        for name, histogram in other.latencies.items():
            self.latencies[name].merge(histogram)


@dataclass(frozen=True, slots=True)
class Census:
    """How many *devices* a process simulates: *connected* ones, and *silent* ones, which are meant to be so.

    It was taken *at* so many seconds since boot.
    """

    devices: int = 0
    connected: int = 0
    silent: int = 0
    at: float = 0.0


class Spread:
    """The time from the first device of the fleet that got a spec to each other one, over the latest changes."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._changes: deque[Receipt] = deque(maxlen=WINDOW)

    def add(self, receipts: Iterable[Receipt]) -> None:
        """Take receipts, in any order; the first spec of a device is no change."""
        for receipt in receipts:
            if receipt.changed:
                self._first[receipt.version] = min(self._first.get(receipt.version, math.inf), receipt.at)
                self._changes.append(receipt)

    def histogram(self) -> Histogram:
        """Return the spread of the latest changes."""
        found = Histogram()
        for receipt in self._changes:
            found.add(receipt.at - self._first[receipt.version])
        return found


def as_json(
    census: Census, tally: Tally, spread: Histogram, seconds: float, disconnections: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """Return plain data; *seconds* is the time that *tally* is about. Latencies are in milliseconds.

    *disconnections* is that of Disconnections; None if no statuses are followed.
    """
    return {
        "seconds": round(seconds, 3),
        "devices": census.devices,
        "connected": census.connected,
        "silent": census.silent,
        "polls": tally.polls,
        "reports": tally.reports,
        "changes": tally.changes,
        "errors": tally.errors,
        "lastError": tally.last_error or None,
        "latenciesMs": {
            name: {"count": len(each), **{word: _ms(each, share) for word, share in _SHARES.items()}}
            for name, each in {**tally.latencies, "spread": spread}.items()
        },
        "disconnections": disconnections,
    }


_SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def progress(census: Census, tally: Tally, seconds: float, since_start: float) -> str:
    """Return one line of at most 80 columns, for the user who waits."""
    rate = max(seconds, 1e-3)
    late = tally.latencies["report"].quantile(0.99)
    words = [
        f"{since_start:.0f} s: {census.connected} of {census.devices} connected",
        f"{tally.polls / rate:.0f} polls/s",
        f"{tally.reports / rate:.0f} reports/s" + (f" (p99 {late * 1000:.0f} ms)" if late is not None else ""),
        f"{tally.errors} errors" if tally.errors else "",
    ]
    return ", ".join(filter(None, words))[:80]


def table(summary: Mapping[str, Any]) -> str:
    """Return the summary that `as_json` made, for people; 80 columns."""
    lines = [
        "{devices} devices, {connected} connected, {silent} silent on purpose".format(**summary),
        "{polls} polls, {reports} reports, {changes} specs received, {errors} errors in {seconds:.0f} s".format(
            **summary
        ),
        f"{'latency in ms':22}{'count':>10}{'p50':>10}{'p99':>10}{'max':>10}",
    ]
    for name, latency in summary["latenciesMs"].items():
        cells = "".join(f"{'-' if latency[word] is None else format(latency[word], '.1f'):>10}" for word in _SHARES)
        lines.append(f"{name:22}{latency['count']:>10}{cells}")
    if summary["lastError"]:
        lines.append(f"last error: {summary['lastError']}"[:80])
    if (found := summary["disconnections"]) is not None:
        lines += _of_disconnections(found)
    return "\n".join(lines)


def _of_disconnections(found: Mapping[str, Any]) -> Iterator[str]:
    yield "disconnections: {false} false, {missed} missed, by the statuses of {statuses} devices".format(**found)
    for said, names in (("false", found["falseDevices"]), ("missed", found["missedDevices"])):
        if names:
            yield f"{said}: {', '.join(names)}"[:80]
    if found["failure"]:
        yield f"statuses out of date: {found['failure']}"[:80]


def _ms(histogram: Histogram, share: float) -> float | None:
    value = histogram.quantile(share)
    return None if value is None else round(value * 1000, 1)

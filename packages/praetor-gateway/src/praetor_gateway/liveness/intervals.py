# SPDX-License-Identifier: Apache-2.0
"""How often devices are asked to be heard, and by which interval each is judged. Pure; times are monotonic seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import fmean

from attrs import define, field

HIGH, LOW = 0.8, 0.4
"""Shares of what the process can do: above the first it has too little left for a burst, and below the second the work
of the next shorter interval is far from the first."""
RAISE_S, LOWER_S = 10.0, 120.0
"""Over how long the load must be above HIGH, or below LOW, on average: devices learn of a step with their next
heartbeat, and one sample says little."""
MOST_LOWER_S = 1800.0
"""For how long at most no shorter interval is tried: the time doubles with each one that was too short. Programs that
share processors hardly wait until these are full, so that a low load says little of the one at a shorter interval."""
FULL = 0.95
"""Share above which nothing is left, though the interval is the longest: then new work is refused until it is HIGH."""
STEP = 1.5
"""By which factor a step changes the interval, so that the load stays between LOW and HIGH after one."""


@define(eq=False)
class Pace:
    """The interval of heartbeats in seconds, from *base* to *most*, as the load asks for."""

    _base: int
    _most: int
    interval: int = field(init=False)
    overloaded: bool = field(default=False, init=False)
    """Whether the longest interval does not help."""
    _samples: deque[tuple[float, float]] = field(factory=deque, init=False)  # when, and the load; since the last step
    _since: float | None = field(default=None, init=False)
    _lower_s: float = field(default=LOWER_S, init=False)
    """How long after a step the interval may become shorter."""
    _shortened: bool = field(default=False, init=False)
    """Whether the last step made it shorter, less than LOWER_S ago."""

    def __attrs_post_init__(self) -> None:
        self.interval = self._base

    def sample(self, load: float, now: float) -> int:
        """Take the *load* since the sample before, 1 for all that the process can do; return the interval."""
        self._samples.append((now, load))
        while now - self._samples[0][0] >= LOWER_S:
            self._samples.popleft()
        recent, long = self._mean(RAISE_S, now), self._mean(LOWER_S, now)
        if long is not None and self._shortened:  # that was right
            self._lower_s, self._shortened = LOWER_S, False
        full = recent is not None and recent > FULL and self.interval == self._most
        self.overloaded = full or (self.overloaded and load > HIGH)
        if recent is not None and recent > HIGH and self.interval < self._most:
            self._lower_s = min(MOST_LOWER_S, 2 * self._lower_s) if self._shortened else self._lower_s
            self._step(min(self._most, round(self.interval * STEP)), now)
        elif long is not None and long < LOW and self.interval > self._base and self._rested_s(now) >= self._lower_s:
            self._step(max(self._base, round(self.interval / STEP)), now)
        return self.interval

    def _rested_s(self, now: float) -> float:
        """Return how many seconds ago the last step was, or the first sample."""
        self._since = now if self._since is None else self._since
        return now - self._since

    def _mean(self, over_s: float, now: float) -> float | None:
        """Return the mean of the load over the last *over_s* seconds; None until the last step is so long ago."""
        if self._rested_s(now) < over_s:
            return None
        return fmean(load for at, load in self._samples if now - at < over_s)

    def _step(self, interval: int, now: float) -> None:
        self._shortened = interval < self.interval
        self.interval, self._since = interval, now
        self._samples.clear()


@define(eq=False, weakref_slot=False)
class Handed:
    """By which *interval* a device is judged, and since when shorter ones were handed out, of which *shorter* was the
    longest.
    """

    interval: int
    shorter: int = 0
    since: float | None = None


class HandedIntervals:
    """By which interval each device is judged: none shorter than what it last got.

    A longer one counts at once. An answer with a shorter one may be lost: it counts when nothing longer was handed out,
    and the device was heard, for as long as the longer one lasts.
    """

    def __init__(self, base: int) -> None:
        self._base = base
        self._assumed = base
        self.assumed_until = 0.0
        """Until when devices that got nothing here may have a longer one, in monotonic seconds; 0 if none ever had."""
        self.handed: dict[str, Handed] = {}
        """The devices that have, or had just now, a longer one. It is empty in a gateway that was never under load."""

    def __len__(self) -> int:
        return len(self.handed)

    def assume(self, interval: int, now: float, until: float) -> None:
        """Take *interval* for what each device got before; those that are not heard before *until* are gone."""
        if now < self.assumed_until:
            interval, until = max(interval, self._assumed), max(until, self.assumed_until)
        self._assumed = max(self._base, interval)
        self.assumed_until = until if self._assumed > self._base else 0.0  # else there is nothing to assume
        for known in self.handed.values():  # another replica may have handed out a longer one since
            if interval > known.interval:
                known.interval, known.since = interval, None

    def of(self, device: str, now: float) -> int:
        """Return by which interval *device* is judged."""
        known = self.handed.get(device)
        return known.interval if known is not None else self._assumed if now < self.assumed_until else self._base

    def concerns(self, device: str, interval: int, now: float) -> bool:
        """Return whether to hand() it changes anything; it does not in a gateway that was never under load."""
        return interval != self._base or device in self.handed or now < self.assumed_until

    def hand(self, device: str, interval: int, now: float) -> None:
        """Record that *device* was heard and answered with *interval*."""
        known = self.handed.get(device)
        if known is None:
            known = self.handed[device] = Handed(self.of(device, now))
        if interval >= known.interval:
            known.interval, known.since = interval, None
        elif known.since is None:
            known.shorter, known.since = interval, now
        else:
            known.shorter = max(known.shorter, interval)
            if now - known.since >= known.interval:
                known.interval, known.since = known.shorter, None
        if known.interval <= self._base and now >= self.assumed_until:
            del self.handed[device]

    def longer(self, devices: Iterable[str], now: float) -> dict[str, int]:
        """Return the intervals of those of *devices* that are judged by a longer one than the shortest."""
        return {name: self.of(name, now) for name in devices if name in self.handed} if self.handed else {}

    def forget(self, device: str) -> None:
        """Keep nothing of *device*."""
        self.handed.pop(device, None)

    def devices(self) -> tuple[str, ...]:
        """Return the devices that are judged by a longer interval than the shortest."""
        return tuple(self.handed)

    def longest(self, now: float) -> int:
        """Return the longest interval by which any device is judged."""
        assumed = self._assumed if now < self.assumed_until else self._base
        return max((assumed, *(each.interval for each in self.handed.values())))

# SPDX-License-Identifier: Apache-2.0
"""The failure detector: ages of devices in, connections lost and found out. Pure: no clock, no I/O.

Silence counts only while the observer demonstrably worked. All times are monotonic
seconds of the process that decides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from attrs import Factory, define, field, frozen

from praetor_gateway.status.connected import Connected, Silence

OWN = ""
"""The observer that is the deciding process itself."""


@frozen(kw_only=True)
class DetectorLimits:
    """When silence means that a device is gone. Seconds, unless the name says otherwise.

    *stale_s*: silence after which a device is overdue; three heartbeats of 15 s, so that two lost reports are forgiven.
    *grace_s*: how long after taking over no device is lost: the stale limit, and a heartbeat for all to be heard.
    *scan_s*: the interval of scans. *stall_s*: a scan later than this was paused, and the gap is not devices' silence.
    *observer_silence_s*: pushes of a replica are due every second; after five missed ones its devices are frozen, for
    *freeze_s*, in which they find another replica.
    *unheard_s*: how long no silence is believed after a replica said that we do not hear it; it says so every 10 s.
    *flaps*, *flap_window_s*: with more changes than this in that time a device must be heard for *flap_hold_s* without
    a break to count as connected.
    *storm_share*: silence of more devices than this share of a site or of the fleet, and of more than one, within one
    heartbeat is a storm. *storm_window_s*: a heartbeat, and a fifth of it for reports under way. *storm_writes_per_s*:
    statuses written a second for the devices of a storm that lasts, half of what the status writer may send.
    """

    stale_s: float
    grace_s: float
    scan_s: float
    flap_hold_s: float
    observer_silence_s: float = 5.0
    freeze_s: float = 60.0
    unheard_s: float = 30.0
    stall_s: float = 3.0
    storm_window_s: float = 18.0
    storm_share: float = 0.2
    storm_writes_per_s: float = 50.0
    flaps: int = 3
    flap_window_s: float = 600.0


@frozen(kw_only=True)
class Storm:
    """So many devices of *site* (None: of the fleet) fell silent at once that we are suspect ourselves."""

    site: str | None
    silent: int


@frozen(kw_only=True)
class ScanResult:
    """What a scan found: devices that are gone, those gone in a storm, storms that began; *over*: all have ended."""

    disconnected: tuple[str, ...] = ()
    in_storm: tuple[str, ...] = ()
    storms: tuple[Storm, ...] = ()
    over: bool = False


@define(eq=False, weakref_slot=False)
class TrackedDevice:
    """What the detector knows of one device. *statuses* are written when its connection changes. *stretch* is how many
    times longer than the shortest the interval is in which it was asked to be heard: limits are for the shortest.
    """

    site: str
    connected: Connected
    heard_at: float
    statuses: int = 1
    observer: str = OWN
    steady_since: float = field(default=Factory(lambda self: self.heard_at, takes_self=True))
    transitions: tuple[float, ...] = ()
    stretch: float = 1.0

    def silent_s(self, now: float) -> float:
        """Return for how long it is silent, in seconds of a device with the shortest interval."""
        return (now - self.heard_at) / self.stretch


class FailureDetector:
    """Decides since *now*. Every device has until then plus the grace to be heard."""

    def __init__(self, limits: DetectorLimits, now: float) -> None:
        self._limits = limits
        self._since = now
        self._scanned_at = now
        self._tracked: dict[str, TrackedDevice] = {}
        self._pushed_at: dict[str, float] = {}
        self._incomplete_until = now
        self._frozen_until = now
        self._gate = StormGate(limits, now)

    @property
    def suspect(self) -> bool:
        """Whether a storm is on."""
        return self._gate.closed

    def connected(self, device: str) -> Connected:
        """Return whether *device* is connected; None while that is not known."""
        tracked = self._tracked.get(device)
        return tracked.connected if tracked is not None else None

    def count(self) -> int:
        """Return how many devices are connected."""
        return sum(tracked.connected is True for tracked in self._tracked.values())

    def declare(self, device: str, *, site: str, connected: Connected, now: float, statuses: int = 1) -> None:
        """Track *device*; *connected* is what its status says from before we decided."""
        tracked = self._tracked.get(device)
        if tracked is None:
            self._tracked[device] = TrackedDevice(site, connected, now, statuses)
        else:
            tracked.site, tracked.statuses = site, statuses

    def allow(self, device: str, stretch: float) -> None:
        """Judge *device* by *stretch* times the limits."""
        tracked = self._tracked.get(device)
        if tracked is not None:
            tracked.stretch = stretch

    def stretch(self, device: str) -> float:
        """Return by how many times the limits *device* is judged."""
        tracked = self._tracked.get(device)
        return 1.0 if tracked is None else tracked.stretch

    def forget(self, device: str) -> None:
        """Track *device* no more."""
        self._tracked.pop(device, None)

    def push(self, observer: str, now: float, *, complete: bool = True) -> None:
        """Record that *observer* works; not *complete*: an older version, which does not say what devices fetched."""
        self._pushed_at[observer] = now
        self._forget_lost(now)
        if not complete:
            self._incomplete_until = now + self._limits.freeze_s

    def _forget_lost(self, now: float) -> None:
        """Keep nothing of replicas whose devices are frozen no more but since when what they answered is not missing.

        A process that is started again is another replica.
        """
        freeze_s = self._limits.freeze_s
        for observer in [each for each, at in self._pushed_at.items() if now - at > freeze_s]:
            self._incomplete_until = max(self._incomplete_until, self._pushed_at.pop(observer) + freeze_s)

    def freeze(self, now: float) -> None:
        """Believe no silence for a while: a replica that we do not hear may hear any device."""
        self._frozen_until = now + self._limits.unheard_s
        self._incomplete_until = self._frozen_until + self._limits.freeze_s

    def frozen(self, now: float) -> bool:
        """Return whether no silence is believed."""
        return now < self._frozen_until

    def complete_since(self, now: float) -> float:
        """Return since when every replica that may have answered devices reports to us what they fetched.

        Before we decided there was another leader. A replica that pushes no more may be dead, or answer devices still.
        """
        limits, silent = self._limits, (now - at for at in self._pushed_at.values())
        gone = max((now - s + limits.freeze_s for s in silent if s > limits.observer_silence_s), default=0.0)
        return min(now, max(self._incomplete_until, gone))

    def hear(self, device: str, now: float, *, age: float = 0.0, observer: str = OWN) -> bool:
        """Record that *observer* heard *device* *age* ago; return whether this makes it connected."""
        tracked = self._tracked.get(device)
        if tracked is None:
            return False
        heard_at = now - age if age else now  # which the observer keeps, too
        if heard_at >= tracked.heard_at:
            if tracked.silent_s(heard_at) > self._limits.stale_s:
                tracked.steady_since = heard_at
            tracked.heard_at = heard_at
            tracked.observer = observer
        if tracked.connected is True or age / tracked.stretch > self._limits.stale_s or self._is_damped(tracked, now):
            return False
        self._set_connected(tracked, True, now)
        return True

    def scan(self, now: float) -> ScanResult:
        """Return which devices are gone; call it every ``scan_s``."""
        self._forgive_stall(now)
        if now - self._since < self._limits.grace_s or self.frozen(now):
            return ScanResult()
        late = [(name, tracked) for name, tracked in self._tracked.items() if self._is_late(tracked, now)]
        admitted = self._gate.admit([tracked for _, tracked in late], self._tracked.values(), now)
        names = {id(tracked): name for name, tracked in late}
        for tracked in admitted.gone:
            self._set_connected(tracked, False, now)
            self._gate.lost(tracked, now)
        for tracked in admitted.in_storm:
            self._set_connected(tracked, Silence.STORM if admitted.alive else Silence.FLEET, now)
        return ScanResult(
            disconnected=tuple(names[id(tracked)] for tracked in admitted.gone),
            in_storm=tuple(names[id(tracked)] for tracked in admitted.in_storm),
            storms=admitted.storms,
            over=admitted.over,
        )

    def _forgive_stall(self, now: float) -> None:
        """A process that was paused heard nothing: the gap is not the devices' silence."""
        gap = now - self._scanned_at
        self._scanned_at = now
        if gap <= self._limits.scan_s + self._limits.stall_s:
            return
        for tracked in self._tracked.values():
            tracked.heard_at = min(now, tracked.heard_at + gap)
        self._pushed_at = {observer: min(now, at + gap) for observer, at in self._pushed_at.items()}

    def _is_late(self, tracked: TrackedDevice, now: float) -> bool:
        """Return whether *tracked* counts as connected and has missed a heartbeat, while its observer works."""
        if tracked.silent_s(now) <= self._limits.storm_window_s or tracked.connected not in (True, Silence.FLEET):
            return False
        if tracked.observer == OWN:
            return True
        silence = now - self._pushed_at.get(tracked.observer, self._since)
        return not self._limits.observer_silence_s < silence <= self._limits.freeze_s

    def _is_damped(self, tracked: TrackedDevice, now: float) -> bool:
        steady_s = tracked.heard_at - tracked.steady_since
        return len(self._recent(tracked, now)) > self._limits.flaps and steady_s < self._limits.flap_hold_s

    def _set_connected(self, tracked: TrackedDevice, connected: Connected, now: float) -> None:
        tracked.connected = connected
        tracked.transitions = (*self._recent(tracked, now), now)

    def _recent(self, tracked: TrackedDevice, now: float) -> list[float]:
        return [at for at in tracked.transitions if now - at < self._limits.flap_window_s]


@frozen(kw_only=True)
class Admitted:
    """Which devices are gone, and which are silent in a storm that lasts; *alive*: others of the fleet are heard."""

    gone: tuple[TrackedDevice, ...] = ()
    in_storm: tuple[TrackedDevice, ...] = ()
    alive: bool = True
    storms: tuple[Storm, ...] = ()
    over: bool = False


class StormGate:
    """Holds back devices of a site or a fleet that fell silent at once: they are more likely cut off than dead.

    It looks before it lets any device be gone: others that fell silent within the same heartbeat are not overdue yet,
    but have missed a heartbeat by then. A storm is over when no device of it is overdue, or when so few are that it
    would be none. After one more stale limit its devices are let through, at the rate of writes.
    """

    def __init__(self, limits: DetectorLimits, now: float) -> None:
        self._limits = limits
        self._until: dict[str | None, float] = {}  # by the site, None: the fleet
        self._isolated = False
        self._released_at = now
        self._recently_lost: list[tuple[float, TrackedDevice]] = []

    @property
    def closed(self) -> bool:
        """Whether a storm is on."""
        return bool(self._until) or self._isolated

    def lost(self, tracked: TrackedDevice, now: float) -> None:
        """Record a device that is gone: a storm may turn out to have begun with it."""
        self._recently_lost.append((now + self._limits.storm_window_s * tracked.stretch, tracked))

    def admit(self, late: list[TrackedDevice], fleet: Collection[TrackedDevice], now: float) -> Admitted:
        """Return what follows for the devices of *fleet* that are *late*: they count as connected, and are silent."""
        was_closed, stale_s = self.closed, self._limits.stale_s
        overdue = [each for each in late if each.silent_s(now) > stale_s]
        alive = not overdue or any(each.silent_s(now) <= stale_s for each in fleet)
        if self._isolated and alive:
            self._restart(fleet, now)
            return Admitted(over=True)
        if self._isolated:
            overdue = [each for each in overdue if each.connected is True]
        if not overdue:
            self._until.clear()
            return Admitted(alive=alive, over=was_closed and not self.closed)
        counts = _Counts(self._limits, late, overdue, self._still_lost(now), fleet, now)
        storms = self._open_and_close(counts, now)
        self._isolated = self._isolated or (not alive and None in self._until)
        held = self._until.keys() | counts.too_many(counts.late)
        gone = () if None in held else tuple(each for each in overdue if held.isdisjoint(_groups(each)))
        lasts = any(until <= now for until in self._until.values())
        waiting = (each for each in (overdue if lasts else ()) if not held.isdisjoint(_groups(each)))
        in_storm = self._released((each for each in waiting if self._lasts(each, held, now)), now)
        return Admitted(gone=gone, in_storm=in_storm, alive=alive, storms=storms, over=was_closed and not self.closed)

    def _open_and_close(self, counts: _Counts, now: float) -> tuple[Storm, ...]:
        """Forget storms that are over; return those that begin now."""
        began, stormy = [], counts.too_many(counts.silent)
        for group in tuple(self._until):
            if not counts.overdue[group] or (now < self._until[group] and group not in stormy):
                del self._until[group]
        for group in sorted(stormy - self._until.keys(), key=lambda each: each or ""):
            self._until[group] = now + self._limits.stale_s * counts.stretch(group)
            began.append(Storm(site=group, silent=counts.silent[group]))
        return tuple(began[:1] if began and began[0].site is None else began)  # the fleet's says it all

    def _lasts(self, tracked: TrackedDevice, held: Collection[str | None], now: float) -> bool:
        return all(now >= self._until.get(group, math.inf) for group in _groups(tracked) if group in held)

    def _released(self, lasting: Iterable[TrackedDevice], now: float) -> tuple[TrackedDevice, ...]:
        """Return those of *lasting* that may be written now."""
        rate, released = self._limits.storm_writes_per_s, []
        first = True
        for tracked in lasting:
            first = False
            if (now - self._released_at) * rate < tracked.statuses:
                break
            self._released_at += tracked.statuses / rate
            released.append(tracked)
        if first:
            self._released_at = now
        return tuple(released)

    def _still_lost(self, now: float) -> list[TrackedDevice]:
        self._recently_lost = [(until, each) for until, each in self._recently_lost if now <= until]
        return [tracked for _, tracked in self._recently_lost if tracked.connected is False]

    def _restart(self, fleet: Collection[TrackedDevice], now: float) -> None:
        """Count all silence from now on: before it was ours."""
        for tracked in fleet:
            tracked.heard_at = now
        self._until.clear()
        self._isolated = False


class _Counts:
    """How many devices each group has: in all, *overdue*, *silent* within the last heartbeat before, and *late*."""

    def __init__(
        self,
        limits: DetectorLimits,
        late: Collection[TrackedDevice],
        overdue: Collection[TrackedDevice],
        lost: Collection[TrackedDevice],
        fleet: Collection[TrackedDevice],
        now: float,
    ) -> None:
        longest = limits.stale_s - limits.storm_window_s
        self._late = late
        self.overdue = _by_group(overdue)
        self.late = _by_group((*late, *lost))
        self.silent = _by_group((*(each for each in late if each.silent_s(now) > longest), *lost))
        connected = [each for each in fleet if each.connected in (True, Silence.FLEET)]
        self._sizes = _by_group((*connected, *lost))
        self._share = limits.storm_share

    def stretch(self, group: str | None) -> float:
        """Return the largest stretch of the late devices of *group*."""
        return max((each.stretch for each in self._late if group in _groups(each)), default=1.0)

    def too_many(self, counts: Mapping[str | None, int]) -> set[str | None]:
        """Return the groups with an overdue device of which more than the share are among *counts*."""
        return {group for group in self.overdue if counts[group] > max(1.0, self._share * self._sizes[group])}


def _groups(tracked: TrackedDevice) -> tuple[str | None, ...]:
    return (None, tracked.site) if tracked.site else (None,)


def _by_group(devices: Iterable[TrackedDevice]) -> Counter[str | None]:
    counts: Counter[str | None] = Counter(each.site for each in devices)
    counts[None] = counts.total()
    del counts[""]  # no site
    return counts

# SPDX-License-Identifier: Apache-2.0
"""The failure detector: ages of devices in, connections lost and found out. Pure: no clock, no I/O.

Silence counts only while the observer demonstrably worked. All times are monotonic
seconds of the process that decides.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping

from attrs import Factory, define, field, frozen

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
    *storm_floor*: fewer devices are never a storm. *storm_window_s*: devices that are cut off at once fall due within
    one heartbeat, not at one moment. *storm_site_share*, *storm_fleet_share*: more than this share of a site or of the
    fleet is a storm. *storm_release_per_s*: devices believed lost each second when a storm lasts, half of what the
    status writer may send.
    """

    stale_s: float
    grace_s: float
    scan_s: float
    flap_hold_s: float
    observer_silence_s: float = 5.0
    freeze_s: float = 60.0
    unheard_s: float = 30.0
    stall_s: float = 3.0
    storm_floor: int = 50
    storm_window_s: float = 15.0
    storm_site_share: float = 0.2
    storm_fleet_share: float = 0.05
    storm_release_per_s: float = 50.0
    flaps: int = 3
    flap_window_s: float = 600.0


@frozen(kw_only=True)
class Storm:
    """So many devices of *site* (None: of the fleet) fell silent at once that we are suspect ourselves."""

    site: str | None
    silent: int


@frozen(kw_only=True)
class ScanResult:
    """What a scan found: devices that are gone, and a storm when one began."""

    disconnected: tuple[str, ...] = ()
    storm: Storm | None = None


@define(eq=False, weakref_slot=False)
class TrackedDevice:
    """What the detector knows of one device."""

    site: str
    connected: bool | None
    heard_at: float
    observer: str = OWN
    steady_since: float = field(default=Factory(lambda self: self.heard_at, takes_self=True))
    transitions: tuple[float, ...] = ()


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

    def connected(self, device: str) -> bool | None:
        """Return whether *device* is connected; None while that is not known."""
        tracked = self._tracked.get(device)
        return tracked.connected if tracked is not None else None

    def count(self) -> int:
        """Return how many devices are connected."""
        return sum(tracked.connected is True for tracked in self._tracked.values())

    def declare(self, device: str, *, site: str, connected: bool | None, now: float) -> None:
        """Track *device*; *connected* is what its status says from before we decided."""
        tracked = self._tracked.get(device)
        if tracked is None:
            self._tracked[device] = TrackedDevice(site, connected, now)
        else:
            tracked.site = site

    def forget(self, device: str) -> None:
        """Track *device* no more."""
        self._tracked.pop(device, None)

    def push(self, observer: str, now: float, *, complete: bool = True) -> None:
        """Record that *observer* works; not *complete*: an older version, which does not say what devices fetched."""
        self._pushed_at[observer] = now
        if not complete:
            self._incomplete_until = now + self._limits.freeze_s

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
        heard_at = now - age
        if heard_at >= tracked.heard_at:
            if heard_at - tracked.heard_at > self._limits.stale_s:
                tracked.steady_since = heard_at
            tracked.heard_at = heard_at
            tracked.observer = observer
        if tracked.connected or age > self._limits.stale_s or self._is_damped(tracked, now):
            return False
        self._set_connected(tracked, True, now)
        return True

    def scan(self, now: float) -> ScanResult:
        """Return which devices are gone; call it every ``scan_s``."""
        self._forgive_stall(now)
        if now - self._since < self._limits.grace_s or self.frozen(now):
            return ScanResult()
        overdue = [(name, tracked) for name, tracked in self._tracked.items() if self._is_overdue(tracked, now)]
        storm, released = self._gate.admit([tracked for _, tracked in overdue], self._tracked.values(), now)
        for _, tracked in overdue[:released]:
            self._set_connected(tracked, False, now)
            self._gate.lost(tracked, now)
        return ScanResult(disconnected=tuple(name for name, _ in overdue[:released]), storm=storm)

    def _forgive_stall(self, now: float) -> None:
        """A process that was paused heard nothing: the gap is not the devices' silence."""
        gap = now - self._scanned_at
        self._scanned_at = now
        if gap <= self._limits.scan_s + self._limits.stall_s:
            return
        for tracked in self._tracked.values():
            tracked.heard_at = min(now, tracked.heard_at + gap)
        self._pushed_at = {observer: min(now, at + gap) for observer, at in self._pushed_at.items()}

    def _is_overdue(self, tracked: TrackedDevice, now: float) -> bool:
        if not tracked.connected or now - tracked.heard_at <= self._limits.stale_s:
            return False
        if tracked.observer == OWN:
            return True
        silence = now - self._pushed_at.get(tracked.observer, self._since)
        return not self._limits.observer_silence_s < silence <= self._limits.freeze_s

    def _is_damped(self, tracked: TrackedDevice, now: float) -> bool:
        steady_s = tracked.heard_at - tracked.steady_since
        return len(self._recent(tracked, now)) > self._limits.flaps and steady_s < self._limits.flap_hold_s

    def _set_connected(self, tracked: TrackedDevice, connected: bool, now: float) -> None:
        tracked.connected = connected
        tracked.transitions = (*self._recent(tracked, now), now)

    def _recent(self, tracked: TrackedDevice, now: float) -> list[float]:
        return [at for at in tracked.transitions if now - at < self._limits.flap_window_s]


class StormGate:
    """Closes when many devices fall silent at once: then we are more likely cut off than they are gone.

    It stays closed for one more stale limit, and lets devices be lost at the release rate after that; never while no
    device at all is heard.
    """

    def __init__(self, limits: DetectorLimits, now: float) -> None:
        self._limits = limits
        self._closed_until: float | None = None
        self._was_isolated = False
        self._released_at = now
        self._recently_lost: deque[tuple[float, TrackedDevice]] = deque()

    @property
    def closed(self) -> bool:
        """Whether a storm is on."""
        return self._closed_until is not None

    def lost(self, tracked: TrackedDevice, now: float) -> None:
        """Record a device that was believed lost: a storm may turn out to have begun with it."""
        self._recently_lost.append((now, tracked))

    def admit(
        self, overdue: list[TrackedDevice], fleet: Collection[TrackedDevice], now: float
    ) -> tuple[Storm | None, int]:
        """Return the storm that begins now, if one does, and how many of the *overdue* may be believed lost."""
        if self._closed_until is None:
            storm = self._storm(overdue, self._still_lost(now), fleet) if overdue else None
            if storm is None:
                return None, len(overdue)
            self._closed_until = now + self._limits.stale_s
            return storm, 0
        if all(now - tracked.heard_at > self._limits.stale_s for tracked in fleet):
            self._was_isolated = True  # no device at all is heard: we are cut off, however long it takes
            return None, 0
        if self._was_isolated:
            self._was_isolated = False
            self._restart(fleet, now)
            return None, 0
        if not overdue:
            self._closed_until = None
            return None, 0
        if now < self._closed_until:
            self._released_at = now
            return None, 0
        released = int((now - self._released_at) * self._limits.storm_release_per_s)
        self._released_at += released / self._limits.storm_release_per_s
        return None, released

    def _still_lost(self, now: float) -> list[TrackedDevice]:
        while self._recently_lost and now - self._recently_lost[0][0] > self._limits.storm_window_s:
            self._recently_lost.popleft()
        return [tracked for _, tracked in self._recently_lost if not tracked.connected]

    def _restart(self, fleet: Collection[TrackedDevice], now: float) -> None:
        """Count all silence from now on: before it was ours."""
        for tracked in fleet:
            tracked.heard_at = now
        self._closed_until = None

    def _storm(
        self, overdue: list[TrackedDevice], lost: list[TrackedDevice], fleet: Collection[TrackedDevice]
    ) -> Storm | None:
        silent = [*overdue, *lost]
        if len(silent) < self._limits.storm_floor:
            return None
        sites = Counter(tracked.site for tracked in fleet if tracked.connected)
        sites.update(tracked.site for tracked in lost)
        if len(silent) > self._limits.storm_fleet_share * sites.total():
            return Storm(site=None, silent=len(silent))
        return self._site_storm(Counter(tracked.site for tracked in silent), sites)

    def _site_storm(self, silent: Mapping[str, int], sites: Mapping[str, int]) -> Storm | None:
        for site, count in silent.items():
            if count >= self._limits.storm_floor and count > self._limits.storm_site_share * sites[site]:
                return Storm(site=site, silent=count)
        return None

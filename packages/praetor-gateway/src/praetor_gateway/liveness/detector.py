"""The judge of liveness: ages of devices in, connections lost and found out. Pure: no clock, no I/O.

Absence of evidence counts only while the observer demonstrably worked. All times
are monotonic seconds of the judging process.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

from attrs import frozen

OWN = ""
"""The observer that is the judging process itself."""


@frozen(kw_only=True)
class Rules:
    """When silence means that a device is gone. Seconds, unless the name says otherwise."""

    stale_s: float
    grace_s: float
    scan_s: float
    flap_hold_s: float
    observer_silence_s: float = 5.0
    freeze_s: float = 60.0
    stall_s: float = 3.0
    storm_floor: int = 50
    storm_window_s: float = 15.0  # a heartbeat: who is cut off at once falls due within one, not at one moment
    storm_site_share: float = 0.2
    storm_fleet_share: float = 0.05
    storm_drip_per_s: float = 50.0
    flaps: int = 3
    flap_window_s: float = 600.0


@frozen(kw_only=True)
class Storm:
    """So many devices of *site* (None: of the fleet) fell silent at once that we are suspect ourselves."""

    site: str | None
    silent: int


@frozen(kw_only=True)
class Verdict:
    """What a scan found: devices that are gone, and a storm when one began."""

    disconnected: tuple[str, ...] = ()
    storm: Storm | None = None


class Watched:
    """What the judge knows of one device."""

    __slots__ = ("connected", "heard_at", "observer", "site", "steady_since", "transitions")

    def __init__(self, site: str, connected: bool | None, heard_at: float) -> None:
        self.site = site
        self.connected = connected
        self.heard_at = heard_at
        self.observer = OWN
        self.steady_since = heard_at
        self.transitions: tuple[float, ...] = ()


class Judge:
    """Holds the role since *now*. Every device has until then plus the grace to be heard."""

    def __init__(self, rules: Rules, now: float) -> None:
        self._rules = rules
        self._since = now
        self._scanned_at = now
        self._watched: dict[str, Watched] = {}
        self._pushed_at: dict[str, float] = {}
        self._storm_until: float | None = None
        self._was_deaf = False
        self._dripped_at = now
        self._fallen: deque[tuple[float, Watched]] = deque()  # who was lately believed to be gone

    @property
    def suspect(self) -> bool:
        """Whether a storm is on."""
        return self._storm_until is not None

    def connected(self, device: str) -> bool | None:
        """Return the judgement on *device*; None while there is none."""
        watched = self._watched.get(device)
        return watched.connected if watched is not None else None

    def count(self) -> int:
        """Return how many devices are connected."""
        return sum(watched.connected is True for watched in self._watched.values())

    def declare(self, device: str, *, site: str, connected: bool | None, now: float) -> None:
        """Watch *device*; *connected* is what its status says from before our time."""
        watched = self._watched.get(device)
        if watched is None:
            self._watched[device] = Watched(site, connected, now)
        else:
            watched.site = site

    def forget(self, device: str) -> None:
        """Watch *device* no more."""
        self._watched.pop(device, None)

    def push(self, observer: str, now: float) -> None:
        """Note that *observer* works."""
        self._pushed_at[observer] = now

    def hear(self, device: str, now: float, *, age: float = 0.0, observer: str = OWN) -> bool:
        """Take that *observer* heard *device* *age* ago; tell whether this makes it connected."""
        watched = self._watched.get(device)
        if watched is None:
            return False
        heard_at = now - age
        if heard_at >= watched.heard_at:
            if heard_at - watched.heard_at > self._rules.stale_s:
                watched.steady_since = heard_at
            watched.heard_at = heard_at
            watched.observer = observer
        if watched.connected or age > self._rules.stale_s or self._is_damped(watched, now):
            return False
        self._turn(watched, True, now)
        return True

    def scan(self, now: float) -> Verdict:
        """Return who is gone; call it every ``scan_s``."""
        self._forgive_stall(now)
        if now - self._since < self._rules.grace_s:
            return Verdict()
        overdue = [(name, watched) for name, watched in self._watched.items() if self._is_overdue(watched, now)]
        storm, released = self._weather([watched for _, watched in overdue], now)
        for _, watched in overdue[:released]:
            self._turn(watched, False, now)
            self._fallen.append((now, watched))
        return Verdict(disconnected=tuple(name for name, _ in overdue[:released]), storm=storm)

    def _forgive_stall(self, now: float) -> None:
        """A process that was paused heard nothing: the gap is not the devices' silence."""
        gap = now - self._scanned_at
        self._scanned_at = now
        if gap <= self._rules.scan_s + self._rules.stall_s:
            return
        for watched in self._watched.values():
            watched.heard_at = min(now, watched.heard_at + gap)
        self._pushed_at = {observer: min(now, at + gap) for observer, at in self._pushed_at.items()}

    def _is_overdue(self, watched: Watched, now: float) -> bool:
        if not watched.connected or now - watched.heard_at <= self._rules.stale_s:
            return False
        if watched.observer == OWN:
            return True
        silence = now - self._pushed_at.get(watched.observer, self._since)
        return not self._rules.observer_silence_s < silence <= self._rules.freeze_s

    def _is_damped(self, watched: Watched, now: float) -> bool:
        recent = [at for at in watched.transitions if now - at < self._rules.flap_window_s]
        return len(recent) > self._rules.flaps and watched.heard_at - watched.steady_since < self._rules.flap_hold_s

    def _turn(self, watched: Watched, connected: bool, now: float) -> None:
        watched.connected = connected
        recent = (at for at in watched.transitions if now - at < self._rules.flap_window_s)
        watched.transitions = (*recent, now)

    def _weather(self, overdue: list[Watched], now: float) -> tuple[Storm | None, int]:
        """Return the storm that begins now, if one does, and how many of the *overdue* may be believed."""
        if self._storm_until is None:
            storm = _storm(self._rules, overdue, self._lately_fallen(now), self._watched.values()) if overdue else None
            if storm is None:
                return None, len(overdue)
            self._storm_until = now + self._rules.stale_s
            return storm, 0
        if self._is_deaf(now):  # nobody at all is heard: we are cut off, however long it takes
            self._was_deaf = True
            return None, 0
        if self._was_deaf:
            self._was_deaf = False
            self._rearm(now)
            return None, 0
        if not overdue:
            self._storm_until = None
            return None, 0
        if now < self._storm_until:
            self._dripped_at = now
            return None, 0
        released = int((now - self._dripped_at) * self._rules.storm_drip_per_s)
        self._dripped_at += released / self._rules.storm_drip_per_s
        return None, released

    def _lately_fallen(self, now: float) -> list[Watched]:
        while self._fallen and now - self._fallen[0][0] > self._rules.storm_window_s:
            self._fallen.popleft()
        return [watched for _, watched in self._fallen if not watched.connected]

    def _is_deaf(self, now: float) -> bool:
        return all(now - watched.heard_at > self._rules.stale_s for watched in self._watched.values())

    def _rearm(self, now: float) -> None:
        for watched in self._watched.values():
            watched.heard_at = now
        self._storm_until = None


def _storm(rules: Rules, overdue: list[Watched], fallen: list[Watched], fleet: Iterable[Watched]) -> Storm | None:
    silent = [*overdue, *fallen]
    if len(silent) < rules.storm_floor:
        return None
    sites = Counter(watched.site for watched in fleet if watched.connected)
    sites.update(watched.site for watched in fallen)
    if len(silent) > rules.storm_fleet_share * sites.total():
        return Storm(site=None, silent=len(silent))
    return _site_storm(rules, Counter(watched.site for watched in silent), sites)


def _site_storm(rules: Rules, overdue: Mapping[str, int], sites: Mapping[str, int]) -> Storm | None:
    for site, silent in overdue.items():
        if silent >= rules.storm_floor and silent > rules.storm_site_share * sites[site]:
            return Storm(site=site, silent=silent)
    return None

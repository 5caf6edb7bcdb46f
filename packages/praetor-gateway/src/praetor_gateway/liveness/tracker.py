# SPDX-License-Identifier: Apache-2.0
"""Which devices are connected, as this process sees it: it records what it hears, and decides while it leads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attrs import define, field

from praetor_api.conditions import ProcessReason
from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.protocol import DEFAULT_HEARTBEAT_SECONDS
from praetor_gateway.fleet.devices import DeclaredDevice, DeviceIndex, went_back
from praetor_gateway.fleet.judges import JudgeLease
from praetor_gateway.fleet.rows import CachedProcess, Row
from praetor_gateway.fleet.session import DeviceSession
from praetor_gateway.liveness.detector import DetectorLimits, FailureDetector, ScanResult
from praetor_gateway.liveness.intervals import HandedIntervals
from praetor_gateway.status.connected import Connected, Silence, connection, fetched_generation, says, shows_absence
from praetor_gateway.status.pending import (
    ABSENCE_DEBOUNCE_S,
    CONNECTED_DEBOUNCE_S,
    FIRST_REPORT_DEBOUNCE_S,
    PendingStatuses,
    StatusKey,
)
from praetor_gateway.status.switch import counts, shown_counts


@define(eq=False)
class LivenessTracker:
    """An observer always; it runs the failure detector between ``take_over`` and ``step_down``.

    *is_fresh* returns whether the Lease is surely still ours; it is asked before every use of a decision. *own* returns
    that Lease, or the one that another replica of ours holds; None while it is not known.
    """

    _fleet: DeviceIndex
    _pending: PendingStatuses
    _limits: DetectorLimits
    _clock: Clock
    _is_fresh: Callable[[], bool]
    _own: Callable[[], JudgeLease | None] = field(default=lambda: None)
    _heartbeat_s: int = field(default=DEFAULT_HEARTBEAT_SECONDS, kw_only=True)
    intervals: HandedIntervals = field(init=False)
    """By which interval each device is judged, as far as this process knows."""
    wanted: dict[str, tuple[int, float]] = field(factory=dict, init=False)
    """Which interval each other replica wants to hand out, and when it said so."""
    untold: set[str] = field(factory=set, init=False)
    """Devices that this process heard, or that fetched something from it, since another judge was told."""
    rival: JudgeLease | None = field(default=None, init=False)
    """An older Lease, whose holder judges the same devices: then we do not judge."""
    _detector: FailureDetector | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.intervals = HandedIntervals(self._heartbeat_s)

    def handed(self, device: str, interval: int | None) -> None:
        """Record that *device* was heard and asked to be heard every *interval* seconds, None for the shortest."""
        now, interval = self._clock.monotonic(), interval or self._heartbeat_s
        concerned = (interval != self._heartbeat_s or self._stretches()) and self.intervals.concerns(
            device, interval, now
        )
        if not concerned and (self._detector is None or self._detector.stretch(device) == 1.0):
            return
        if self._fleet.device(device) is None:
            return
        if concerned:
            self.intervals.hand(device, interval, now)
        if self._detector is not None:
            self._detector.allow(device, self._stretch(device, now))

    def longest_interval(self) -> int:
        """Return the longest interval that a device may have got, or another replica wants to hand out."""
        now = self._clock.monotonic()
        wanted = (interval for interval, at in self.wanted.values() if now - at <= self._limits.freeze_s)
        return max((self.intervals.longest(now), *wanted))

    def _stretches(self) -> bool:
        """Return whether any device may be judged by a longer interval than the shortest."""
        return bool(self.intervals.handed or self.intervals.assumed_until)

    def _stretch(self, device: str, now: float) -> float:
        if not self._stretches():
            return 1.0
        interval = self.intervals.of(device, now)
        return 1.0 if interval == self._heartbeat_s else interval / self._heartbeat_s  # one object for a fleet

    @property
    def suspect(self) -> bool:
        """Whether so many devices are silent that we are suspect ourselves."""
        return self._detector is not None and self._detector.suspect

    def heard(self, device: DeclaredDevice, now: float) -> None:
        """Record that this process heard *device*."""
        device.session.heard_at = now
        if self._detector is None:
            self.untold.add(device.name)
        elif self._detector.hear(device.name, now):
            self._publish(device, True)

    def heard_elsewhere(self, name: str, observer: str, *, age: float) -> None:
        """Record that the replica *observer* heard the device *name* *age* seconds ago."""
        if self._detector is not None and self._detector.hear(
            name, self._clock.monotonic(), age=age, observer=observer
        ):
            self._publish(self._fleet.device(name), True)

    def pushed(self, observer: str, *, complete: bool = True, wants: int = 0) -> None:
        """Record that *observer* works, and *wants* to hand out that interval; not *complete*: it does not say what
        devices fetched.
        """
        now = self._clock.monotonic()
        self.wanted = {name: said for name, said in self.wanted.items() if now - said[1] <= self._limits.freeze_s}
        self.wanted[observer] = wants, now
        if self._detector is not None:
            self._detector.push(observer, self._clock.monotonic(), complete=complete)

    def tell_again(self, names: Iterable[str]) -> None:
        """Record that the judge was not told of *names* after all; of those that are declared still."""
        self.untold.update(name for name in names if self._fleet.device(name) is not None)

    def fetch(self, device: DeclaredDevice) -> None:
        """Record that *device* has its present desired state: it is about to get it, or names its ETag."""
        if self._detector is None:
            self.untold.add(device.name)
        session, etag = device.session, device.etag
        if session.fetched_etag == etag:
            session.fetched_at = self._clock.monotonic()
        else:
            self._fetched(device, {row.uid: row.generation for row in device.served})
            session.fetched_etag = etag

    def fetched_before(self, name: str, generations: Mapping[str, int], *, age: float = 0.0) -> None:
        """Record that the device *name*, if it is declared, fetched *generations*, by uid, *age* seconds ago."""
        device = self._fleet.device(name)
        if device is not None:
            self._fetched(device, generations, age)

    def _fetched(self, device: DeclaredDevice, generations: Mapping[str, int], age: float = 0.0) -> None:
        device.session.fetch(generations, self._clock.monotonic() - age)
        if self.connected(device.name) not in (True, None):
            self._publish(device, False)

    def fetched_generation(self, row: CachedProcess) -> int | None:
        """Return the generation of *row* that its device fetched last; None when it may have fetched a newer one.

        That is so when a replica is lost before it pushed to us what it answered.
        """
        device = self._fleet.device(row.device)
        if device is None or device.session.fetched_at is None or self._detector is None:
            return None
        generation = device.session.fetched.get(row.uid, 0)
        complete = device.session.fetched_at >= self._detector.complete_since(self._clock.monotonic())
        return generation if complete or generation >= row.generation else None

    def freeze(self) -> None:
        """Believe no silence for a while: a replica said that we do not hear it."""
        if self._detector is not None:
            self._detector.freeze(self._clock.monotonic())

    @property
    def frozen(self) -> bool:
        """Whether no silence is believed."""
        return self._detector is not None and self._detector.frozen(self._clock.monotonic())

    def connected(self, device: str) -> Connected:
        """Return whether *device* is connected; None while that is not ours to say, or not known."""
        if self._detector is None or self.rival is not None or not self._is_fresh():
            return None
        return self._detector.connected(device)

    def absence(self, device: DeclaredDevice) -> ProcessReason | None:
        """Return why *device* was never heard; None when it was, or while that is not ours to say."""
        if self._detector is None or not self._is_fresh() or self._detector.connected(device.name) is not None:
            return None
        return ProcessReason.NEVER_CONNECTED if device.switch is not None else ProcessReason.NOT_DECLARED

    def connected_count(self) -> int:
        """Return how many devices are connected; 0 unless leading."""
        return self._detector.count() if self._detector is not None else 0

    def take_over(self, longest_interval: int = 0) -> None:
        """Begin to decide: a silent device has the whole grace, and a device that we heard is known.

        Any other may have got *longest_interval* from a replica that is gone.
        """
        now = self._clock.monotonic()
        self._assume(longest_interval, now)
        self._detector = FailureDetector(self._limits, now)
        for device in self._fleet:
            self._declare(self._detector, device, now)
            self._recount(self._detector, device)
        for device in self._fleet:
            at = device.session.heard_at
            if at is not None and self._detector.hear(device.name, now, age=now - at):
                self._publish(device, True)

    def _assume(self, longest_interval: int, now: float) -> None:
        longest_s = self._limits.stale_s * longest_interval / self._heartbeat_s
        self.intervals.assume(longest_interval, now, now + self._limits.grace_s + longest_s)

    def _expect_of_lost(self, detector: FailureDetector, now: float) -> None:
        """Judge each device by the longest interval that a replica may have handed it before it fell silent itself.

        A replica pushes every second, and may answer devices after its last push.
        """
        lost = [name for name, (_, at) in self.wanted.items() if now - at > self._limits.observer_silence_s]
        if not lost:
            return
        longest = self.longest_interval()
        for name in lost:
            del self.wanted[name]
        if longest > self._heartbeat_s:
            self._assume(longest, now)
            for device in self._fleet:
                detector.allow(device.name, self._stretch(device.name, now))

    def step_down(self) -> None:
        """Decide no more; go on observing. Who decides next is told all that was heard meanwhile."""
        self._detector = None
        self.untold.update(self.heard_of())

    @property
    def decides(self) -> bool:
        """Whether this process runs the failure detector."""
        return self._detector is not None

    def session(self, name: str) -> DeviceSession | None:
        """Return what was heard from the device *name*, None if it is not declared."""
        device = self._fleet.device(name)
        return None if device is None else device.session

    def heard_of(self) -> set[str]:
        """Return the names of the devices that were heard, or that fetched something."""
        sessions = ((device.name, device.session) for device in self._fleet)
        return {name for name, each in sessions if each.heard_at is not None or each.fetched_at is not None}

    def hears(self, within_s: float) -> bool:
        """Return whether this process heard any device in the last *within_s* seconds."""
        since = self._clock.monotonic() - within_s
        times = (device.session.heard_at for device in self._fleet)
        return any(at is not None and at >= since for at in times)

    def changed(self, name: str) -> None:
        """Follow the declaration of a device."""
        device = self._fleet.device(name)
        if device is None:
            self.untold.discard(name)
            self.intervals.forget(name)
            if self._detector is not None:
                self._detector.forget(name)
        elif self._detector is not None:
            self._declare(self._detector, device, self._clock.monotonic())

    def on_change(self, _: Key, old: Row | None, new: Row | None) -> None:
        """Check a change that an informer reports. Called once the fleet has the change.

        Our decision is written again where another client wrote otherwise: a user, or a former leader, late.
        """
        row = new or old
        if isinstance(old, CachedProcess):
            self._forget_fetched(old, new)
        if old is not None and new is not None and old.judges != new.judges:
            self._check_judges(old, new)
        if row is not None and (connected := self.connected(row.device)) is not None:
            self._publish(self._fleet.device(row.device), connected)

    def _check_judges(self, old: Row, new: Row) -> None:
        """Find a judge with another Lease than ours that wrote just now; the one with the younger Lease gives way."""
        own = self._own()
        ours = own.manager if own is not None else ""
        wrote = [each for each, at in new.judges if each != ours and (each, at) not in old.judges]
        if not wrote:
            return
        found = [JudgeLease.named(each) for each in wrote]
        others = [each for each in found if own is not None and each is not None and str(each) != str(own)]
        older = min((each for each in others if own is not None and each < own), default=None)
        self.rival = older or self.rival

    def _forget_fetched(self, old: CachedProcess, new: Row | None) -> None:
        device = self._fleet.device(old.device)
        if device is not None and (new is None or new.uid != old.uid):
            device.session.forget_fetched(old.uid)
        elif device is not None and new is not None and went_back(old, new):  # generations are counted again
            device.session.forget_fetched()

    def scan(self) -> ScanResult:
        """Find silent devices and queue what is to be written about them; an empty result unless leading."""
        if self._detector is None or self.rival is not None or not self._is_fresh():
            return ScanResult()
        now = self._clock.monotonic()
        self._expect_of_lost(self._detector, now)
        found = self._detector.scan(now)
        for name in self.intervals.devices():
            if self._detector.connected(name) is False:  # it is handed one again when it comes back
                self.intervals.forget(name)
                self._detector.allow(name, self._stretch(name, now))
        for name in found.disconnected:
            self._publish(self._fleet.device(name), False)
        delay_s = 0.0
        for name in found.in_storm:  # spread over the time until the next scan
            device = self._fleet.device(name)
            self._publish(device, self._detector.connected(name), delay_s)
            delay_s += _statuses(device) / self._limits.storm_writes_per_s
        return found

    def _declare(self, detector: FailureDetector, device: DeclaredDevice, now: float) -> None:
        switch = device.switch
        site = switch.site if switch is not None else ""
        detector.declare(device.name, site=site, connected=recorded(device), now=now, statuses=_statuses(device))
        detector.allow(device.name, self._stretch(device.name, now))
        connected = detector.connected(device.name)
        if connected is not None:
            self._publish(device, connected)
        elif (absence := self.absence(device)) is not None:
            self._publish_absence(device, absence)

    def _publish_absence(self, device: DeclaredDevice, absence: ProcessReason) -> None:
        switch = device.switch
        if switch is not None and not shows_absence(switch.status.conditions, absence):
            self._pending.submit(StatusKey.of(switch), ABSENCE_DEBOUNCE_S)
        for row in device.served:
            if not shows_absence(row.status.conditions, absence):
                self._pending.submit(StatusKey.of(row), ABSENCE_DEBOUNCE_S)

    def _recount(self, detector: FailureDetector, device: DeclaredDevice) -> None:
        """Queue the counts that changed while no replica led, for none wrote them then."""
        switch = device.switch
        if switch is None or detector.connected(device.name) is None:
            return
        known = switch.status.processes
        if shown_counts(known, counts(device.served)) != known:
            self._pending.submit(StatusKey.of(switch), CONNECTED_DEBOUNCE_S)

    def _publish(self, device: DeclaredDevice | None, connected: Connected, after_s: float = 0.0) -> None:
        """Queue all statuses of *device* that do not say *connected*, to be written *after_s* if it is lost."""
        if device is None or connected is None:
            return
        switch, found = device.switch, connected is True
        if switch is not None and not says(switch.status.conditions, connected):
            self._pending.submit(StatusKey.of(switch), CONNECTED_DEBOUNCE_S if found else after_s)
        for row in device.served:
            if not says(row.status.conditions, connected) or (not found and self._fetched_since(row)):
                first = found and connection(row.status.conditions) is None
                delay_s = FIRST_REPORT_DEBOUNCE_S if first else after_s
                self._pending.submit(StatusKey.of(row), delay_s)

    def _fetched_since(self, row: CachedProcess) -> bool:
        """Return whether the device of *row* fetched it since it was called disconnected, though it is damped still."""
        device = self._fleet.device(row.device)
        return device is not None and device.session.fetched.get(row.uid, 0) > fetched_generation(row.status.conditions)


def _statuses(device: DeclaredDevice | None) -> int:
    """Return how many statuses are written when the connection of *device* changes: its switch's counts follow."""
    return 0 if device is None else len(device.served) + 2 * (device.switch is not None)


def recorded(device: DeclaredDevice) -> Connected:
    """Return what the statuses say: the switch's, or without one those of the processes."""
    if device.switch is not None:
        return connection(device.switch.status.conditions)
    said = [connection(row.status.conditions) for row in device.served]
    return next((each for each in (True, False, Silence.STORM, Silence.FLEET) if each in said), None)

"""Who is connected, as this process sees it: it remembers whom it heard, and judges while it holds the Lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_api.kube.runtime.clock import Clock
from praetor_gateway.fleet.fleet import Device, Fleet
from praetor_gateway.fleet.rows import ProcessRow, SwitchRow
from praetor_gateway.liveness.detector import OWN, Judge, Rules, Verdict
from praetor_gateway.status.merge import connection
from praetor_gateway.status.patch import Target
from praetor_gateway.status.queue import StatusQueue
from praetor_gateway.status.switch import counts, shown_counts

CONNECT_LINGER_S = 0.1
FIRST_REPORT_LINGER_S = 0.5
"""How long the first AgentConnected of a process waits for the first report on it, to be written together."""


class Liveness:
    """An observer always, the judge between ``take_over`` and ``step_down``.

    *is_fresh* tells whether the Lease is surely still ours; it is asked before every use of a judgement.
    """

    def __init__(
        self, fleet: Fleet, queue: StatusQueue, rules: Rules, clock: Clock, is_fresh: Callable[[], bool]
    ) -> None:
        self._fleet = fleet
        self._queue = queue
        self._rules = rules
        self._clock = clock
        self._is_fresh = is_fresh
        self._heard_at: dict[str, float] = {}
        self._judge: Judge | None = None

    @property
    def suspect(self) -> bool:
        """Whether so many devices are silent that we are suspect ourselves."""
        return self._judge is not None and self._judge.suspect

    @property
    def heard_at(self) -> Mapping[str, float]:
        """When this process heard each device last, in monotonic seconds."""
        return self._heard_at

    def heard(self, device: str, *, age: float = 0.0, observer: str = OWN) -> None:
        """Take notice that *observer* heard *device* *age* seconds ago."""
        now = self._clock.monotonic()
        if observer == OWN:
            self._heard_at[device] = now
        if self._judge is not None and self._judge.hear(device, now, age=age, observer=observer):
            self._publish(self._fleet.device(device), True)

    def pushed(self, observer: str) -> None:
        """Take notice that *observer* works."""
        if self._judge is not None:
            self._judge.push(observer, self._clock.monotonic())

    def connected(self, device: str) -> bool | None:
        """Return whether *device* is connected; None while that is not ours to say, or not known."""
        if self._judge is None or not self._is_fresh():
            return None
        return self._judge.connected(device)

    def connected_count(self) -> int:
        """Return how many devices are judged connected."""
        return self._judge.count() if self._judge is not None else 0

    def take_over(self) -> None:
        """Begin to judge: whoever is silent has the whole grace, whoever we heard is known."""
        now = self._clock.monotonic()
        self._judge = Judge(self._rules, now)
        for device in self._fleet:
            self._declare(self._judge, device, now)
            self._recount(self._judge, device)
        for name, at in self._heard_at.items():
            if self._judge.hear(name, now, age=now - at):
                self._publish(self._fleet.device(name), True)

    def step_down(self) -> None:
        """Judge no more; go on observing."""
        self._judge = None

    def changed(self, name: str) -> None:
        """Follow the declaration of a device."""
        device = self._fleet.device(name)
        if device is None:
            self._heard_at.pop(name, None)
            if self._judge is not None:
                self._judge.forget(name)
        elif self._judge is not None:
            self._declare(self._judge, device, self._clock.monotonic())

    def on_process(self, _: Key, old: ProcessRow | None, new: ProcessRow | None) -> None:
        """Take a change that an informer tells, once the fleet took it."""
        row = new or old
        if row is not None:
            self._correct(row.device)

    def on_switch(self, key: Key, _: SwitchRow | None, __: SwitchRow | None) -> None:
        """Take a change that an informer tells, once the fleet took it."""
        self._correct(key.name)

    def _correct(self, name: str) -> None:
        """Write what we judge again where somebody else wrote otherwise: a person, or a judge of before, late."""
        connected = self.connected(name)
        if connected is not None:
            self._publish(self._fleet.device(name), connected)

    def scan(self) -> Verdict:
        """Judge, and queue what is to be written about it; an empty verdict while not judging."""
        if self._judge is None or not self._is_fresh():
            return Verdict()
        verdict = self._judge.scan(self._clock.monotonic())
        for name in verdict.disconnected:
            self._publish(self._fleet.device(name), False)
        return verdict

    def _declare(self, judge: Judge, device: Device, now: float) -> None:
        switch = device.switch
        site = switch.site if switch is not None else ""
        judge.declare(device.name, site=site, connected=recorded(device), now=now)
        connected = judge.connected(device.name)
        if connected is not None:
            self._publish(device, connected)

    def _recount(self, judge: Judge, device: Device) -> None:
        """Queue the counts that changed while nobody led, for nobody wrote them then."""
        switch = device.switch
        if switch is None or judge.connected(device.name) is None:
            return
        known = switch.status.processes
        if shown_counts(known, counts(device.served)) != known:
            self._queue.submit(Target(NETWORK_SWITCHES, switch.key), CONNECT_LINGER_S)

    def _publish(self, device: Device | None, connected: bool) -> None:
        """Queue all statuses that do not say so."""
        if device is None:
            return
        switch = device.switch
        if switch is not None and connection(switch.status.conditions) is not connected:
            self._queue.submit(Target(NETWORK_SWITCHES, switch.key), CONNECT_LINGER_S if connected else 0.0)
        for row in device.served:
            said = connection(row.status.conditions)
            if said is not connected:
                delay_s = FIRST_REPORT_LINGER_S if connected and said is None else 0.0
                self._queue.submit(Target(DEVICE_PROCESSES, row.key), delay_s)


def recorded(device: Device) -> bool | None:
    """Return what the statuses say: the switch's, or without one those of the processes."""
    if device.switch is not None:
        return connection(device.switch.status.conditions)
    said = [connection(row.status.conditions) for row in device.served]
    return True if True in said else False if False in said else None

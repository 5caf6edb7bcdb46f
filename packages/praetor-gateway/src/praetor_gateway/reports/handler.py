"""Takes what devices say. Nothing is written here: what changes a status goes to the queue, once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from attrs import frozen

from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES
from praetor_api.kube.conditions import is_true
from praetor_api.kube.objects import DeviceProcessStatus, Phase
from praetor_api.kube.runtime.clock import Clock
from praetor_api.protocol import Observation, Rejected, Report
from praetor_api.wire import clean_text
from praetor_gateway.fleet.fleet import Device
from praetor_gateway.fleet.rows import ProcessRow
from praetor_gateway.fleet.session import FACTS
from praetor_gateway.liveness.tracker import Liveness
from praetor_gateway.status.merge import merge, start_time
from praetor_gateway.status.patch import Target
from praetor_gateway.status.pending import Statuses
from praetor_gateway.status.queue import StatusQueue
from praetor_gateway.status.reasons import ConditionType

PROGRESS_LINGER_S = 0.3
"""How long a step on the way may wait for the next one, to be written together."""
RESULT_LINGER_S = 0.1
AGENT_LINGER_S = 0.5
COUNTS_LINGER_S = 5.0


@frozen(kw_only=True)
class Allowance:
    """How many reports one device may send."""

    rate_per_s: float
    burst: float


class Intake:
    """Judges reports against the cache and queues the statuses that they change."""

    def __init__(
        self, statuses: Statuses, queue: StatusQueue, liveness: Liveness, clock: Clock, allowance: Allowance
    ) -> None:
        self._statuses = statuses
        self._queue = queue
        self._liveness = liveness
        self._clock = clock
        self._allowance = allowance

    def heard(self, device: Device) -> None:
        """Take notice of a device."""
        self._liveness.heard(device.name)

    def spend(self, device: Device) -> float:
        """Take one report from the device's allowance; return 0, or the seconds after which to try again."""
        return device.session.allow(self._allowance.rate_per_s, self._allowance.burst, self._clock.monotonic())

    def report(self, device: Device, report: Report, observations: tuple[Observation, ...]) -> tuple[Rejected, ...]:
        """Take a report of *device*; return the observations that cannot be taken, and why."""
        if device.session.is_replay(report.boot_id, report.seq, self._clock.monotonic()):
            return ()
        self._introduce(device, report)
        return tuple(self._refused(device, observations)) if observations else ()

    def _introduce(self, device: Device, report: Report) -> None:
        session = device.session
        session.agent_version = sys.intern(report.agent_version) or session.agent_version
        session.boot_id = report.boot_id or session.boot_id
        if report.facts is not None:
            session.facts = _shared(report.facts)
            session.reported(FACTS)
        switch = device.switch
        if switch is not None and self._is_news(device):
            self._queue.submit(Target(NETWORK_SWITCHES, switch.key), AGENT_LINGER_S)

    def _is_news(self, device: Device) -> bool:
        session, switch = device.session, device.switch
        return switch is not None and (
            session.agent_version not in (None, switch.status.agent_version)
            or session.boot_id not in (None, switch.status.boot_id)
            or (session.facts is not None and session.facts != switch.status.facts)
        )

    def _refused(self, device: Device, observations: tuple[Observation, ...]) -> Iterator[Rejected]:
        for observation in observations:
            reason = self._observe(device, observation)
            if reason:
                yield Rejected(name=clean_text(observation.name), reason=reason)

    def _observe(self, device: Device, seen: Observation) -> str:
        """Take one observation; return why not, or nothing."""
        rows = [row for row in device.served if _is_meant(row, seen)]
        if len(rows) != 1:
            return "namespace: is needed, several have this name" if rows else "no such process on this device"
        row = rows[0]
        if seen.uid not in ("", row.uid):
            return "uid: is not that of the process, which was deleted and created again"
        try:
            start_time(seen.start_time)
        except ValueError:
            return "startTime: must be a time with a zone (RFC 3339)"
        device.session.reported(row.uid)
        self._queue_change(row, seen)
        return ""

    def _queue_change(self, row: ProcessRow, seen: Observation) -> None:
        connected = self._liveness.connected(row.device)
        status = merge(row, seen, connected=connected, now=self._clock.now())
        target = Target(DEVICE_PROCESSES, row.key)
        if status != row.status:
            self._statuses.observe(row, seen)
            self._queue.submit(target, linger_s(row.status, status))
        elif self._statuses.is_waiting(target):
            self._statuses.observe(row, seen)  # back to what is written: the entry must not tell of in between


def linger_s(old: DeviceProcessStatus, new: DeviceProcessStatus) -> float:
    """Return how long a change may wait for the next one: failures not at all."""
    was_healthy, is_healthy = (is_true(status.conditions, ConditionType.HEALTHY) for status in (old, new))
    if (new.phase is Phase.FAILED and old.phase is not Phase.FAILED) or (was_healthy and not is_healthy):
        return 0.0
    if new.phase is not old.phase or is_healthy is not was_healthy:
        return RESULT_LINGER_S
    return PROGRESS_LINGER_S


def _is_meant(row: ProcessRow, seen: Observation) -> bool:
    return row.key.name == seen.name and seen.namespace in ("", row.key.namespace)


def _shared(facts: Mapping[str, str]) -> Mapping[str, str]:
    return {sys.intern(name): sys.intern(value) for name, value in facts.items()}

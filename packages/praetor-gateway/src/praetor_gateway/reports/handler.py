# SPDX-License-Identifier: Apache-2.0
"""Takes the reports of devices. Nothing is written here: a status that changes becomes pending."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from praetor_api.kube.client.resource import NETWORK_SWITCHES
from praetor_api.kube.runtime.clock import Clock
from praetor_api.protocol import Observation, Rejected, Report
from praetor_api.wire import clean_text
from praetor_gateway.fleet.devices import DeclaredDevice
from praetor_gateway.fleet.rows import CachedProcess
from praetor_gateway.fleet.session import FACTS
from praetor_gateway.liveness.tracker import LivenessTracker
from praetor_gateway.status.merge import merge, start_time
from praetor_gateway.status.pending import AGENT_DEBOUNCE_S, PendingStatuses, StatusKey

REPORT_BURST_S = 10.0
"""A device may send at once what its rate allows in this many seconds: it reports each step of a start at once."""


class ReportHandler:
    """Compares reports with the cache and makes the statuses pending that they change.

    A device may send *rate_per_s* reports a second in the long run.
    """

    def __init__(self, pending: PendingStatuses, liveness: LivenessTracker, clock: Clock, rate_per_s: float) -> None:
        self._pending = pending
        self._liveness = liveness
        self._clock = clock
        self._rate_per_s = rate_per_s
        self._burst = max(1.0, rate_per_s * REPORT_BURST_S)

    def heard(self, device: DeclaredDevice) -> None:
        """Record that a device sent something."""
        self._liveness.heard(device.name)

    def fetched(self, device: DeclaredDevice) -> None:
        """Record that a device has its present desired state, or is about to get it."""
        self._liveness.fetch(device)

    def spend(self, device: DeclaredDevice) -> float:
        """Take one report from what the device may send; return 0, or the seconds after which to try again."""
        return device.session.allow(self._rate_per_s, self._burst, self._clock.monotonic())

    def report(
        self, device: DeclaredDevice, report: Report, observations: tuple[Observation, ...]
    ) -> tuple[Rejected, ...]:
        """Take a report of *device*; return the observations that cannot be taken, and why."""
        if device.session.is_replay(report.boot_id, report.seq, self._clock.monotonic()):
            return ()
        self._update_session(device, report)
        return tuple(self._rejected(device, observations)) if observations else ()

    def _update_session(self, device: DeclaredDevice, report: Report) -> None:
        session = device.session
        session.agent_version = sys.intern(report.agent_version) or session.agent_version
        session.boot_id = report.boot_id or session.boot_id
        if report.facts is not None:
            session.facts = _shared(report.facts)
            session.reported(FACTS)
        switch = device.switch
        if switch is not None and session.differs_from(switch.status):
            self._pending.submit(StatusKey(NETWORK_SWITCHES, switch.key), AGENT_DEBOUNCE_S)

    def _rejected(self, device: DeclaredDevice, observations: tuple[Observation, ...]) -> Iterator[Rejected]:
        for observation in observations:
            reason = self._observe(device, observation)
            if reason:
                yield Rejected(name=clean_text(observation.name), reason=reason)

    def _observe(self, device: DeclaredDevice, seen: Observation) -> str:
        """Take one observation; return why it cannot be taken, or nothing."""
        row = next((row for row in device.served if _is_meant(row, seen)), None)
        if row is None:
            return "no such process on this device"
        if seen.uid not in ("", row.uid):
            return "uid: is not that of the process, which was deleted and created again"
        try:
            start_time(seen.start_time)
        except ValueError:
            return "startTime: must be a time with a zone (RFC 3339)"
        device.session.reported(row.uid)
        status = merge(row, seen, connected=self._liveness.connected(row.device), now=self._clock.now())
        self._pending.observe(row, seen, status)
        return ""


def _is_meant(row: CachedProcess, seen: Observation) -> bool:
    return row.key.name == seen.name and seen.namespace in ("", row.key.namespace)


def _shared(facts: Mapping[str, str]) -> Mapping[str, str]:
    return {sys.intern(name): sys.intern(value) for name, value in facts.items()}

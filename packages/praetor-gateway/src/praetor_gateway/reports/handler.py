# SPDX-License-Identifier: Apache-2.0
"""Takes the reports of devices. Nothing is written here: a status that changes becomes pending."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from attrs import evolve

from praetor_api.conditions import ConditionType
from praetor_api.kube.conditions import is_true
from praetor_api.kube.objects import Reported
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.texts import kept
from praetor_api.protocol import Observation, Rejected, Report
from praetor_api.wire import clean_text
from praetor_gateway.fleet.devices import DeclaredDevice, DeviceIndex
from praetor_gateway.fleet.order import (
    UNORDERED,
    Poll,
    ReportOrder,
    advanced,
    following,
    is_behind,
    is_late,
    supersedes,
)
from praetor_gateway.fleet.references import Refusal
from praetor_gateway.fleet.rows import CachedProcess
from praetor_gateway.fleet.session import FACTS
from praetor_gateway.liveness.tracker import LivenessTracker
from praetor_gateway.reports.heartbeats import Heartbeat
from praetor_gateway.reports.traces import DeviceTraces
from praetor_gateway.status.findings import too_old, withholds
from praetor_gateway.status.merge import merge, start_time
from praetor_gateway.status.pending import AGENT_DEBOUNCE_S, PendingStatuses, StatusKey

MAX_WRITE_DELAY_S = 10.0
"""How long a status may differ from what the device reported to another replica: it is written after half a second, and
a queue of a thousand others is written within ten. To ask too early costs one report."""


class ReportHandler:
    """Compares reports with the cache and makes the statuses pending that they change."""

    def __init__(
        self,
        fleet: DeviceIndex,
        pending: PendingStatuses,
        liveness: LivenessTracker,
        clock: Clock,
        traces: DeviceTraces | None = None,
    ) -> None:
        self._fleet = fleet
        self._pending = pending
        self._liveness = liveness
        self._clock = clock
        self._traces = traces

    def heard(self, device: DeclaredDevice, now: float) -> None:
        """Record that a device sent something just *now*."""
        self._liveness.heard(device, now)

    def handed(self, device: DeclaredDevice, interval: int) -> None:
        """Record that a device is asked to be heard every *interval* seconds."""
        self._liveness.handed(device.name, interval)

    def polled(self, device: DeclaredDevice, poll: Poll) -> bool:
        """Record that a device sent a poll that is a heartbeat, unless it was sent before or by a boot that is over.

        Return whether it counted.
        """
        session, now = device.session, self._clock.monotonic()
        goes_on = device.superseded(poll.boot_id)
        if not session.is_next_poll(poll.boot_id, poll.number, is_over=goes_on):
            return False
        if goes_on and not session.goes_on(poll.boot_id, now):
            return False
        self._liveness.heard(device, now)
        if not goes_on and self._end_duplicate(device):
            self._submit(device)
        return True

    def ask(self, device: DeclaredDevice, poll: Poll) -> bool:
        """Return whether to ask a device that polls to report everything, unless another poll of it came since.

        What it reported is on record after MAX_WRITE_DELAY_S, or lost.
        """
        session, now = device.session, self._clock.monotonic()
        if poll.reported is None:  # it is about to report
            session.obeys()
            return False
        if not session.is_last_poll(poll.boot_id, poll.number):
            return False
        ordered, known = now >= self._fleet.unordered_until, session.behind
        behind = ordered and self._polls_behind(device, poll)
        of_this_boot = known is not None and known[0].boot_id == poll.boot_id
        if behind and (known is None or not of_this_boot or not self._polls_behind(device, known[0])):
            session.behind = known = poll, now
        elif not behind and of_this_boot:  # one of two devices with one name is behind while the other is not
            session.behind = None
        if behind and known is not None and now - known[1] >= MAX_WRITE_DELAY_S:
            session.request_all(now)
        return session.ask(now, agrees=not behind)

    def compare_in_s(self, device: DeclaredDevice) -> float | None:
        """Return after how many seconds to compare the device's record again; None if it is not behind, or late."""
        if device.session.behind is None:
            return None
        left_s = device.session.behind[1] + MAX_WRITE_DELAY_S - self._clock.monotonic()
        return left_s if left_s > 0 else None

    def fetched(self, device: DeclaredDevice) -> None:
        """Record that a device has its present desired state, or is about to get it."""
        self._liveness.fetch(device)

    def served(self, rows: Iterable[CachedProcess]) -> None:
        """Record that *rows* are sent to their device."""
        if self._traces is not None:
            self._traces.served(rows)

    def report(
        self,
        device: DeclaredDevice,
        report: Report | Heartbeat,
        observations: tuple[Observation, ...],
        access: Refusal | None = None,
    ) -> tuple[Rejected, ...]:
        """Take a report of *device*; return the observations that cannot be taken, and why.

        *access* is why its connection carries no values of Secrets, None if it may.
        """
        session, now = device.session, self._clock.monotonic()
        boot_id = _boot(device, report.boot_id)
        goes_on = bool(boot_id) and device.superseded(boot_id)
        if goes_on and not session.goes_on(boot_id, now):
            return ()  # sent before the device booted again
        if session.is_replay(boot_id, report.seq, now):
            return ()
        session.recount_polls()
        order = ReportOrder(clean_text(boot_id), report.revision, goes_on)
        if now < self._fleet.unordered_until:
            order, session.reported = UNORDERED, None
        self._update_session(device, report, boot_id, order)
        if order.boot_id and self._is_behind(device, order.boot_id, *_said(report, order)):
            session.request_all(now)
        return tuple(self._rejected(device, observations, order, access)) if observations else ()

    def _update_session(
        self, device: DeclaredDevice, report: Report | Heartbeat, boot_id: str, order: ReportOrder
    ) -> None:
        session, known = device.session, device.reported
        if not is_late(known, order):
            if report.agent_version != session.agent_version:
                session.agent_version = kept(report.agent_version) or session.agent_version
            session.boot_id = boot_id or session.boot_id
            if report.facts is not None:
                session.facts = {kept(name): kept(value) for name, value in report.facts.items()}
                if device.switch is not None:
                    session.share(device.switch.status)
                session.took(FACTS)
                session.reported = advanced(known, order)
            elif order.revision is not None and (known is None or known.boot_id != order.boot_id):
                session.reported = advanced(known, evolve(order, revision=0))  # its facts are still to come
        switch = device.switch
        if switch is None:
            return
        before = session.duplicate
        if order.goes_on and known is not None:
            boots = sorted({order.boot_id, known.boot_id, known.previous_boot_id or known.boot_id})
            session.duplicate = f"the boots {' and '.join(boots)} report under this name; give each device its own"
        else:
            self._end_duplicate(device)
        if session.duplicate != before or session.differs_from(switch.status):
            self._submit(device)

    def _end_duplicate(self, device: DeclaredDevice) -> bool:
        """Return whether the device, of which there were two, is alone now, which its status does not say yet."""
        session, switch, known = device.session, device.switch, device.reported
        if switch is None or not is_true(switch.status.conditions, ConditionType.DUPLICATE):
            return False
        if session.duplicate == "" or not session.is_alone(known.boot_id if known else "", self._clock.monotonic()):
            return False
        session.duplicate = ""
        return True

    def _submit(self, device: DeclaredDevice) -> None:
        if device.switch is not None:
            self._pending.submit(StatusKey.of(device.switch), AGENT_DEBOUNCE_S)

    def _polls_behind(self, device: DeclaredDevice, poll: Poll) -> bool:
        return self._is_behind(device, poll.boot_id, poll.reported, poll.revision)

    def _is_behind(self, device: DeclaredDevice, boot_id: str, reported: int | None, revision: int | None) -> bool:
        """Return whether what the device was promised to be on record is not: a replica ended before it wrote it."""
        if device.switch is not None and is_behind(device.reported, boot_id, revision):
            return True
        return reported is not None and sum(self._revisions(device, boot_id)) < reported

    def _revisions(self, device: DeclaredDevice, boot_id: str) -> Iterator[int]:
        for row in device.served:
            known = self._known(row)
            if known is not None and known.boot_id == boot_id:
                yield known.revision or 0

    def _known(self, row: CachedProcess) -> Reported | None:
        """Return what was reported last of *row*, whether or not it is written yet."""
        _, pending = self._pending.observation(row)
        known = row.status.reported
        if pending is None:
            return known
        return known if supersedes(known, pending) else following(known, pending)

    def _rejected(
        self,
        device: DeclaredDevice,
        observations: tuple[Observation, ...],
        order: ReportOrder,
        access: Refusal | None,
    ) -> Iterator[Rejected]:
        for observation in observations:
            reason = self._observe(device, observation, evolve(order, revision=observation.revision), access)
            if reason:
                yield Rejected(name=clean_text(observation.name), reason=reason)

    def _observe(self, device: DeclaredDevice, seen: Observation, order: ReportOrder, access: Refusal | None) -> str:
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
        missing = row.features - device.session.features
        if missing:  # it was not sent the spec, so that this is no failure
            seen = replace(seen, update_held_message=too_old(missing), error_message=None)
        elif row.references and (why := withholds(device.resolved(row, access))):
            seen = replace(seen, update_held_message=why, error_message=None)
        known = self._known(row)
        if is_late(known, order):
            return ""
        device.session.took(row.uid)
        if self._traces is not None:
            self._traces.reported(row, seen)
        connected = self._liveness.connected(row.device)
        reported = advanced(known, order)
        status = merge(row, seen, reported=reported, connected=connected, now=self._clock.now())
        self._pending.observe(row, seen, reported, status)
        return ""


def _boot(device: DeclaredDevice, boot_id: str) -> str:
    """Return the text that is kept of *boot_id* already; each device has its own, so that few of them are shared."""
    known = device.session.boot_id
    if known is not None and known == boot_id:
        return known
    for row in device.served:
        reported = row.status.reported
        if reported is not None and reported.boot_id == boot_id:
            return reported.boot_id
    return kept(boot_id)


def _said(report: Report | Heartbeat, order: ReportOrder) -> tuple[int | None, int | None]:
    """Return what a report says to be on record, apart from what it brings: the sum of revisions, that of the facts."""
    return None if report.observations else report.reported, order.revision if report.facts is None else None


def _is_meant(row: CachedProcess, seen: Observation) -> bool:
    return row.key.name == seen.name and seen.namespace in ("", row.key.namespace)

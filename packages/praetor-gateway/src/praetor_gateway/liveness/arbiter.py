# SPDX-License-Identifier: Apache-2.0
"""Runs the failure detector while this process holds the Lease: scans, counts and reports storms."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from attrs import define, field

from praetor_api.annotations import PEER_UNHEARD_ANNOTATION
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.elector import Elector
from praetor_api.kube.runtime.events import EventRecorder
from praetor_gateway.fleet.devices import DeviceIndex
from praetor_gateway.fleet.judges import JudgeLease
from praetor_gateway.liveness.detector import Storm
from praetor_gateway.liveness.tracker import LivenessTracker
from praetor_gateway.status.events import EventReason, StatusEvent
from praetor_gateway.status.writer import record_event

_log = structlog.get_logger()


@define(eq=False)
class Arbiter:
    """Scans every *scan_s* seconds while leading.

    *longest_interval* returns the longest interval of heartbeats that a device may have got from a replica that is
    gone. *count* is called with how many devices a scan found gone, *took_over* when leading begins.
    """

    _elector: Elector
    _liveness: LivenessTracker
    _fleet: DeviceIndex
    _recorder: EventRecorder
    _clock: Clock = field(kw_only=True)
    _scan_s: float = field(kw_only=True)
    _longest_interval: Callable[[], int] = field(kw_only=True)
    _count: Callable[[int], None] = field(kw_only=True)
    _took_over: Callable[[], None] = field(kw_only=True)
    _reported: JudgeLease | None = field(default=None, init=False)
    _unheard: str = field(default="", init=False)

    async def run(self) -> None:
        """Campaign and scan until cancelled, which gives the Lease up."""
        await self._elector.run(self._lead)

    async def _lead(self) -> None:
        self._liveness.take_over(self._longest_interval())
        self._unheard = self._elector.holder_annotations.get(PEER_UNHEARD_ANNOTATION, "")
        self._took_over()
        _log.info("failure detector started")
        try:
            while True:
                await self._clock.sleep(self._scan_s)
                self._heed_unheard()
                found = self._liveness.scan()
                self._check_rival()
                if gone := (*found.disconnected, *found.in_storm):
                    self._count(len(gone))
                    _log.info("devices disconnected", count=len(gone), first=gone[0])
                for storm in found.storms:
                    self._report(storm)
                if found.over:
                    self._record(None, EventReason.STORM_OVER, "no more devices are silent at once")
        finally:
            self._liveness.step_down()

    def _heed_unheard(self) -> None:
        """Freeze when a replica says, or says again, that we do not hear it."""
        said = self._elector.holder_annotations.get(PEER_UNHEARD_ANNOTATION, "")
        if said != self._unheard:
            self._unheard = said
            if not self._liveness.frozen:
                _log.warning("devices frozen: a replica is not heard", replica=said.partition(" ")[0])
            self._liveness.freeze()

    def _check_rival(self) -> None:
        """Report that another gateway judges the same devices, once."""
        rival = self._liveness.rival
        if rival is not None and rival != self._reported:
            _log.error("another gateway judges the same devices; this one judges no more", lease=str(rival))
            note = f"the gateways with the older Lease {rival} judge the same devices; those with ours judge no more"
            self._record(None, EventReason.ANOTHER_JUDGE, note)
        self._reported = rival

    def _report(self, storm: Storm) -> None:
        where = f"site {storm.site}" if storm.site is not None else "the fleet"
        note = f"{storm.silent} devices of {where} fell silent at once; none is called disconnected for now"
        _log.warning("many devices silent", silent=storm.silent, site=storm.site)
        self._record(storm.site, EventReason.MANY_AGENTS_SILENT, note)

    def _record(self, site: str | None, reason: EventReason, note: str) -> None:
        """Record one event for all the devices of *site* (None: of the fleet), on the first switch of those."""
        rows = (device.switch for device in self._fleet if device.switch is not None)
        row = next((row for row in rows if site in (None, row.site)), None)
        if row is not None:
            record_event(self._recorder, row.resource, row, StatusEvent(reason, note), action="JudgeLiveness")

"""Judges while this process holds the Lease: scans, counts and tells of storms."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from praetor_api.kube.client.resource import NETWORK_SWITCHES
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.elector import Elector
from praetor_gateway.fleet.fleet import Fleet
from praetor_gateway.liveness.detector import Storm
from praetor_gateway.liveness.tracker import Liveness
from praetor_gateway.status.patch import regarding
from praetor_gateway.status.reasons import EventReason, EventType
from praetor_gateway.status.writer import Recorder

_log = structlog.get_logger()


class Arbiter:
    """Runs the judge every *scan_s* while leading; *count* is told how many devices each scan found gone."""

    def __init__(
        self,
        elector: Elector,
        liveness: Liveness,
        fleet: Fleet,
        recorder: Recorder,
        *,
        clock: Clock,
        scan_s: float,
        count: Callable[[int], None],
    ) -> None:
        self._count = count
        self._elector = elector
        self._liveness = liveness
        self._fleet = fleet
        self._recorder = recorder
        self._clock = clock
        self._scan_s = scan_s

    async def run(self) -> None:
        """Campaign and judge for ever; cancel it to give the Lease up."""
        await self._elector.run(self._lead)

    async def _lead(self) -> None:
        self._liveness.take_over()
        _log.info("judging liveness")
        try:
            while True:
                await self._clock.sleep(self._scan_s)
                verdict = self._liveness.scan()
                if verdict.disconnected:
                    self._count(len(verdict.disconnected))
                    _log.info("devices disconnected", count=len(verdict.disconnected), first=verdict.disconnected[0])
                if verdict.storm is not None:
                    self._tell(verdict.storm)
        finally:
            self._liveness.step_down()

    def _tell(self, storm: Storm) -> None:
        """Record one event for all the devices, on the first switch of those concerned."""
        where = f"site {storm.site}" if storm.site is not None else "the fleet"
        note = f"{storm.silent} devices of {where} fell silent at once; none is called disconnected for now"
        _log.warning("many devices silent", silent=storm.silent, site=storm.site)
        rows = (device.switch for device in self._fleet if device.switch is not None)
        row = next((row for row in rows if storm.site in (None, row.site)), None)
        if row is not None:
            self._recorder.record(
                regarding(NETWORK_SWITCHES, row),
                type=EventType.WARNING,
                reason=EventReason.MANY_AGENTS_SILENT,
                action="JudgeLiveness",
                note=note,
            )

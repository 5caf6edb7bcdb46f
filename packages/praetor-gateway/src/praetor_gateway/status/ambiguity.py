"""Tells of NetworkSwitches that share a name, so that nobody can say which device a name means."""

from __future__ import annotations

from praetor_api.kube.client.resource import NETWORK_SWITCHES
from praetor_gateway.fleet.fleet import Fleet
from praetor_gateway.status.patch import regarding
from praetor_gateway.status.reasons import EventReason, EventType
from praetor_gateway.status.writer import Recorder


class AmbiguityWatch:
    """Records a Warning on each switch when a name becomes ambiguous."""

    def __init__(self, fleet: Fleet, recorder: Recorder) -> None:
        self._fleet = fleet
        self._recorder = recorder
        self._told: set[str] = set()

    def changed(self, name: str) -> None:
        """Look at the device *name*."""
        device = self._fleet.device(name)
        if device is None or len(device.switches) < 2:
            self._told.discard(name)
        elif name not in self._told:
            self._told.add(name)
            namespaces = ", ".join(row.key.namespace for row in device.switches)
            for row in device.switches:
                self._recorder.record(
                    regarding(NETWORK_SWITCHES, row),
                    type=EventType.WARNING,
                    reason=EventReason.DEVICE_AMBIGUOUS,
                    action="ServeDevice",
                    note=f"the namespaces {namespaces} all have a switch of this name; none of them is served",
                )

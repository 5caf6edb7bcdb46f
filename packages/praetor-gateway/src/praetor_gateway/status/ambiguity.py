# SPDX-License-Identifier: Apache-2.0
"""Reports NetworkSwitches that share a name, so that it is unclear which device the name means."""

from __future__ import annotations

from attrs import define, field

from praetor_api.kube.client.resource import NETWORK_SWITCHES
from praetor_api.kube.runtime.events import EventRecorder
from praetor_gateway.fleet.devices import DeviceIndex
from praetor_gateway.status.events import EventReason, StatusEvent
from praetor_gateway.status.writer import record_event


@define(eq=False)
class AmbiguityReporter:
    """Records a Warning on each switch when a name becomes ambiguous."""

    _fleet: DeviceIndex
    _recorder: EventRecorder
    _reported: set[str] = field(factory=set, init=False)

    def changed(self, name: str) -> None:
        """Check the device *name*."""
        device = self._fleet.device(name)
        if device is None or len(device.switches) < 2:
            self._reported.discard(name)
        elif name not in self._reported:
            self._reported.add(name)
            namespaces = ", ".join(row.key.namespace for row in device.switches)
            note = f"the namespaces {namespaces} all have a switch of this name; none of them is served"
            event = StatusEvent(EventReason.DEVICE_AMBIGUOUS, note)
            for row in device.switches:
                record_event(self._recorder, NETWORK_SWITCHES, row, event, action="ServeDevice")

"""Has the counts in a NetworkSwitch's status written some time after its processes changed, many changes together."""

from __future__ import annotations

from praetor_api.kube.client.resource import NETWORK_SWITCHES, Key
from praetor_api.kube.conditions import is_true
from praetor_api.kube.objects import Phase
from praetor_gateway.fleet.fleet import Fleet
from praetor_gateway.fleet.rows import ProcessRow
from praetor_gateway.status.patch import Target
from praetor_gateway.status.queue import StatusQueue
from praetor_gateway.status.reasons import ConditionType

LINGER_S = 5.0


class CountWatch:
    """Follows the processes."""

    def __init__(self, fleet: Fleet, queue: StatusQueue) -> None:
        self._fleet = fleet
        self._queue = queue

    def on_process(self, _: Key, old: ProcessRow | None, new: ProcessRow | None) -> None:
        """Take a change that an informer tells."""
        row = new or old
        if row is None or _counted(old) == _counted(new):
            return
        device = self._fleet.device(row.device)
        if device is not None and device.switch is not None:
            self._queue.submit(Target(NETWORK_SWITCHES, device.switch.key), LINGER_S)


def _counted(row: ProcessRow | None) -> tuple[bool, bool] | None:
    if row is None or row.deleting:
        return None
    return (row.status.phase is Phase.RUNNING, is_true(row.status.conditions, ConditionType.HEALTHY))

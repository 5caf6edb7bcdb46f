# SPDX-License-Identifier: Apache-2.0
"""A status write before it is sent: what changes, and the events that follow. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from praetor_api.kube.client.patches import diff_merge_patch
from praetor_api.kube.codec import encode
from praetor_api.kube.objects import DeviceProcessStatus, NetworkSwitchStatus
from praetor_gateway.fleet.rows import CachedProcess, CachedSwitch, Row
from praetor_gateway.status import events
from praetor_gateway.status.events import StatusEvent


@frozen(kw_only=True)
class StatusPatch:
    """A merge patch of the status of *row* and the events to record once it is written.

    *facts* are what the new status was computed from.
    """

    row: Row
    body: Mapping[str, Any]
    events: tuple[StatusEvent, ...]
    facts: object


def of_process(
    row: CachedProcess, status: DeviceProcessStatus, facts: object, *, has_switch: bool
) -> StatusPatch | None:
    """Return how to make *status* that of *row*; None when it is so already."""
    return _patch(row, status, facts, events.of_process(row.status, status, has_switch=has_switch))


def of_switch(row: CachedSwitch, status: NetworkSwitchStatus, facts: object) -> StatusPatch | None:
    """Return how to make *status* that of *row*; None when it is so already."""
    return _patch(row, status, facts, events.of_switch(row.status, status))


def _patch(
    row: Row,
    status: DeviceProcessStatus | NetworkSwitchStatus,
    facts: object,
    happened: tuple[StatusEvent, ...],
) -> StatusPatch | None:
    if status == row.status:
        return None
    # the write holds for this version only: conditions are replaced as a whole, and another writer's must not be lost
    body = {
        "metadata": {"resourceVersion": str(row.resource_version)},
        "status": diff_merge_patch(encode(row.status), encode(status)),
    }
    return StatusPatch(row=row, body=body, events=happened, facts=facts)

"""How a process stands with its device, by cause. Pure.

* Not connected, and never reported by its device: nothing of ours ran there. It costs no budget.
* Offline before the offer of what it shall run: deferred. It costs no budget, and is offered nothing until it is back.
* Silent after the offer: a failure, held against the budget. When the template changes again it stays so held as long
  as the device never became available under the offer, for progressDeadlineSeconds at most: else two quick bad
  templates could take down twice the budget, and a device that died for good would hold up every later rollout.
* Held: somebody on the device has its agent change nothing, and it had not taken the offer by then. It costs no budget.
* Connected: available once it was ready for minReadySeconds, and unavailable till then, whatever the cause.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from praetor_controller.model.rows import DeviceRow, ProcessRow

CLOCK_SKEW_S = 30.0
"""The gateway tells when a device went silent, we when it was offered something; their clocks may differ by this."""


class Standing(StrEnum):
    """How a process stands with its device."""

    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"
    NEVER_REPORTED = "NeverReported"
    OFFLINE_BEFORE_OFFER = "OfflineBeforeOffer"
    SILENT_AFTER_OFFER = "SilentAfterOffer"
    HELD = "Held"


def standing(process: ProcessRow, device: DeviceRow, min_ready_s: float, now: float) -> Standing:
    """Return how *process* stands with *device* at *now*."""
    if process.ready_since is not None:
        return Standing.AVAILABLE if process.ready_since + min_ready_s <= now else Standing.UNAVAILABLE
    connected = device.connected if process.connected is None else process.connected
    if connected:
        untaken = process.held and process.settled_since is None and not process.failure
        return Standing.HELD if untaken else Standing.UNAVAILABLE
    if not process.reported:
        return Standing.NEVER_REPORTED
    since = offline_since(process, device)
    if since is not None and process.offered_at is not None and since + CLOCK_SKEW_S < process.offered_at:
        return Standing.OFFLINE_BEFORE_OFFER
    return Standing.SILENT_AFTER_OFFER


def standings(
    devices: Iterable[DeviceRow], processes: Iterable[ProcessRow | None], min_ready_s: float, now: float
) -> list[Standing | None]:
    """Return how the process of each of the *devices*, in the same order, stands with it; None where there is none."""
    return [
        None
        if process is None
        else Standing.AVAILABLE  # as most are, so not worth a call
        if process.ready_since is not None and process.ready_since + min_ready_s <= now
        else standing(process, device, min_ready_s, now)
        for device, process in zip(devices, processes, strict=True)
    ]


def offline_since(process: ProcessRow, device: DeviceRow) -> float | None:
    """Return since when a device that is not connected is known to be so; None while nobody has judged it yet."""
    row = device if process.connected is None else process
    return row.connected_since if row.connected is False else None


def blamed_until(process: ProcessRow, device: DeviceRow, min_ready_s: float, deadline_s: float) -> float:
    """Return until when a silent process of an older template is held against the budget; 0 when it is not."""
    since = offline_since(process, device) or 0.0
    if process.settled_since is not None and since >= process.settled_since + min_ready_s:
        return 0.0
    return (process.offered_at or process.created_at) + deadline_s

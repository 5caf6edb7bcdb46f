# SPDX-License-Identifier: Apache-2.0
"""Whether the process of a device is available, and if it is not, why. Pure.

* Connected: available once it was ready for minReadySeconds and its device vouches for the version, and unavailable
  until then, whatever the cause.
* Held: a file on the device has its agent change nothing, and it had not taken the last write by then. It costs no
  budget.
* Not connected, and never reported by its device: nothing of ours ran there. It costs no budget.
* Offline before the last write, for it had not fetched it: deferred. It costs no budget, and nothing is written to it
  until it is back.
* Silent after it had fetched the last write: a failure, held against the budget. When the template changes again it
  stays so as long as the device never became available after the write, for progressDeadlineSeconds at most: else two
  quick bad templates could take twice the budget down, and a device that died for good would hold up every later
  rollout.
* Silent with many others of its site or fleet: deferred, too, whatever it fetched. While one of them has the revision
  that is being rolled out and did not settle, the planner offers no more of it.
* Silent, and it is not known what it had fetched, since a replica of the gateway is lost: held against the budget, too,
  but no failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from praetor_controller.model.rows import DeviceRow, ProcessRow, RolloutPolicy

OVERTAKEN = "held an older template"
"""In place of `ProcessRow.held`: the gateway withheld a template that is not the target any more, and would send this
one."""


class Availability(StrEnum):
    """Whether a process is available, and if it is not, why."""

    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"
    NEVER_REPORTED = "NeverReported"
    OFFLINE_BEFORE_OFFER = "OfflineBeforeOffer"
    SILENT_AFTER_OFFER = "SilentAfterOffer"
    SILENT = "Silent"
    HELD = "Held"


def availability_of(process: ProcessRow, device: DeviceRow, min_ready_s: float, now: float) -> Availability:
    """Return the availability of *process* on *device* at *now* (seconds since the epoch)."""
    if process.ready_since is not None:
        return Availability.AVAILABLE if process.available_at(min_ready_s) <= now else Availability.UNAVAILABLE
    if process.in_storm:
        return Availability.OFFLINE_BEFORE_OFFER
    connected = device.connected if process.connected is None else process.connected
    if connected:
        not_taken = process.held and process.settled_since is None and not process.failure
        return Availability.HELD if not_taken else Availability.UNAVAILABLE
    if not process.reported:
        return Availability.NEVER_REPORTED
    if process.fetched is None:
        return Availability.SILENT
    return Availability.SILENT_AFTER_OFFER if process.fetched else Availability.OFFLINE_BEFORE_OFFER


def availabilities(
    devices: Sequence[DeviceRow], processes: Sequence[ProcessRow | None], min_ready_s: float, now: float
) -> tuple[list[Availability | None], list[int]]:
    """Return the availability of the process of each of the *devices*, None where there is none, and the special ones.

    These are the numbers of all devices but those whose process is available, and that nothing else sets apart: most
    are none of them, and all else that a pass asks of a device is known of those without another look at their rows.
    """
    special = [
        number
        for number, device, process in zip(range(len(devices)), devices, processes, strict=True)
        if process is None
        or process.ready_since is None
        or process.ready_since + min_ready_s > now
        or process.held
        or process.in_storm
        or process.on_trial
        or process.terminating
        or device.in_maintenance
        or device.unmet
    ]
    found: list[Availability | None] = [Availability.AVAILABLE] * len(devices)
    for number in special:
        process = processes[number]
        found[number] = None if process is None else availability_of(process, devices[number], min_ready_s, now)
    return found, special


def offline_since(process: ProcessRow, device: DeviceRow) -> float | None:
    """Return since when a device is disconnected, by the gateway's clock; None when it is not known to be."""
    row = device if process.connected is None else process
    return row.connected_since if row.connected is False else None


def blamed_until(process: ProcessRow, policy: RolloutPolicy, proven: Mapping[str, float]) -> float:
    """Return until when a silent process of an older template is held against the budget; 0 when it is not.

    *proven* are the revisions that were rolled out, each with the stamp before which that rollout made its offers: what
    was settled with such an offer when this controller saw it first, silent already, had been available. What it saw
    settle and fall silent at once had not, nor had what its device did not vouch for.
    """
    settled, silent = process.settled_since, process.silent_since
    if settled is not None and process.connected is False and not process.on_trial:
        stamp = process.offered_at if process.offer_stamp is None else process.offer_stamp
        if silent is None and (stamp or 0.0) < proven.get(process.revision, 0.0):
            return 0.0
        if (settled if silent is None else silent) >= settled + policy.min_ready_seconds:
            return 0.0
    return (process.offered_at or process.created_at) + policy.progress_deadline_seconds

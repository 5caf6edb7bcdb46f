# SPDX-License-Identifier: Apache-2.0
"""Which of two reports of a device is the newer one, whichever replica took it. Pure.

Within one boot of the device revisions decide. Boots have no order of their own: the boot that was on record before the
present one is over, unless it goes on reporting.
"""

from __future__ import annotations

from attrs import evolve, frozen

from praetor_api.kube.objects import Reported


@frozen
class ReportOrder:
    """Where something that a device reported stands among what it reported of the same thing.

    *boot_id* is empty, or *revision* None, if the agent gives none. *goes_on*: the boot reports still, though another
    one reported after it.
    """

    boot_id: str = ""
    revision: int | None = None
    goes_on: bool = False


UNORDERED = ReportOrder()


@frozen
class Poll:
    """A poll that is a heartbeat, the one of this *number* since the device booted.

    *reported* is the sum of the revisions that were acknowledged of the observations of the desired processes, None
    while there is something to report; *revision* is that of the acknowledged facts.
    """

    boot_id: str
    number: int
    reported: int | None = None
    revision: int | None = None


def is_late(known: Reported | None, order: ReportOrder) -> bool:
    """Return whether what is at *order* is older than what is *known*."""
    if known is None or not order.boot_id:
        return False
    if order.boot_id != known.boot_id:
        return order.boot_id == known.previous_boot_id and not order.goes_on
    return order.revision is not None and known.revision is not None and order.revision < known.revision


def advanced(known: Reported | None, order: ReportOrder) -> Reported | None:
    """Return what is known once what is at *order* was taken; agents that count no revisions leave no trace."""
    if not order.boot_id or (known is None and order.revision is None):
        return known
    if known is None:
        return Reported(boot_id=order.boot_id, revision=order.revision)
    if order.boot_id != known.boot_id:
        return Reported(boot_id=order.boot_id, previous_boot_id=known.boot_id, revision=order.revision)
    return known if order.revision is None else evolve(known, revision=order.revision)


def is_behind(known: Reported | None, boot_id: str, revision: int | None) -> bool:
    """Return whether *revision* of what the device has to report in the boot *boot_id* is not *known* yet."""
    if revision is None or not boot_id:
        return False
    return known is None or known.boot_id != boot_id or (known.revision or 0) < revision


def supersedes(known: Reported | None, other: Reported | None) -> bool:
    """Return whether *known* is of a later report than *other*, or of a later boot."""
    if known is None or other is None:
        return False
    came_back = other.previous_boot_id == known.boot_id
    return is_late(known, ReportOrder(other.boot_id, other.revision, goes_on=came_back))


def following(known: Reported | None, other: Reported | None) -> Reported | None:
    """Return what is on record after *other* followed *known*."""
    if known is None or other is None:
        return other or known
    before = known.previous_boot_id if other.boot_id == known.boot_id else known.boot_id
    return evolve(other, previous_boot_id=other.previous_boot_id or before)

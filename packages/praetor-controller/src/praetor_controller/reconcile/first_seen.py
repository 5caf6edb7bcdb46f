# SPDX-License-Identifier: Apache-2.0
"""When this process saw what a DeviceProcess shows, by its own clock. Pure.

Objects carry times of gateways, of devices and of earlier controllers, and no two of these clocks need agree. So their
times are compared for equality alone: another one is a transition, which counts from when it was seen. What was so when
it was seen first counts from then: after a restart all waits begin again. Since when it ran or was silent by then is
not known.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from praetor_api.conditions import STABILITY_WINDOW_SECONDS
from praetor_controller.model.rows import ProcessRow, Stamps


def first_seen(uid: str, stamps: Stamps, known: Collection[ProcessRow], now: float) -> dict[str, Any]:
    """Return the times of a row at which this process saw what it shows, and its failure if that is over.

    uid, stamps: of the row, as it is projected from the object.
    known: the rows of the object that this process has, with what first_seen() returned for them.
    now: in seconds of the clock that the times are of.
    """
    before = [each for each in known if each.uid == uid and each.stamps is not None]

    def since(name: str, stamp: int) -> float | None:
        for each in before:
            if getattr(each.stamps, name) == stamp:
                found: float | None = getattr(each, name)
                return found
        return now

    times: dict[str, Any] = {
        name: None if stamp is None else since(name, stamp) for name, stamp in zip(Stamps._fields, stamps, strict=True)
    }
    if not before:
        times["run_since"] = times["silent_since"] = None  # it may have run, or been silent, for long
    started, crashed = times["run_since"], times["crashed_at"]
    if crashed is not None and (started is None or crashed - started >= STABILITY_WINDOW_SECONDS):
        times["failure"] = ""  # the run lasted
    return times

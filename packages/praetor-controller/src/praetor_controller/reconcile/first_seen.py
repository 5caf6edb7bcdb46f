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

from attrs import evolve

from praetor_api.conditions import STABILITY_WINDOW_SECONDS
from praetor_controller.model.rows import ProcessRow, Stamps


def first_seen(row: ProcessRow, known: Collection[ProcessRow], now: float) -> ProcessRow:
    """Return *row* with the times at which this process saw what it shows.

    row: as it is projected from the object.
    known: the rows of the object that this process has, as first_seen() returned them.
    now: in seconds of the clock that the times are of.
    """
    before = [each for each in known if each.uid == row.uid and each.stamps is not None]

    def since(name: str) -> float | None:
        stamp = getattr(row.stamps, name)
        times = (getattr(each, name) for each in before if getattr(each.stamps, name) == stamp)
        return None if stamp is None else next(times, now)

    times: dict[str, Any] = {name: since(name) for name in Stamps._fields}
    if not before:
        times["run_since"] = times["silent_since"] = None  # it may have run, or been silent, for long
    started, crashed = times["run_since"], times["crashed_at"]
    lasted = crashed is not None and (started is None or crashed - started >= STABILITY_WINDOW_SECONDS)
    return evolve(row, **times, failure="" if lasted else row.failure)

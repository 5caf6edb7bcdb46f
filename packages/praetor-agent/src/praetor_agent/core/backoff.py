# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next attempt. Pure: the caller passes what is random."""

from __future__ import annotations

CRASH_FIRST_SECONDS = 1.0
CRASH_CAP_SECONDS = 300.0

_MOST_DOUBLINGS = 32


def crash_delay(failures: int) -> float:
    """Return the seconds to wait before a restart after *failures* ends in a row: 1, 2, 4, … 300."""
    return doubling(failures, first=CRASH_FIRST_SECONDS, cap=CRASH_CAP_SECONDS)


def doubling(failures: int, *, first: float, cap: float) -> float:
    """Return *first* seconds, doubled with each failure after the first one, at most *cap*; 0 without a failure."""
    if failures <= 0:
        return 0.0
    return min(cap, first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))


def full_jitter(failures: int, fraction: float, *, first: float = 1.0, cap: float = 60.0) -> float:
    """Return a delay anywhere up to the doubled one; *fraction* is random in [0, 1).

    Spreading over the whole range keeps a fleet from returning in step to a gateway that restarted.
    """
    return fraction * doubling(failures, first=first, cap=cap)

"""Time: one clock that neither jumps nor stops in a suspended device, and the wall clock for people."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the shell reads the time; the cores are handed `now`."""

    def now(self) -> float:
        """Return seconds since the device booted."""
        ...

    def wall(self) -> datetime:
        """Return the time of day, in UTC."""
        ...


class SystemClock:
    """The device's clocks."""

    def now(self) -> float:
        """Return seconds since the device booted: the same scale before and after a restart of the agent."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> datetime:
        """Return the time of day, in UTC."""
        return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Return *moment* in whole seconds as Kubernetes writes it: `2025-01-31T12:00:00Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

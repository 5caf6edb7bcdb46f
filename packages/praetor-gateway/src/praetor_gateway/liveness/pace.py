# SPDX-License-Identifier: Apache-2.0
"""Hands out longer intervals of heartbeats under load, and none that the judge does not honour."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from attrs import define, field

from praetor_api.annotations import JUDGES_WITHIN_ANNOTATION, LONGEST_HEARTBEAT_ANNOTATION
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.elector import Elector
from praetor_gateway.liveness.detector import DetectorLimits
from praetor_gateway.liveness.intervals import Pace
from praetor_gateway.liveness.tracker import LivenessTracker

SAMPLE_S = 1.0
"""How often the load is measured: as often as replicas push to the judge."""


class ProcessLoad:
    """What share of its time the process works or waits for a processor, or by what share of SAMPLE_S it is late,
    whichever is more.

    The event loop is one thread, so that a share of 1 is all that it can do. Where others take the processor, or a
    limit keeps it, it works less and waits: with ten programs on a core, a tenth of its time is all that one gets.
    *schedstat* is the kernel's account of this thread, in nanoseconds: how long it ran, and how long it could have.
    Without one, as in some sandboxes, only the lateness shows that.
    """

    def __init__(self, schedstat: Path = Path("/proc/thread-self/schedstat")) -> None:
        self._schedstat = schedstat
        self._at, self._busy_s = time.monotonic(), self._spent()

    def __call__(self) -> float:
        """Return the load since the last call, which was SAMPLE_S ago if nothing was late; 1 is full load.

        Called by the thread of the event loop.
        """
        at, busy_s = time.monotonic(), self._spent()
        took_s, share = at - self._at, (busy_s - self._busy_s) / max(at - self._at, 1e-3)
        self._at, self._busy_s = at, busy_s
        return max(share, (took_s - SAMPLE_S) / SAMPLE_S)

    def _spent(self) -> float:
        """Return how many seconds the process has worked, and this thread waited for a processor."""
        try:
            waited_ns = int(self._schedstat.read_text().split()[1])
        except (OSError, ValueError, IndexError):
            waited_ns = 0
        return time.process_time() + waited_ns / 1e9


def no_load() -> float:
    """Return that there is none."""
    return 0.0


@define(eq=False)
class HeartbeatPace:
    """Decides on ``interval``, which is handed out, from *load*: from *base* seconds to *most*.

    The judge says on the Lease up to which interval it honours what devices were handed, so that no replica hands out
    more beside a judge of an older version, and the next judge knows what the last one's devices may have got.
    """

    _elector: Elector
    _liveness: LivenessTracker
    _limits: DetectorLimits
    _load: Callable[[], float]
    _clock: Clock
    _identity: str = field(kw_only=True)
    _base: int = field(kw_only=True)
    _most: int = field(kw_only=True)
    interval: int = field(init=False)
    wanted: int = field(init=False)
    _pace: Pace = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.interval = self.wanted = self._base
        self._pace = Pace(self._base, max(self._base, self._most))

    async def run(self) -> None:
        """Measure and decide every SAMPLE_S until cancelled."""
        while True:
            await self._clock.sleep(SAMPLE_S)
            self.step()

    def step(self) -> None:
        """Measure the load and decide."""
        self.wanted = self._pace.sample(self._load(), self._clock.monotonic())
        if self._elector.holder == self._identity:
            longest = max(self._base, self.wanted, self._liveness.longest_interval())
            self._announce(f"{self._identity} {longest}", longest)
        holder, _, _ = self._said.rpartition(" ")
        honoured = self.announced if holder and holder == self._elector.holder else self._base
        self.interval = max(self._base, min(self.wanted, honoured))

    @property
    def overloaded(self) -> bool:
        """Whether the load is full though the interval is the longest."""
        return self._pace.overloaded

    @property
    def announced(self) -> int:
        """The longest interval that the Lease names: its holder, or the one before, honours it; 0 if it names none."""
        seconds = self._said.rpartition(" ")[2]
        return int(seconds) if seconds.isascii() and seconds.isdecimal() and len(seconds) < 6 else 0

    @property
    def _said(self) -> str:
        return self._elector.holder_annotations.get(LONGEST_HEARTBEAT_ANNOTATION, "")

    def _announce(self, said: str, longest: int) -> None:
        limits = self._limits
        within_s = limits.stale_s * max(longest, self._base) / self._base + limits.grace_s + limits.scan_s
        self._elector.announce({LONGEST_HEARTBEAT_ANNOTATION: said, JUDGES_WITHIN_ANNOTATION: f"{within_s:g}"})

# SPDX-License-Identifier: Apache-2.0
"""Which statuses wait to be written, with which observations, and for how long.

Each object waits at most once, whatever happens to it meanwhile. Nothing is kept
for an undeclared device.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import frozen

from praetor_api.conditions import ConditionType
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key, Resource
from praetor_api.kube.conditions import is_true
from praetor_api.kube.objects import DeviceProcessStatus, Phase, Reported
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.workqueue import Workqueue
from praetor_api.protocol import Observation
from praetor_gateway.fleet.rows import CachedProcess, Row

PROGRESS_DEBOUNCE_S = 0.3
"""How long a step on the way (downloaded, started) waits for the next one: a start costs two writes at most, not one a
step."""
RESULT_DEBOUNCE_S = 0.1
"""How long a result (a new phase, healthy) waits: a device sends what belongs together within one report, and a tenth
of a second joins what its next report adds. People do not notice it."""
CONNECTED_DEBOUNCE_S = 0.1
"""How long a connection that was found waits, as a result does. A lost one does not wait."""
FIRST_REPORT_DEBOUNCE_S = 0.5
"""How long the first AgentConnected of a process waits for the first report on it, to be written together."""
ABSENCE_DEBOUNCE_S = 5.0
"""How long it waits to be written that a device was never heard: one that is new may connect, or another replica may
know it."""
AGENT_DEBOUNCE_S = 0.5
"""How long what an agent says of itself waits: version, boot and facts come in its first reports."""
COUNTS_DEBOUNCE_S = 5.0
"""How long the counts of a switch wait: many processes change in one rollout step."""


@frozen
class StatusKey:
    """The object whose status is to be written."""

    resource: Resource
    object: Key

    @classmethod
    def of(cls, row: Row) -> StatusKey:
        """Return the key of the object of *row*."""
        return cls(DEVICE_PROCESSES if isinstance(row, CachedProcess) else row.resource, row.key)


class PendingStatuses:
    """A workqueue of statuses that can be flushed, and the newest observation of each process in it."""

    def __init__(self, clock: Clock) -> None:
        self._queue: Workqueue[StatusKey] = Workqueue(clock)
        self._observations: dict[StatusKey, tuple[str, Observation, Reported | None]] = {}  # with the uid
        self._clock = clock
        self._waiting: set[StatusKey] = set()
        self._since: dict[StatusKey, float] = {}  # the oldest first: what is not written since then
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Return how many statuses wait to be written, or are being written."""
        return len(self._waiting) + self._busy

    @property
    def oldest_s(self) -> float:
        """For how many seconds the oldest change has not been written; 0 when all are."""
        return self._clock.monotonic() - next(iter(self._since.values())) if self._since else 0.0

    def waited_s(self, key: StatusKey) -> float:
        """Return for how many seconds the change of *key* that is being written has waited."""
        now = self._clock.monotonic()
        return now - self._since.get(key, now)

    @property
    def observed(self) -> int:
        """How many observations are kept."""
        return len(self._observations)

    def observe(
        self, row: CachedProcess, observation: Observation, reported: Reported | None, status: DeviceProcessStatus
    ) -> None:
        """Keep what the device saw of *row*, and its order, until it is written; *status* is what it makes of *row*."""
        key = StatusKey(DEVICE_PROCESSES, row.key)
        if status != row.status:
            self._observations[key] = (row.uid, observation, reported)
            self.submit(key, debounce_s(row.status, status))
        elif key in self._observations:  # back to what is written: what was in between must not be
            self._observations[key] = (row.uid, observation, reported)

    def observation(self, row: CachedProcess) -> tuple[Observation | None, Reported | None]:
        """Return what waits to be written of *row*; nothing of one that was deleted and created again meanwhile."""
        if not self._observations:
            return None, None
        uid, observation, reported = self._observations.get(StatusKey(DEVICE_PROCESSES, row.key), ("", None, None))
        return (observation, reported) if uid == row.uid else (None, None)

    def submit(self, key: StatusKey, delay_s: float = 0.0) -> None:
        """Write the status, if it differs then, after *delay_s*; of several delays the shortest counts."""
        self._waiting.add(key)
        self._since.setdefault(key, self._clock.monotonic())
        self._idle.clear()
        self._queue.add_after(key, delay_s)

    def submit_again(self, key: StatusKey) -> None:
        """Write what came while the status was written."""
        self._since.pop(key, None)
        self.submit(key)

    def retry(self, key: StatusKey) -> None:
        """Write the status later, after a delay that grows until done()."""
        self._waiting.add(key)
        self._queue.add_rate_limited(key)

    def done(self, key: StatusKey) -> None:
        """Drop the observation: it is written, or cannot be."""
        self._observations.pop(key, None)
        self._since.pop(key, None)
        if key in self._waiting:  # changed while it was written
            self._since[key] = self._clock.monotonic()
        self._queue.forget(key)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[StatusKey]:
        """Wait for a status to write; no other worker gets it until the block ends."""
        async with self._queue.get() as key:
            self._waiting.discard(key)
            self._busy += 1
            try:
                yield key
            finally:
                self._busy -= 1
                if not self._waiting and not self._busy:
                    self._idle.set()

    async def flush(self) -> None:
        """Return when nothing waits any more, delays cut short."""
        for key in self._waiting:
            self._queue.add(key)
        await self._idle.wait()


def debounce_s(old: DeviceProcessStatus, new: DeviceProcessStatus) -> float:
    """Return how long a change may wait for the next one: failures not at all."""
    was_healthy, is_healthy = (is_true(status.conditions, ConditionType.HEALTHY) for status in (old, new))
    if (new.phase is Phase.FAILED and old.phase is not Phase.FAILED) or (was_healthy and not is_healthy):
        return 0.0
    if new.phase is not old.phase or is_healthy is not was_healthy:
        return RESULT_DEBOUNCE_S
    return PROGRESS_DEBOUNCE_S

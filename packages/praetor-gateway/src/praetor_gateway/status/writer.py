"""Writes statuses in the background: latest wins, a limited number at a time, at a limited rate.

An entry stays queued until it is written or pointless, so that an outage of the
apiserver loses nothing and costs no more memory than there are objects.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import structlog

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import Conflict, Invalid, KubeError, NotFound, TooManyRequests, Unreachable
from praetor_api.kube.client.resource import DEVICE_PROCESSES
from praetor_api.kube.runtime.backoff import Backoff
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.events import ObjectRef
from praetor_api.kube.runtime.limiter import TokenBucket
from praetor_gateway.fleet.fleet import Fleet
from praetor_gateway.fleet.rows import Projection
from praetor_gateway.status.patch import Draft, Target
from praetor_gateway.status.pending import Statuses
from praetor_gateway.status.queue import StatusQueue

WORKERS = 8
TRIES = 3
OUTAGE_BACKOFF = Backoff(base=0.5, factor=2.0, cap=15.0, jitter=0.5)

_log = structlog.get_logger()


class Outcome(StrEnum):
    """How an attempt to write a status ended."""

    WRITTEN = "written"
    CONFLICT = "conflict"
    GONE = "gone"
    REFUSED = "refused"
    FAILED = "failed"


class Recorder(Protocol):
    """Who records events."""

    def record(self, regarding: ObjectRef, *, type: str, reason: str, action: str, note: str) -> None:
        """Record one."""
        ...


class StatusWriter:
    """Sends what Statuses composes; *count* is told how each attempt ended."""

    def __init__(
        self,
        api: KubeApi,
        queue: StatusQueue,
        fleet: Fleet,
        statuses: Statuses,
        projection: Projection,
        recorder: Recorder,
        *,
        clock: Clock,
        limiter: TokenBucket,
        count: Callable[[Outcome], None],
    ) -> None:
        self._api = api
        self._queue = queue
        self._fleet = fleet
        self._statuses = statuses
        self._projection = projection
        self._recorder = recorder
        self._clock = clock
        self._limiter = limiter
        self._count = count
        self._outages = 0
        self._resume_at = 0.0

    async def run(self) -> None:
        """Write for ever; cancel it to stop."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(), name=f"write statuses {number}")

    async def _work(self) -> None:
        while True:
            async with self._queue.take() as target:
                await self._attempt(target)

    async def _attempt(self, target: Target) -> None:
        try:
            await self._write(target)
        except KubeError as e:
            self._after_failure(target, e)
        except Exception:  # a bug met by one object must not stop the others
            _log.exception("status write crashed", kind=target.resource.kind, key=str(target.key))
            self._queue.retry(target)

    async def _write(self, target: Target) -> None:
        for _ in range(TRIES):
            draft = await self._turn(target)
            if draft is None:
                self._queue.forget(target)
                self._statuses.forget(target, self._clock.now())
                return
            try:
                await self._send(target, draft)
            except Conflict:
                self._count(Outcome.CONFLICT)
                await self._refresh(target)
            except NotFound:
                self._count(Outcome.GONE)
                self._give_up(target)
                return
            except Invalid as e:
                self._count(Outcome.REFUSED)
                _log.error("status refused", kind=target.resource.kind, key=str(target.key), error=str(e))
                self._give_up(target)
                return
            else:
                self._statuses.forget(target, self._clock.now())
                self._outages = 0
        self._queue.retry(target)

    async def _turn(self, target: Target) -> Draft | None:
        """Return what to write once it is our turn to write; None when there is nothing to write."""
        if self._statuses.compose(target, self._clock.now()) is None:
            return None
        await self._limiter.acquire()
        if (wait_s := self._resume_at - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait_s)
        return self._statuses.compose(target, self._clock.now())  # anew: more may be known after waiting

    async def _send(self, target: Target, draft: Draft) -> None:
        obj = await self._api.patch(target.resource, target.key, draft.patch, subresource="status")
        self._count(Outcome.WRITTEN)
        self._take(target, obj)
        for transition in draft.transitions:
            self._recorder.record(
                draft.regarding,
                type=transition.type,
                reason=transition.reason,
                action="ReportStatus",
                note=transition.note,
            )

    async def _refresh(self, target: Target) -> None:
        """Read what conflicts: it is the newest, even if its version is older than what we know."""
        if target.resource is DEVICE_PROCESSES:
            process = self._fleet.process(target.key)
            row = self._projection.process(await self._api.get(target.resource, target.key))
            newest = self._fleet.process(target.key) is process
            self._statuses.saw(row, restored=newest)
            self._fleet.read_process(row, newest=newest)
        else:
            switch = self._fleet.switch(target.key)
            read = self._projection.switch(await self._api.get(target.resource, target.key))
            self._fleet.read_switch(read, newest=self._fleet.switch(target.key) is switch)

    def _take(self, target: Target, obj: dict[str, object]) -> None:
        if target.resource is DEVICE_PROCESSES:
            self._fleet.wrote_process(self._projection.process(obj))
        else:
            self._fleet.wrote_switch(self._projection.switch(obj))

    def _after_failure(self, target: Target, error: KubeError) -> None:
        self._count(Outcome.FAILED)
        _log.warning("status write failed", kind=target.resource.kind, key=str(target.key), error=str(error))
        if isinstance(error, NotFound):  # it went while it was read again
            self._give_up(target)
        elif isinstance(error, Unreachable | TooManyRequests):  # not this object's fault: all wait
            delay_s = OUTAGE_BACKOFF.delay(self._outages, random.random())  # noqa: S311 - jitter
            self._outages += 1
            self._resume_at = self._clock.monotonic() + max(delay_s, error.retry_after or 0.0)
            self._queue.submit(target)
        else:
            self._queue.retry(target)

    def _give_up(self, target: Target) -> None:
        self._queue.forget(target)
        self._statuses.drop(target)

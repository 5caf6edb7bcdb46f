# SPDX-License-Identifier: Apache-2.0
"""Writes statuses in the background: the newest facts win, a limited number at a time, at a limited rate.

A status stays pending until it is written or pointless, so that an outage of the
apiserver loses nothing and costs no more memory than there are objects.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from enum import StrEnum

import structlog
from attrs import define, field

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import Conflict, Invalid, KubeError, NotFound, TooManyRequests, Unreachable
from praetor_api.kube.client.resource import Resource
from praetor_api.kube.runtime.backoff import Backoff
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.events import EventRecorder, ObjectRef
from praetor_api.kube.runtime.limiter import TokenBucket
from praetor_gateway.fleet.devices import DeviceIndex
from praetor_gateway.fleet.rows import CachedProcess, Projection, Row
from praetor_gateway.status.composer import StatusComposer
from praetor_gateway.status.events import StatusEvent
from praetor_gateway.status.patch import StatusPatch
from praetor_gateway.status.pending import PendingStatuses, StatusKey
from praetor_gateway.status.resync import ResyncRequester

WORKERS = 8
"""Writes at a time. At 20 ms a write they make 400 a second, four times what the limiter lets through."""
UNORDERED_S = 600.0
"""How long no order is written once the API dropped it, for its CRDs are of an earlier release and may be upgraded."""
OUTAGE_BACKOFF = Backoff(base=0.5, factor=2.0, cap=15.0, jitter=0.5)
"""How long all writes pause while the apiserver does not answer; 15 s is a heartbeat, in which more facts come."""

_log = structlog.get_logger()


class StatusOutcome(StrEnum):
    """How an attempt to write a status ended; the values are labels of a metric."""

    WRITTEN = "written"
    CONFLICT = "conflict"
    GONE = "gone"
    REFUSED = "refused"
    FAILED = "failed"


@define(eq=False)
class StatusWriter:
    """Sends what *composer* composes, once an attempt.

    *count* is called with the outcome of each, *delayed* with the seconds that a written change had to wait, and
    *manager* returns the field manager that says who judges devices, None while we do not.
    """

    _api: KubeApi
    _pending: PendingStatuses
    _composer: StatusComposer
    _resync: ResyncRequester
    _fleet: DeviceIndex
    _projection: Projection
    _recorder: EventRecorder
    _clock: Clock = field(kw_only=True)
    _limiter: TokenBucket = field(kw_only=True)
    _count: Callable[[StatusOutcome], None] = field(kw_only=True)
    _delayed: Callable[[float], None] = field(kw_only=True)
    _manager: Callable[[], str | None] = field(kw_only=True)
    _outages: int = field(default=0, init=False)
    _resume_at: float = field(default=0.0, init=False)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(), name=f"write statuses {number}")

    async def _work(self) -> None:
        while True:
            await self._limiter.acquire()
            while await self._write_next() is None:
                pass  # nothing was sent: the turn is still ours

    async def _write_next(self) -> StatusOutcome | None:
        """Wait for a status and attempt to write it; return the outcome, None when there was nothing to write."""
        async with self._pending.take() as key:
            if (wait_s := self._resume_at - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait_s)
            try:
                return await self._attempt(key)
            except Exception:  # a bug met by one object must not stop the others
                _log.exception("status write crashed", kind=key.resource.kind, key=str(key.object))
                self._pending.retry(key)
                return StatusOutcome.FAILED

    async def _attempt(self, key: StatusKey) -> StatusOutcome | None:
        patch = self._composer.compose(key, self._clock.now())
        if patch is None:
            self._pending.done(key)
            return None
        try:
            obj = await self._api.patch(
                key.resource, key.object, patch.body, subresource="status", field_manager=self._manager()
            )
        except Conflict:
            self._count(StatusOutcome.CONFLICT)
            try:
                await self._refresh(key)
            except KubeError as e:
                return self._failed(key, patch, e)
            self._pending.retry(key)
            return StatusOutcome.CONFLICT
        except KubeError as e:
            return self._failed(key, patch, e)
        self._count(StatusOutcome.WRITTEN)
        self._delayed(self._pending.waited_s(key))
        self._written(key, patch, obj)
        return StatusOutcome.WRITTEN

    def _written(self, key: StatusKey, patch: StatusPatch, obj: dict[str, object]) -> None:
        self._outages = 0
        row = self._projection.row(key.resource, obj)
        if patch.body["status"].get("reported") and row.status.reported is None:
            self._fleet.unordered_until = self._clock.monotonic() + UNORDERED_S
        self._fleet.update(row, own=True)
        for event in patch.events:
            record_event(self._recorder, key.resource, patch.row, event, action="ReportStatus")
        self._finish(key, patch)

    def _finish(self, key: StatusKey, patch: StatusPatch) -> None:
        """Write what came while *patch* was sent; there is nothing more to do about *patch* itself."""
        if self._composer.is_current(key, patch):
            self._pending.done(key)
        else:
            self._pending.submit_again(key)

    async def _refresh(self, key: StatusKey) -> None:
        """Read what conflicts: it is the newest, even if its version is older than what we know."""
        known = self._fleet.row(key.resource, key.object)
        row = self._projection.row(key.resource, await self._api.get(key.resource, key.object))
        newest = self._fleet.row(key.resource, key.object) is known
        if isinstance(row, CachedProcess):
            self._resync.check(row, restored=newest)
        self._fleet.update(row, restored=newest)

    def _failed(self, key: StatusKey, patch: StatusPatch, error: KubeError) -> StatusOutcome:
        outcome = _outcome(error)
        self._count(outcome)
        log = _log.bind(kind=key.resource.kind, key=str(key.object), error=str(error))
        if outcome is not StatusOutcome.FAILED:
            if outcome is StatusOutcome.REFUSED:
                log.error("status refused")
            self._finish(key, patch)
            return outcome
        log.warning("status write failed")
        if isinstance(error, Unreachable | TooManyRequests):  # not this object's fault: all wait
            self._pause(error.retry_after)
            self._pending.submit(key)
        else:
            self._pending.retry(key)
        return outcome

    def _pause(self, retry_after_s: float | None) -> None:
        delay_s = OUTAGE_BACKOFF.delay(self._outages, random.random())  # noqa: S311 - jitter
        self._outages += 1
        self._resume_at = self._clock.monotonic() + max(delay_s, retry_after_s or 0.0)


def _outcome(error: KubeError) -> StatusOutcome:
    if isinstance(error, NotFound):
        return StatusOutcome.GONE
    return StatusOutcome.REFUSED if isinstance(error, Invalid) else StatusOutcome.FAILED


def record_event(recorder: EventRecorder, resource: Resource, row: Row, event: StatusEvent, *, action: str) -> None:
    """Record *event* about the object of *row*; *action* is the CamelCase word for what the gateway was doing."""
    regarding = ObjectRef(
        api_version=resource.api_version,
        kind=resource.kind,
        namespace=row.key.namespace,
        name=row.key.name,
        uid=row.uid,
    )
    recorder.record(regarding, type=event.reason.type, reason=event.reason, action=action, note=event.note)

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
from praetor_api.kube.client.resource import Key, Resource
from praetor_api.kube.runtime.backoff import Backoff
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.events import EventRecorder, ObjectRef
from praetor_api.kube.runtime.workqueue import TokenBucket
from praetor_gateway.fleet.devices import DeviceIndex, is_older, went_back
from praetor_gateway.fleet.rows import CachedProcess, Projection, Row
from praetor_gateway.status.composer import StatusComposer, StatusPatch
from praetor_gateway.status.events import StatusEvent
from praetor_gateway.status.merge import EPOCH, merge, reported
from praetor_gateway.status.pending import PendingStatuses, StatusKey

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
class ResyncRequester:
    """Asks a device to report again when a client other than us changed what the device reported to us.

    The replica that writes last need not be the one that heard last: a write may be held up while the device talks to
    another replica. Without the question the error would stay, since devices report what changes and nothing else.

    It compares statuses that come from the API with those that *fleet* has; call it before *fleet* takes them.
    """

    _fleet: DeviceIndex
    _pending: PendingStatuses

    def on_process(self, _: Key, old: CachedProcess | None, new: CachedProcess | None) -> None:
        """Check a change that an informer reports."""
        if new is not None and self._other(new) is not None:
            self.check(new, restored=went_back(old, new))

    def check(self, row: CachedProcess, *, restored: bool) -> None:
        """Request a resync if *row* says something else than we know of it; *restored* if older means restored."""
        known = self._other(row)
        if known is None:
            return
        if (is_older(row, known) and not restored) or reported(known.status) == reported(row.status):
            return
        if row.status.reported != known.status.reported and not restored:
            return  # a replica took another report of the device, in order
        device = self._fleet.device(row.device)
        if device is not None and not self._is_ours(row):
            device.session.request_resync(row.uid)

    def _other(self, row: CachedProcess) -> CachedProcess | None:
        """Return the version that we know of *row* if it is another one, with another status."""
        known = self._fleet.process(row.key)
        if known is None or known.uid != row.uid or known.resource_version == row.resource_version:
            return None
        # of thousands whose specs change at once a closer comparison takes a quarter
        return None if row.status == known.status else known

    def _is_ours(self, row: CachedProcess) -> bool:
        """Return whether *row* says what waits to be written: our own write, seen before its answer."""
        observation, order = self._pending.observation(row)
        if observation is None:
            return False
        return reported(merge(row, observation, reported=order, connected=None, now=EPOCH)) == reported(row.status)


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

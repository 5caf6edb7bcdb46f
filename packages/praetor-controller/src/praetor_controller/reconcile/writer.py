# SPDX-License-Identifier: Apache-2.0
"""Carries actions out: concurrently, within a limit and a time slice. The failure of one does not stop the others.

A write whose outcome is unknown is remembered as such, and read back before the deployment is planned again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, assert_never

import structlog
from attrs import field, mutable

from praetor_api.kube.client.api import KubeApi, PatchType
from praetor_api.kube.client.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    ServerError,
    Unreachable,
)
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.tracing import NO_TRACER, Span, Tracer
from praetor_api.kube.runtime.workqueue import TokenBucket
from praetor_controller.errors import NotLeading
from praetor_controller.metrics import Metrics
from praetor_controller.model.actions import Adopt, Create, Delete, Update, Write
from praetor_controller.model.manifests import adoption_patch, process_manifest, process_patch
from praetor_controller.model.projection import owner_of
from praetor_controller.model.rows import DeploymentRow, ProcessRow
from praetor_controller.reconcile.cache import Cache
from praetor_controller.reconcile.state import ReconcilerState, Refusal
from praetor_controller.rollout.snapshot import delete_refusal_key

FIELD_MANAGER = "praetor-controller"
CONCURRENCY = 32
SLICE_S = 1.0
"""After so long the deployment is planned again: a long fan-out does not delay a changed template."""
LONG_SLICE_S = 5.0
WORTHWHILE = 10 * CONCURRENCY
"""When a slice ends, the last requests are awaited and no others are under way. Creates, which make nothing
unavailable, go on until that is a tenth of the slice: a slow apiserver would otherwise idle for much of the time."""

_NOT_TRACED: Mapping[str, str] = {}

_log = structlog.get_logger(__name__)


@mutable(kw_only=True)
class WriteOutcome:
    """What came of the actions.

    *requeue*: some did not happen because the cache was behind or the API refused. *interrupted*: some are left because
    the time slice ended. *trouble* is the failure that made the others wait.
    """

    adopted: int = 0
    created: int = 0
    updated: int = 0
    deleted: int = 0
    refused: str = ""
    requeue: bool = False
    interrupted: bool = False
    trouble: KubeError | None = field(default=None)

    @property
    def wrote(self) -> int:
        return self.adopted + self.created + self.updated + self.deleted


def is_refusal(error: KubeError) -> bool:
    """Return whether the API refused a write for what is in it, or for a quota, a role, a namespace that is going away
    or a webhook: what that denies without a code of its own is a 400."""
    return isinstance(error, Invalid | Forbidden) or (isinstance(error, ApiError) and error.status in (400, 413))


class Writer:
    """Writes DeviceProcesses for all deployments."""

    def __init__(
        self,
        api: KubeApi,
        cache: Cache,
        clock: Clock,
        limiter: TokenBucket,
        metrics: Metrics,
        may_write: Callable[[], bool],
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._api = api
        self._tracer = tracer
        self._processes = cache.processes
        self._project = cache.process
        self._clock = clock
        self._limiter = limiter
        self._written = lru_cache(metrics.writes.labels)  # to find a counter by its labels takes longer than to count
        self._may_write = may_write
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def carry_out(
        self,
        deployment: DeploymentRow,
        actions: Sequence[Write],
        state: ReconcilerState,
        superseded: Callable[[], bool] = lambda: False,
        traceparents: Mapping[str, str] = _NOT_TRACED,
    ) -> WriteOutcome:
        """Carry out as many of *actions* as the time slice allows; NotLeading when another replica may lead by now.

        *superseded* returns whether the deployment has changed since it was planned. *traceparents* are the spans that
        the writes of a revision's spec follow, by its hash.
        """
        outcome = WriteOutcome()
        work = _Work(deployment, state, outcome, superseded, self._clock.monotonic(), traceparents)
        queue = iter(actions)
        async with asyncio.TaskGroup() as group:
            for number in range(min(CONCURRENCY, len(actions))):
                group.create_task(self._work(queue, work), name=f"write {deployment.name} {number}")
        return outcome

    def check_leading(self) -> None:
        """Raise NotLeading when another replica may lead by now; call it before each write."""
        if not self._may_write():
            raise NotLeading

    async def resolve(self, namespace: str, state: ReconcilerState) -> None:
        """Read back the processes whose last write had no known outcome."""
        for device, name in tuple(state.unknown.items()):
            await self._read_back(Key(namespace, name), None)
            del state.unknown[device]

    async def _work(self, queue: Iterator[Write], work: _Work) -> None:
        for action in queue:
            async with self._slots:
                await self._limiter.acquire()
                self.check_leading()
                await self._attempt(action, work)
            if work.outcome.trouble is not None or work.is_over(action, self._clock.monotonic()):
                work.outcome.interrupted = True
                return

    async def _attempt(self, action: Write, work: _Work) -> None:
        span = self._span(action, work)
        try:
            await self._write(action, work, span.traceparent)
        except KubeError as e:
            span.end(str(e))
            verb = type(action).__name__.lower()
            self._written(verb, type(e).__name__).inc()
            await self._failed(action, work, e)
        else:
            span.end()
            self._written(type(action).__name__.lower(), "done").inc()
            work.state.refusals.accepted(_refusal_key(action, work.deployment), self._clock.monotonic())

    def _span(self, action: Write, work: _Work) -> Span:
        """Return the span of *action*; one that records nothing for what gives no device a new spec."""
        if not self._tracer.enabled or not (isinstance(action, Create) or (isinstance(action, Update) and action.spec)):
            return NO_TRACER.start("", {})
        device, key, _ = _subject(action, work.deployment)
        about = {"namespace": key.namespace, "process": key.name, "device": device, "wave": action.wave}
        return self._tracer.start("process written", about, work.traceparents.get(action.template.revision, ""))

    async def _write(self, action: Write, work: _Work, traceparent: str) -> None:
        deployment, outcome = work.deployment, work.outcome
        match action:
            case Create():
                body = process_manifest(deployment, action, work.stamp(self._clock.now()), traceparent)
                stored = await self._api.create(
                    DEVICE_PROCESSES, deployment.namespace, body, field_manager=FIELD_MANAGER
                )
                outcome.created += 1
                self._assume(stored, action, work)
            case Update(process):
                patch = process_patch(deployment, action, work.stamp(self._clock.now()), traceparent)
                key = Key(process.namespace, process.name)
                stored = await self._api.patch(
                    DEVICE_PROCESSES, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER
                )
                outcome.updated += 1
                self._assume(stored, action, work)
            case Adopt(process):
                await self._adopt(deployment, process)
                outcome.adopted += 1
            case Delete(process):
                key = Key(process.namespace, process.name)
                # not a version that was never seen: its failure would be lost with it
                seen = process.resource_version
                await self._api.delete(DEVICE_PROCESSES, key, uid=process.uid, resource_version=seen)
                outcome.deleted += 1
                self._processes.assume_deleted(process)
            case _:
                assert_never(action)

    async def _adopt(self, deployment: DeploymentRow, process: ProcessRow) -> None:
        key = Key(process.namespace, process.name)
        stored = await self._api.get(DEVICE_PROCESSES, key)
        if stored["metadata"]["uid"] == process.uid and owner_of(stored["metadata"]) is None:
            patch = adoption_patch(deployment, stored)
            stored = await self._api.patch(
                DEVICE_PROCESSES, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER
            )
        self._processes.assume(self._project(stored))

    def _assume(self, stored: dict[str, Any], action: Create | Update, work: _Work) -> None:
        row, wanted = self._project(stored), action.template.spec_hash
        if isinstance(action, Create):
            self._processes.assume_created(row)
        else:
            self._processes.assume(row)
        known = work.state.stored_as.setdefault(wanted, set())
        if row.spec_hash != wanted and row.spec_hash not in known:
            _log.warning("the API stores another spec than was written", process=row.name)
            known.add(row.spec_hash)

    async def _failed(self, action: Write, work: _Work, error: KubeError) -> None:
        device, key, row = _subject(action, work.deployment)
        match error:
            case AlreadyExists() | Conflict():
                work.outcome.requeue = True
                await self._read_back_or_leave(key, row, work.outcome)
            case NotFound() if row is not None:
                work.outcome.requeue = True
                self._processes.assume_deleted(row)
            case Invalid() if isinstance(action, Update) and await self._is_stale(key, action.process, work.outcome):
                work.outcome.requeue = True
            case ApiError() if is_refusal(error):
                device = _refusal_key(action, work.deployment)
                template = action.template if isinstance(action, Create | Update) else work.deployment.template
                work.state.refusals.add(device, Refusal(template.revision, error.message), self._clock.monotonic())
                work.outcome.refused = error.message
                work.outcome.requeue = True
            case Unreachable() | ServerError():
                work.state.unknown[device] = key.name
                work.outcome.trouble = error
            case _:
                work.outcome.trouble = error

    async def _read_back_or_leave(self, key: Key, row: ProcessRow | None, outcome: WriteOutcome) -> None:
        try:
            await self._read_back(key, row)
        except KubeError as e:
            outcome.trouble = e

    async def _is_stale(self, key: Key, row: ProcessRow, outcome: WriteOutcome) -> bool:
        """Return whether the process changed meanwhile: a patch that removes a key that is gone already is refused as
        invalid, before its version is compared."""
        await self._read_back_or_leave(key, row, outcome)
        latest = self._processes.get(key)
        return latest is None or latest.resource_version != row.resource_version

    async def _read_back(self, key: Key, row: ProcessRow | None) -> None:
        try:
            stored = await self._api.get(DEVICE_PROCESSES, key)
        except NotFound:
            if row is not None:
                self._processes.assume_deleted(row)
        else:
            self._processes.assume(self._project(stored), is_new=True)


class _Work:
    """The deployment that actions belong to, what came of them so far, and for how long they are carried out."""

    def __init__(
        self,
        deployment: DeploymentRow,
        state: ReconcilerState,
        outcome: WriteOutcome,
        superseded: Callable[[], bool],
        began_at: float,
        traceparents: Mapping[str, str],
    ) -> None:
        self.deployment = deployment
        self.state = state
        self.outcome = outcome
        self._superseded = superseded
        self._began_at = began_at
        self.traceparents = traceparents

    def stamp(self, now: datetime) -> datetime:
        """Return the stamp of an offer at *now*: not before its rollout began, or was over, by whichever clock."""
        return max(now, datetime.fromtimestamp(self.state.offers_from, UTC))

    def is_over(self, action: Write, now: float) -> bool:
        """Return whether the time slice ends after *action*."""
        lasted = now - self._began_at
        if lasted < SLICE_S:
            return False
        worthwhile = self.outcome.created >= WORTHWHILE or lasted >= LONG_SLICE_S
        return worthwhile or not isinstance(action, Create) or self._superseded()


def _subject(action: Write, deployment: DeploymentRow) -> tuple[str, Key, ProcessRow | None]:
    if isinstance(action, Create):
        return action.device, Key(deployment.namespace, action.name), None
    return action.process.device, Key(action.process.namespace, action.process.name), action.process


def _refusal_key(action: Write, deployment: DeploymentRow) -> str:
    return delete_refusal_key(action.process) if isinstance(action, Delete) else _subject(action, deployment)[0]

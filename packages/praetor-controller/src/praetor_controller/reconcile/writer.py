"""Carries actions out: concurrently, within a limit and a time slice. The failure of one does not stop the others.

A write whose outcome is unknown is remembered as such, and read back before anything else is done about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
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
from praetor_api.kube.runtime.limiter import TokenBucket
from praetor_controller.errors import NotLeading
from praetor_controller.metrics import Metrics
from praetor_controller.model.actions import Action, Create, Delete, Update
from praetor_controller.model.manifests import process_body, process_patch
from praetor_controller.model.projection import project_process
from praetor_controller.model.rows import DeploymentRow, ProcessRow, Template
from praetor_controller.reconcile.assumed_cache import Overlay
from praetor_controller.reconcile.state import REFUSED_FOR_S, Memory, Refusal
from praetor_controller.rollout.snapshot import kept

FIELD_MANAGER = "praetor-controller"
CONCURRENCY = 32
SLICE_S = 1.0
"""So long at a time, then the plan is made anew: a changed template is not held up by a long fan-out."""
LONG_SLICE_S = 5.0
WORTHWHILE = 10 * CONCURRENCY
"""When a slice ends, the last requests are awaited and no others are under way. Creates, which take nobody down, go on
until that is a tenth of the slice: a slow apiserver would otherwise be left idle for a good part of the time."""

_log = structlog.get_logger(__name__)


@mutable(kw_only=True)
class Outcome:
    """What came of the actions. *trouble* is the failure that made the rest wait."""

    created: int = 0
    updated: int = 0
    deleted: int = 0
    refused: str = ""
    look_again: bool = False
    trouble: KubeError | None = field(default=None)

    @property
    def wrote(self) -> int:
        return self.created + self.updated + self.deleted


class Writer:
    """Writes DeviceProcesses for all deployments."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        limiter: TokenBucket,
        metrics: Metrics,
        may_write: Callable[[], bool],
        overlay: Overlay[ProcessRow],
    ) -> None:
        self._api = api
        self._clock = clock
        self._limiter = limiter
        self._metrics = metrics
        self._may_write = may_write
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self.overlay = overlay

    async def carry_out(
        self,
        deployment: DeploymentRow,
        actions: tuple[Action, ...],
        memory: Memory,
        superseded: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Carry out as many of *actions* as the time slice allows; NotLeading when the lease is not surely ours.

        *superseded* tells whether the deployment has become another one.
        """
        outcome = Outcome()
        work = _Work(deployment, memory, outcome, superseded, self._clock.monotonic())
        queue = iter(actions)
        async with asyncio.TaskGroup() as group:
            for number in range(min(CONCURRENCY, len(actions))):
                group.create_task(self._work(queue, work), name=f"write {deployment.name} {number}")
        return outcome

    def check_leading(self) -> None:
        """Raise NotLeading unless the lease is surely ours: to be called before each write, by whoever writes."""
        if not self._may_write():
            raise NotLeading

    async def resolve(self, namespace: str, memory: Memory) -> None:
        """Read back the processes whose last write had no known outcome."""
        for device, name in tuple(memory.unknown.items()):
            await self._read_back(Key(namespace, name), None)
            del memory.unknown[device]

    async def _work(self, queue: Iterator[Action], work: _Work) -> None:
        for action in queue:
            async with self._slots:
                await self._limiter.acquire()
                self.check_leading()
                await self._attempt(action, work)
            if work.outcome.trouble is not None or work.is_over(action, self._clock.monotonic()):
                work.outcome.look_again = True
                return

    async def _attempt(self, action: Action, work: _Work) -> None:
        try:
            await self._write(action, work)
        except KubeError as e:
            verb = type(action).__name__.lower()
            self._metrics.writes.labels(verb, type(e).__name__).inc()
            await self._failed(action, work, e)
        else:
            self._metrics.writes.labels(type(action).__name__.lower(), "done").inc()

    async def _write(self, action: Action, work: _Work) -> None:
        deployment, outcome = work.deployment, work.outcome
        match action:
            case Create():
                body = process_body(deployment, action, self._clock.now())
                stored = await self._api.create(
                    DEVICE_PROCESSES, deployment.namespace, body, field_manager=FIELD_MANAGER
                )
                outcome.created += 1
                self._stored(stored, action.template, work)
            case Update(process):
                patch = process_patch(deployment, action, self._clock.now())
                key = Key(process.namespace, process.name)
                stored = await self._api.patch(
                    DEVICE_PROCESSES, key, patch, patch_type=PatchType.JSON, field_manager=FIELD_MANAGER
                )
                outcome.updated += 1
                self._stored(stored, action.template, work)
            case Delete(process):
                await self._api.delete(DEVICE_PROCESSES, Key(process.namespace, process.name), uid=process.uid)
                outcome.deleted += 1
                self.overlay.deleted(process, self._clock.monotonic())
            case _:
                assert_never(action)

    def _stored(self, stored: dict[str, Any], template: Template, work: _Work) -> None:
        row, wanted = project_process(stored), template.spec_hash
        self.overlay.wrote(row, self._clock.monotonic())
        known = work.memory.stored_as.setdefault(wanted, set())
        if row.spec_hash != wanted and row.spec_hash not in known:
            _log.warning("the API stores another spec than was written", process=row.name)
            known.add(row.spec_hash)

    async def _failed(self, action: Action, work: _Work, error: KubeError) -> None:
        device, key, row = _subject(action, work.deployment)
        match error:
            case AlreadyExists() | Conflict():
                work.outcome.look_again = True
                await self._read_back_or_leave(key, row, work.outcome)
            case NotFound() if row is not None:
                work.outcome.look_again = True
                self.overlay.deleted(row, self._clock.monotonic())
            case Invalid() if isinstance(action, Update) and await self._is_stale(key, action.process, work.outcome):
                work.outcome.look_again = True
            case Invalid() | Forbidden() | ApiError(status=400 | 413):  # a quota, a role, a namespace that is going
                # away, or a webhook: what it denies without a code of its own is a 400
                until = self._clock.monotonic() + REFUSED_FOR_S
                if isinstance(action, Delete):
                    device, template = kept(action.process), work.deployment.template
                else:
                    template = action.template
                work.memory.refusals[device] = Refusal(template.revision, error.message, until)
                work.outcome.refused = error.message
                work.outcome.look_again = True
            case Unreachable() | ServerError():
                work.memory.unknown[device] = key.name
                work.outcome.trouble = error
            case _:
                work.outcome.trouble = error

    async def _read_back_or_leave(self, key: Key, row: ProcessRow | None, outcome: Outcome) -> None:
        try:
            await self._read_back(key, row)
        except KubeError as e:
            outcome.trouble = e

    async def _is_stale(self, key: Key, row: ProcessRow, outcome: Outcome) -> bool:
        """Tell whether the process became another one: a patch that removes a key that is gone already is refused as
        invalid, before its version is compared."""
        await self._read_back_or_leave(key, row, outcome)
        latest = self.overlay.latest(key, row, self._clock.monotonic())
        return latest is None or latest.resource_version != row.resource_version

    async def _read_back(self, key: Key, row: ProcessRow | None) -> None:
        try:
            stored = await self._api.get(DEVICE_PROCESSES, key)
        except NotFound:
            if row is not None:
                self.overlay.deleted(row, self._clock.monotonic())
        else:
            self.overlay.wrote(project_process(stored), self._clock.monotonic())


class _Work:
    """Whose actions these are, where to note what came of them, and for how long they are carried out."""

    def __init__(
        self,
        deployment: DeploymentRow,
        memory: Memory,
        outcome: Outcome,
        superseded: Callable[[], bool],
        began_at: float,
    ) -> None:
        self.deployment = deployment
        self.memory = memory
        self.outcome = outcome
        self._superseded = superseded
        self._began_at = began_at

    def is_over(self, action: Action, now: float) -> bool:
        """Tell whether the time slice ends after *action*."""
        lasted = now - self._began_at
        if lasted < SLICE_S:
            return False
        worthwhile = self.outcome.created >= WORTHWHILE or lasted >= LONG_SLICE_S
        return worthwhile or not isinstance(action, Create) or self._superseded()


def _subject(action: Action, deployment: DeploymentRow) -> tuple[str, Key, ProcessRow | None]:
    if isinstance(action, Create):
        return action.device, Key(deployment.namespace, action.name), None
    return action.process.device, Key(action.process.namespace, action.process.name), action.process

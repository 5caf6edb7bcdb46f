"""Reconciles one deployment: a snapshot from the cache, a plan, its writes, its status.

It is told a key, never an event, and whatever was missed or seen twice is all alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import structlog
from attrs import frozen

from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import NotFound
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.events import EventRecorder, ObjectRef
from praetor_controller.journal.entry import Decision
from praetor_controller.journal.recorder import FlightRecorder, listening
from praetor_controller.metrics import Metrics
from praetor_controller.model.actions import Update
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.revisions import RevisionRow
from praetor_controller.model.rows import DeploymentRow, ProcessRow
from praetor_controller.reconcile.assumed_cache import Overlay
from praetor_controller.reconcile.cache import BY_NAMESPACE, BY_OWNER, Cache, owned_by
from praetor_controller.reconcile.dirty import Changes
from praetor_controller.reconcile.events import Notice, transition_notices, write_notices
from praetor_controller.reconcile.revision_history import History
from praetor_controller.reconcile.snapshot_builder import Sources, gather
from praetor_controller.reconcile.state import Memory
from praetor_controller.reconcile.writer import FIELD_MANAGER, Outcome, Writer
from praetor_controller.rollout.incremental import Account
from praetor_controller.rollout.neighbours import Neighbour
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import Plan, Snapshot
from praetor_controller.rollout.status import status_patch

STATUS_PERIOD_S = 1.0
LOOK_AGAIN_S = 0.2
AUDIT_S = 60.0
"""So long an account is kept before a pass over all devices confirms it."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@frozen
class Result:
    """When to look again, in seconds (None when an event will tell), and how long the loop was held up.

    *calm_s* is for how long events that can change nothing but the status need not be looked at.
    """

    after_s: float | None = None
    pass_s: float = 0.0
    calm_s: float = 0.0


class DeploymentReconciler:
    """Brings deployments and their processes together. One for each term of leadership."""

    def __init__(
        self,
        api: KubeApi,
        cache: Cache,
        writer: Writer,
        history: History,
        recorder: EventRecorder,
        metrics: Metrics,
        clock: Clock,
        changes: Changes,
        flight: FlightRecorder | None = None,
    ) -> None:
        self._flight = flight
        self._changes = changes
        self._history = history
        self._api = api
        self._cache = cache
        self._writer = writer
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._memories: dict[str, Memory] = {}
        self._uids: dict[Key, str] = {}
        self._taking: dict[str, frozenset[str]] = {}
        self._written: Overlay[DeploymentRow] = Overlay()

    async def reconcile(self, key: Key) -> Result:
        """Take one safe step; KubeError when the API did not take the status, or was not there."""
        cached = self._cache.deployments.get(key)
        # of a deployment that is gone from the cache nothing that we wrote can be newer: we write to known ones only
        deployment = self._written.latest(key, cached, self._clock.monotonic()) if cached is not None else None
        if deployment is None or deployment.terminating:
            self._forget(key)
            return Result()
        memory = self._memory(key, deployment)
        await self._writer.resolve(key.namespace, memory)
        revisions = () if deployment.fault else await self._history.record(deployment)
        began = self._clock.monotonic()
        planned = self._plan(deployment, memory, revisions)
        pass_s = self._clock.monotonic() - began
        self._metrics.plan_seconds.observe(pass_s)
        outcome = await self._carry_out(deployment, planned, memory)
        self._tell(deployment, write_notices(outcome.created, outcome.updated, outcome.deleted, outcome.refused))
        status_after_s = await self._show(key, deployment, planned, memory)  # before what may fail for ever
        await self._history.trim(deployment, revisions, lambda: self._in_use(deployment))
        retry_at = memory.retry_at()
        refused_after_s = None if retry_at is None else retry_at - self._clock.monotonic()
        calm_s = max(0.0, (memory.status_due_at or 0.0) - self._clock.monotonic()) if memory.account else 0.0
        return Result(self._next_look(planned, outcome, status_after_s, refused_after_s), pass_s, calm_s)

    async def _carry_out(self, deployment: DeploymentRow, planned: Plan, memory: Memory) -> Outcome:
        """Write, and let others count meanwhile what is about to be written: no await lies between plan and note."""
        spec_writes = (action for action in planned.actions if isinstance(action, Update) and action.spec)
        self._taking[deployment.uid] = frozenset(action.process.device for action in spec_writes)
        try:
            return await self._writer.carry_out(
                deployment, planned.actions, memory, lambda: self._superseded(deployment)
            )
        finally:
            del self._taking[deployment.uid]

    def _superseded(self, deployment: DeploymentRow) -> bool:
        newest = self._cache.deployments.get(Key(deployment.namespace, deployment.name))
        known = deployment.uid, deployment.generation, deployment.terminating
        return newest is None or (newest.uid, newest.generation, newest.terminating) != known

    def _memory(self, key: Key, deployment: DeploymentRow) -> Memory:
        if self._uids.get(key) != deployment.uid:
            self._forget(key)
            self._uids[key] = deployment.uid
            self._memories[deployment.uid] = Memory()
        return self._memories[deployment.uid]

    def _forget(self, key: Key) -> None:
        self._written.seen(key, None)
        self._changes.forget(key)
        uid = self._uids.pop(key, None)
        if uid is not None:
            self._memories.pop(uid, None)
            if self._flight is not None:
                self._flight.forget(uid)
            self._metrics.forget_devices(key)

    def _plan(self, deployment: DeploymentRow, memory: Memory, revisions: Sequence[RevisionRow]) -> Plan:
        key = Key(deployment.namespace, deployment.name)
        recounted = self._recount(key, deployment, memory, revisions)
        if recounted is not None and self._clock.monotonic() < memory.audit_at:
            planned = recounted
        else:
            planned = self._plan_all(key, deployment, memory, revisions)
            self._audit(recounted, planned)
        if planned.status is not None:
            self._metrics.show_devices(key, planned.status.reasons)
        return planned

    def _audit(self, recounted: Plan | None, planned: Plan) -> None:
        if recounted is not None and recounted.status != planned.status:
            self._metrics.account_errors.inc()
            _log.error("account of devices was wrong", kept=str(recounted.status), counted=str(planned.status))

    def _recount(
        self, key: Key, deployment: DeploymentRow, memory: Memory, revisions: Sequence[RevisionRow]
    ) -> Plan | None:
        """Return the plan by the account and what changed since; None when a pass over all devices has to tell."""
        names, account = self._changes.take(key), memory.account
        if names is None or account is None:
            return None
        processes = [Key(key.namespace, name) for name in account.processes_of(names)]
        sources = Sources(
            devices=_known(self._cache.devices.get(Key(key.namespace, name)) for name in names),
            processes=_known(map(self._process, processes)),
            revisions=revisions,
            find=self._process,
        )
        now = self._clock.now()
        changed = gather(deployment, sources, memory, now=now, monotonic=self._clock.monotonic())
        planned = account.plan(changed, now) if len(changed.devices) == len(names) else None
        if planned is not None:
            self._metrics.passes.labels("changed").inc()
        return planned

    def _plan_all(self, key: Key, deployment: DeploymentRow, memory: Memory, revisions: Sequence[RevisionRow]) -> Plan:
        """Return the plan by all devices, and open an account when they are at rest."""
        snapshot, now = self._snapshot(deployment, memory, revisions), self._clock.now()
        planned = self._decide(snapshot, now)
        self._metrics.passes.labels("whole").inc()
        memory.account = None
        self._changes.forget(key)
        if (
            planned.tally is not None and self._flight is None
        ):  # who records decisions wants all that they are made from
            memory.account, memory.audit_at = Account(snapshot, planned.tally, now), self._clock.monotonic() + AUDIT_S
            self._changes.follow(key)
        return planned

    def _decide(self, snapshot: Snapshot, now: datetime) -> Plan:
        if self._flight is None:
            return plan(snapshot, now)
        snapshot = listening(snapshot)
        planned = plan(snapshot, now)
        self._flight.record(Decision(now=now, snapshot=snapshot, plan=planned))
        return planned

    def _snapshot(self, deployment: DeploymentRow, memory: Memory, revisions: Sequence[RevisionRow]) -> Snapshot:
        now = self._clock.monotonic()
        owner = owned_by(deployment.namespace, deployment.uid)
        sources = Sources(
            devices=self._cache.devices.by_index(BY_NAMESPACE, deployment.namespace),
            processes=self._writer.overlay.over(self._cache.processes.by_index(BY_OWNER, owner), now),
            revisions=revisions,
            find=self._process,
            neighbours=self._neighbours(deployment, now),
        )
        return gather(deployment, sources, memory, now=self._clock.now(), monotonic=now)

    def _neighbours(self, deployment: DeploymentRow, now: float) -> Iterator[Neighbour]:
        for other in self._cache.deployments.by_index(BY_NAMESPACE, deployment.namespace):
            if other.uid != deployment.uid:
                cached = self._cache.processes.by_index(BY_OWNER, owned_by(other.namespace, other.uid))
                memory = self._memories.get(other.uid)
                taking = self._taking.get(other.uid, frozenset()) | (memory.unknown.keys() if memory else set())
                yield Neighbour(other, self._writer.overlay.over_cached(cached, now), taking)

    def _in_use(self, deployment: DeploymentRow) -> set[str]:
        cached = self._cache.processes.by_index(BY_OWNER, owned_by(deployment.namespace, deployment.uid))
        processes = self._writer.overlay.over(cached, self._clock.monotonic())
        status = deployment.status
        named = {deployment.template.revision, status.current_revision}
        return {row.revision for row in processes} | {each for each in named if each}

    def _process(self, key: Key) -> ProcessRow | None:
        return self._writer.overlay.latest(key, self._cache.processes.get(key), self._clock.monotonic())

    async def _show(self, key: Key, deployment: DeploymentRow, planned: Plan, memory: Memory) -> float | None:
        """Write the status if it changed and is due; return in how many seconds it will be due, None if it is right."""
        status, now = planned.status, self._clock.monotonic()
        if status is None or not (patch := status_patch(deployment.status.raw, status)):
            return None
        if memory.status_due_at is None:
            memory.status_due_at = now + STATUS_PERIOD_S if planned.actions else now
        if now < memory.status_due_at:
            return memory.status_due_at - now
        memory.status_due_at = now + STATUS_PERIOD_S
        await self._write_status(key, deployment, patch)
        self._tell(deployment, transition_notices(deployment.status.conditions, status.conditions))
        _log.debug("status written", fields=sorted(patch))
        return None

    async def _write_status(self, key: Key, deployment: DeploymentRow, patch: Mapping[str, object]) -> None:
        self._writer.check_leading()
        body = {"metadata": {"resourceVersion": deployment.resource_version}, "status": patch}
        try:
            stored = await self._api.patch(
                DEVICE_PROCESS_DEPLOYMENTS, key, body, subresource="status", field_manager=FIELD_MANAGER
            )
        except NotFound:  # deleted meanwhile
            return
        self._metrics.status_writes.inc()
        self._written.wrote(project_deployment(stored), self._clock.monotonic())

    def _tell(self, deployment: DeploymentRow, notices: tuple[Notice, ...]) -> None:
        for notice in notices:
            _log.info("event", reason=notice.reason, note=notice.note)
            self._recorder.record(
                ObjectRef(
                    api_version=DEVICE_PROCESS_DEPLOYMENTS.api_version,
                    kind=DEVICE_PROCESS_DEPLOYMENTS.kind,
                    namespace=deployment.namespace,
                    name=deployment.name,
                    uid=deployment.uid,
                ),
                type=notice.type,
                reason=notice.reason,
                action=notice.action,
                note=notice.note,
            )

    def _next_look(self, planned: Plan, outcome: Outcome, *waiting_s: float | None) -> float | None:
        if outcome.trouble is not None:
            raise outcome.trouble
        waits = [wait for wait in waiting_s if wait is not None]
        if planned.next_look is not None:
            waits.append(max(0.0, _seconds_until(planned.next_look, self._clock.now())))
        if outcome.wrote or outcome.look_again:
            waits.append(0.0 if outcome.wrote else LOOK_AGAIN_S)
        return min(waits, default=None)


def _known(rows: Iterable[T | None]) -> list[T]:
    return [row for row in rows if row is not None]


def _seconds_until(moment: datetime, now: datetime) -> float:
    return (moment - now).total_seconds()

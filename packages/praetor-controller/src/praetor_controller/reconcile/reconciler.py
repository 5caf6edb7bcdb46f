# SPDX-License-Identifier: Apache-2.0
"""Reconciles one deployment: a snapshot from the cache, a plan, its writes, its status.

It gets a key, never an event: events that were missed, merged or repeated make no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

import structlog
from attrs import evolve, frozen

from praetor_api.conditions import ConditionType
from praetor_api.kube.client.api import KubeApi
from praetor_api.kube.client.errors import ApiError, Forbidden, NotFound
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, Key
from praetor_api.kube.codec import encode
from praetor_api.kube.conditions import is_true
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.events import EventRecorder, ObjectRef
from praetor_controller.journal.entry import Decision
from praetor_controller.journal.recorder import FlightRecorder, tracked
from praetor_controller.metrics import Metrics
from praetor_controller.model.actions import Adopt, Update
from praetor_controller.model.approvals import Digests, with_approvals
from praetor_controller.model.kinds import followed, with_missing_kinds
from praetor_controller.model.projection import project_deployment
from praetor_controller.model.revisions import RevisionRow, newest_template, proven_stamps
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.reconcile.cache import BY_NAMESPACE, BY_OWNER, OWNERLESS, Cache, left_by, owned_by
from praetor_controller.reconcile.events import DeploymentEvent, transition_events, write_events
from praetor_controller.reconcile.revision_history import RevisionHistory
from praetor_controller.reconcile.snapshot_builder import Sources, build_snapshot
from praetor_controller.reconcile.state import DirtySet, ReconcilerState, Refusal
from praetor_controller.reconcile.writer import FIELD_MANAGER, WriteOutcome, Writer, is_refusal
from praetor_controller.rollout.assignment import adoptable
from praetor_controller.rollout.incremental import IncrementalAggregate
from praetor_controller.rollout.neighbours import Neighbour, overlap
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.snapshot import GatewayState, Moment, Plan, Snapshot
from praetor_controller.rollout.status import refusal_text, status_patch, was_rolled_out, with_overlap, writes_refused

STATUS_PERIOD_S = 1.0
"""The status of a deployment is written at most this often."""
REQUEUE_S = 0.2
"""The delay of the next pass when writes met a conflict or a refusal: by then the informer shows more."""
AUDIT_S = 60.0
"""How often a pass over all devices confirms what was counted incrementally."""

_HISTORY = "/revision"
"""The key of the refusals for the write of a ControllerRevision; no device has this name."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@frozen
class Result:
    """When to reconcile again, in seconds (None: after an event), and how long the pass blocked the event loop.

    For *status_cooldown_s* events that can change nothing but the status need no pass.
    """

    after_s: float | None = None
    pass_s: float = 0.0
    status_cooldown_s: float = 0.0


class Gateway(Protocol):
    """Whether a gateway judges the devices, and since when (monotonic seconds)."""

    state: GatewayState
    judged_since: float


class DeploymentReconciler:
    """Brings deployments and their processes together. One for each term of leadership."""

    def __init__(
        self,
        api: KubeApi,
        cache: Cache,
        writer: Writer,
        history: RevisionHistory,
        recorder: EventRecorder,
        metrics: Metrics,
        clock: Clock,
        dirty: DirtySet,
        gateway: Gateway,
        flight: FlightRecorder | None = None,
        digests: Callable[[str], Digests | None] = lambda _: None,
    ) -> None:
        self._flight = flight
        self._digests = digests
        self._dirty = dirty
        self._gateway = gateway
        self._history = history
        self._api = api
        self._cache = cache
        self._writer = writer
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._states: dict[Key, ReconcilerState] = {}

    async def reconcile(self, key: Key) -> Result:
        """Do one safe step; KubeError when the API refuses the status, or cannot be reached."""
        deployment = self._cache.deployments.get(key)
        if deployment is None or deployment.terminating:
            self._forget(key)
            return Result()
        deployment = self._history.with_stored_template(self._approved(deployment))
        state = self._state(key, deployment)
        await self._writer.resolve(key.namespace, state)
        try:
            revisions = await self._revisions(deployment, state)
        except ApiError as e:
            if not is_refusal(e):
                raise
            return await self._show_refusal(key, deployment, state, e.message)
        adoption = await self._adopt(deployment, state)
        if adoption.trouble is not None:
            raise adoption.trouble
        began = self._clock.monotonic()
        planned = self._plan(deployment, state, revisions)
        planned = self._with_remarks(deployment, planned)
        pass_s = self._clock.monotonic() - began
        self._metrics.plan_seconds.observe(pass_s)
        if planned.status is not None:  # before offers to devices that are back only now, which prove nothing yet
            await self._history.record_rolled_out(deployment, planned.status.current_revision)
        outcome = await self._carry_out(deployment, planned, state, revisions)
        self._record(
            deployment,
            write_events(
                outcome.created,
                outcome.updated,
                outcome.deleted,
                outcome.refused or adoption.refused,
                adoption.adopted,
            ),
        )
        outcome.interrupted |= adoption.interrupted
        outcome.requeue |= adoption.requeue
        status_after_s = await self._update_status(key, deployment, planned, state)  # before what may keep failing
        await self._history.trim(deployment, revisions, lambda: self._in_use(deployment))
        if outcome.trouble is not None:
            raise outcome.trouble
        status_cooldown_s = self._until(state.status_due_at) if state.account else 0.0
        return Result(self._requeue_after(planned, outcome, state, status_after_s), pass_s, status_cooldown_s)

    def _approved(self, deployment: DeploymentRow) -> DeploymentRow:
        """Return *deployment* with the contents of files that its rollout is about."""
        if not deployment.template.refers:
            return deployment
        revisions = self._cache.revisions.by_index(BY_OWNER, owned_by(deployment))
        return with_approvals(deployment, self._digests(deployment.namespace), newest_template(revisions))

    def _with_remarks(self, deployment: DeploymentRow, planned: Plan) -> Plan:
        if planned.status is None:
            return planned
        others = self._cache.deployments.by_index(BY_NAMESPACE, deployment.namespace)
        devices = partial(self._cache.devices.by_index, BY_NAMESPACE, deployment.namespace)
        found = overlap(deployment, others, devices)
        now = self._clock.now()
        status = with_overlap(deployment, planned.status, found, now)
        conditions = with_missing_kinds(status.conditions, deployment, self._cache.devices.missing(), now)
        if status is planned.status and conditions is status.conditions:
            return planned
        return evolve(planned, status=evolve(status, conditions=conditions))

    async def _revisions(self, deployment: DeploymentRow, state: ReconcilerState) -> tuple[RevisionRow, ...]:
        """Return the history with the template in it; what the API answered, again while it is too early to retry."""
        if deployment.fault:
            return ()
        revisions = {each for each in (deployment.template.revision, deployment.status.current_revision) if each}
        refused = state.refusals.current(revisions, deployment.retry, self._clock.monotonic()).get(_HISTORY)
        if refused is not None:
            raise Forbidden(403, "Forbidden", refused)
        found = await self._history.record(deployment)
        state.refusals.accepted(_HISTORY, self._clock.monotonic())
        return found

    async def _show_refusal(self, key: Key, deployment: DeploymentRow, state: ReconcilerState, why: str) -> Result:
        """Say in the status that the API refused the revision, before which no process is written."""
        monotonic, now = self._clock.monotonic(), self._clock.now()
        if _HISTORY not in state.refusals:
            state.refusals.add(_HISTORY, Refusal(deployment.template.revision, why), monotonic)
            self._record(deployment, write_events(0, 0, 0, why))
        text = refusal_text(deployment.name, {_HISTORY: why}, state.refusals.retry_time(now.timestamp(), monotonic))
        conditions = writes_refused(deployment, text, now)
        if conditions != deployment.status.conditions:
            await self._write_status(key, deployment, {"conditions": [encode(each) for each in conditions]})
        return Result(self._until(state.refusals.retry_at))

    async def _adopt(self, deployment: DeploymentRow, state: ReconcilerState) -> WriteOutcome:
        """Become the owner of processes that a deployment of this name left behind, before others are made beside."""
        ownerless = self._cache.processes.by_index(OWNERLESS, left_by(deployment))
        devices, namespace, refused = self._cache.devices, deployment.namespace, state.refusals
        found = adoptable(deployment, ownerless, lambda name: devices.get(Key(namespace, name)))
        adoptions = [Adopt(process) for process in found if process.device not in refused]
        return await self._writer.carry_out(deployment, adoptions, state)

    async def _carry_out(
        self, deployment: DeploymentRow, planned: Plan, state: ReconcilerState, revisions: Sequence[RevisionRow]
    ) -> WriteOutcome:
        """Write, and let neighbours count what is about to be written: no await lies between plan and announcement."""
        spec_writes = (action for action in planned.actions if isinstance(action, Update) and action.spec)
        state.writing_to = frozenset(action.process.device for action in spec_writes)
        try:
            if planned.wave_record is not None:
                await self._history.remember(deployment, planned.wave_record)
            return await self._writer.carry_out(
                deployment,
                planned.actions,
                state,
                lambda: self._superseded(deployment),
                {row.template.revision: row.traceparent for row in revisions if row.traceparent},
            )
        finally:
            state.writing_to = frozenset()

    def _superseded(self, deployment: DeploymentRow) -> bool:
        newest = self._cache.deployments.get(Key(deployment.namespace, deployment.name))
        known = deployment.uid, deployment.generation, deployment.terminating
        return newest is None or (newest.uid, newest.generation, newest.terminating) != known

    def _state(self, key: Key, deployment: DeploymentRow) -> ReconcilerState:
        state = self._states.get(key)
        if state is None or state.uid != deployment.uid:
            self._forget(key)
            state = self._states[key] = ReconcilerState(uid=deployment.uid)
        return state

    def _forget(self, key: Key) -> None:
        self._dirty.untrack(key)
        state = self._states.pop(key, None)
        if state is not None:
            if self._flight is not None:
                self._flight.forget(state.uid)
            self._metrics.forget_devices(key)

    def _plan(self, deployment: DeploymentRow, state: ReconcilerState, revisions: Sequence[RevisionRow]) -> Plan:
        key = Key(deployment.namespace, deployment.name)
        incremental = self._plan_changed(key, deployment, state, revisions)
        if incremental is not None and self._clock.monotonic() < state.audit_at:
            planned = incremental
        else:
            planned = self._plan_all(key, deployment, state, revisions)
            self._audit(incremental, planned)
        if planned.status is not None:
            self._metrics.show_devices(key, planned.status.reasons)
        return planned

    def _audit(self, incremental: Plan | None, planned: Plan) -> None:
        if incremental is not None and incremental.status != planned.status:
            self._metrics.account_errors.inc()
            _log.error("incremental status was wrong", kept=str(incremental.status), counted=str(planned.status))

    def _plan_changed(
        self, key: Key, deployment: DeploymentRow, state: ReconcilerState, revisions: Sequence[RevisionRow]
    ) -> Plan | None:
        """Return the plan by what changed since the last pass; None when only a pass over all devices can decide."""
        names, account = self._dirty.take(key), state.account
        if names is None or account is None:
            return None
        find = self._cache.processes.get
        sources = Sources(
            devices=_known(self._cache.devices.get(Key(key.namespace, name)) for name in names),
            processes=_known(find(Key(key.namespace, name)) for name in account.processes_of(names)),
            revisions=revisions,
            find=find,
            gateway=self._gateway.state,
            judged_since=self._cache.steady(self._gateway.judged_since),
        )
        now = self._cache.moment()
        changed = build_snapshot(deployment, sources, state, now=now, monotonic=self._clock.monotonic())
        planned = account.plan(changed, now.wall) if len(changed.devices) == len(names) else None
        if planned is not None:
            self._metrics.passes.labels("changed").inc()
        return planned

    def _plan_all(
        self, key: Key, deployment: DeploymentRow, state: ReconcilerState, revisions: Sequence[RevisionRow]
    ) -> Plan:
        """Return the plan by all devices, and track their changes when they are in steady state."""
        moment = self._cache.moment()
        snapshot, now = self._snapshot(deployment, state, revisions, moment), moment.wall
        planned = self._decide(snapshot, now)
        self._metrics.passes.labels("whole").inc()
        state.account = None
        self._dirty.untrack(key)
        if planned.aggregate is not None and self._flight is None:  # a record of decisions needs all of their inputs
            state.account = IncrementalAggregate(snapshot, planned.aggregate, now)
            state.audit_at = self._clock.monotonic() + AUDIT_S
            self._dirty.track(key)
        return planned

    def _decide(self, snapshot: Snapshot, now: datetime) -> Plan:
        if self._flight is None:
            return plan(snapshot, now)
        snapshot = tracked(snapshot)
        planned = plan(snapshot, now)
        self._flight.record(Decision(now=now, snapshot=snapshot, plan=planned))
        return planned

    def _snapshot(
        self, deployment: DeploymentRow, state: ReconcilerState, revisions: Sequence[RevisionRow], now: Moment
    ) -> Snapshot:
        sources = Sources(
            devices=self._cache.devices.by_index(BY_NAMESPACE, deployment.namespace),
            processes=followed(
                self._cache.processes.by_index(BY_OWNER, owned_by(deployment)), self._cache.devices.missing()
            ),
            revisions=revisions,
            find=self._cache.processes.get,
            neighbours=self._neighbours(deployment),
            gateway=self._gateway.state,
            judged_since=self._cache.steady(self._gateway.judged_since),
        )
        return build_snapshot(deployment, sources, state, now=now, monotonic=self._clock.monotonic())

    def _neighbours(self, deployment: DeploymentRow) -> Iterator[Neighbour]:
        for other in self._cache.deployments.by_index(BY_NAMESPACE, deployment.namespace):
            if other.uid != deployment.uid:
                state = self._states.get(Key(other.namespace, other.name))
                uncertain = state.writing_to | state.unknown.keys() if state and state.uid == other.uid else frozenset()
                processes = self._cache.processes.by_index(BY_OWNER, owned_by(other))
                revisions = self._cache.revisions.by_index(BY_OWNER, owned_by(other))
                proven = proven_stamps(revisions, other.status.current_revision)
                yield Neighbour(self._approved(other), processes, uncertain, proven)

    def _in_use(self, deployment: DeploymentRow) -> set[str]:
        processes = self._cache.processes.by_index(BY_OWNER, owned_by(deployment))
        named = {deployment.template.revision, deployment.status.current_revision}
        return {row.revision for row in processes} | {each for each in named if each}

    async def _update_status(
        self, key: Key, deployment: DeploymentRow, planned: Plan, state: ReconcilerState
    ) -> float | None:
        """Write the status if it changed and is due; return in how many seconds it needs another pass (None: never)."""
        status, now = planned.status, self._clock.monotonic()
        if status is None or not (patch := status_patch(deployment.status.raw, status)):
            return None
        if state.status_due_at is None:
            state.status_due_at = now + STATUS_PERIOD_S if planned.actions else now
        if now < state.status_due_at:
            return state.status_due_at - now
        state.status_due_at = now + STATUS_PERIOD_S
        stored = await self._write_status(key, deployment, patch)
        self._record(deployment, transition_events(deployment.status.conditions, status.conditions))
        if "currentRevision" in patch:
            self._metrics.rollouts.observe(max(0.0, self._clock.now().timestamp() - state.started_at))
        _log.debug("status written", fields=sorted(patch))
        return 0.0 if stored is not None and _planned_by(stored) != _planned_by(deployment) else None

    async def _write_status(
        self, key: Key, deployment: DeploymentRow, patch: Mapping[str, object]
    ) -> DeploymentRow | None:
        """Return the deployment as it is stored then; None when it was deleted meanwhile."""
        self._writer.check_leading()
        body = {"metadata": {"resourceVersion": deployment.resource_version}, "status": patch}
        try:
            stored = await self._api.patch(
                DEVICE_PROCESS_DEPLOYMENTS, key, body, subresource="status", field_manager=FIELD_MANAGER
            )
        except NotFound:
            return None
        self._metrics.status_writes.inc()
        row = project_deployment(stored)
        self._cache.deployments.assume(row)
        return row

    def _record(self, deployment: DeploymentRow, events: tuple[DeploymentEvent, ...]) -> None:
        for event in events:
            _log.info("event", reason=event.reason, note=event.note)
            self._recorder.record(
                ObjectRef(
                    api_version=DEVICE_PROCESS_DEPLOYMENTS.api_version,
                    kind=DEVICE_PROCESS_DEPLOYMENTS.kind,
                    namespace=deployment.namespace,
                    name=deployment.name,
                    uid=deployment.uid,
                ),
                type=event.type,
                reason=event.reason,
                action=event.action,
                note=event.note,
            )

    def _requeue_after(
        self, planned: Plan, outcome: WriteOutcome, state: ReconcilerState, status_after_s: float | None
    ) -> float | None:
        """Return in how many seconds the next pass is due if no event comes before; None when none is."""
        waits = [wait for wait in (status_after_s,) if wait is not None]
        retry_at = state.refusals.retry_at
        if retry_at is not None:
            waits.append(self._until(retry_at))
        if planned.recheck_at is not None:
            waits.append((planned.recheck_at - self._cache.moment().wall).total_seconds())
        if outcome.wrote:  # the status is to show what was written
            waits.append(self._until(state.status_due_at))
        if outcome.requeue:
            waits.append(REQUEUE_S)
        if outcome.interrupted:
            waits.append(0.0)
        return max(0.0, min(waits)) if waits else None

    def _until(self, monotonic: float | None) -> float:
        """Return the seconds until *monotonic*; 0 for none, and for the past."""
        return max(0.0, (monotonic or 0.0) - self._clock.monotonic())


def _planned_by(deployment: DeploymentRow) -> tuple[object, ...]:
    """Return what plan() decides by of the deployment's own status."""
    status = deployment.status
    said = [is_true(status.conditions, each) for each in (ConditionType.ROLLED_BACK, ConditionType.REMOVAL_HELD)]
    return status.current_revision, status.failed_revision, *said, was_rolled_out(deployment)


def _known(rows: Iterable[T | None]) -> list[T]:
    return [row for row in rows if row is not None]

# SPDX-License-Identifier: Apache-2.0
"""Informers' events → keys of the deployments that they concern → workers that reconcile them.

A deployment is reconciled at once, but not all the time: passes use at most a fifth of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import Enum, auto

import structlog
from attrs import evolve

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.kube.client.errors import Conflict, KubeError
from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.workqueue import Workqueue
from praetor_controller.errors import NotLeading
from praetor_controller.metrics import Metrics
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.reconcile.cache import BY_NAMESPACE, BY_UID, Cache
from praetor_controller.reconcile.reconciler import DeploymentReconciler
from praetor_controller.reconcile.state import DirtySet
from praetor_controller.rollout.neighbours import commands, has_budgets

_COOLDOWN_FACTOR = 4.0
"""The cooldown of a deployment after a pass, as a multiple of how long the pass took."""
_MAX_COOLDOWN_S = 5.0
_BEHIND_RECHECK_S = 0.5
"""How often to check whether a namespace that could not be followed is followed again."""

_log = structlog.get_logger(__name__)


class Impact(Enum):
    """How much of a deployment may be different after an event.

    NONE: nothing that a pass reads. STATUS: the state of a device. SPEC: what a device shall be. MEMBERSHIP: which
    devices and processes there are.
    """

    NONE = auto()
    STATUS = auto()
    SPEC = auto()
    MEMBERSHIP = auto()


def process_impact(before: ProcessRow | None, after: ProcessRow | None) -> Impact:
    """Return the impact on the owner when a process, as a pass sees it, changes from *before* to *after*."""
    if before is None or after is None:
        return Impact.NONE if before is after else Impact.MEMBERSHIP
    unread = {name: getattr(after, name) for name in ("resource_version", "stamps", "run_since", "crashed_at")}
    if evolve(before, **unread) == after:
        return Impact.NONE  # only what no pass reads has changed
    if (before.uid, before.owner, before.device) != (after.uid, after.owner, after.device):
        return Impact.MEMBERSHIP
    return Impact.STATUS if _wanted(before) == _wanted(after) else Impact.SPEC


def _wanted(row: ProcessRow) -> tuple[object, ...]:
    annotations = row.revision, row.managed, row.wave, row.offered_at
    return row.spec_hash, row.labels, row.annotations, row.annotated, row.terminating, annotations


def device_impact(
    before: DeviceRow | None, after: DeviceRow | None, *, matched: bool, matches: bool, reads_facts: bool
) -> Impact:
    """Return the impact on a deployment whose selector *matched* the device *before*, and now *matches* it or not.

    *reads_facts*: what the device reports of itself decides there, too.
    """
    if before is None or after is None or matched != matches:
        return Impact.MEMBERSHIP if matched or matches else Impact.NONE
    if not matches:
        return Impact.NONE
    if not reads_facts and before.facts != after.facts:
        after = evolve(after, facts=before.facts)
        if after == before:
            return Impact.NONE
    as_before = evolve(after, connected=before.connected, connected_since=before.connected_since)
    return Impact.STATUS if as_before == before else Impact.SPEC


def deployment_impact(before: DeploymentRow | None, after: DeploymentRow | None) -> Impact:
    """Return the impact of a change of the deployment itself."""
    if before is None or after is None:
        return Impact.MEMBERSHIP
    as_before = evolve(after, status=before.status, resource_version=before.resource_version)
    return Impact.STATUS if as_before == before else Impact.SPEC


def availability_changed(before: ProcessRow | None, after: ProcessRow | None) -> bool:
    """Return whether other deployments may have to count the device of a process differently."""
    return before is None or after is None or _availability(before) != _availability(after)


def _availability(row: ProcessRow) -> tuple[object, ...]:
    since = row.ready_since, row.connected_since, row.settled_since, row.offered_at
    return *since, row.connected, row.reported, row.held, row.failure, row.on_trial


class Controller:
    """Feeds keys to workers. Its handlers run always, its workers only while lead() does."""

    def __init__(self, cache: Cache, metrics: Metrics, clock: Clock, *, workers: int = 4) -> None:
        self._cache = cache
        self._metrics = metrics
        self._clock = clock
        self._workers = workers
        self._queue: Workqueue[Key] = Workqueue(clock, waited=metrics.queued.observe)
        self._cooldown_until: dict[Key, float] = {}
        self._status_cooldown_until: dict[Key, float] = {}
        self.dirty = DirtySet()
        metrics.queue.set_function(lambda: len(self._queue))
        metrics.queue_oldest.set_function(lambda: self._queue.oldest_s)
        metrics.behind.set_function(lambda: len(cache.kinds_behind))
        cache.deployments.add_handler(self._on_deployment)
        cache.devices.add_handler(self._on_device)
        cache.devices.add_found_handler(self.reconcile_all)
        cache.processes.add_handler(self._on_process)
        cache.processes.add_event_handler(self._on_process_event)

    async def lead(self, reconciler: DeploymentReconciler) -> None:
        """Reconcile until cancelled."""
        await self._cache.wait_synced()
        self.reconcile_all()
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(reconciler), name=f"reconcile {number}")

    def reconcile_all(self) -> None:
        """Reconcile every deployment: what concerns them all has changed."""
        for key in self._cache.deployments.all_keys():
            self._add(key)

    def contents_changed(self, namespace: str) -> None:
        """Reconcile the deployments of *namespace* that refer to objects: what these hold has changed."""
        for deployment in self._cache.deployments.by_index(BY_NAMESPACE, namespace):
            if deployment.template.refers:
                self._add(_key(deployment))

    async def _work(self, reconciler: DeploymentReconciler) -> None:
        while not _is_cancelled():
            async with self._queue.get() as key:
                if self._cache.is_behind(key.namespace):
                    self._queue.add_after(key, _BEHIND_RECHECK_S)
                    continue
                with structlog.contextvars.bound_contextvars(namespace=key.namespace, deployment=key.name):
                    await self._process(reconciler, key)

    async def _process(self, reconciler: DeploymentReconciler, key: Key) -> None:
        began, cooldown_s, status_cooldown_s = self._clock.monotonic(), 0.0, 0.0
        try:
            result = await reconciler.reconcile(key)
        except* NotLeading:
            self._metrics.reconciles.labels("not_leading").inc()
            self._queue.add_rate_limited(key)
        except* KubeError as group:
            cooldown_s = self._failed(key, group.exceptions[0])
        except* Exception:  # a bug met by one deployment must not stop the others
            self._metrics.reconciles.labels("crashed").inc()
            _log.exception("reconcile crashed")
            self._queue.add_rate_limited(key)
        else:
            self._metrics.reconciles.labels("done").inc()
            self._queue.forget(key)
            cooldown_s = min(_COOLDOWN_FACTOR * result.pass_s, _MAX_COOLDOWN_S)
            status_cooldown_s = result.status_cooldown_s
            if result.after_s is not None:
                self._queue.add_after(key, result.after_s)
        self._metrics.seconds.observe(self._clock.monotonic() - began)
        self._set_cooldown(key, cooldown_s, max(cooldown_s, status_cooldown_s))

    def _set_cooldown(self, key: Key, cooldown_s: float, status_cooldown_s: float) -> None:
        """Let events, and those of a status alone, wait so long: what they change is then seen in one pass."""
        if self._cache.deployments.get(key) is None:
            self._cooldown_until.pop(key, None)
            self._status_cooldown_until.pop(key, None)
        else:
            now = self._clock.monotonic()
            self._cooldown_until[key], self._status_cooldown_until[key] = now + cooldown_s, now + status_cooldown_s

    def _failed(self, key: Key, error: BaseException) -> float:
        """Retry *key* later, and return for how many seconds it must not be retried, whatever events come."""
        self._metrics.reconciles.labels("failed").inc()
        if isinstance(error, Conflict):
            _log.debug("the deployment changed meanwhile")
        else:
            _log.warning("cannot reconcile, will try again", error=str(error))
        retry_after = float(getattr(error, "retry_after", None) or 0.0)
        if retry_after:
            self._queue.add_after(key, retry_after)
        else:
            self._queue.add_rate_limited(key)
        return retry_after

    def _on_deployment(self, key: Key, old: DeploymentRow | None, new: DeploymentRow | None) -> None:
        impact = deployment_impact(old, new)
        self._add(key, impact)
        if impact is not Impact.STATUS:
            known = frozenset[tuple[str, ...]]().union(*(commands(row) for row in (old, new) if row is not None))
            for other in self._cache.deployments.by_index(BY_NAMESPACE, key.namespace):
                if other.name != key.name and not known.isdisjoint(
                    commands(other)
                ):  # it may overlap with this one, or no more
                    self._add(_key(other))
        if impact is not Impact.STATUS and any(row is not None and has_budgets(row) for row in (old, new)):
            others = self._cache.deployments.by_index(BY_NAMESPACE, key.namespace)
            self._add_waiting((each for each in others if each.name != key.name), None)

    def _on_device(self, key: Key, old: DeviceRow | None, new: DeviceRow | None) -> None:
        for deployment in self._cache.deployments.by_index(BY_NAMESPACE, key.namespace):
            matched, matches = (row is not None and deployment.selects(row) for row in (old, new))
            reads_facts = deployment.reads_facts or deployment.template.refers
            impact = device_impact(old, new, matched=matched, matches=matches, reads_facts=reads_facts)
            self._add_dirty(_key(deployment), key.name, impact)

    def _on_process(self, key: Key, old: ProcessRow | None, new: ProcessRow | None) -> None:
        impact = process_impact(old, new)
        for owner, row in {row.owner: row for row in (old, new) if row is not None}.items():
            if owner is not None:
                self._add_owner(row, owner, impact)

    def _on_process_event(self, key: Key, old: ProcessRow | None, new: ProcessRow | None) -> None:
        """Reconcile the other deployments that may wait for a failure domain with the device of the process.

        The writes of one deployment concern the others, so this cannot wait for a change of the assumed row.
        """
        row = new or old
        if row is None or not availability_changed(old, new):
            return
        if new is None or (new.terminating and old is not None and not old.terminating):
            self._add_successors(row)
        deployments = tuple(self._cache.deployments.by_index(BY_NAMESPACE, row.namespace))
        if any(map(has_budgets, deployments)):
            self._add_waiting(deployments, row.owner)

    def _add_successors(self, row: ProcessRow) -> None:
        """Reconcile the deployments that may wait until *row* has left its device."""
        device = self._cache.devices.get(Key(row.namespace, row.device))
        if device is not None:
            deployments = self._cache.deployments.by_index(BY_NAMESPACE, row.namespace)
            self._add_waiting((each for each in deployments if each.selects(device)), row.owner)

    def _add_waiting(self, deployments: Iterable[DeploymentRow], owner: str | None) -> None:
        """Reconcile *deployments* except that of the uid *owner*; those in steady state wait for nothing."""
        for deployment in deployments:
            key = _key(deployment)
            if deployment.uid != owner and not self.dirty.tracks(key):
                self._add(key)

    def _add_owner(self, row: ProcessRow, owner: str, impact: Impact) -> None:
        owners = [each for each in self._cache.deployments.by_index(BY_UID, owner) if each.namespace == row.namespace]
        for deployment in owners:
            self._add_dirty(_key(deployment), row.device, impact)
        if not owners:  # its deployment is gone; one of the same name may wait for the name
            key = Key(row.namespace, dict(row.labels).get(DEPLOYMENT_LABEL, ""))
            if self._cache.deployments.get(key) is not None:
                self._add(key)

    def _add_dirty(self, key: Key, device: str, impact: Impact) -> None:
        """Reconcile the deployment *key* because of *device*, unless nothing changed for it."""
        if impact is Impact.NONE:
            return
        if impact is Impact.MEMBERSHIP:
            self.dirty.untrack(key)
        else:
            self.dirty.add(key, device)
        self._add(key, impact)

    def _add(self, key: Key, impact: Impact = Impact.MEMBERSHIP) -> None:
        until = self._status_cooldown_until if impact is Impact.STATUS else self._cooldown_until
        self._queue.add_after(key, until.get(key, 0.0) - self._clock.monotonic())


def _key(deployment: DeploymentRow) -> Key:
    return Key(deployment.namespace, deployment.name)


def _is_cancelled() -> bool:
    """Return whether the present task is to end; CancelledError may not have reached it.

    Before Python 3.13 a TaskGroup that is cancelled while one of its tasks fails raises the failure alone.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

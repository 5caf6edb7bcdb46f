"""Informers' events → keys of deployments → workers that reconcile them.

A deployment is looked at again at once, but not all the time: passes take at most a fifth of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from praetor_api.annotations import DEPLOYMENT_LABEL
from praetor_api.kube.client.errors import Conflict, KubeError
from praetor_api.kube.client.resource import Key
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.workqueue import Workqueue
from praetor_controller.errors import NotLeading
from praetor_controller.metrics import Metrics
from praetor_controller.model.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.reconcile.assumed_cache import Overlay
from praetor_controller.reconcile.cache import BY_NAMESPACE, BY_UID, Cache
from praetor_controller.reconcile.dirty import Changes
from praetor_controller.reconcile.predicates import News, deployment_news, device_news, process_news
from praetor_controller.reconcile.reconciler import DeploymentReconciler
from praetor_controller.rollout.neighbours import has_budgets

_REST = 4.0
"""So many times as long as its last pass took, a deployment rests."""
_LONGEST_REST_S = 5.0
_LOOK_S = 0.5
"""So often it is looked whether what could not be followed is followed again."""

_log = structlog.get_logger(__name__)


class Controller:
    """Feeds keys to workers. Its handlers run always, its workers only while lead() does."""

    def __init__(
        self, cache: Cache, overlay: Overlay[ProcessRow], metrics: Metrics, clock: Clock, *, workers: int = 4
    ) -> None:
        self._cache = cache
        self._overlay = overlay
        self._metrics = metrics
        self._clock = clock
        self._workers = workers
        self._queue: Workqueue[Key] = Workqueue(clock)
        self._rested_at: dict[Key, float] = {}
        self._calm_until: dict[Key, float] = {}
        self.changes = Changes()
        metrics.queue.set_function(lambda: len(self._queue))
        metrics.behind.set_function(lambda: len(cache.kinds_behind))
        cache.deployments.add_handler(self._on_deployment)
        cache.devices.add_handler(self._on_device)
        cache.processes.add_handler(self._on_process)

    async def lead(self, reconciler: DeploymentReconciler) -> None:
        """Reconcile for ever; cancel it to stop."""
        await self._cache.wait_synced()
        for key in self._cache.deployments.all_keys():
            self._queue.add(key)
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(reconciler), name=f"reconcile {number}")

    async def _work(self, reconciler: DeploymentReconciler) -> None:
        while not _cancelled():
            async with self._queue.get() as key:
                if self._cache.is_behind(key.namespace):
                    self._queue.add_after(key, _LOOK_S)
                    continue
                with structlog.contextvars.bound_contextvars(namespace=key.namespace, deployment=key.name):
                    await self._process(reconciler, key)

    async def _process(self, reconciler: DeploymentReconciler, key: Key) -> None:
        began, rest_s, calm_s = self._clock.monotonic(), 0.0, 0.0
        try:
            result = await reconciler.reconcile(key)
        except* NotLeading:
            self._metrics.reconciles.labels("not_leading").inc()
            self._queue.add_rate_limited(key)
        except* KubeError as group:
            rest_s = self._failed(key, group.exceptions[0])
        except* Exception:  # a bug met by one deployment must not stop the others
            self._metrics.reconciles.labels("crashed").inc()
            _log.exception("reconcile crashed")
            self._queue.add_rate_limited(key)
        else:
            self._metrics.reconciles.labels("done").inc()
            self._queue.forget(key)
            rest_s, calm_s = min(_REST * result.pass_s, _LONGEST_REST_S), result.calm_s
            if result.after_s is not None:
                self._queue.add_after(key, result.after_s)
        self._metrics.seconds.observe(self._clock.monotonic() - began)
        self._rest(key, rest_s, max(rest_s, calm_s))

    def _rest(self, key: Key, rest_s: float, calm_s: float) -> None:
        """Note until when events, and calm ones, need not bring *key* up again: what comes soon is seen in one pass."""
        if self._cache.deployments.get(key) is None:
            self._rested_at.pop(key, None)
            self._calm_until.pop(key, None)
        else:
            now = self._clock.monotonic()
            self._rested_at[key], self._calm_until[key] = now + rest_s, now + calm_s

    def _failed(self, key: Key, error: BaseException) -> float:
        """Have *key* tried again, and return for how many seconds it must not be, whatever events come."""
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
        news = deployment_news(old, new)
        self._add(key, news)
        if news is not News.STATUS and any(row is not None and has_budgets(row) for row in (old, new)):
            others = self._cache.deployments.by_index(BY_NAMESPACE, key.namespace)
            self._add_waiting((each for each in others if each.name != key.name), None)

    def _on_device(self, key: Key, old: DeviceRow | None, new: DeviceRow | None) -> None:
        for deployment in self._cache.deployments.by_index(BY_NAMESPACE, key.namespace):
            matched, matches = (row is not None and deployment.matches(row.labels) for row in (old, new))
            news = device_news(old, new, matched=matched, matches=matches)
            self._tell(Key(deployment.namespace, deployment.name), key.name, news)

    def _on_process(self, key: Key, old: ProcessRow | None, new: ProcessRow | None) -> None:
        now = self._clock.monotonic()
        before = self._overlay.latest(key, old, now)  # as a pass saw it
        self._overlay.seen(key, new)
        after = self._overlay.latest(key, new, now)
        news = process_news(before, after)
        for owner, row in {row.owner: row for row in (old, before, after) if row is not None}.items():
            if owner is not None:
                self._tell_owner(row, owner, news)
        if old is None or new is None or _bearing(old) != _bearing(new):
            self._add_sharing(new or old)

    def _add_sharing(self, row: ProcessRow | None) -> None:
        """Bring up the deployments that may wait for a failure domain with the device of *row*."""
        found = self._cache.deployments.by_index(BY_NAMESPACE, row.namespace) if row is not None else ()
        deployments = tuple(found)
        if row is not None and any(map(has_budgets, deployments)):
            self._add_waiting(deployments, row.owner)

    def _add_waiting(self, deployments: Iterable[DeploymentRow], owner: str | None) -> None:
        """Bring up *deployments* besides the *owner*; those at rest wait for nothing."""
        for deployment in deployments:
            key = Key(deployment.namespace, deployment.name)
            if deployment.uid != owner and not self.changes.follows(key):
                self._add(key)

    def _tell_owner(self, row: ProcessRow, owner: str, news: News) -> None:
        owners = [each for each in self._cache.deployments.by_index(BY_UID, owner) if each.namespace == row.namespace]
        for deployment in owners:
            self._tell(Key(deployment.namespace, deployment.name), row.device, news)
        if not owners:  # its deployment is gone; one of the same name may wait for the name
            name = dict(row.labels).get(DEPLOYMENT_LABEL, "")
            if self._cache.deployments.get(Key(row.namespace, name)) is not None:
                self._add(Key(row.namespace, name))

    def _tell(self, key: Key, device: str, news: News) -> None:
        """Bring the deployment *key* up because of *device*, unless there is nothing new to it."""
        if news is News.NONE:
            return
        if news is News.MEMBERSHIP:
            self.changes.forget(key)
        else:
            self.changes.note(key, device)
        self._add(key, news)

    def _add(self, key: Key, news: News = News.MEMBERSHIP) -> None:
        until = self._calm_until if news is News.STATUS else self._rested_at
        self._queue.add_after(key, until.get(key, 0.0) - self._clock.monotonic())


def _cancelled() -> bool:
    """Tell whether the present task is to end; it may not have been told.

    Before Python 3.13 a TaskGroup that is cancelled while one of its tasks fails raises the failure alone.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _bearing(row: ProcessRow) -> tuple[object, ...]:
    """Return what decides whether other deployments count the device of *row* as down."""
    since = row.ready_since, row.connected_since, row.settled_since, row.offered_at
    return *since, row.connected, row.reported, row.held, row.failure

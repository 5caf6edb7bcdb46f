"""How far each wave of a rollout has come: the controller's own planner, run over a view that informers keep fresh."""

from __future__ import annotations

from praetor_api.kube.client.resource import Key
from praetor_controller.ctl.cluster import Cluster
from praetor_controller.ctl.inventory import Census
from praetor_controller.reconcile.cache import BY_NAMESPACE, Cache
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.waves import WaveState


class WaveWatch:
    """Follows a namespace; knows nothing until it was listed, and nothing where that is not allowed."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._clock = cluster.clock
        self._namespace = cluster.namespace
        self._name = name
        self._cache = Cache(cluster.api, cluster.clock, (cluster.namespace,))

    async def run(self) -> None:
        """Follow for ever; cancel it to stop."""
        await self._cache.run()

    def waves(self) -> tuple[WaveState, ...]:
        """Return the waves as they stand; empty without waves, once all is rolled out, or while nothing is known."""
        if not self._cache.synced:
            return ()
        now, seen = self._clock.now(), self._census()
        deployment = seen.deployments.get(self._name)
        return plan(seen.snapshot(deployment, now), now).waves if deployment is not None else ()

    def _census(self) -> Census:
        cache, namespace = self._cache, self._namespace
        processes = [row for key in cache.processes.all_keys() if (row := cache.processes.get(key)) is not None]
        revisions = [found for key in cache.revisions.all_keys() if (found := cache.revisions.get(key)) is not None]
        return Census(
            devices={row.name: row for row in cache.devices.by_index(BY_NAMESPACE, namespace)},
            processes={Key(row.namespace, row.name): row for row in processes},
            deployments={row.name: row for row in cache.deployments.by_index(BY_NAMESPACE, namespace)},
            revisions=tuple(revisions),
        )

# SPDX-License-Identifier: Apache-2.0
"""Follows a rollout to its end with informers, and shows it meanwhile: a bar, and one for each wave on a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from praetor_api.kube.client.errors import Forbidden, NotFound, Unauthorized, api_error
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, Key
from praetor_api.kube.runtime.clock import first
from praetor_api.kube.runtime.informer import Informer
from praetor_controller.ctl.cluster import Cluster
from praetor_controller.ctl.inventory import Inventory, read_inventory
from praetor_controller.ctl.output import fitted, screen_width, show
from praetor_controller.ctl.progress import Progress, Verdict, line, progress, wave_lines
from praetor_controller.ctl.rollout_patch import checked
from praetor_controller.reconcile.cache import BY_NAMESPACE, Cache
from praetor_controller.rollout.snapshot import WaveState

_CHECK_S = 1.0
_WIDTH = 80


async def follow(
    cluster: Cluster, name: str, screen: Screen, *, watch: bool, timeout_s: float
) -> tuple[Progress, bool]:
    """Return the state of the rollout, at its end if *watch*; False with it when *timeout_s* was up before."""
    key = Key(cluster.namespace, checked(name))
    state = progress(await cluster.api.get(DEVICE_PROCESS_DEPLOYMENTS, key))
    if not watch or state.verdict is not Verdict.IN_PROGRESS:
        return state, True
    screen.show(state)
    watch_waves = WaveWatch(cluster, name) if state.waves and screen.terminal and not screen.quiet else None
    watch_rollout = RolloutWatch(cluster, key, screen, state, watch_waves)
    await first(watch_rollout.run(), watch_rollout.wait(timeout_s))
    return watch_rollout.state, watch_rollout.state.verdict is not Verdict.IN_PROGRESS


class Screen:
    """Shows a rollout as it goes: a picture that changes on a terminal, a line for each change elsewhere."""

    def __init__(self, *, terminal: bool, quiet: bool) -> None:
        self._last = ""
        self.terminal = terminal
        self.quiet = quiet

    def show(self, shown: Progress, states: Sequence[WaveState] = ()) -> None:
        text = fitted(line(shown), screen_width())
        if self.terminal:
            lines = [line(shown, name_waves=not states), *wave_lines(shown, states)]
            width = (screen_width() or _WIDTH) - 1  # a line that the terminal wraps cannot be painted over
            text = "\n".join(fitted(each, width) for each in lines)
        if self.quiet or text == self._last:
            return
        show(self._over() + text if self.terminal else text, newline=not self.terminal)
        self._last = text

    def _over(self) -> str:
        """Return the control sequence that clears the last picture."""
        above = self._last.count("\n")
        return "\r" + (f"\x1b[{above}A" if above else "") + "\x1b[J"

    def end(self) -> None:
        if self.terminal and self._last:
            show("")


async def waves_of(cluster: Cluster, state: Progress) -> tuple[WaveState, ...]:
    """Return how far each wave is; empty without waves, once all is rolled out, and where listing is not allowed."""
    if not state.waves:
        return ()
    try:
        inventory = await read_inventory(cluster)
    except (Forbidden, NotFound):
        return ()
    return _waves(inventory, state.name, cluster.clock.now())


class RolloutWatch:
    """Follows one deployment with an informer of that one object."""

    def __init__(
        self, cluster: Cluster, key: Key, screen: Screen, state: Progress, waves: WaveWatch | None = None
    ) -> None:
        self._waves = waves
        self._clock = cluster.clock
        self._key = key
        self._screen = screen
        self._gone = False
        self._changed = asyncio.Event()
        self.state = state
        self._informer: Informer[Progress] = Informer(
            cluster.api,
            DEVICE_PROCESS_DEPLOYMENTS,
            project=progress,
            clock=cluster.clock,
            namespace=key.namespace,
            field_selector=f"metadata.name={key.name}",
        )
        self._informer.add_handler(self._on_change)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run(), name="follow the deployment")
            if self._waves is not None:
                group.create_task(self._waves.run(), name="follow its waves")

    async def wait(self, timeout_s: float) -> None:
        """Return at the rollout's end, or when *timeout_s* (0: never) is up; KubeError when it cannot be followed."""
        ends_at = self._clock.monotonic() + timeout_s
        while self.state.verdict is Verdict.IN_PROGRESS and not (timeout_s and self._clock.monotonic() >= ends_at):
            self._changed.clear()
            await first(self._change(), self._clock.sleep(_CHECK_S))
            self._show()
            self._raise_permanent_errors()

    async def _change(self) -> None:
        await self._changed.wait()

    def _raise_permanent_errors(self) -> None:
        if self._gone:
            raise api_error(404, "NotFound", f"{self._key} was deleted")
        if isinstance(self._informer.last_error, (Forbidden, NotFound, Unauthorized)):
            raise self._informer.last_error

    def _on_change(self, _: Key, __: Progress | None, new: Progress | None) -> None:
        self._gone = new is None
        if new is not None:
            self.state = new
            self._show()
        self._changed.set()

    def _show(self) -> None:
        going = self._waves is not None and self.state.verdict is Verdict.IN_PROGRESS
        self._screen.show(self.state, self._waves.waves() if going and self._waves is not None else ())


class WaveWatch:
    """The waves of a rollout, planned over rows that informers keep up to date; empty where listing is not allowed."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._clock = cluster.clock
        self._namespace = cluster.namespace
        self._name = name
        self._cache = Cache(cluster.api, cluster.clock, (cluster.namespace,))

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._cache.run()

    def waves(self) -> tuple[WaveState, ...]:
        """Return the waves as they stand; empty without waves, once all is rolled out, or while nothing is known."""
        if not self._cache.synced:
            return ()
        return _waves(self._inventory(), self._name, self._clock.now())

    def _inventory(self) -> Inventory:
        cache, namespace = self._cache, self._namespace
        processes = [row for key in cache.processes.all_keys() if (row := cache.processes.get(key)) is not None]
        revisions = [found for key in cache.revisions.all_keys() if (found := cache.revisions.get(key)) is not None]
        return Inventory(
            devices={row.name: row for row in cache.devices.by_index(BY_NAMESPACE, namespace)},
            processes={Key(row.namespace, row.name): row for row in processes},
            deployments={row.name: row for row in cache.deployments.by_index(BY_NAMESPACE, namespace)},
            revisions=tuple(revisions),
        )


def _waves(inventory: Inventory, name: str, now: datetime) -> tuple[WaveState, ...]:
    deployment = inventory.deployments.get(name)
    return inventory.plan(deployment, now).waves if deployment is not None else ()

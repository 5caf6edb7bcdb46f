"""A cluster and devices in memory, and the real controller on them: it may see late, or die at any write."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Coroutine, Mapping
from types import ModuleType
from typing import Any

from prometheus_client import Counter
from prometheus_client.samples import Sample

from controller_simulation.checker import Judge
from controller_simulation.client import RETRIED_S, Client
from controller_simulation.devices import Devices, Pretend
from controller_simulation.invariants import Broken
from controller_simulation.stored import LAB, Stored
from controller_testing import runs
from kube_testing import FakeClock, InProcessKube, body_of
from praetor_api.kube.client.api import PatchType
from praetor_api.kube.client.patches import apply_merge_patch
from praetor_api.kube.client.resource import (
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_api.kube.runtime.events import EventRecorder
from praetor_api.kube.runtime.informer import CATCH_UP_S, OUTAGE_BACKOFF
from praetor_api.kube.runtime.limiter import TokenBucket
from praetor_api.kube.runtime.times import time
from praetor_controller.metrics import Metrics
from praetor_controller.model.rows import DeploymentRow
from praetor_controller.reconcile import reconciler as real
from praetor_controller.reconcile.controller import Controller
from praetor_controller.rollout.reasons import ReasonCode

_BOOKMARK_S = 60.0
_FOLLOWED_AGAIN_S = OUTAGE_BACKOFF.cap + CATCH_UP_S + 1.0


class _Metrics(Metrics):
    """Metrics that are easily read back."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, Mapping[ReasonCode, int]] = {}

    def show_devices(self, key: Key, reasons: Mapping[ReasonCode, int]) -> None:
        super().show_devices(key, reasons)
        self.shown[key.name] = reasons

    def faults(self) -> tuple[Broken, ...]:
        """Return what the controller counts that never may be."""
        crashes = sum(each.value for each in _samples(self.reconciles) if each.labels.get("result") == "crashed")
        told = (
            (crashes, Broken("no_reconcile_crashes", "the log says why")),
            (
                sum(each.value for each in _samples(self.account_errors)),
                Broken("every_device_has_one_reason", "a pass over all devices found others"),
            ),
        )
        return tuple(broken for count, broken in told if count)


def _samples(counter: Counter) -> list[Sample]:
    return [each for metric in counter.collect() for each in metric.samples if each.name.endswith("_total")]


class Simulation:
    """Every method runs until everybody has come to rest, and raises Broken for a promise that was not kept.

    *program* is the module that the reconciler and its parts are taken from: the real one, or one with a fault.
    """

    def __init__(self, program: ModuleType = real) -> None:
        self.program = program
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.stored = Stored(self.kube)
        self.judge = Judge(self.stored, self.clock)
        self.devices = Devices(self.kube, self.stored, self.clock, self.judge.look)
        self._loop = asyncio.new_event_loop()
        self._running: asyncio.Task[None] | None = None
        self.start()

    # The controller.

    def start(self) -> None:
        """Start a controller that remembers nothing."""
        self.judge.another_controller()
        self.client = Client(self.clock, self.kube.plane, self.judge.wrote)
        self.metrics = _Metrics()
        self._running = self._loop.create_task(self._run(self.client))
        self._do(self.clock.settle())

    def kill(self) -> None:
        """End the controller as SIGKILL does, and wait until another one may lead."""
        if self._running is not None:
            self._running.cancel()
            self._loop.run_until_complete(asyncio.wait((self._running,)))
        self._running = None

    def die_at_write(self, number: int, *, applied: bool) -> None:
        """Let the controller die at that write, which is *applied* or not; the next rest starts another one."""
        self.client.dies_after, self.client.applies_last = number, applied

    def fail_writes(self, number: int, *, applied: bool) -> None:
        """Let so many of the controller's next writes fail; if *applied*, only their answers are lost."""
        self.client.fails, self.client.applies_failed = number, applied

    def hold_view(self, *, held: bool) -> None:
        """Keep the controller from seeing changes of processes, or no longer."""
        (self.client.open.clear if held else self.client.open.set)()
        self.rest()

    def lose_sight(self, *kinds: Resource) -> None:
        """Cut the controller's watches off; those of *kinds* stay so until this is called again without them."""
        self.client.lose_sight(frozenset(kinds))
        self.rest(_FOLLOWED_AGAIN_S)

    def close(self) -> None:
        self.kill()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _run(self, client: Client) -> None:
        program, clock = self.program, self.clock
        cache = program.Cache(client, clock, [LAB])
        writer = program.Writer(client, cache, clock, TokenBucket(2000, 2000, clock), self.metrics, lambda: True)
        history = program.RevisionHistory(client, cache, clock, lambda: True)
        recorder = EventRecorder(client, clock, "praetor-controller", "simulated")
        controller = Controller(cache, self.metrics, clock, workers=2)
        reconciler = program.DeploymentReconciler(
            client, cache, writer, history, recorder, self.metrics, clock, controller.dirty
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(cache.run())
            group.create_task(controller.lead(reconciler))

    def rest(self, seconds: float = 0.0) -> None:
        """Let time pass, and everybody come to rest; a controller that died is started again."""
        self.client.send_bookmarks()
        while seconds > _BOOKMARK_S:
            self._do(self.clock.advance(_BOOKMARK_S))
            self.client.send_bookmarks()
            seconds -= _BOOKMARK_S
        self._do(self.clock.advance(seconds))
        while self.client.dead:
            self.kill()
            self.start()
            self._do(self.clock.settle())
        # while it waits to try a failed write again, the metrics tell of what was before
        tried_again = self.clock.monotonic() >= self.client.failed_at + RETRIED_S
        shown = self.metrics.shown if tried_again and not self.client.unseen else {}
        self.judge.at_rest(shown, self.metrics.faults(), blind=not self.client.open.is_set())

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    # What people do.

    def add(self, name: str, **labels: str) -> None:
        self._do(self.kube.create(NETWORK_SWITCHES, LAB, body_of(NETWORK_SWITCHES, name, {"labels": labels}, spec={})))
        self.devices[name] = Pretend()
        self._do(self.devices.connect(name, connected=True))
        self.rest()

    def remove(self, name: str) -> None:
        del self.devices[name]
        self._do(self.kube.delete(NETWORK_SWITCHES, Key(LAB, name)))
        self.rest()

    def label(self, name: str, **labels: str) -> None:
        self._patch(NETWORK_SWITCHES, name, {"metadata": {"labels": labels}})
        self.rest()

    def maintain(self, name: str, *, on: bool) -> None:
        self._patch(NETWORK_SWITCHES, name, {"spec": {"maintenance": {"reason": "work"} if on else None}})
        if on:
            self.judge.somebody_else_has(name)
        self.rest()

    def deploy(self, name: str, version: str, **spec: Any) -> None:
        body = {"selector": {}, "template": _template(version), "progressDeadlineSeconds": 2_592_000} | spec
        deployment = body_of(DEVICE_PROCESS_DEPLOYMENTS, name, spec=body)
        self._do(self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, LAB, deployment))
        self.judge.begin(name)
        self.rest()

    def edit(self, name: str, **spec: Any) -> None:
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, {"spec": spec})
        self.rest()

    def roll_out(self, name: str, version: str, *, restarted_at: str | None = None) -> None:
        self.clock.oversleep(1)  # notes are in whole seconds
        wanted = _template(version) | {"metadata": {"annotations": {"azure.com/restarted-at": restarted_at}}}
        if not self._has(name, wanted):  # the same template once more is no other rollout
            self.judge.begin(name)
        self.edit(name, template=wanted)

    def _has(self, name: str, wanted: Mapping[str, Any]) -> bool:
        stored = self.stored.objects(DEVICE_PROCESS_DEPLOYMENTS)[Key(LAB, name)]["spec"]["template"]
        without_empty = {"metadata": {"annotations": {}}} | stored
        return bool(apply_merge_patch(without_empty, wanted) == without_empty)

    def restart(self, name: str) -> None:
        """Restart every process in place, under the rollout's policy."""
        command = self.deployment(name).template.spec["execution"]["command"][0]
        self.roll_out(name, command, restarted_at=time(self.clock.now()))

    def approve(self, name: str, *waves: str) -> None:
        revision = self.deployment(name).template.revision
        note = ",".join(f"{revision}/{wave}" for wave in waves)
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, {"metadata": {"annotations": {"azure.com/approved-waves": note}}})
        self.rest()

    def poke(self, name: str) -> None:
        """Have the controller look at a deployment of which nothing changed."""
        note = {"metadata": {"annotations": {"poke": str(self.kube.version)}}}
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, note)
        self.rest()

    def delete_process(self, deployment: str, device: str) -> None:
        for row in self.stored.processes(deployment):
            if row.device == device:
                self._do(self.kube.delete(DEVICE_PROCESSES, Key(LAB, row.name)))
        self.rest()

    def _patch(self, resource: Resource, name: str, body: dict[str, Any]) -> None:
        self._do(self.kube.patch(resource, Key(LAB, name), body, patch_type=PatchType.MERGE))

    # What devices do, and what the gateway says of them.

    def die(self, name: str) -> None:
        """Let a device die; nobody knows yet."""
        self.devices[name].alive = False

    def notice(self) -> None:
        """Let the gateway tell who is alive."""
        self._do(self.devices.notice())
        self.rest()

    def revive(self, name: str) -> None:
        self.devices[name].alive = True
        self._do(self.devices.connect(name, connected=True))
        self.rest()

    def report(self, *names: str) -> None:
        """Let devices (all of them by default) run what they shall, and say so."""
        self._do(self.devices.report(*names))
        self.rest()

    def run(self, rounds: int, seconds: float = 2.0) -> None:
        """Let devices report, the gateway judge, and time pass, that often."""
        for _ in range(rounds):
            self.report()
            self.notice()
            self.rest(seconds)

    # What there is to see.

    def deployment(self, name: str) -> DeploymentRow:
        return self.stored.deployment(name)

    def status(self, name: str) -> dict[str, Any]:
        return self.stored.status(name)

    def versions(self, deployment: str) -> dict[str, str]:
        """Return the version of every device's process."""
        return self.stored.versions(deployment)

    def settled(self) -> bool:
        """Tell whether every device of every deployment is up to date, and with what was asked for."""
        wanted = {"UpToDate": len(self.devices)} if self.devices else {}
        told = [self.status(name) for name in self.judge.deployments]
        return all(each.get("reasons") == wanted and "failedRevision" not in each for each in told)

    @property
    def spec_writes(self) -> int:
        return self.judge.spec_writes

    @property
    def status_writes(self) -> collections.Counter[str]:
        return self.judge.status_writes


def _template(version: str) -> dict[str, Any]:
    return {"spec": runs(version)}

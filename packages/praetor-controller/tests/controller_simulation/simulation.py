# SPDX-License-Identifier: Apache-2.0
"""The real controller on a control plane and devices in memory: its view may lag, and it may die at any write."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Counter
from prometheus_client.samples import Sample

from controller_simulation.checker import Checker
from controller_simulation.client import RETRIED_S, ControllerClient
from controller_simulation.devices import SimulatedDevice, SimulatedDevices
from controller_simulation.invariants import InvariantViolation
from controller_simulation.stored import LAB, PUBLISHED, Stored
from controller_testing import JudgingGateway, runs
from kube_testing import FakeClock, InProcessKube, body_of
from kubeplane import ControlPlane
from praetor_api.annotations import REMOVAL_ANNOTATION
from praetor_api.conditions import ProcessReason
from praetor_api.kube.client.api import PatchType
from praetor_api.kube.client.errors import Unreachable
from praetor_api.kube.client.resource import (
    CONFIG_MAPS,
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_api.kube.codec import format_time
from praetor_api.kube.runtime.clock import Clock
from praetor_api.kube.runtime.events import EventRecorder
from praetor_api.kube.runtime.informer import CATCH_UP_S, OUTAGE_BACKOFF
from praetor_api.kube.runtime.workqueue import TokenBucket
from praetor_api.names import FILE_DIGESTS
from praetor_api.protocol import AGENT_FEATURES
from praetor_controller.metrics import Metrics
from praetor_controller.reconcile.cache import Cache
from praetor_controller.reconcile.controller import Controller
from praetor_controller.reconcile.file_digests import FileDigests
from praetor_controller.reconcile.reconciler import DeploymentReconciler
from praetor_controller.reconcile.revision_history import RevisionHistory
from praetor_controller.reconcile.writer import Writer
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.removals import removal_token
from praetor_controller.rollout.snapshot import GatewayState

_BOOKMARK_S = 60.0
_REF = {"name": "settings", "key": "level"}
_FILE = {"path": "level", "configMapKeyRef": _REF}
_FOLLOWED_AGAIN_S = OUTAGE_BACKOFF.cap + CATCH_UP_S + 1.0


class _Metrics(Metrics):
    """Metrics that are easily read back."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, Mapping[ReasonCode, int]] = {}

    def show_devices(self, key: Key, reasons: Mapping[ReasonCode, int]) -> None:
        self.shown[key.name] = reasons  # and not in two dozen gauges, which cost more than a pass over the devices

    def faults(self) -> tuple[InvariantViolation, ...]:
        """Return the violations that the controller itself counts."""
        crashes = sum(each.value for each in _samples(self.reconciles) if each.labels.get("result") == "crashed")
        counts = (
            (crashes, InvariantViolation("no_reconcile_crashes", "the log says why")),
            (
                sum(each.value for each in _samples(self.account_errors)),
                InvariantViolation("every_device_has_one_reason", "a pass over all devices found others"),
            ),
        )
        return tuple(violation for count, violation in counts if count)


def _samples(counter: Counter) -> list[Sample]:
    return [each for metric in counter.collect() for each in metric.samples if each.name.endswith("_total")]


class _SetClock(Clock):
    """The clock of the controller's machine, which was set *ahead_s* seconds ahead of the one of all others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


class Simulation:
    """Each method runs until all tasks wait for time, and raises InvariantViolation for an invariant that fails.

    It has a loop of its own, on which everything but the steps themselves runs.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        self._controllers_clock = _SetClock(self.clock)
        self._backup: ControlPlane | None = None
        self.kube = InProcessKube(self.clock)
        self.stored = Stored(self.kube)
        self.gateway = JudgingGateway()
        self.checker = Checker(self.stored, self.clock, self.gateway)
        self.devices = SimulatedDevices(self.kube, self.stored, self.clock, self.checker.update)
        self._loop = asyncio.new_event_loop()
        self._running: asyncio.Task[None] | None = None
        self._marked_at = 0.0
        self._behind_at = -math.inf
        self.start()

    # The controller.

    def start(self) -> None:
        """Start a controller without any state of the one before."""
        self.checker.controller_restarted()
        self.client = ControllerClient(
            self.clock, self.kube.plane, self.checker.check_write, self.checker.check_removal
        )
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
        """Let the controller die at that write, which is *applied* or not; settle() starts another one."""
        self.client.dies_after, self.client.applies_last = number, applied

    def fail_writes(self, number: int, *, applied: bool) -> None:
        """Let the controller's next *number* writes fail; if *applied*, only their answers are lost."""
        self.client.fails, self.client.applies_failed = number, applied

    def hold_view(self, *, held: bool) -> None:
        """Hold changes of processes back from the controller, or let them through again."""
        (self.client.open.clear if held else self.client.open.set)()
        self.settle()

    def cut_watches(self, *kinds: Resource) -> None:
        """Cut the controller's watches off; those of *kinds* stay cut until this is called again without them."""
        self.client.cut_watches(frozenset(kinds))
        self.settle(_FOLLOWED_AGAIN_S)

    def set_clock(self, ahead_s: float) -> None:
        """Set the clock of the controller's machine, ahead of all others or behind them."""
        self._controllers_clock.ahead_s = ahead_s
        self.settle()

    # The API.

    def back_up(self) -> None:
        """Keep all objects, for restore()."""
        self._backup = ControlPlane(clock=self.clock, bookmark_s=0, origin=self.kube.plane)
        self.checker.back_up()

    def restore(self) -> None:
        """Bring the objects of the last back_up() back, if there was one; the controller finds that its Lease is old.

        What the devices run, and whether they live, stays as it is.
        """
        if self._backup is None:
            return
        plane = ControlPlane(clock=self.clock, bookmark_s=0, origin=self._backup)
        self.kube.plane = self.client.plane = plane
        self.stored.forget()
        self.checker.restore()
        there = self.stored.devices().keys()
        for name in [*self.devices]:
            if name not in there:
                del self.devices[name]
        for name in there - self.devices.keys():
            self.devices[name] = SimulatedDevice()
        self._cache.doubt(None)
        self._digests.doubt(None)
        self.client.end_watches(Unreachable("the API was restored"))
        self._do(self.devices.detect_failures())  # a gateway writes its decisions again where they are gone
        self.settle(_FOLLOWED_AGAIN_S)

    def close(self) -> None:
        self.kill()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _run(self, client: ControllerClient) -> None:
        clock = self._controllers_clock
        cache = self._cache = Cache(client, clock, [LAB])
        writer = Writer(client, cache, clock, TokenBucket(2000, 2000, clock), self.metrics, lambda: True)
        history = RevisionHistory(client, cache, clock, lambda: True)
        recorder = EventRecorder(client, clock, "praetor-controller", "simulated")
        controller = self._controller = Controller(cache, self.metrics, clock, workers=2)
        digests = self._digests = FileDigests(client, PUBLISHED, clock, controller.contents_changed)
        reconciler = DeploymentReconciler(
            client, cache, writer, history, recorder, self.metrics, clock, controller.dirty, self.gateway,
            digests=digests.of,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            group.create_task(cache.run())
            group.create_task(digests.run())
            await digests.synced()
            group.create_task(controller.lead(reconciler))

    def settle(self, seconds: float = 0.0) -> None:
        """Let time pass until all tasks wait again; a controller that died is started again."""
        self._mark()
        while seconds > _BOOKMARK_S:
            self._advance(_BOOKMARK_S)
            self._mark()
            seconds -= _BOOKMARK_S
        self._advance(seconds)
        while self.client.dead:
            self.kill()
            self.start()
            self._do(self.clock.settle())
        # while it waits to retry a failed write, or to follow all kinds again, the metrics show the state before it
        tried_again = self.clock.monotonic() >= self.client.failed_at + RETRIED_S
        follows = not self.client.unseen and self.clock.monotonic() >= self._behind_at + _FOLLOWED_AGAIN_S
        shown = self.metrics.shown if tried_again and follows else {}
        self.checker.check_steady_state(shown, self.metrics.faults(), blind=not self.client.open.is_set())

    def _advance(self, seconds: float) -> None:
        self._do(self.clock.advance(seconds))
        if self._cache.kinds_behind:
            self._behind_at = self.clock.monotonic()

    def _mark(self) -> None:
        """Send bookmarks, unless no time passed since the last ones: the watches would only cost more."""
        if self.clock.monotonic() > self._marked_at:
            self._marked_at = self.clock.monotonic()
            self.client.send_bookmarks()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    # What users do.

    def add(self, name: str, **labels: str) -> None:
        self.declare(name, **labels)
        self.settle()

    def declare(self, name: str, **labels: str) -> None:
        """Add a device, and let no step follow yet."""
        self._do(self.kube.create(NETWORK_SWITCHES, LAB, body_of(NETWORK_SWITCHES, name, {"labels": labels}, spec={})))
        self._report_facts(name, {"features": ",".join(AGENT_FEATURES)})
        self.devices[name] = SimulatedDevice()
        self._do(self.devices.connect(name, connected=True))

    def remove(self, name: str) -> None:
        del self.devices[name]
        self._do(self.kube.delete(NETWORK_SWITCHES, Key(LAB, name)))
        self.settle()

    def label(self, name: str, **labels: str) -> None:
        self._patch(NETWORK_SWITCHES, name, {"metadata": {"labels": labels}})
        self.settle()

    def maintain(self, name: str, *, on: bool) -> None:
        self._patch(NETWORK_SWITCHES, name, {"spec": {"maintenance": {"reason": "work"} if on else None}})
        if on:
            self.checker.exclude(name)
        self.settle()

    def upgrade(self, name: str, version: str) -> None:
        """Let a device report another version of its OS."""
        self._report_facts(name, {"os.version": version})
        self.settle()

    def _report_facts(self, name: str, facts: Mapping[str, str]) -> None:
        self._do(self.kube.patch(NETWORK_SWITCHES, Key(LAB, name), {"status": {"facts": facts}}, subresource="status"))

    def deploy(self, name: str, version: str, **spec: Any) -> None:
        body = {"selector": {}, "template": _template(version), "progressDeadlineSeconds": 2_592_000} | spec
        deployment = body_of(DEVICE_PROCESS_DEPLOYMENTS, name, spec=body)
        self._do(self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, LAB, deployment))
        self.checker.add(name)
        self.settle()

    def edit(self, name: str, **spec: Any) -> None:
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, {"spec": spec})
        self.settle()

    def roll_out(self, name: str, version: str, *, restarted_at: str | None = None) -> None:
        self.clock.oversleep(1)  # annotations are in whole seconds
        wanted = _template(version) | {"metadata": {"annotations": {"azure.com/restarted-at": restarted_at}}}
        self.edit(name, template=wanted)

    def override(self, name: str, arm: str | None) -> None:
        """Let devices with the CPU arm64 run that version, or, with None, what all run."""
        self.clock.oversleep(1)
        wanted = {"selector": {"matchLabels": {"cpu": "arm64"}}, "execution": {"command": [arm]}}
        self.edit(name, overrides=[wanted] if arm else None)

    def refer(self, name: str, *, refers: bool) -> None:
        """Give the processes a file whose content is in a ConfigMap, and restarts them; or take it away."""
        if refers and PUBLISHED not in self.stored.objects(CONFIG_MAPS):
            self.edit_content("first")
        self.clock.oversleep(1)
        self.edit(name, template={"spec": {"execution": {"files": [_FILE] if refers else None}}})

    def edit_content(self, content: str) -> None:
        """Edit that ConfigMap, of which the controller gets to know a digest."""
        self.clock.oversleep(1)
        data = {LAB: json.dumps({f"configmap/{_REF['name']} key {_REF['key']}": content})}
        if PUBLISHED in self.stored.objects(CONFIG_MAPS):
            self._do(self.kube.patch(CONFIG_MAPS, PUBLISHED, {"data": data}))
        else:
            self._do(self.kube.create(CONFIG_MAPS, PUBLISHED.namespace, body_of(CONFIG_MAPS, FILE_DIGESTS, data=data)))
        self.settle()

    def restart(self, name: str) -> None:
        """Restart every process in place, under the rollout's policy."""
        command = self.stored.deployment(name).template.spec["execution"]["command"][0]
        self.roll_out(name, command, restarted_at=format_time(self.clock.now()))

    def approve(self, name: str, *waves: str) -> None:
        revision = self.stored.deployment(name).template.revision
        note = ",".join(f"{revision}/{wave}" for wave in waves)
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, {"metadata": {"annotations": {"azure.com/approved-waves": note}}})
        self.settle()

    def approve_removal(self, name: str) -> None:
        """Let the processes of devices go that no longer match the deployment."""
        row, devices = self.stored.deployment(name), self.stored.devices()
        for process in self.stored.processes(name):
            device = devices.get(process.device)
            if device is None or not row.matches(device.labels):
                note = {REMOVAL_ANNOTATION: removal_token(row, device)}
                self._patch(DEVICE_PROCESSES, process.name, {"metadata": {"annotations": note}})
        self.settle()

    def approve_held(self, name: str) -> None:
        """Let the rollout go on past each wave that holds it."""
        waves = self.stored.deployment(name).policy.update_strategy.rolling_update.waves
        number = self.stored.number(name)
        self.approve(name, *(part for wave in waves for part in (wave.name, f"{wave.name}/{number}")))

    def orphan(self, deployment: str, device: str) -> None:
        """Take the owner from a process, as a restore of objects without their owners does."""
        for row in self.stored.processes(deployment):
            if row.device == device:
                self._patch(DEVICE_PROCESSES, row.name, {"metadata": {"ownerReferences": None}})
        self.settle()

    def poke(self, name: str) -> None:
        """Have the controller reconcile a deployment of which nothing changed."""
        note = {"metadata": {"annotations": {"poke": str(self.kube.version)}}}
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, note)
        self.settle()

    def delete_process(self, deployment: str, device: str) -> None:
        for row in self.stored.processes(deployment):
            if row.device == device:
                self._do(self.kube.delete(DEVICE_PROCESSES, Key(LAB, row.name)))
        self.settle()

    def _patch(self, resource: Resource, name: str, body: dict[str, Any]) -> None:
        self._do(self.kube.patch(resource, Key(LAB, name), body, patch_type=PatchType.MERGE))

    # What devices and the gateway do.

    def die(self, name: str) -> None:
        """Let a device die; the gateway has not detected it yet."""
        self.devices[name].alive = False

    def detect_failures(self) -> None:
        """Let the gateway write which devices are alive."""
        self._do(self.devices.detect_failures())
        self.settle()

    def fall_silent(self, *names: str) -> None:
        """Let devices die at once; the gateway takes it for a storm, as when a site loses its uplink."""
        for name in names:
            self.devices[name].alive = False
            self._do(self.devices.connect(name, connected=False, reason=ProcessReason.STORM))
        self.settle()

    def judge(self, state: GatewayState) -> None:
        """Let the controller see that a gateway judges the devices, or that none does."""
        self.gateway.state = state
        self._controller.reconcile_all()
        self.settle()

    def reboot(self, name: str) -> None:
        """Let a device reboot; what it runs is up again at its next report."""
        self._do(self.devices.reboot(name))
        self.settle()

    def revive(self, name: str) -> None:
        self.devices[name].alive = True
        self._do(self.devices.connect(name, connected=True))
        self.settle()

    def report(self, *names: str) -> None:
        """Let devices (all of them by default) run what their specs say, and report it."""
        self._do(self.devices.report(*names))
        self.settle()

    def run(self, rounds: int, seconds: float = 2.0) -> None:
        """Let devices report, the gateway detect failures, and *seconds* pass, *rounds* times."""
        for _ in range(rounds):
            self.report()
            self.detect_failures()
            self.settle(seconds)

    # What the API stores.

    def settled(self) -> bool:
        """Return whether every device of every deployment is up to date with the template that was asked for."""
        for name in self.checker.deployments:
            status, count = self.stored.status(name), len(self.stored.matching(name))
            if status.get("reasons") != ({"UpToDate": count} if count else {}) or "failedRevision" in status:
                return False
        return not self._outdated()

    def _outdated(self) -> bool:
        """Return whether a process of a deployment has a file with another content than the ConfigMap has now."""
        published = self.stored.objects(CONFIG_MAPS).get(PUBLISHED, {}).get("data", {}).get(LAB, "")
        processes = [
            each for each in self.stored.objects(DEVICE_PROCESSES).values() if each["metadata"].get("ownerReferences")
        ]
        files = [file for each in processes for file in each["spec"]["execution"].get("files") or ()]
        return any(f'"{file["approved"]}"' not in published for file in files)


def _template(version: str) -> dict[str, Any]:
    return {"spec": runs(version)}

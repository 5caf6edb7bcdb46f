"""For tests: a cluster and devices in memory, and the real controller on them: it may see late, or die at any write."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Mapping
from types import ModuleType
from typing import Any

from attrs import evolve, mutable

from praetor_api.kube.api import PatchType, WatchEvent
from praetor_api.kube.events import EventRecorder
from praetor_api.kube.limiter import TokenBucket
from praetor_api.kube.resource import (
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_api.kube.store import Store
from praetor_api.kube.testing import FakeClock
from praetor_api.kube.times import time
from praetor_controller import deployment as real
from praetor_controller.cache import Cache
from praetor_controller.controller import Controller
from praetor_controller.history import History
from praetor_controller.metrics import Metrics
from praetor_controller.overlay import Overlay
from praetor_controller.projection import project_deployment, project_device, project_process
from praetor_controller.promises import PROMISES, Broken, Calm, Facts, Write
from praetor_controller.reasons import ReasonCode
from praetor_controller.rollout_status import PAUSED, ROLLED_BACK, was_rolled_out
from praetor_controller.rows import DeploymentRow, DeviceRow, ProcessRow
from praetor_controller.testing import PatchingKube
from praetor_controller.writer import Writer

LAB = "lab"
STATUS_PERIOD_S = 1.0
_BOOKMARK_S = 60.0
_FOR_EVER_S = 1e9
_OBSERVED = ("SpecObserved", "ProcessStarted", "Healthy")


@mutable
class Pretend:
    """A device: *alive* in truth, whatever the API says; a *broken* one fails with every version."""

    alive: bool = True
    broken: bool = False


class _Client(PatchingKube):
    """The controller's way to the API: its view of processes can be held back, and it can die at a write."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(simulation.clock, store=simulation.store)
        self._simulation = simulation
        self.open = asyncio.Event()
        self.open.set()
        self.dies_after: int | None = None  # so many more writes
        self.applies_last = False
        self.dead = False

    async def watch(
        self, resource: Resource, namespace: str | None, **options: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        options["timeout_s"] = _FOR_EVER_S  # between two watches the view is late, and a promise could not be judged
        async for event in super().watch(resource, namespace, **options):
            if resource == DEVICE_PROCESSES:
                await self.open.wait()
            yield event

    async def create(
        self, resource: Resource, namespace: str, body: Mapping[str, Any], *, field_manager: str | None = None
    ) -> dict[str, Any]:
        dying = await self._live()
        made = await super().create(resource, namespace, body, field_manager=field_manager)
        self._simulation.wrote(resource, None, made, None)
        return await self._answer(made, dying=dying)

    async def patch(self, resource: Resource, key: Key, body: Any, **options: Any) -> dict[str, Any]:
        dying = await self._live()
        old = self._simulation.store.objects.get(resource, {}).get(key)
        made = await super().patch(resource, key, body, **options)
        self._simulation.wrote(resource, old, made, options.get("subresource"))
        return await self._answer(made, dying=dying)

    async def delete(
        self, resource: Resource, key: Key, *, uid: str | None = None, propagation: str = "Background"
    ) -> None:
        dying = await self._live()
        await super().delete(resource, key, uid=uid, propagation=propagation)
        await self._answer({}, dying=dying)

    async def _live(self) -> bool:
        """Tell whether this write is the last one; never return when the controller is dead."""
        dying = self.dies_after == 0
        if self.dies_after is not None:
            self.dies_after -= 1
        if self.dead or (dying and not self.applies_last):
            self.dead = True
            await asyncio.get_running_loop().create_future()
        return dying

    async def _answer(self, made: dict[str, Any], *, dying: bool) -> dict[str, Any]:
        if dying:
            self.dead = True
            await asyncio.get_running_loop().create_future()
        return made


class _Metrics(Metrics):
    """Metrics that are easily read back."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[Key, Mapping[ReasonCode, int]] = {}

    def show_devices(self, key: Key, reasons: Mapping[ReasonCode, int]) -> None:
        super().show_devices(key, reasons)
        self.shown[key] = reasons


class Simulation:
    """Every method runs until everybody has come to rest, and raises Broken for a promise that was not kept.

    *program* is the module that the reconciler is taken from: the real one, or one with a fault.
    """

    def __init__(self, program: ModuleType = real) -> None:
        self.program = program
        self.clock = FakeClock()
        self.store = Store(self.clock)
        self.kube = PatchingKube(self.clock, store=self.store)
        self.devices: dict[str, Pretend] = {}
        self.down: dict[str, set[str]] = {}
        self.proven: dict[str, dict[str, set[str]]] = {}  # deployment, revision, waves
        self.calm = Calm()
        self.broken: list[Broken] = []
        self.spec_writes = 0
        self.status_writes: Counter[str] = Counter()
        self._status_at: dict[str, float] = {}
        self._rows: dict[tuple[Resource, Key], tuple[str, Any]] = {}
        self._loop = asyncio.new_event_loop()
        self._running: asyncio.Task[None] | None = None
        self.client = _Client(self)
        self.metrics = _Metrics()
        self.start()

    # The controller.

    def start(self) -> None:
        """Start a controller that remembers nothing."""
        self._status_at = {}
        self.client = _Client(self)
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

    def hold_view(self, *, held: bool) -> None:
        """Keep the controller from seeing changes of processes, or no longer."""
        (self.client.open.clear if held else self.client.open.set)()
        self.rest()

    def close(self) -> None:
        self.kill()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _run(self, client: _Client) -> None:
        cache, overlay, clock = Cache(client, self.clock, [LAB]), Overlay[ProcessRow](), self.clock
        writer = Writer(client, clock, TokenBucket(2000, 2000, clock), self.metrics, lambda: True, overlay)
        history = History(client, cache, clock, lambda: True)
        recorder = EventRecorder(client, clock, "praetor-controller", "simulated")
        controller = Controller(cache, overlay, self.metrics, clock, workers=2)
        reconciler = self.program.DeploymentReconciler(
            client, cache, writer, history, recorder, self.metrics, clock, controller.changes
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
        self._calm_down()
        if self.broken:
            raise self.broken[0]

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    # What people do.

    def add(self, name: str, **labels: str) -> None:
        body = {"metadata": {"name": name, "labels": labels}, "spec": {}}
        self._do(self.kube.create(NETWORK_SWITCHES, LAB, body))
        self.devices[name] = Pretend()
        self._connect(name, connected=True)
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
        for down in self.down.values() if on else ():
            down.discard(name)  # somebody else's doing from now on
        self.rest()

    def deploy(self, name: str, version: str, **spec: Any) -> None:
        self.down[name] = set()
        body = {"selector": {}, "template": _template(version), "progressDeadlineSeconds": 10**7} | spec
        self._do(self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, LAB, {"metadata": {"name": name}, "spec": body}))
        self.rest()

    def edit(self, name: str, **spec: Any) -> None:
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, {"spec": spec})
        self.rest()

    def roll_out(self, name: str, version: str, *, restarted_at: str | None = None) -> None:
        self.clock.oversleep(1)  # notes are in whole seconds
        annotations = {"azure.com/restarted-at": restarted_at}
        self.proven[name] = {}
        self.edit(name, template=_template(version) | {"metadata": {"annotations": annotations}})

    def approve(self, name: str, *waves: str) -> None:
        revision = self.deployment(name).template.revision
        note = ",".join(f"{revision}/{wave}" for wave in waves)
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, {"metadata": {"annotations": {"azure.com/approved-waves": note}}})
        self.rest()

    def poke(self, name: str) -> None:
        """Have the controller look at a deployment of which nothing changed."""
        note = {"metadata": {"annotations": {"poke": str(self.store.version)}}}
        self._patch(DEVICE_PROCESS_DEPLOYMENTS, name, note)
        self.rest()

    def delete_process(self, deployment: str, device: str) -> None:
        for row in self.processes(deployment):
            if row.device == device:
                self._do(self.kube.delete(DEVICE_PROCESSES, Key(LAB, row.name)))
        self.rest()

    # What devices do, and what the gateway says of them.

    def die(self, name: str) -> None:
        """Let a device die; nobody knows yet."""
        self.devices[name].alive = False

    def notice(self) -> None:
        """Let the gateway tell who is alive."""
        for name, each in self.devices.items():
            self._connect(name, connected=each.alive)
        self.rest()

    def revive(self, name: str) -> None:
        self.devices[name].alive = True
        self._connect(name, connected=True)
        self.rest()

    def report(self, *names: str) -> None:
        """Let devices (all of them by default) run what they shall, and say so."""
        for key, obj in list(self.store.objects.get(DEVICE_PROCESSES, {}).items()):
            device = obj["spec"]["deviceRef"]["name"]
            pretend = self.devices.get(device)
            if pretend is None or not pretend.alive or (names and device not in names):
                continue
            version = obj["spec"]["execution"]["command"][0]
            if version == "killer" and obj.get("status", {}).get("observedGeneration") != obj["metadata"]["generation"]:
                pretend.alive = False
                continue
            self._show(key, obj, good=version != "bad" and not pretend.broken)
        self.rest()

    def run(self, rounds: int, seconds: float = 2.0) -> None:
        """Let devices report, the gateway judge, and time pass, that often."""
        for _ in range(rounds):
            self.report()
            self.notice()
            self.rest(seconds)

    def _show(self, key: Key, obj: dict[str, Any], *, good: bool) -> None:
        wanted = dict.fromkeys(_OBSERVED, "True") | {"AgentConnected": "True", "Healthy": str(good)}
        status = {"phase": "Running" if good else "Failed", "observedGeneration": obj["metadata"]["generation"]}
        self._say(DEVICE_PROCESSES, key, obj, wanted, status)

    def _connect(self, name: str, *, connected: bool) -> None:
        said = {"AgentConnected": str(connected)}
        key = Key(LAB, name)
        self._say(NETWORK_SWITCHES, key, self.store.objects[NETWORK_SWITCHES][key], said, {})
        for each, obj in list(self.store.objects.get(DEVICE_PROCESSES, {}).items()):
            if obj["spec"]["deviceRef"]["name"] == name and obj.get("status"):
                self._say(DEVICE_PROCESSES, each, obj, said, {"phase": "Running" if connected else "Unknown"})

    def _say(
        self, resource: Resource, key: Key, obj: dict[str, Any], wanted: dict[str, str], status: dict[str, Any]
    ) -> None:
        told = obj.get("status") or {}
        old = {each["type"]: each for each in told.get("conditions") or ()}
        if all(old.get(type_, {}).get("status") == value for type_, value in wanted.items()) and (
            status.get("observedGeneration") == told.get("observedGeneration") or "observedGeneration" not in status
        ):
            return
        for type_, value in wanted.items():
            if old.get(type_, {}).get("status") != value:
                old[type_] = {"type": type_, "status": value, "lastTransitionTime": time(self.clock.now())}
        body = {"status": status | {"conditions": list(old.values())}}
        self._do(self.kube.patch(resource, key, body, subresource="status"))

    def _patch(self, resource: Resource, name: str, body: dict[str, Any]) -> None:
        self._do(self.kube.patch(resource, Key(LAB, name), body, patch_type=PatchType.MERGE))

    # What is stored, and what is promised of it.

    def deployment(self, name: str) -> DeploymentRow:
        row: DeploymentRow = self._row(DEVICE_PROCESS_DEPLOYMENTS, Key(LAB, name), project_deployment)
        return row

    def processes(self, deployment: str) -> tuple[ProcessRow, ...]:
        uid = self.deployment(deployment).uid
        keys = list(self.store.objects.get(DEVICE_PROCESSES, {}))
        rows: list[ProcessRow] = [self._row(DEVICE_PROCESSES, key, project_process) for key in keys]
        return tuple(row for row in rows if row.owner == uid)

    def rows(self) -> dict[str, DeviceRow]:
        return {name: self._row(NETWORK_SWITCHES, Key(LAB, name), project_device) for name in self.devices}

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.store.objects[DEVICE_PROCESS_DEPLOYMENTS][Key(LAB, name)].get("status") or {}
        return status

    def versions(self, deployment: str) -> dict[str, str]:
        """Return the version of every device's process."""
        uid, found = self.deployment(deployment).uid, self.store.objects.get(DEVICE_PROCESSES, {}).values()
        ours = [each for each in found if each["metadata"]["ownerReferences"][0]["uid"] == uid]
        return {each["spec"]["deviceRef"]["name"]: each["spec"]["execution"]["command"][0] for each in ours}

    def settled(self) -> bool:
        """Tell whether every device of every deployment is up to date."""
        return all(self.status(name).get("reasons") == {"UpToDate": len(self.devices)} for name in self.down)

    def _row(self, resource: Resource, key: Key, project: Any) -> Any:
        obj = self.store.objects[resource][key]
        version = obj["metadata"]["resourceVersion"]
        known = self._rows.get((resource, key))
        if known is None or known[0] != version:
            known = self._rows[resource, key] = (version, project(obj))
        return known[1]

    def wrote(
        self, resource: Resource, old: dict[str, Any] | None, new: dict[str, Any], subresource: str | None
    ) -> None:
        """Judge what the controller just wrote."""
        name = new["metadata"]["name"]
        if resource == DEVICE_PROCESS_DEPLOYMENTS and subresource == "status":
            self._status_written(name)
        if resource != DEVICE_PROCESSES or (old is not None and old["spec"] == new["spec"]):
            return
        self.spec_writes += 1
        owner = new["metadata"]["ownerReferences"][0]["name"]
        device = new["spec"]["deviceRef"]["name"]
        if device not in self.devices:
            return
        before = project_process(old) if old is not None else None
        self._recover()
        self._prove()
        up = {name for name, down in self.down.items() if device not in down}
        ready = before is not None and before.ready_since is not None
        if before is None:
            self.down[owner].discard(device)  # whoever deleted it took it down
        elif ready:
            self.down[owner].add(device)
        write = Write(
            deployment=self.deployment(owner), device=self.rows()[device], old=before, new=project_process(new),
            takes_down=ready and owner in up, takes_down_first=ready and up == self.down.keys(),
        )  # fmt: skip
        facts = self._facts()
        for promise in PROMISES:
            if what := promise(write, facts):
                self.broken.append(Broken(promise.__name__, what))

    def _status_written(self, name: str) -> None:
        now = self.clock.monotonic()
        if now - self._status_at.get(name, -1.0) < STATUS_PERIOD_S:
            self.broken.append(Broken("status_is_written_once_a_second", name))
        self._status_at[name] = now
        self.status_writes[name] += 1

    def _facts(self) -> Facts:
        return Facts(
            now=self.clock.now().timestamp(),
            devices=self.rows(),
            processes={name: self.processes(name) for name in self.down},
            down={name: frozenset(down) for name, down in self.down.items()},
            proven={
                name: frozenset(self.proven.get(name, {}).get(self.deployment(name).template.revision, ()))
                for name in self.down
            },
            calm=evolve(self.calm, stopped=self.calm.stopped & self._stopped()),  # mended and never noted is no stop
        )

    def _recover(self) -> None:
        """Forget that we took down what was well for long enough since, is gone, or is held against us no more."""
        now = self.clock.now().timestamp()
        for name, down in self.down.items():
            policy = self.deployment(name).policy
            rows = {row.device: row for row in self.processes(name) if row.device in down}
            blamed = {
                each for each, row in rows.items() if now < (row.offered_at or 0.0) + policy.progress_deadline_seconds
            }
            down &= {each for each in blamed if not _was_well(rows[each], policy.min_ready_seconds, now)}

    def _available(self, name: str) -> set[str]:
        wait_s, now = self.deployment(name).policy.min_ready_seconds, self.clock.now().timestamp()
        rows = self.processes(name)
        return {row.device for row in rows if row.ready_since is not None and row.ready_since + wait_s <= now}

    def _prove(self) -> None:
        """Note the waves of which all devices that can be counted have been seen available."""
        devices = self.rows()
        for name in self.down:
            row = self.deployment(name)
            available, processes = self._available(name), {each.device: each for each in self.processes(name)}
            for wave in row.policy.update_strategy.rolling_update.waves:
                members = {
                    each.name for each in devices.values() if _wave_of(row, each, processes.get(each.name)) == wave.name
                }
                good = {each for each in members & available if processes[each].revision == row.template.revision}
                spared = {
                    each for each in members - good if devices[each].in_maintenance or not devices[each].connected
                }
                if not members or (good and good | spared == members):
                    self.proven.setdefault(name, {}).setdefault(row.template.revision, set()).add(wave.name)

    def _calm_down(self) -> None:
        self._recover()
        self._prove()
        deployments = [self.deployment(name) for name in self.down]
        devices = self.rows().values()
        self.calm = Calm(
            blind=not self.client.open.is_set(),
            paused=frozenset(row.name for row in deployments if row.policy.paused),
            stopped=self._stopped(),
            maintained=frozenset(row.name for row in devices if row.in_maintenance),
            offline=frozenset(row.name for row in devices if row.connected is False),
        )
        self._every_device_has_one_reason()

    def _stopped(self) -> frozenset[tuple[str, int]]:
        rows = [self.deployment(name) for name in self.down]
        return frozenset((row.name, row.generation) for row in rows if self._must_stop(row))

    def _must_stop(self, row: DeploymentRow) -> bool:
        if row.policy.failure_policy is None:
            return False
        if row.status.failed_revision == row.template.revision:
            holds = {each.type: each.observed_generation for each in row.status.conditions}
            return ROLLED_BACK in holds or holds.get(PAUSED) == row.generation
        bad = [each for each in self.processes(row.name) if each.failure and each.revision == row.template.revision]
        most = row.policy.failure_policy.max_failures
        return isinstance(most, int) and len(bad) > most and not was_rolled_out(row)

    def _every_device_has_one_reason(self) -> None:
        """Hold the metrics, which use the words of the status, to the devices that there are."""
        for name in self.down if not self.calm.blind else ():
            counted = self.metrics.shown.get(Key(LAB, name))
            if counted is not None and sum(counted.values()) != len(self.devices):
                self.broken.append(Broken("every_device_has_one_reason", f"{counted} of {len(self.devices)} devices"))
        if self.metrics.registry.get_sample_value("praetor_controller_account_errors_total"):
            self.broken.append(Broken("every_device_has_one_reason", "a pass over all devices found others"))


def _was_well(row: ProcessRow, wait_s: int, now: float) -> bool:
    until = now if row.connected else min(now, row.connected_since or 0.0)
    return row.settled_since is not None and row.settled_since + wait_s <= until


def _template(version: str) -> dict[str, Any]:
    return {"spec": {"execution": {"command": [version]}}}


def _wave_of(row: DeploymentRow, device: DeviceRow, process: ProcessRow | None) -> str:
    if process is not None and process.revision == row.template.revision and process.wave:
        return process.wave
    for wave in row.policy.update_strategy.rolling_update.waves:
        wanted = wave.selector.match_labels if wave.selector is not None else {}
        if all(device.labels.get(key) == value for key, value in wanted.items()):
            return wave.name
    return ""

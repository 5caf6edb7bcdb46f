"""How much work events make: passes over all devices, over what changed alone, and writes of the status."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controller_testing import PatchingKube
from kube_testing import FakeClock
from praetor_api.kube.client.resource import (
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_api.kube.runtime.times import time
from praetor_controller.main import Program
from praetor_controller.reconcile.dirty import Changes
from praetor_controller.reconcile.reconciler import AUDIT_S
from praetor_controller.settings import Settings

NAMES = tuple(f"leaf-{number}" for number in range(30))
TEL = Key("lab", "tel")


class World:
    """A controller and thirty devices that run what they shall."""

    def __init__(self, kube: type[PatchingKube] = PatchingKube) -> None:
        self.clock = FakeClock()
        self.kube = kube(self.clock)
        self.program = Program(self.kube, self.clock, Settings(metrics=None, probes=None))

    async def deploy(self, devices: int = len(NAMES)) -> None:
        for name in (f"leaf-{number}" for number in range(devices)):
            await self.kube.create(NETWORK_SWITCHES, "lab", {"metadata": {"name": name}, "spec": {}})
        body = {"selector": {}, "template": {"spec": {"execution": {"command": ["v1"]}}}}
        await self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", {"metadata": {"name": "tel"}, "spec": body})

    async def report(self, name: str, phase: str = "Running", **fields: Any) -> None:
        now = time(self.clock.now())
        types = ("AgentConnected", "SpecObserved", "ProcessStarted", "Healthy")
        conditions = [{"type": each, "status": "True", "lastTransitionTime": now} for each in types]
        status = {"phase": phase, "observedGeneration": 1, "conditions": conditions} | fields
        await self.kube.patch(DEVICE_PROCESSES, Key("lab", f"tel-{name}"), {"status": status}, subresource="status")

    @asynccontextmanager
    async def running(self, seconds: float = 5.0) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self.program.run(stop), name="controller")
            await self.clock.advance(seconds)
            yield
            stop.set()
            await self.clock.advance(10)
            await running

    def passes(self, devices: str) -> int:
        return self._sample("praetor_controller_passes_total", devices=devices)

    def wrong(self) -> int:
        return self._sample("praetor_controller_account_errors_total")

    def _sample(self, name: str, **labels: str) -> int:
        return int(self.program.metrics.registry.get_sample_value(name, labels) or 0)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["status"]
        return found

    def status_writes(self) -> int:
        written = (each for each in self.kube.requests if each.resource == DEVICE_PROCESS_DEPLOYMENTS)
        return sum(each.verb == "patch" for each in written)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.deploy()
    async with world.running():
        for name in NAMES:
            await world.report(name)
        await world.clock.advance(5)
        assert world.status()["reasons"] == {"UpToDate": 30}
        yield world
        assert world.wrong() == 0


async def test_what_one_device_does_is_counted_without_the_others(world: World) -> None:
    before = world.passes("whole")
    await world.report("leaf-7", "Failed")
    await world.clock.advance(3)
    assert world.status()["reasons"] == {"UpToDate": 29, "Failing": 1}
    assert world.status()["numberAvailable"] == 29
    await world.report("leaf-7")
    await world.clock.advance(3)
    assert world.status()["reasons"] == {"UpToDate": 30}
    assert world.passes("whole") == before


async def test_what_nobody_looks_at_makes_no_pass_at_all(world: World) -> None:
    before = world.passes("whole"), world.passes("changed")
    key = Key("lab", "tel-leaf-7")
    await world.kube.patch(DEVICE_PROCESSES, key, {"status": {"pid": 4711, "restartCount": 3}}, subresource="status")
    await world.clock.advance(3)
    assert (world.passes("whole"), world.passes("changed")) == before


async def test_a_burst_of_events_makes_one_write_of_the_status_a_second(world: World) -> None:
    before, seconds = world.status_writes(), 4
    for _ in range(10 * seconds):
        for name in NAMES[:5]:
            await world.report(name, "Failed" if world.clock.now().microsecond else "Running")
        await world.clock.advance(0.1)
    await world.clock.advance(2)
    assert world.status_writes() - before <= seconds + 2


async def test_a_pass_over_all_confirms_the_account_once_a_minute(world: World) -> None:
    await world.report("leaf-7", "Failed")
    await world.clock.advance(AUDIT_S)
    before = world.passes("whole")
    await world.report("leaf-8", "Failed")
    await world.clock.advance(3)
    assert world.passes("whole") == before + 1
    assert world.status()["reasons"] == {"UpToDate": 28, "Failing": 2}


async def test_what_concerns_more_than_one_device_is_seen_at_once(world: World) -> None:
    await world.report("leaf-7", "Failed")
    await world.clock.advance(0.1)
    await world.kube.create(NETWORK_SWITCHES, "lab", {"metadata": {"name": "leaf-99"}, "spec": {}})
    await world.kube.delete(NETWORK_SWITCHES, Key("lab", "leaf-0"))
    evil = {"spec": {"execution": {"command": ["evil"]}}}
    await world.kube.patch(DEVICE_PROCESSES, Key("lab", "tel-leaf-3"), evil)
    await world.clock.advance(0.5)
    processes = {key.name: each for key, each in world.kube.objects(DEVICE_PROCESSES).items()}
    assert "tel-leaf-99" in processes
    assert "tel-leaf-0" not in processes
    assert processes["tel-leaf-3"]["spec"]["execution"]["command"] == ["v1"]


async def test_our_own_writes_that_come_back_make_no_pass() -> None:
    world = World()
    await world.deploy()
    async with world.running():
        assert len(world.kube.objects(DEVICE_PROCESSES)) == len(NAMES)
        assert world.passes("whole") + world.passes("changed") <= 6


class Slow(PatchingKube):
    """Takes its time for what it is asked to create."""

    async def create(self, resource: Resource, *args: Any, **fields: Any) -> dict[str, Any]:
        if resource == DEVICE_PROCESSES:
            await self._clock.sleep(0.5)
        return await super().create(resource, *args, **fields)


def commands(world: World) -> Counter[str]:
    return Counter(each["spec"]["execution"]["command"][0] for each in world.kube.objects(DEVICE_PROCESSES).values())


async def test_a_slow_api_is_given_new_processes_without_a_break() -> None:
    world = World(Slow)
    await world.deploy(200)
    async with world.running(4.0):
        # 32 at a time: seven turns of half a second; a break after each second would leave three turns undone
        assert sum(commands(world).values()) == 200
        assert world.passes("whole") <= 2


async def test_a_changed_template_breaks_a_long_fan_out() -> None:
    world = World(Slow)
    await world.deploy(400)
    async with world.running(2.0):
        template = {"spec": {"execution": {"command": ["v2"]}}}
        await world.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"spec": {"template": template}})
        await world.clock.advance(1.1)
        assert commands(world)["v1"] <= 32 * 5
        assert commands(world)["v2"] > 0


class Deaf(Changes):
    """Loses what it is told."""

    def note(self, key: Key, device: str) -> None:
        return


async def test_an_account_that_is_wrong_is_noticed_and_closed() -> None:
    world = World()
    world.program.controller.changes = Deaf()
    await world.deploy()
    async with world.running():
        for name in NAMES:
            await world.report(name)
        await world.clock.advance(5)
        assert world.status()["reasons"] == {"NeverConnected": 30}
        await world.clock.advance(AUDIT_S)
        assert world.wrong() == 1
        assert world.status()["reasons"] == {"UpToDate": 30}

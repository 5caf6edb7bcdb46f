# SPDX-License-Identifier: Apache-2.0
"""Controllers, gateways and devices whose clocks are hours apart: what happens, and when, is as with equal clocks."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import cache
from itertools import product
from typing import Any

import pytest
from attrs import define, field, frozen

from gateway_testing import GatewayLab, run_in_virtual_time, running_lab
from kube_testing import FakeClock, InProcessKube, body_of
from praetor_agent.clock import rfc3339
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_controller.main import Program
from praetor_controller.settings import Settings
from program_testing import ProgramFixture

DEVICES = tuple(f"leaf-{number}" for number in range(6))
TEL = Key("lab", "tel")
KILLS, CRASHES, HANGS = "kills", "crashes", "hangs"
SPEC: dict[str, Any] = {
    "selector": {},
    "minReadySeconds": 20,
    "progressDeadlineSeconds": 200,
    "failurePolicy": {"maxFailures": 0, "action": "Pause"},
    "updateStrategy": {
        "rollingUpdate": {"maxUnavailable": 1, "waves": [{"name": "canary", "limit": 2, "soakSeconds": 30}]}
    },
}


class SkewedClock(FakeClock):
    """A clock that shows another time of day than *base*, and passes with it."""

    def __init__(self, base: FakeClock, hours: float) -> None:
        self._base = base
        self._skew = timedelta(hours=hours)

    def now(self) -> datetime:
        return self._base.now() + self._skew

    def monotonic(self) -> float:
        return self._base.monotonic()

    def jump(self, seconds: float) -> None:
        self._skew += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        await self._base.sleep(seconds)

    async def advance(self, seconds: float) -> None:
        await self._base.advance(seconds)

    async def settle(self) -> None:
        await self._base.settle()


@frozen
class Clocks:
    """By how many hours each program's clock is wrong. The second ones take over from the first ones.

    All clocks are set by *set_by* seconds at the beginning of each rollout.
    """

    controllers: tuple[float, float] = (0.0, 0.0)
    gateways: tuple[float, float] = (0.0, 0.0)
    devices: float = 0.0
    set_by: float = 0.0


@define
class Device:
    """Speaks the protocol: it polls, runs what it gets, and reports with the times of its own clock."""

    name: str
    clock: FakeClock
    alive: bool = True
    etag: str = ""
    items: list[Mapping[str, Any]] = field(factory=list)
    started: dict[str, str] = field(factory=dict)
    restarts: int = 0

    async def live(self, gateway: GatewayLab) -> None:
        if not self.alive:
            return
        headers = {"if-none-match": self.etag} if self.etag else {}
        answer = await gateway.client.get(f"/v1/devices/{self.name}/desired", **headers)
        if answer.status == 200:
            self.etag, self.items, self.restarts = answer.headers["etag"], answer.json()["items"], 0
        seen = [self._run(item) for item in self.items]
        if self.alive:
            report = {"heartbeat": True, "timestamp": rfc3339(self.clock.now()), "observations": seen}
            assert (await gateway.client.post(f"/v1/devices/{self.name}/report", report)).status == 200

    def _run(self, item: Mapping[str, Any]) -> dict[str, Any]:
        version = item["spec"]["execution"]["command"][0]
        seen = {"name": item["name"], "uid": item["uid"], "observedSpecHash": item["specHash"]}
        if version == CRASHES:
            self.restarts += 1
            ended = {"processStarted": False, "exitCode": 1, "restartCount": self.restarts - 1}
            return seen | ended | {"startTime": rfc3339(self.clock.now())}
        self.alive = version != KILLS
        start = self.started.setdefault(item["specHash"], rfc3339(self.clock.now()))
        return seen | {"processStarted": True, "healthy": version != HANGS or None, "pid": 7, "startTime": start}


class Site:
    """Devices, two controllers and two gateways, one of each at a time; it keeps a trace of what happens."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.began = self.clock.monotonic()
        self.skewed: list[SkewedClock] = []
        self.devices = [Device(name, self._clock(clocks.devices)) for name in DEVICES]
        self.trace: list[str] = []
        self._versions: dict[str, str] = {}

    def _clock(self, hours: float) -> SkewedClock:
        self.skewed.append(SkewedClock(self.clock, hours))
        return self.skewed[-1]

    def controller(self, number: int) -> Program:
        clock = self._clock(self.clocks.controllers[number])
        settings = Settings(metrics=None, probes=None, gateway_lease_namespace="lab")
        return Program(self.kube.another_client(), clock, settings)

    @asynccontextmanager
    async def gateway(self, number: int) -> AsyncIterator[GatewayLab]:
        clock = self._clock(self.clocks.gateways[number])
        async with running_lab(self.kube.another_client(), clock, identity=f"gateway-{number}") as gateway:
            yield gateway

    async def declare(self) -> None:
        for name in DEVICES:
            await self.kube.create(NETWORK_SWITCHES, "lab", body_of(NETWORK_SWITCHES, name, spec={}))

    async def roll_out(self, version: str) -> None:
        template = {"spec": {"execution": {"backend": "process", "command": [version]}}}
        self.trace.append(f"{self._at()} {version} is asked for")
        for clock in self.skewed:
            clock.jump(self.clocks.set_by)
        if TEL in self.kube.objects(DEVICE_PROCESS_DEPLOYMENTS):
            await self.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"spec": {"template": template}})
        else:
            body = body_of(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec=SPEC | {"template": template})
            await self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", body)

    async def run(self, gateway: GatewayLab, seconds: int) -> None:
        for _ in range(0, seconds, 5):
            for device in self.devices:
                await device.live(gateway)
            for _ in range(5):
                await self.clock.advance(1)
                self._watch()

    def _at(self) -> int:
        return round(self.clock.monotonic() - self.began)

    def _watch(self) -> None:
        """Trace what is new in the objects, without their times."""
        objects = self.kube.objects(DEVICE_PROCESSES)
        shown = {name.name: obj["spec"]["execution"]["command"][0] for name, obj in objects.items()}
        shown |= {f"{name.name} phase": obj.get("status", {}).get("phase", "") for name, obj in objects.items()}
        status = self.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL].get("status") or {}
        shown |= {each["type"]: f"{each['status']} {each['reason']}" for each in status.get("conditions", ())}
        shown |= {"reasons": str(status.get("reasons")), "available": str(status.get("numberAvailable"))}
        for name, value in shown.items():
            if self._versions.get(name) != value:
                self._versions[name] = value
                self.trace.append(f"{self._at()} {name}: {value}")

    @property
    def versions(self) -> dict[str, str]:
        return {name: self._versions[f"tel-{name}"] for name in DEVICES}

    def condition(self, kind: str) -> tuple[str, str]:
        status = self.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["status"]
        found = next(each for each in status["conditions"] if each["type"] == kind)
        return found["reason"], found["message"]


async def live_through_it(clocks: Clocks) -> list[str]:
    """Roll out, disconnect, change the leaders, fail; return what happened, with the seconds since the beginning."""
    random.seed(0)  # delays have jitter
    site = Site(clocks)
    await site.declare()
    running = ProgramFixture.running
    async with site.gateway(0) as gateway:
        async with running(site, site.controller(0)):  # type: ignore[arg-type]
            await site.roll_out("v1")
            await site.run(gateway, 200)
            assert site.condition("Progressing")[0] == "NewRevisionRolledOut"
            site.devices[5].alive = False
            await site.run(gateway, 90)
            await site.roll_out("v2")
            await site.run(gateway, 60)
            assert sorted(site.versions.values()) == ["v1"] * 4 + ["v2"] * 2  # the canaries have not soaked
        async with running(site, site.controller(1)):  # type: ignore[arg-type]
            await site.run(gateway, 20)
            assert sorted(site.versions.values()) == ["v1"] * 4 + ["v2"] * 2  # for all that the second one saw
            await site.run(gateway, 300)
            assert site.versions == dict.fromkeys(DEVICES, "v2") | {"leaf-5": "v1"}
            site.devices[5].alive = True
            await site.run(gateway, 60)
            assert site.versions == dict.fromkeys(DEVICES, "v2")
            await site.roll_out(KILLS)
            await site.run(gateway, 120)
            dead = [device for device in site.devices if not device.alive]
            assert len(dead) == 1
            assert list(site.versions.values()).count(KILLS) == 1
            assert site.condition("Paused")[0] == "FailurePolicy"
            assert "silent since the offer" in site.condition("Paused")[1]
    async with site.gateway(1) as gateway, running(site, site.controller(0)):  # type: ignore[arg-type]
        await site.run(gateway, 120)
        assert list(site.versions.values()).count(KILLS) == 1
        dead[0].alive, dead[0].etag = True, ""
        await site.roll_out("v3")
        await site.run(gateway, 400)
        assert site.versions == dict.fromkeys(DEVICES, "v3")
        await site.roll_out(CRASHES)
        await site.run(gateway, 90)
        assert "ended 3 times" in site.condition("Paused")[1]
        await site.roll_out(HANGS)
        await site.run(gateway, 240)
        assert list(site.versions.values()).count(HANGS) == 1
        assert "not ready in time" in site.condition("Paused")[1]
    return site.trace


@cache
def with_equal_clocks() -> list[str]:
    return run_in_virtual_time(live_through_it(Clocks()))


APART = [
    Clocks((controller, -controller), (gateway, 2 * gateway), device)
    for controller, gateway, device in product((-3.0, 3.0), (-5.0, 5.0), (-9.0, 9.0))
]
ALONE = [
    Clocks(controllers=(7.0, 7.0)),
    Clocks(controllers=(0.0, -7.0)),
    Clocks(gateways=(-0.05, -0.05)),
    Clocks(set_by=7200.0),
    Clocks(set_by=-7200.0),
]


@pytest.mark.parametrize("clocks", [*APART, *ALONE], ids=str)
def test_the_outcome_is_that_of_equal_clocks(clocks: Clocks) -> None:
    assert run_in_virtual_time(live_through_it(clocks)) == with_equal_clocks()

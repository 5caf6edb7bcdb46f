# SPDX-License-Identifier: Apache-2.0
"""A version that makes its device reboot: how far a rollout with default settings gets, with the agents' decisions."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
from attrs import define, field

from gateway_testing import GatewayLab, run_in_virtual_time, running_lab
from kube_testing import FakeClock, InProcessKube, body_of
from praetor_agent.core import restart
from praetor_agent.core.model import Observed, ObservedDevice, Record
from praetor_agent.core.reconcile import Start, Stop, reconcile
from praetor_agent.core.report import observations
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_api.protocol import Desired, Report, read_desired
from praetor_api.wire import write
from praetor_controller.main import Program
from praetor_controller.settings import Settings
from program_testing import ProgramFixture

DEVICES = tuple(f"leaf-{number}" for number in range(5))
TEL = Key("lab", "tel")
REBOOTS, CRASHES = "/bin/reboots", "/bin/crashes"
UP_S, BOOT_S = 4, 30


@define
class Device:
    """Runs what its agent's core decides. *knows_trials*: its agent is not one of before versions were on trial."""

    name: str
    clock: FakeClock
    knows_trials: bool = True
    boot: int = 1
    back_at: float = 0.0
    etag: str = ""
    desired: Desired | None = None
    memory: dict[str, Record] = field(factory=dict)
    running: dict[str, Observed] = field(factory=dict)
    started_at: float = 0.0

    async def live(self, gateway: GatewayLab) -> None:
        now = self.clock.monotonic()
        if now < self.back_at:
            return
        headers = {"if-none-match": self.etag} if self.etag else {}
        answer = await gateway.client.get(f"/v1/devices/{self.name}/desired", **headers)
        if answer.status == 200:
            self.etag, self.desired = answer.headers["etag"], read_desired(answer.json())
        if self._ends(now):
            return
        assert self.desired is not None
        self._converge(self.desired, now)
        seen = [write(each) for each in observations(self.desired, self.memory, self._observed(), {}, now).values()]
        for each in seen if not self.knows_trials else ():
            each.pop("onTrial", None)
        sent = write(Report(boot_id=f"boot-{self.name}-{self.boot}", seq=int(now * 1000))) | {"observations": seen}
        assert (
            await gateway.client.post(f"/v1/devices/{self.name}/report", json.loads(json.dumps(sent)))
        ).status == 200

    def _observed(self) -> ObservedDevice:
        return ObservedDevice(boot_id=f"boot-{self.boot}", observed=self.running)

    def _ends(self, now: float) -> bool:
        """Let a bad version do its work; return whether the device is down by then."""
        for uid, seen in self.running.items():
            version = seen.mark
            if not seen.running or version not in (REBOOTS, CRASHES) or now < self.started_at + UP_S:
                continue
            if version == CRASHES:
                self.running = {uid: Observed(**{**_fields(seen), "running": False, "exit_code": 1})}
                continue
            self.running, self.boot, self.back_at = {}, self.boot + 1, now + BOOT_S
            return True
        return False

    def _converge(self, desired: Desired, now: float) -> None:
        for _ in range(6):
            plan = reconcile(desired, self._observed(), self.memory, now)
            self.memory = dict(plan.memory)
            for action in plan.actions:
                if isinstance(action, Start):
                    item = action.revision.item
                    mark, backend = item.spec.execution.command[0], item.spec.execution.backend
                    self.running = {
                        item.uid: Observed(
                            uid=item.uid, backend=backend, spec_hash=item.spec_hash, running=True,
                            handle=f"h{now}", pid=7, mark=mark,
                        )
                    }  # fmt: skip
                    self.started_at = now
                    self.memory[item.uid] = restart.started(self.memory[item.uid], "2026-01-01T00:00:00Z")
                elif isinstance(action, Stop):
                    seen = self.running[action.uid]
                    self.running = {action.uid: Observed(**{**_fields(seen), "running": False, "exit_code": 143})}


def _fields(seen: Observed) -> dict[str, Any]:
    return {name: getattr(seen, name) for name in seen.__dataclass_fields__}


class Site:
    """Devices, one controller and one gateway in virtual time, and how many devices had the bad version at most."""

    def __init__(self, *, knows_trials: bool = True) -> None:
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.devices = [Device(name, self.clock, knows_trials) for name in DEVICES]

    async def roll_out(self, version: str) -> None:
        template = {"spec": {"execution": {"backend": "process", "command": [f"/bin/{version}"]}}}
        if TEL in self.kube.objects(DEVICE_PROCESS_DEPLOYMENTS):
            await self.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"spec": {"template": template}})
        else:
            body = body_of(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec={"selector": {}, "template": template})
            await self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", body)

    async def run(self, gateway: GatewayLab, seconds: int) -> None:
        for _ in range(seconds):
            for device in self.devices:
                await device.live(gateway)
            await self.clock.advance(1)

    def having(self, version: str) -> int:
        """Return how many devices were given *version*."""
        objects = self.kube.objects(DEVICE_PROCESSES).values()
        return sum(each["spec"]["execution"]["command"][0] == f"/bin/{version}" for each in objects)

    @property
    def available(self) -> int:
        return int(self._status.get("numberAvailable", 0))

    @property
    def is_rolled_out(self) -> bool:
        """Return what `praetorctl rollout status` ends with."""
        return any(each["reason"] == "NewRevisionRolledOut" for each in self._status.get("conditions", ()))

    @property
    def _status(self) -> Mapping[str, Any]:
        return self.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL].get("status") or {}


async def rolled_out(version: str, seconds: int, *, knows_trials: bool = True) -> tuple[int, int, int]:
    """Roll out GOOD and then *version*; return how many devices have it, and run what they did before."""
    random.seed(0)  # delays have jitter
    site = Site(knows_trials=knows_trials)
    for name in DEVICES:
        await site.kube.create(NETWORK_SWITCHES, "lab", body_of(NETWORK_SWITCHES, name, spec={}))
    settings = Settings(metrics=None, probes=None, gateway_lease_namespace="lab")
    program = Program(site.kube.another_client(), site.clock, settings)
    async with (
        running_lab(site.kube.another_client(), site.clock) as gateway,
        ProgramFixture.running(site, program),  # type: ignore[arg-type]
    ):
        await site.roll_out("good")
        await site.run(gateway, 120)
        assert site.available == len(DEVICES)
        assert site.is_rolled_out
        await site.roll_out(version)
        await site.run(gateway, seconds)
        assert not knows_trials or site.is_rolled_out == (site.available == len(DEVICES))
        gave_up = sum(any(each.rollback for each in device.memory.values()) for device in site.devices)
        return site.having(version), gave_up, site.available


@pytest.mark.parametrize("version", ["reboots", "crashes"])
def test_a_rollout_with_defaults_stops_at_the_first_device_that_a_version_brings_down(version: str) -> None:
    assert run_in_virtual_time(rolled_out(version, 300)) == (1, 1, len(DEVICES) - 1)


def test_a_rollout_waits_ten_seconds_for_each_device_to_prove_a_good_version() -> None:
    given, _, _ = run_in_virtual_time(rolled_out("better", 10))
    assert given == 1
    given, _, available = run_in_virtual_time(rolled_out("better", 90))
    assert (given, available) == (len(DEVICES), len(DEVICES))


def test_devices_with_older_agents_are_relied_on_as_before() -> None:
    given, _, available = run_in_virtual_time(rolled_out("better", 45, knows_trials=False))
    assert (given, available) == (len(DEVICES), len(DEVICES))
    given, _, _ = run_in_virtual_time(rolled_out("reboots", 300, knows_trials=False))
    assert given > 1

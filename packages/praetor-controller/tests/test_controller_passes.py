# SPDX-License-Identifier: Apache-2.0
"""How much work events make: passes over all devices, over what changed alone, and writes of the status."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller_testing import runs
from kube_testing import InProcessKube
from praetor_api.kube.client.resource import (
    DEVICE_PROCESS_DEPLOYMENTS,
    DEVICE_PROCESSES,
    NETWORK_SWITCHES,
    Key,
    Resource,
)
from praetor_controller.main import Program
from praetor_controller.reconcile.reconciler import AUDIT_S
from praetor_controller.reconcile.state import SETTLE_S, DirtySet
from praetor_controller.settings import Settings
from program_testing import TEL, ProgramFixture

NAMES = tuple(f"leaf-{number}" for number in range(30))


class CountingFixture(ProgramFixture):
    """A controller whose passes are counted, and up to thirty devices."""

    def __init__(self, kube: type[InProcessKube] = InProcessKube) -> None:
        super().__init__(kube)
        self.program = Program(self.kube, self.clock, Settings(metrics=None, probes=None))

    async def deploy_to(self, devices: int = len(NAMES)) -> None:
        for number in range(devices):
            await self.switch(f"leaf-{number}")
        await self.deploy()

    def passes(self, devices: str) -> int:
        return self._sample("praetor_controller_passes_total", devices=devices)

    def all_passes(self) -> int:
        return self.passes("whole") + self.passes("changed")

    def wrong(self) -> int:
        return self._sample("praetor_controller_account_errors_total")

    def _sample(self, name: str, **labels: str) -> int:
        return int(self.program.metrics.registry.get_sample_value(name, labels) or 0)

    def status_writes(self) -> int:
        written = (each for each in self.kube.requests if each.resource == DEVICE_PROCESS_DEPLOYMENTS)
        return sum(each.verb == "patch" for each in written)


@pytest.fixture
async def fleet() -> AsyncIterator[CountingFixture]:
    fleet = CountingFixture()
    await fleet.deploy_to()
    async with fleet.running(fleet.program):
        for name in NAMES:
            await fleet.report(f"tel-{name}")
        await fleet.clock.advance(5)
        assert fleet.status()["reasons"] == {"UpToDate": 30}
        yield fleet
        assert fleet.wrong() == 0


async def test_what_one_device_does_is_counted_without_the_others(fleet: CountingFixture) -> None:
    before = fleet.passes("whole")
    await fleet.report("tel-leaf-7", phase="Failed")
    await fleet.clock.advance(3)
    assert fleet.status()["reasons"] == {"UpToDate": 29, "Failing": 1}
    assert fleet.status()["numberAvailable"] == 29
    await fleet.report("tel-leaf-7")
    await fleet.clock.advance(3)
    assert fleet.status()["reasons"] == {"UpToDate": 30}
    assert fleet.passes("whole") == before


async def test_a_change_that_no_pass_reads_makes_no_pass(fleet: CountingFixture) -> None:
    before = fleet.all_passes()
    key = Key("lab", "tel-leaf-7")
    await fleet.kube.patch(DEVICE_PROCESSES, key, {"status": {"pid": 4711, "restartCount": 3}}, subresource="status")
    await fleet.clock.advance(3)
    assert fleet.all_passes() == before


async def test_a_burst_of_events_makes_one_write_of_the_status_a_second(fleet: CountingFixture) -> None:
    before, seconds = fleet.status_writes(), 4
    for _ in range(10 * seconds):
        for name in NAMES[:5]:
            await fleet.report(f"tel-{name}", phase="Failed" if fleet.clock.now().microsecond else "Running")
        await fleet.clock.advance(0.1)
    await fleet.clock.advance(2)
    assert fleet.status_writes() - before <= seconds + 2


async def test_a_pass_over_all_devices_confirms_the_incremental_status_once_a_minute(fleet: CountingFixture) -> None:
    await fleet.report("tel-leaf-7", phase="Failed")
    await fleet.clock.advance(AUDIT_S)
    before = fleet.passes("whole")
    await fleet.report("tel-leaf-8", phase="Failed")
    await fleet.clock.advance(3)
    assert fleet.passes("whole") == before + 1
    assert fleet.status()["reasons"] == {"UpToDate": 28, "Failing": 2}


async def test_what_concerns_more_than_one_device_makes_a_pass_over_all_at_once(fleet: CountingFixture) -> None:
    await fleet.report("tel-leaf-7", phase="Failed")
    await fleet.clock.advance(0.1)
    await fleet.switch("leaf-99")
    await fleet.kube.delete(NETWORK_SWITCHES, Key("lab", "leaf-0"))
    evil = {"spec": runs("evil")}
    await fleet.kube.patch(DEVICE_PROCESSES, Key("lab", "tel-leaf-3"), evil)
    await fleet.clock.advance(SETTLE_S + 0.5)
    processes = {key.name: each for key, each in fleet.kube.objects(DEVICE_PROCESSES).items()}
    assert "tel-leaf-99" in processes
    assert "tel-leaf-0" in processes  # as many as may be unavailable are
    assert processes["tel-leaf-3"]["spec"]["execution"]["command"] == ["v1"]
    assert fleet.status()["reasons"]["Removing"] == 1


@pytest.fixture
async def small() -> AsyncIterator[CountingFixture]:
    """Five devices in steady state."""
    fleet = CountingFixture()
    await fleet.deploy_to(5)
    async with fleet.running(fleet.program):
        for name in NAMES[:5]:
            await fleet.report(f"tel-{name}")
        await fleet.clock.advance(5)
        assert fleet.status()["reasons"] == {"UpToDate": 5}
        yield fleet


async def test_a_changed_template_makes_one_pass_and_one_more_to_show_what_was_written(
    small: CountingFixture,
) -> None:
    before = small.all_passes()
    await small.change_template("v2")
    await small.clock.advance(0.5)
    assert commands(small) == {"v1": 4, "v2": 1}
    assert small.all_passes() - before == 1
    assert small.status()["observedGeneration"] == 2
    await small.clock.advance(5)
    assert small.status()["reasons"] == {"Updating": 1, "BudgetExhausted": 4}
    assert small.status()["updatedNumberScheduled"] == 1
    assert small.all_passes() - before == 2


async def test_a_report_makes_one_pass_that_writes_the_next_device(small: CountingFixture) -> None:
    await small.change_template("v2")
    await small.clock.advance(5)
    before = small.all_passes()
    await small.report("tel-leaf-0", observedGeneration=2)
    await small.clock.advance(0.5)
    assert commands(small) == {"v1": 3, "v2": 2}
    assert small.all_passes() - before == 1


async def test_the_return_of_a_status_write_makes_no_pass(small: CountingFixture) -> None:
    passes, writes = small.all_passes(), small.status_writes()
    await small.report("tel-leaf-3", phase="Failed")
    await small.clock.advance(5)
    assert small.status_writes() - writes == 1
    assert small.all_passes() - passes == 1


async def test_a_status_that_another_client_wrote_makes_a_pass_that_writes_it_again(small: CountingFixture) -> None:
    before = small.all_passes()
    await small.kube.patch(DEVICE_PROCESS_DEPLOYMENTS, TEL, {"status": {"numberReady": 0}}, subresource="status")
    await small.clock.advance(5)
    assert small.status()["numberReady"] == 5
    assert small.all_passes() - before == 1


async def test_the_end_of_a_rollout_makes_one_more_pass_that_begins_the_steady_state(small: CountingFixture) -> None:
    await small.change_template("v2")
    for name in NAMES[:5]:
        await small.clock.advance(2)
        await small.report(f"tel-{name}", observedGeneration=2)
    before = small.all_passes()
    await small.clock.advance(5)
    assert small.status()["reasons"] == {"UpToDate": 5}
    assert small.status()["currentRevision"] == small.status()["updateRevision"]
    assert small.all_passes() - before == 2
    whole = small.passes("whole")
    await small.report("tel-leaf-3", phase="Failed", observedGeneration=2)
    await small.clock.advance(2)
    assert small.passes("whole") == whole


async def test_created_processes_make_one_pass_and_one_more_to_show_them() -> None:
    fleet = CountingFixture()
    await fleet.deploy_to()
    async with fleet.running(fleet.program):
        assert len(fleet.kube.objects(DEVICE_PROCESSES)) == len(NAMES)
        assert fleet.status()["currentNumberScheduled"] == len(NAMES)
        assert fleet.all_passes() == 2


class Slow(InProcessKube):
    """Needs half a second to create a process."""

    async def create(self, resource: Resource, *args: Any, **fields: Any) -> dict[str, Any]:
        if resource == DEVICE_PROCESSES:
            await self._clock.sleep(0.5)
        return await super().create(resource, *args, **fields)


def commands(fleet: CountingFixture) -> Counter[str]:
    return Counter(fleet.commands().values())


async def test_a_slow_api_gets_new_processes_without_a_break() -> None:
    fleet = CountingFixture(Slow)
    await fleet.deploy_to(200)
    async with fleet.running(fleet.program, 4.0):
        # 32 at a time: seven turns of half a second; a break after each second would leave three turns undone
        assert sum(commands(fleet).values()) == 200
        assert fleet.passes("whole") <= 2


async def test_a_changed_template_breaks_a_long_fan_out() -> None:
    fleet = CountingFixture(Slow)
    await fleet.deploy_to(400)
    async with fleet.running(fleet.program, 2.0):
        await fleet.change_template("v2")
        await fleet.clock.advance(1.1)
        assert commands(fleet)["v1"] <= 32 * 5
        assert commands(fleet)["v2"] > 0


class Forgetful(DirtySet):
    """Loses what is added."""

    def add(self, deployment: Key, device: str) -> None:
        return


async def test_an_incremental_status_that_is_wrong_is_found_and_given_up() -> None:
    fleet = CountingFixture()
    fleet.program.controller.dirty = Forgetful()
    await fleet.deploy_to()
    async with fleet.running(fleet.program):
        for name in NAMES:
            await fleet.report(f"tel-{name}")
        await fleet.clock.advance(5)
        assert fleet.status()["reasons"] == {"NeverConnected": 30}
        await fleet.clock.advance(AUDIT_S)
        assert fleet.wrong() == 1
        assert fleet.status()["reasons"] == {"UpToDate": 30}

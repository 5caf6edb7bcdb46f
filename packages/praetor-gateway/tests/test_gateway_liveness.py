# SPDX-License-Identifier: Apache-2.0
"""Connections found and lost, in the statuses of a whole gateway."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway_testing import GatewayLab, conditions, one_device, process_object, running_lab, switch_object
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import DEVICE_PROCESSES, DEVICES, EVENTS, LEASES, NETWORK_SWITCHES, Key
from praetor_api.spec import DeviceKind

lab = pytest.fixture(one_device)


async def heartbeats(lab: GatewayLab, seconds: int, *devices: str) -> None:
    for _ in range(0, seconds, 15):
        for device in devices:
            await lab.report(device)
        await lab.clock.advance(15)


async def test_a_silent_device_is_disconnected_on_its_switch_and_its_processes(lab: GatewayLab) -> None:
    await lab.declare("leaf-2")
    await lab.report("leaf-1", await lab.running("leaf-1"))
    await heartbeats(lab, 60, "leaf-1", "leaf-2")
    assert conditions(lab.switch("leaf-1"))["AgentConnected"] == "True"
    await heartbeats(lab, 75, "leaf-2")
    assert conditions(lab.switch("leaf-1"))["AgentConnected"] == "False"
    assert conditions(lab.process("leaf-1"))["AgentConnected"] == "False"
    assert conditions(lab.process("leaf-1"))["Healthy"] == "True"
    assert lab.process("leaf-1")["status"]["phase"] == "Unknown"
    assert conditions(lab.switch("leaf-2"))["AgentConnected"] == "True"
    lost = [e for e in lab.kube.objects(EVENTS).values() if e["reason"] == "AgentDisconnected"]
    assert [event["regarding"]["name"] for event in lost] == ["leaf-1"]
    await lab.report("leaf-1", then_s=1)
    assert conditions(lab.process("leaf-1"))["AgentConnected"] == "True"
    assert lab.process("leaf-1")["status"]["phase"] == "Running"
    assert lab.value("devices_connected") == 2
    assert lab.value("devices_disconnected_total") == 1


async def test_the_connection_of_a_device_without_a_switch_is_written_to_its_processes() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1", switch=False)
        await lab.report("leaf-1", await lab.running("leaf-1"), then_s=1)
        assert conditions(lab.process("leaf-1"))["AgentConnected"] == "True"
        await lab.clock.advance(120)
        assert conditions(lab.process("leaf-1"))["AgentConnected"] == "False"
        reasons = [event["reason"] for event in lab.kube.objects(EVENTS).values()]
        assert reasons.count("AgentDisconnected") == 1


async def test_a_device_that_died_while_no_gateway_ran_is_disconnected_and_no_other() -> None:
    async with running_lab(devices=["leaf-1", "leaf-2"]) as lab:
        await heartbeats(lab, 30, "leaf-1", "leaf-2")
    await lab.clock.advance(3600)
    async with running_lab(kube=lab.kube, clock=lab.clock) as lab:
        await heartbeats(lab, 45, "leaf-2")
        assert conditions(lab.switch("leaf-1"))["AgentConnected"] == "True"
        await heartbeats(lab, 45, "leaf-2")
        assert conditions(lab.switch("leaf-1"))["AgentConnected"] == "False"
        assert conditions(lab.switch("leaf-2"))["AgentConnected"] == "True"


async def test_a_gateway_does_not_lead_before_it_has_read_the_fleet() -> None:
    async with running_lab(devices=["leaf-1"]) as first:
        await heartbeats(first, 30, "leaf-1")
    kube = first.kube.another_client()
    kube.fail_next(api_error(500), verb="list", resource=NETWORK_SWITCHES, times=1000)
    async with running_lab(kube=kube, clock=first.clock) as lab:
        await heartbeats(lab, 300, "leaf-1")
        assert lab.gateway.unready()
        assert lab.value("arbiter") == 0
        kube.heal()
        await heartbeats(lab, 120, "leaf-1")
        assert lab.value("arbiter") == 1
        assert lab.value("devices_disconnected_total") == 0
        assert conditions(lab.process("leaf-1"))["AgentConnected"] == "True"


async def test_counts_that_changed_while_no_replica_led_are_written_after_the_takeover() -> None:
    async with running_lab() as lab:
        for device in ("leaf-1", "leaf-2"):
            await lab.declare(device)
            await lab.report(device, await lab.running(device))
        await heartbeats(lab, 15, "leaf-1", "leaf-2")
        assert lab.switch("leaf-1")["status"]["processes"] == {"desired": 1, "running": 1, "healthy": 1}
        unchanged = lab.switch("leaf-2")
        lab.kube.fail_next(api_error(500), verb="patch", resource=LEASES, times=1000)
        await heartbeats(lab, 15, "leaf-1", "leaf-2")
        assert lab.value("arbiter") == 0
        await lab.kube.delete(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"))
        await heartbeats(lab, 15, "leaf-1", "leaf-2")
        assert lab.switch("leaf-1")["status"]["processes"]["desired"] == 1
        lab.kube.heal()
        await heartbeats(lab, 30, "leaf-1", "leaf-2")
        assert lab.value("arbiter") == 1
        assert lab.switch("leaf-1")["status"]["processes"] == {"desired": 0, "running": 0, "healthy": 0}
        assert lab.switch("leaf-2") == unchanged


async def test_a_new_process_of_a_disconnected_device_is_disconnected(lab: GatewayLab) -> None:
    await lab.report("leaf-1", then_s=120)
    await lab.kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1", name="later"))
    await lab.clock.advance(1)
    later = lab.kube.objects(DEVICE_PROCESSES)[Key("lab", "later")]
    assert conditions(later)["AgentConnected"] == "False"
    assert later["status"]["phase"] == "Unknown"


async def test_a_gateway_that_does_not_hold_the_lease_writes_no_connection() -> None:
    async with (
        running_lab() as first,
        running_lab(kube=first.kube.another_client(), clock=first.clock, identity="gateway-2") as second,
    ):
        await second.declare("leaf-1")
        await second.report("leaf-1", await second.running("leaf-1"), then_s=2)
        assert "AgentConnected" not in conditions(second.process("leaf-1"))
        assert conditions(second.process("leaf-1"))["ProcessStarted"] == "True"
        assert "status" not in second.switch("leaf-1") or not conditions(second.switch("leaf-1"))


async def test_a_gateway_that_takes_over_knows_the_devices_that_it_heard() -> None:
    async with AsyncExitStack() as stack:
        async with running_lab() as first:
            kube = first.kube.another_client()
            second = await stack.enter_async_context(running_lab(kube=kube, clock=first.clock, identity="gateway-2"))
            await second.declare("leaf-1")
            await second.report("leaf-1", await second.running("leaf-1"))
        await second.clock.advance(5)
        assert second.value("arbiter") == 1
        assert conditions(second.process("leaf-1"))["AgentConnected"] == "True"
        assert conditions(second.switch("leaf-1"))["AgentConnected"] == "True"


async def test_an_apiserver_outage_disconnects_no_device(lab: GatewayLab) -> None:
    await heartbeats(lab, 90, "leaf-1")
    lab.kube.unreachable = True
    await lab.clock.advance(600)
    lab.kube.heal()
    await lab.clock.advance(30)
    await heartbeats(lab, 120, "leaf-1")
    assert conditions(lab.switch("leaf-1"))["AgentConnected"] == "True"
    reasons = [event["reason"] for event in lab.kube.objects(EVENTS).values()]
    assert "AgentDisconnected" not in reasons


async def fleet_of(lab: GatewayLab, devices: int) -> list[str]:
    """Declare devices of one site, and let all of them live."""
    names = [f"leaf-{number}" for number in range(devices)]
    for name in names:
        await lab.kube.create(NETWORK_SWITCHES, "lab", switch_object(name, site="a"))
        await lab.kube.create(DEVICE_PROCESSES, "lab", process_object(name))
    await lab.clock.settle()
    await heartbeats(lab, 60, *names)
    return names


def storms(lab: GatewayLab) -> list[str]:
    events = sorted(lab.kube.objects(EVENTS).values(), key=lambda event: str(event["eventTime"]))
    return [
        each
        for each in (event["reason"] for event in events)
        if each in ("ManyAgentsSilent", "StormOver", "AgentDisconnected")
    ]


def said(obj: dict[str, Any]) -> tuple[str, str]:
    found = next(each for each in obj["status"]["conditions"] if each["type"] == "AgentConnected")
    return found["status"], found["reason"]


@pytest.mark.parametrize("devices", [6, 60])
async def test_a_storm_is_one_event_and_no_write_until_it_lasts(devices: int) -> None:
    async with running_lab() as lab:
        names = await fleet_of(lab, devices)
        await heartbeats(lab, 30, "leaf-0")
        before = lab.value("status_writes_total", outcome="written")
        await heartbeats(lab, 45, "leaf-0")
        assert lab.value("status_writes_total", outcome="written") == before
        assert storms(lab) == ["ManyAgentsSilent"]
        assert lab.value("observer_suspect") == 1
        for _ in range(40):
            count = lab.value("status_writes_total", outcome="written")
            await lab.report("leaf-0")
            await lab.clock.advance(1)
            assert lab.value("status_writes_total", outcome="written") - count <= 50
        assert {said(lab.process(name)) for name in names[1:]} == {("False", "SilentInStorm")}
        assert {said(lab.switch(name)) for name in names[1:]} == {("False", "SilentInStorm")}
        assert sorted(storms(lab)) == ["ManyAgentsSilent", "StormOver"]
        await heartbeats(lab, 15, *names)
        assert {said(lab.process(name)) for name in names} == {("True", "HeartbeatReceived")}


async def test_a_fleet_of_which_no_device_is_heard_is_unknown_and_so_after_a_takeover() -> None:
    async with running_lab() as lab:
        names = await fleet_of(lab, 6)
        await lab.clock.advance(120)
        assert {said(lab.process(name)) for name in names} == {("Unknown", "FleetSilent")}
        assert {lab.process(name)["status"]["phase"] for name in names} == {"Unknown"}
    async with running_lab(kube=lab.kube, clock=lab.clock) as lab:
        await heartbeats(lab, 240, *names[:5])
        assert said(lab.switch("leaf-0")) == ("True", "HeartbeatReceived")
        assert said(lab.switch("leaf-5"))[0] == "False"


async def test_the_lease_is_released_at_shutdown() -> None:
    async with running_lab() as lab:
        await lab.clock.advance(1)
        assert lab.kube.objects(LEASES)[Key("lab", "praetor-gateway-arbiter")]["spec"]["holderIdentity"] == "gateway-1"
        assert lab.value("arbiter") == 1
    assert lab.kube.objects(LEASES)[Key("lab", "praetor-gateway-arbiter")]["spec"]["holderIdentity"] == ""


def absence(obj: Mapping[str, Any]) -> tuple[str, str]:
    [found] = [each for each in obj["status"]["conditions"] if each["type"] == "AgentConnected"]
    return found["status"], found["reason"]


@pytest.mark.parametrize("kind", DeviceKind)
async def test_a_device_that_was_never_heard_says_so_within_ten_seconds_and_not_once_it_is(kind: DeviceKind) -> None:
    async with running_lab() as lab:
        await lab.clock.advance(20)
        await lab.declare("leaf-1")
        await lab.declare("leaf-2", switch=False, deviceRef={"kind": kind, "name": "leaf-2"})
        await lab.clock.advance(10)
        assert absence(lab.switch("leaf-1")) == ("Unknown", "NeverConnected")
        assert absence(lab.process("leaf-1")) == ("Unknown", "NeverConnected")
        assert absence(lab.process("leaf-2")) == ("Unknown", "NotDeclared")
        assert [lab.process(name)["status"]["phase"] for name in ("leaf-1", "leaf-2")] == ["Pending", "Pending"]
        before = len(lab.kube.requests)
        await lab.clock.advance(60)
        assert not [each for each in lab.kube.requests[before:] if each.subresource == "status"]
        await lab.kube.create(DEVICES[kind], "lab", switch_object("leaf-2", kind=kind))
        await lab.clock.advance(10)
        assert absence(lab.process("leaf-2")) == ("Unknown", "NeverConnected")
        for device, declared in (("leaf-1", DeviceKind.NETWORK_SWITCH), ("leaf-2", kind)):
            await lab.report(device, then_s=5)
            switch = lab.kube.objects(DEVICES[declared])[Key("lab", device)]
            assert absence(lab.process(device)) == absence(switch) == ("True", "HeartbeatReceived")


async def test_a_device_that_connects_soon_never_says_that_it_did_not() -> None:
    async with running_lab() as lab:
        await lab.clock.advance(20)
        await lab.declare("leaf-1")
        await lab.clock.advance(2)
        writes = sum(each.subresource == "status" for each in lab.kube.requests)
        await lab.report("leaf-1", await lab.running("leaf-1"), then_s=20)
        assert absence(lab.process("leaf-1"))[0] == "True"
        assert sum(each.subresource == "status" for each in lab.kube.requests) <= writes + 3  # process, switch, counts

# SPDX-License-Identifier: Apache-2.0
"""A status that is not what the device reported last is corrected: other replicas, backups, users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway_testing import GatewayLab, conditions, running_lab, writes
from kube_testing import InProcessKube
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES, Key

KEY = Key("lab", "agent-leaf-1")


@asynccontextmanager
async def two_replicas() -> AsyncIterator[tuple[GatewayLab, GatewayLab, dict[str, Any]]]:
    """Yield a replica that leads, another one, and an observation that a device reported to both: all is well."""
    async with (
        running_lab() as first,
        running_lab(first.kube.another_client(), first.clock, identity="gateway-2") as second,
    ):
        await first.declare("leaf-1")
        good = await first.running("leaf-1")
        for lab in (first, second):
            await lab.report("leaf-1", good, agentVersion="1", bootID="b", facts={"os": "old"})
        await first.clock.advance(5)
        assert not await beat(first, good)
        assert not await beat(second, good)
        yield first, second, good


@asynccontextmanager
async def reported_to(**identity: Any) -> AsyncIterator[tuple[GatewayLab, dict[str, Any]]]:
    """Yield a gateway and an observation that a device reported to it 5 s ago: all is well."""
    async with running_lab(devices=["leaf-1"]) as lab:
        good = await lab.running("leaf-1")
        await lab.report("leaf-1", good, **identity, then_s=5)
        yield lab, good


async def beat(lab: GatewayLab, *seen: dict[str, Any], version: str = "1", system: str = "old") -> bool:
    """Send a heartbeat, and on a resync request all observations; return whether there was one."""
    await lab.clock.advance(5)
    asked: bool = (await lab.report("leaf-1", agentVersion=version, bootID="b"))["resync"]
    if asked:
        await lab.report("leaf-1", *seen, agentVersion=version, bootID="b", facts={"os": system})
    await lab.clock.advance(5)
    return asked


def status_writes(lab: GatewayLab) -> int:
    return [request.subresource for request in lab.kube.requests].count("status")


async def test_an_old_report_that_is_written_late_is_corrected() -> None:
    async with two_replicas() as (first, second, good):
        first.kube.fail_next(api_error(500), verb="patch", resource=DEVICE_PROCESSES)
        await first.report("leaf-1", {**good, "healthy": False}, agentVersion="1", bootID="b")
        await second.report("leaf-1", good, agentVersion="1", bootID="b")
        await first.clock.advance(5)
        assert conditions(first.process("leaf-1"))["Healthy"] == "False"
        assert await beat(second, good)
        assert conditions(first.process("leaf-1"))["Healthy"] == "True"


async def test_an_old_report_that_is_written_late_is_corrected_through_the_replica_that_wrote_it() -> None:
    async with two_replicas() as (first, second, good):
        first.kube.fail_next(api_error(500), verb="patch", resource=DEVICE_PROCESSES, times=1000)
        await first.report("leaf-1", {**good, "healthy": False}, agentVersion="1", bootID="b")
        await second.report("leaf-1", {**good, "pid": 43}, agentVersion="1", bootID="b")
        await first.clock.advance(0.5)
        assert first.process("leaf-1")["status"]["pid"] == 43
        assert conditions(first.process("leaf-1"))["Healthy"] == "True"
        first.kube.heal()
        await first.clock.advance(10)
        assert conditions(first.process("leaf-1"))["Healthy"] == "False"
        assert await beat(first, {**good, "pid": 43})
        assert conditions(first.process("leaf-1"))["Healthy"] == "True"
        assert first.process("leaf-1")["status"]["pid"] == 43


async def test_a_report_that_conflicts_with_another_replica_requests_a_resync() -> None:
    async with two_replicas() as (first, second, good):
        first.kube.silence_watches()
        await second.report("leaf-1", {**good, "pid": 43}, agentVersion="1", bootID="b")
        await first.clock.advance(1)
        await first.report("leaf-1", {**good, "healthy": False}, agentVersion="1", bootID="b", then_s=1)
        assert first.value("status_writes_total", outcome="conflict") == 1
        assert conditions(first.process("leaf-1"))["Healthy"] == "False"
        assert await beat(first, {**good, "pid": 43})
        assert conditions(first.process("leaf-1"))["Healthy"] == "True"


async def test_replicas_stop_requesting_resyncs_once_they_agree() -> None:
    async with two_replicas() as (first, second, good):
        first.kube.fail_next(api_error(500), verb="patch", resource=DEVICE_PROCESSES)
        await first.report("leaf-1", {**good, "healthy": False}, agentVersion="1", bootID="b")
        await second.report("leaf-1", {**good, "pid": 44}, agentVersion="1", bootID="b")
        for lab in (second, first, second, first):
            await beat(lab, {**good, "pid": 44})
        status, before = first.process("leaf-1")["status"], writes(first, second)
        for lab in (first, second) * 5:
            assert not await beat(lab, {**good, "pid": 44})
        assert conditions(first.process("leaf-1"))["Healthy"] == "True"
        assert first.process("leaf-1")["status"] == status
        assert writes(first, second) == before


async def test_a_changed_connection_requests_no_resync() -> None:
    async with two_replicas() as (first, second, good):
        await first.clock.advance(120)
        assert conditions(first.process("leaf-1"))["AgentConnected"] == "False"
        assert not await beat(second, good)
        assert not await beat(first, good)
        assert conditions(first.process("leaf-1"))["AgentConnected"] == "True"
        assert not await beat(second, good)


class LateAnswers(InProcessKube):
    """Sends the echo of a write before its answer, as a network may."""

    async def patch(self, *args: Any, **options: Any) -> dict[str, Any]:
        answer = await super().patch(*args, **options)
        for _ in range(20):
            await asyncio.sleep(0)
        return answer


async def test_our_own_write_requests_no_resync_even_if_its_echo_comes_before_its_answer() -> None:
    async with (
        running_lab() as world,
        running_lab(LateAnswers(world.clock, plane=world.kube.plane), world.clock) as lab,
    ):
        await lab.declare("leaf-1")
        good = await lab.running("leaf-1")
        for step in ({"processStarted": False, "healthy": None, "pid": None}, {}, {"healthy": False}, {}):
            assert not (await lab.report("leaf-1", {**good, **step}, facts={"os": "old"}))["resync"]
            await lab.clock.advance(5)
            assert not await beat(lab, good)
        assert lab.value("status_writes_total", outcome="written") > 4


async def test_a_status_that_a_user_changed_is_corrected() -> None:
    async with reported_to() as (lab, good):
        other = {"type": "Audited", "status": "True", "reason": "Done", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        said = lab.process("leaf-1")["status"]["conditions"]
        await lab.kube.patch(DEVICE_PROCESSES, KEY, {"status": {"conditions": [*said, other]}}, subresource="status")
        assert not await beat(lab, good)
        await lab.kube.patch(DEVICE_PROCESSES, KEY, {"status": {"pid": 7}}, subresource="status")
        assert await beat(lab, good)
        assert lab.process("leaf-1")["status"]["pid"] == 42
        assert conditions(lab.process("leaf-1"))["Audited"] == "True"


async def test_a_connection_that_another_client_wrote_is_corrected_with_one_write() -> None:
    async with reported_to(agentVersion="1", bootID="b") as (lab, _):
        await lab.clock.advance(15)
        await lab.report("leaf-1", agentVersion="1", bootID="b")
        before = status_writes(lab)
        other = lab.kube.another_client()
        for resource, key in ((NETWORK_SWITCHES, Key("lab", "leaf-1")), (DEVICE_PROCESSES, KEY)):
            said = lab.kube.objects(resource)[key]["status"]["conditions"]
            wrong = [each | ({"status": "False"} if each["type"] == "AgentConnected" else {}) for each in said]
            await other.patch(resource, key, {"status": {"conditions": wrong}}, subresource="status")
        await lab.clock.advance(5)
        assert conditions(lab.switch("leaf-1"))["AgentConnected"] == "True"
        assert conditions(lab.process("leaf-1"))["AgentConnected"] == "True"
        assert status_writes(lab) == before + 2


async def test_facts_are_requested_each_time_another_client_writes_them() -> None:
    async with reported_to(agentVersion="1", bootID="b", facts={"os": "old"}) as (lab, good):
        for foreign in ("y", "z"):
            switch = Key("lab", "leaf-1")
            await lab.kube.patch(NETWORK_SWITCHES, switch, {"status": {"facts": {"os": foreign}}}, subresource="status")
            await lab.clock.advance(1)
            await lab.kube.patch(NETWORK_SWITCHES, switch, {"metadata": {"labels": {"site": foreign}}})
            await lab.clock.advance(1)
            assert await beat(lab, good)
            assert lab.switch("leaf-1")["status"]["facts"] == {"os": "old"}


async def test_old_facts_are_not_written_over_newer_ones_of_another_replica() -> None:
    async with two_replicas() as (first, second, good):
        newer: dict[str, Any] = {"agentVersion": "2", "bootID": "b", "facts": {"os": "new"}}
        await second.report("leaf-1", good, **newer)
        await first.clock.advance(5)
        await first.kube.delete(DEVICE_PROCESSES, KEY)  # makes the leader write the counts
        await first.clock.advance(10)
        status = first.switch("leaf-1")["status"]
        assert status["processes"]["desired"] == 0
        assert {name: status[name] for name in newer} == newer
        assert await beat(first, version="2", system="new")
        assert not await beat(first, version="2", system="new")


async def test_after_a_restore_from_a_backup_the_restored_spec_is_served_and_reported() -> None:
    async with reported_to(agentVersion="1", bootID="b", facts={"os": "old"}) as (lab, good):
        await lab.clock.advance(15)  # the counts, too, are written
        lab.kube.rewind(1)
        await lab.kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"restartPolicy": "Never"}})
        await lab.kube.patch(DEVICE_PROCESSES, KEY, {"status": None}, subresource="status")
        await lab.kube.patch(NETWORK_SWITCHES, Key("lab", "leaf-1"), {"status": None}, subresource="status")
        lab.kube.send_bookmarks()
        await lab.clock.advance(5)
        assert (await lab.desired("leaf-1"))["items"][0]["spec"]["restartPolicy"] == "Never"
        good = await lab.running("leaf-1")
        assert await beat(lab, good)
        assert lab.process("leaf-1")["status"]["phase"] == "Running"
        assert lab.switch("leaf-1")["status"]["facts"] == {"os": "old"}
        assert not await beat(lab, good)
        assert lab.value("status_writes_total", outcome="conflict") == 0


async def test_a_restore_that_no_watch_reports_costs_one_conflict_an_object() -> None:
    async with reported_to(agentVersion="1", bootID="b") as (lab, good):
        lab.kube.silence_watches()
        lab.kube.rewind(1)
        await lab.kube.patch(DEVICE_PROCESSES, KEY, {"metadata": {"labels": {"restored": "yes"}}})
        await lab.kube.patch(NETWORK_SWITCHES, Key("lab", "leaf-1"), {"metadata": {"labels": {"restored": "yes"}}})
        await lab.report("leaf-1", {**good, "pid": 43}, agentVersion="2", bootID="b", then_s=5)
        assert lab.process("leaf-1")["status"]["pid"] == 43
        assert lab.switch("leaf-1")["status"]["agentVersion"] == "2"
        assert lab.value("status_writes_total", outcome="conflict") == 2


async def test_a_device_that_a_restored_cluster_does_not_have_is_not_served_for_long() -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        backup = lab.kube.version
        await lab.declare("ghost")
        assert (await lab.desired("ghost"))["items"]
        other = lab.kube.another_client()
        lab.kube.silence_watches()  # they are from a version that does not exist yet
        await other.delete(DEVICE_PROCESSES, Key("lab", "agent-ghost"))
        await other.delete(NETWORK_SWITCHES, Key("lab", "ghost"))
        lab.kube.rewind(backup)
        await lab.clock.advance(150)
        assert (await lab.desired("ghost"))["items"] == []
        assert (await lab.desired("leaf-1"))["items"]
        await other.patch(DEVICE_PROCESSES, KEY, {"spec": {"restartPolicy": "Never"}})
        await lab.clock.advance(1)
        assert (await lab.desired("leaf-1"))["items"][0]["spec"]["restartPolicy"] == "Never"

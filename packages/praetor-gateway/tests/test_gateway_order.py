# SPDX-License-Identifier: Apache-2.0
"""The newest report of a device is the one on record, in whatever order, and through whichever replica reports come."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway_testing import Agent, GatewayLab, conditions, deliver, replicas, running_lab, writes
from kube_testing import InProcessKube
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import DEVICE_PROCESSES, EVENTS, NETWORK_SWITCHES
from praetor_api.kube.objects import Reported
from praetor_gateway.fleet.order import UNORDERED, ReportOrder, advanced, is_behind, is_late, supersedes

BEAT_S = 15.0


def order_of(lab: GatewayLab) -> dict[str, Any] | None:
    reported: dict[str, Any] | None = lab.process("leaf-1")["status"].get("reported")
    return reported


@pytest.mark.parametrize("through", [0, 1], ids=["the-same-replica", "another-replica"])
@pytest.mark.parametrize("delay_s", [0.0, 5.0, 90.0], ids=["at-once", "when-written", "after-minutes"])
@pytest.mark.parametrize("reboots", [False, True], ids=["one-boot", "next-boot"])
async def test_a_report_that_arrives_late_changes_nothing(reboots: bool, delay_s: float, through: int) -> None:
    async with replicas() as (labs, agent):
        await agent.report(labs[0])
        agent.change()
        late = agent.body()
        agent.reboot("boot-2") if reboots else agent.change()
        await agent.report(labs[0])
        await labs[0].clock.advance(delay_s)
        await deliver(labs[through], late)
        await labs[0].clock.advance(5)
        status = labs[0].process("leaf-1")["status"]
        assert (status["pid"], status["reported"]["bootID"]) == (agent.pid, agent.boot)
        switch = labs[0].switch("leaf-1")["status"]
        assert (switch["bootID"], switch["facts"]) == (agent.boot, {"os": agent.boot})


async def test_the_order_is_written_with_the_change_and_alone_only_when_nothing_else_moved() -> None:
    async with replicas() as (labs, agent):
        await agent.report(labs[0])
        await labs[0].clock.advance(10)
        before = writes(*labs)
        agent.change()
        await agent.report(labs[1])
        await labs[0].clock.advance(10)
        assert order_of(labs[0]) == {"bootID": "boot-1", "revision": 101}
        assert writes(*labs) == before + 1
        agent.revision += 2  # it changed and changed back
        await agent.report(labs[0])
        await labs[0].clock.advance(10)
        assert order_of(labs[0]) == {"bootID": "boot-1", "revision": 103}
        assert writes(*labs) == before + 2
        agent.reboot("boot-2")
        await agent.report(labs[1])
        await labs[0].clock.advance(10)
        assert order_of(labs[0]) == {"bootID": "boot-2", "previousBootID": "boot-1", "revision": 100}


async def test_an_hour_of_unchanged_heartbeats_through_two_replicas_costs_no_write() -> None:
    async with replicas() as (labs, agent):
        for lab in labs:
            await agent.report(lab)
            await lab.clock.advance(BEAT_S)
        before = writes(*labs)
        for number in range(int(3600 / BEAT_S)):
            assert not await agent.report(labs[number % 2])
            await labs[0].clock.advance(BEAT_S)
        assert writes(*labs) == before


async def test_agents_that_count_no_revisions_are_taken_as_ever() -> None:
    async with replicas() as (labs, agent):
        old = {"bootID": "b", "agentVersion": "0", "facts": {"os": "x"}}
        for pid, lab in ((5, labs[0]), (6, labs[1]), (5, labs[0])):
            await deliver(lab, {**old, "observations": [{**agent.item, "pid": pid}]})
            await lab.clock.advance(5)
            assert labs[0].process("leaf-1")["status"]["pid"] == pid
        assert order_of(labs[0]) is None
        assert "reported" not in labs[0].switch("leaf-1")["status"]


class EarlierDefinitions(InProcessKube):
    """Drops the order of reports from a status, as the API does by CRDs that do not know it."""

    def another_client(self) -> InProcessKube:
        return EarlierDefinitions(self._clock, plane=self.plane)

    async def patch(self, resource: Any, key: Any, body: Any, **options: Any) -> dict[str, Any]:
        status = {name: value for name, value in (body.get("status") or {}).items() if name != "reported"}
        return await super().patch(resource, key, {**body, "status": status} if "status" in body else body, **options)


async def test_with_definitions_that_do_not_know_the_order_nothing_is_written_again() -> None:
    async with running_lab() as world, replicas(2, EarlierDefinitions(world.clock)) as (labs, agent):
        clock = labs[0].clock
        await agent.report(labs[0])
        await clock.advance(BEAT_S)
        await agent.report(labs[1])
        await clock.advance(BEAT_S)
        before = writes(*labs)
        for number in range(30):
            await agent.report(labs[number % 2])
            await clock.advance(BEAT_S)
        assert writes(*labs) <= before + 2  # one attempt a replica, should they have been upgraded
        agent.change()
        await agent.report(labs[0])
        await clock.advance(5)
        assert labs[0].process("leaf-1")["status"]["pid"] == agent.pid


async def test_what_a_replica_acknowledged_and_did_not_write_is_requested_by_the_next_one() -> None:
    async with replicas() as (labs, agent):
        for lab in labs:
            await agent.report(lab)
            await lab.clock.advance(5)
        labs[0].kube.fail_next(api_error(500), verb="patch", resource=DEVICE_PROCESSES, times=10_000)
        labs[0].kube.fail_next(api_error(500), verb="patch", resource=NETWORK_SWITCHES, times=10_000)
        agent.change()
        agent.facts_revision += 1
        await deliver(labs[0], {**agent.body(), "facts": {"os": "new"}})
        agent._acked = agent.revision
        await labs[0].clock.advance(BEAT_S)  # the first replica is dead now
        asked = await agent.report(labs[1])
        await labs[0].clock.advance(5)
        assert asked
        assert labs[0].process("leaf-1")["status"]["pid"] == agent.pid
        assert labs[0].switch("leaf-1")["status"]["reported"]["revision"] == agent.facts_revision
        assert not await agent.report(labs[1])
        labs[0].kube.heal()


async def test_a_device_that_never_agrees_with_its_record_is_asked_once_a_minute() -> None:
    async with replicas(1) as (labs, agent):
        await agent.report(labs[0])
        await labs[0].clock.advance(5)
        beat = {"agentVersion": "1", "bootID": agent.boot, "revision": 100, "reported": 10**6}
        asked = 0
        for _ in range(40):
            if (await deliver(labs[0], beat))["resync"]:
                asked += 1
                agent._acked = 0
                await deliver(labs[0], {**agent.body(), "facts": {"os": agent.boot}})
            await labs[0].clock.advance(BEAT_S)
        assert asked == 10


@pytest.mark.parametrize("count", [1, 2], ids=["one-replica", "a-replica-each"])
async def test_two_agents_with_one_name_are_reported_until_one_is_alone(count: int) -> None:
    async with replicas(count) as (labs, agent):
        clone = Agent({**agent.item}, boot="boot-2", pid=50)
        for _ in range(16):
            await agent.report(labs[0])
            await clone.report(labs[-1])
            await labs[0].clock.advance(BEAT_S)
        switch = labs[0].switch("leaf-1")
        assert conditions(switch)["Duplicate"] == "True"
        (said,) = [each for each in switch["status"]["conditions"] if each["type"] == "Duplicate"]
        assert "boot-1 and boot-2" in said["message"]
        assert any(event["reason"] == "DeviceDuplicate" for event in labs[0].kube.objects(EVENTS).values())
        for _ in range(30):
            await agent.report(labs[0])
            await labs[0].clock.advance(BEAT_S)
        assert conditions(labs[0].switch("leaf-1"))["Duplicate"] == "False"
        assert order_of(labs[0]) == {"bootID": "boot-1", "previousBootID": "boot-2", "revision": agent.revision}


async def test_a_reboot_and_a_late_report_are_no_duplicate() -> None:
    async with replicas() as (labs, agent):
        await agent.report(labs[0])
        await labs[0].clock.advance(5)
        late = agent.body()
        agent.reboot("boot-2")
        for number in range(8):
            await agent.report(labs[number % 2])
            if number < 3:
                await deliver(labs[(number + 1) % 2], late)
            await labs[0].clock.advance(BEAT_S)
        assert "Duplicate" not in conditions(labs[0].switch("leaf-1"))
        assert order_of(labs[0]) == {"bootID": "boot-2", "previousBootID": "boot-1", "revision": 100}


async def test_a_report_of_the_boot_before_the_last_is_corrected_within_minutes() -> None:
    async with replicas() as (labs, agent):
        await agent.report(labs[0])
        oldest = agent.body() | {"observations": [{**agent.item, "pid": 1, "revision": 100}]}
        for boot in ("boot-2", "boot-3"):
            agent.reboot(boot)
            await agent.report(labs[0])
            await labs[0].clock.advance(5)
        await deliver(labs[1], oldest)
        for number in range(12):
            await labs[0].clock.advance(BEAT_S)
            await agent.report(labs[number % 2])
        await labs[0].clock.advance(5)
        assert labs[0].process("leaf-1")["status"]["pid"] == agent.pid


@pytest.mark.parametrize("error", [api_error(404, "NotFound"), api_error(422, "Invalid")], ids=["gone", "refused"])
async def test_an_observation_that_arrives_while_a_write_is_refused_is_written(error: Exception) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    class Refusing(InProcessKube):
        async def patch(self, resource: Any, *args: Any, **options: Any) -> dict[str, Any]:
            if resource is DEVICE_PROCESSES and not go_on.is_set():
                arrived.set()
                await go_on.wait()
                raise error
            return await super().patch(resource, *args, **options)

    async with running_lab() as world, replicas(1, Refusing(world.clock)) as (labs, agent):
        await agent.report(labs[0])
        await labs[0].clock.advance(1)
        await arrived.wait()
        agent.change()
        await agent.report(labs[0])
        go_on.set()
        await labs[0].clock.advance(5)
        assert labs[0].process("leaf-1")["status"]["pid"] == agent.pid


Step = tuple[str, int, float]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["report", "late", "lost", "change", "reboot"]), st.integers(0, 1), st.floats(0, 40)),
        max_size=14,
    )
)
def test_whatever_order_replica_and_boot_the_newest_report_is_on_record_in_the_end(steps: list[Step]) -> None:
    asyncio.run(_deliver_in_order(steps))


async def _deliver_in_order(steps: list[Step]) -> None:
    async with replicas() as (labs, agent):
        clock, boots, under_way = labs[0].clock, 1, list[tuple[float, dict[str, Any]]]()
        for kind, replica, delay_s in steps:
            if kind == "change":
                agent.change()
            elif kind == "reboot":
                boots += 1
                agent.reboot(f"boot-{boots}")
            elif kind == "lost":  # it may arrive within a minute
                under_way.append((clock.monotonic() + 55.0, agent.body()))
            elif kind == "late":
                for until, body in under_way:
                    if clock.monotonic() <= until:
                        await deliver(labs[replica], body)
                under_way.clear()
            else:
                await agent.report(labs[replica])
            await clock.advance(delay_s)
        for number in range(14):
            await agent.report(labs[number % 2])
            await clock.advance(BEAT_S)
        status, switch = labs[0].process("leaf-1")["status"], labs[0].switch("leaf-1")["status"]
        assert (status["pid"], status["reported"]["bootID"]) == (agent.pid, agent.boot)
        assert (switch["bootID"], switch["facts"]["os"]) == (agent.boot, agent.boot)


def at(boot: str = "b", revision: int | None = 5, *, goes_on: bool = False) -> ReportOrder:
    return ReportOrder(boot, revision, goes_on)


def on_record(boot: str = "b", previous: str | None = "a", revision: int | None = 5) -> Reported:
    return Reported(boot_id=boot, previous_boot_id=previous, revision=revision)


@pytest.mark.parametrize(
    ("known", "order", "late", "then"),
    [
        pytest.param(None, at(), False, on_record(previous=None), id="first"),
        pytest.param(None, at(revision=None), False, None, id="first-without-a-revision"),
        pytest.param(on_record(), UNORDERED, False, on_record(), id="without-a-boot"),
        pytest.param(on_record(), at(revision=4), True, on_record(revision=4), id="older"),
        pytest.param(on_record(), at(), False, on_record(), id="the-same-again"),
        pytest.param(on_record(), at(revision=6), False, on_record(revision=6), id="newer"),
        pytest.param(on_record(), at(revision=None), False, on_record(), id="of-an-earlier-agent"),
        pytest.param(on_record(revision=None), at(), False, on_record(), id="after-an-earlier-agent"),
        pytest.param(on_record(), at("c", 1), False, on_record("c", "b", 1), id="next-boot"),
        pytest.param(on_record(), at("a", 9), True, on_record("a", "b", 9), id="previous-boot"),
        pytest.param(on_record(), at("a", 9, goes_on=True), False, on_record("a", "b", 9), id="previous-boot-goes-on"),
    ],
)
def test_the_order_of_reports(known: Reported | None, order: ReportOrder, late: bool, then: Reported | None) -> None:
    assert is_late(known, order) is late
    assert advanced(known, order) == then


def test_a_record_is_behind_if_it_lacks_the_boot_or_the_revision() -> None:
    assert [is_behind(known, "b", 5) for known in (None, on_record("a"), on_record(revision=4), on_record())] == [
        True, True, True, False,
    ]  # fmt: skip
    assert not is_behind(None, "", None)
    assert not is_behind(None, "b", None)


def test_a_record_supersedes_what_was_reported_before_it() -> None:
    assert supersedes(on_record(), on_record(revision=4))
    assert supersedes(on_record(), on_record("a", None, 9))
    assert not supersedes(on_record(), on_record("a", "b", 9))
    assert not supersedes(None, on_record())
    assert not supersedes(on_record(), None)

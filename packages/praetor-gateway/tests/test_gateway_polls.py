# SPDX-License-Identifier: Apache-2.0
"""A poll is a sign of life: devices that have nothing to report only poll, through whichever replica."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway_testing import Agent, Answer, GatewayLab, conditions, replicas, running_lab, writes
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import DEVICE_PROCESSES, NETWORK_SWITCHES
from praetor_gateway.fleet.order import Poll
from praetor_gateway.fleet.session import MAX_ASKS
from praetor_gateway.reports.handler import MAX_WRITE_DELAY_S
from praetor_gateway.reports.heartbeats import read_poll
from test_gateway_order import EarlierDefinitions
from test_gateway_peers import PeerNetwork

BEAT_S = 15.0


def is_connected(lab: GatewayLab) -> bool:
    return conditions(lab.switch("leaf-1")).get("AgentConnected") == "True"


def counted(answer: Answer) -> bool:
    """Return whether a poll was taken as a heartbeat, as its answer says."""
    return "praetor-heartbeat-interval" in answer.headers


async def known_to(agent: Agent, *labs: GatewayLab) -> None:
    """Have the device report to all replicas, and each ask for nothing more."""
    for lab in labs:
        await agent.report(lab)
        await lab.clock.advance(10)


@pytest.mark.parametrize(
    ("poll", "reported", "expected"),
    [
        (b"b/7", None, Poll("b", 7)),
        (b"b/7", b"b/41.9", Poll("b", 7, 41, 9)),
        (b"b/7", b"b/41", Poll("b", 7, 41)),
        (b"b/7", b"c/41.9", Poll("b", 7)),
        (b"b/7", b"b/41.", Poll("b", 7)),
        (b"b/7", b"b/-1", Poll("b", 7)),
        (b"b/7, b/8", None, None),
        (b"/7", None, None),
        (b"b", None, None),
        (b"b/" + b"9" * 20, None, None),
        (b"b" * 65 + b"/1", None, None),
        (b"\xe9/1", None, None),
        (None, b"b/41", None),
    ],
)
def test_what_a_poll_says(poll: bytes | None, reported: bytes | None, expected: Poll | None) -> None:
    assert read_poll(poll, reported) == expected


async def test_a_gateway_says_that_polls_are_heartbeats_and_when_the_next_one_is_due() -> None:
    async with replicas(1) as ([lab], agent):
        assert (await lab.desired("leaf-1"))["pollIsHeartbeat"] is True
        assert (await lab.report("leaf-1"))["pollIsHeartbeat"] is True
        known, fresh = await agent.poll(lab), await lab.client.get("/v1/devices/leaf-1/desired", Praetor_Poll="b/1")
        assert (known.status, fresh.status) == (304, 200)
        assert [answer.headers["praetor-heartbeat-interval"] for answer in (known, fresh)] == ["15", "15"]
        unknown = await lab.client.get("/v1/devices/leaf-9/desired", Praetor_Poll="b/1")
        assert unknown.headers["praetor-heartbeat-interval"] == "15"


async def test_an_agent_that_knows_the_first_version_alone_is_answered_as_ever() -> None:
    async with replicas(1) as ([lab], _):
        path, extra = "/v1/devices/leaf-1/desired", {"praetor-heartbeat-interval", "praetor-resync"}
        first = await lab.client.get(path)
        known = await lab.client.get(path, If_None_Match=first.headers["etag"])
        assert (known.status, known.body) == (304, b"")
        assert not extra & {*first.headers, *known.headers}
        for _ in range(12):  # it reports, as its manual says
            await lab.report("leaf-1", then_s=BEAT_S)
        assert is_connected(lab)


@pytest.mark.parametrize("count", [1, 2], ids=["one-replica", "a-replica-in-turn"])
async def test_a_quarter_of_an_hour_of_polls_keeps_a_device_connected_and_costs_no_write(count: int) -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        labs = [await network.start(f"gateway-{number}", stack) for number in range(count)]
        await labs[0].declare("leaf-1")
        agent = Agent(await labs[0].running("leaf-1"))
        await known_to(agent, *labs)
        before = writes(*labs)
        for number in range(int(900 / BEAT_S)):
            assert not await agent.live(labs[number % count])
            await network.clock.advance(BEAT_S)
            assert is_connected(labs[0])
        assert writes(*labs) == before
        await network.clock.advance(60)
        assert not is_connected(labs[0])


async def test_a_device_that_only_a_replica_hears_that_does_not_judge_stays_connected() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        judge, other = await network.start("judge", stack), await network.start("other", stack)
        await judge.declare("leaf-1")
        agent = Agent(await judge.running("leaf-1"))
        await known_to(agent, other)
        for _ in range(20):
            await agent.live(other)
            await network.clock.advance(BEAT_S)
            assert is_connected(judge)


async def test_a_poll_that_a_proxy_repeats_is_no_sign_of_life() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        await agent.live(lab)
        assert is_connected(lab)
        for _ in range(12):  # the device is dead
            answer = await agent.poll(lab, again=True)
            assert (answer.status, counted(answer)) == (304, False)
            await lab.clock.advance(5)
        assert not is_connected(lab)
        await agent.live(lab)
        await lab.clock.advance(5)
        assert is_connected(lab)


async def test_an_agent_that_counts_from_a_lower_number_lives_by_reports_until_it_counts_on() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        agent.polls = 10**19 - 2
        assert counted(await agent.poll(lab))
        agent.polls = 99  # its machine went back to a snapshot
        await lab.clock.advance(BEAT_S)
        for _ in range(6):
            assert not counted(await agent.poll(lab))
            await lab.clock.advance(5)
        assert is_connected(lab)
        await agent.report(lab)  # what an agent does whose polls are no heartbeats
        for _ in range(6):
            assert counted(await agent.poll(lab))
            await lab.clock.advance(BEAT_S)
            assert is_connected(lab)


async def test_a_report_between_lets_no_repeated_poll_count() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        assert counted(await agent.poll(lab))
        await agent.report(lab)
        assert not counted(await agent.poll(lab, again=True))


async def test_polls_of_two_boots_that_a_proxy_repeats_in_turn_are_no_sign_of_life() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        before = Agent(agent.item, polls=7)
        agent.boot, agent.polls = "boot-2", 8  # it booted; its report is on its way
        assert counted(await agent.poll(lab))
        for _ in range(2):
            assert counted(await before.poll(lab))
            assert counted(await agent.poll(lab))
        for _ in range(6):  # the device is dead
            assert not counted(await before.poll(lab, again=True))
            await lab.clock.advance(5)
            assert not counted(await agent.poll(lab, again=True))
            await lab.clock.advance(5)
        assert not is_connected(lab)


async def test_a_repeated_poll_of_a_boot_that_is_over_makes_no_other_poll_count_twice() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        late = Agent(agent.item, polls=50)
        agent.reboot("boot-2")
        await known_to(agent, lab)
        for _ in range(15):
            await late.poll(lab, again=True)
            assert not counted(await late.poll(lab, again=True))
            await agent.poll(lab, again=True)
            await lab.clock.advance(5)
        assert not is_connected(lab)


async def test_a_repeated_poll_of_an_agent_before_its_upgrade_takes_no_feature_from_the_new_one() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        key = next(iter(lab.kube.objects(DEVICE_PROCESSES)))
        await lab.kube.patch(
            DEVICE_PROCESSES,
            key,
            {
                "spec": {
                    "execution": {"reboot": "Expected"},
                    "restartPolicy": "Never",
                    "postCheck": {"command": ["true"]},
                }
            },
        )
        await lab.clock.advance(1)
        path, new = "/v1/devices/leaf-1/desired", {"Praetor-Features": "reboot.v1"}
        await lab.client.get(path, **{"Praetor-Poll": "boot-1/5"})
        served = await lab.client.get(path, **{"Praetor-Poll": "boot-1/6", **new})
        assert "spec" in served.json()["items"][0]
        for again in ({"Praetor-Features": "other.v1"}, {}):
            await lab.client.get(path, **{"Praetor-Poll": "boot-1/5", **again})
            assert lab.etag("leaf-1") == served.headers["etag"]


async def test_a_held_poll_counts_from_when_it_came() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        held = asyncio.ensure_future(agent.poll(lab, wait=55))
        await lab.clock.settle()
        await lab.clock.advance(40)
        assert is_connected(lab)
        await lab.clock.advance(15)
        assert not is_connected(lab)
        lab.gateway.drain()
        assert (await held).status == 304


async def lose(lab: GatewayLab, agent: Agent) -> None:
    """Have the device report to *lab*, which is killed before it writes that."""
    lab.kube.fail_next(api_error(500), verb="patch", resource=DEVICE_PROCESSES, times=10_000)
    lab.kube.fail_next(api_error(500), verb="patch", resource=NETWORK_SWITCHES, times=10_000)
    await agent.report(lab)
    agent._acked, agent._knows_facts = agent.revision, True


@pytest.mark.parametrize("what", ["an observation", "facts"])
async def test_what_a_replica_acknowledged_and_did_not_write_is_on_record_within_a_minute(what: str) -> None:
    async with replicas() as (labs, agent):
        await known_to(agent, *labs)
        dead, alive = labs
        if what == "facts":
            agent.facts_revision += 1
            agent._knows_facts = False
        agent.change()
        await lose(dead, agent)
        took_s, asked = 0.0, 0
        while took_s < 55:
            asked += await agent.live(alive)
            await alive.clock.advance(BEAT_S)
            took_s += BEAT_S
        assert asked == 1
        assert alive.process("leaf-1")["status"]["pid"] == agent.pid
        assert alive.switch("leaf-1")["status"]["reported"]["revision"] == agent.facts_revision
        dead.kube.heal()


async def test_a_held_poll_ends_when_a_record_was_behind_for_too_long() -> None:
    async with replicas() as (labs, agent):
        await known_to(agent, *labs)
        dead, alive = labs
        agent.change()
        await lose(dead, agent)
        assert "praetor-resync" not in (await agent.poll(alive)).headers
        await alive.clock.advance(MAX_WRITE_DELAY_S - 0.5)
        held = asyncio.ensure_future(agent.poll(alive, wait=55))
        await alive.clock.settle()
        await alive.clock.advance(1)
        assert (await held).headers["praetor-resync"] == "1"
        dead.kube.heal()


async def test_what_was_missing_of_an_earlier_boot_hastens_no_question_to_the_next_one() -> None:
    async with replicas() as (labs, agent):
        await known_to(agent, *labs)
        dead, alive = labs
        agent.change()
        await lose(dead, agent)
        assert not asks(await agent.poll(alive))
        agent.reboot("boot-2")
        await agent.report(alive)
        await alive.clock.advance(BEAT_S)
        assert not asks(await agent.poll(alive))
        agent.change()
        await lose(dead, agent)
        assert not asks(await agent.poll(alive))  # it may be written yet
        await alive.clock.advance(MAX_WRITE_DELAY_S)
        assert asks(await agent.poll(alive))
        dead.kube.heal()


async def test_a_report_that_is_written_late_is_not_asked_for_again() -> None:
    async with replicas() as (labs, agent):
        await known_to(agent, *labs)
        for _ in range(8):  # there is always one on its way
            agent.change()
            await agent.report(labs[0])
            assert not await agent.live(labs[1])
            await labs[0].clock.advance(MAX_WRITE_DELAY_S / 2)


async def test_a_gateway_that_starts_asks_each_device_a_few_times_if_it_reports_elsewhere() -> None:
    async with replicas() as (labs, agent):
        first, second = labs
        await known_to(agent, first)
        before = writes(*labs)
        asked = []
        for _ in range(8):  # it has heard nothing yet
            asked.append(await agent.live(second, first))
            await first.clock.advance(BEAT_S)
        assert asked == [True] * MAX_ASKS + [False] * (8 - MAX_ASKS)
        assert writes(*labs) == before


async def test_what_a_gateway_asks_for_is_answered_at_once_and_once() -> None:
    async with replicas() as (labs, agent):
        await known_to(agent, labs[0])
        assert (await agent.poll(labs[1], wait=55)).headers["praetor-resync"] == "1"
        held = asyncio.ensure_future(agent.poll(labs[1], wait=55))
        await labs[1].clock.settle()
        assert not held.done()
        labs[1].gateway.drain()
        await held


async def test_a_status_that_another_client_changed_is_asked_for() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        await lose_status(lab)
        assert await agent.live(lab)
        await lab.clock.advance(5)
        assert lab.process("leaf-1")["status"]["pid"] == agent.pid
        assert not await agent.live(lab)


async def lose_status(lab: GatewayLab) -> None:
    """Have another client change the status of the process."""
    key = next(iter(lab.kube.objects(DEVICE_PROCESSES)))
    await lab.kube.another_client().patch(DEVICE_PROCESSES, key, {"status": {"pid": 999}}, subresource="status")
    await lab.clock.advance(1)


def asks(answer: Answer) -> bool:
    """Return whether the answer to a poll asks for everything."""
    return "praetor-resync" in answer.headers


@pytest.mark.parametrize("repeats", [False, True], ids=["lost", "lost-and-repeated-by-a-proxy"])
async def test_an_answer_that_asks_and_is_lost_is_given_again(repeats: bool) -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        await lose_status(lab)
        assert asks(await agent.poll(lab))
        if repeats:
            assert not asks(await agent.poll(lab, again=True))
        assert not asks(await agent.poll(lab))  # not again at once
        await lab.clock.advance(BEAT_S)
        assert asks(await agent.poll(lab))
        await agent.report(lab)
        await lab.clock.advance(BEAT_S)
        assert lab.process("leaf-1")["status"]["pid"] == agent.pid
        assert not asks(await agent.poll(lab))


async def test_what_asks_a_poll_that_was_overtaken_or_a_head_is_nothing() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        half_open = asyncio.ensure_future(agent.poll(lab, wait=20))
        await lab.clock.settle()
        await lose_status(lab)
        headers = {"Praetor-Poll": "boot-1/2", "Praetor-Reported": f"boot-1/{agent.revision}.{agent.facts_revision}"}
        headers["If-None-Match"] = lab.etag("leaf-1")
        assert not asks(await lab.client.request("HEAD", "/v1/devices/leaf-1/desired", headers=headers))
        agent.polls = 2
        assert asks(await agent.poll(lab))
        await lab.clock.advance(25)
        assert not asks(await half_open)
        for _ in range(2):
            assert asks(await agent.poll(lab))
            await lab.clock.advance(BEAT_S)


async def test_a_device_that_goes_to_report_to_another_replica_is_asked_once() -> None:
    async with replicas() as (labs, agent):
        first, second = labs
        await known_to(agent, first)
        assert asks(await agent.poll(second))
        agent._knows_facts = False  # it is about to report
        assert not asks(await agent.poll(second))
        await agent.report(first)
        for _ in range(5):
            await first.clock.advance(BEAT_S)
            assert not asks(await agent.poll(second))


async def test_with_definitions_that_do_not_know_the_order_a_device_is_not_asked_without_end() -> None:
    async with running_lab() as world, replicas(2, EarlierDefinitions(world.clock)) as (labs, agent):
        await known_to(agent, *labs)
        asked = 0
        for number in range(30):
            asked += await agent.live(labs[number % 2])
            await labs[0].clock.advance(BEAT_S)
        assert asked <= 4


async def test_a_poll_of_the_boot_before_is_no_sign_of_life() -> None:
    async with replicas(1) as ([lab], agent):
        await known_to(agent, lab)
        late = Agent(agent.item)
        late._acked, late._knows_facts, late.polls = late.revision, True, 50
        agent.reboot("boot-2")
        await known_to(agent, lab)
        for _ in range(9):
            assert not counted(await late.poll(lab))  # each of them was held up on the way
            await lab.clock.advance(5)
        assert not is_connected(lab)


async def test_two_devices_with_one_name_that_only_poll_are_found_until_one_is_alone() -> None:
    async with replicas(1) as ([lab], agent):
        clone = Agent({**agent.item}, boot="boot-2", pid=50)
        for each in (agent, clone):
            await known_to(each, lab)
        for _ in range(20):
            await agent.live(lab)
            await clone.live(lab)
            await lab.clock.advance(BEAT_S)
        assert conditions(lab.switch("leaf-1"))["Duplicate"] == "True"
        for _ in range(40):
            await agent.live(lab)
            await lab.clock.advance(BEAT_S)
        assert conditions(lab.switch("leaf-1"))["Duplicate"] == "False"
        assert is_connected(lab)

# SPDX-License-Identifier: Apache-2.0
"""Which generation a device fetched before it fell silent: what tells a death before an offer from one after it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway_testing import GatewayLab, one_device, process_object, running_lab
from kube_testing import FakeClock, InProcessKube
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key, Resource
from praetor_gateway.liveness import peers
from test_gateway_peers import PeerNetwork, beat

lab = pytest.fixture(one_device)
PROCESS = Key("lab", "agent-leaf-1")
DESIRED = "/v1/devices/leaf-1/desired"


async def offer(lab: GatewayLab, command: str = "v2") -> None:
    """Write another spec of the process of leaf-1, as the controller does."""
    await lab.settled(lab.kube.patch(DEVICE_PROCESSES, PROCESS, {"spec": {"execution": {"command": [command]}}}))


async def poll(lab: GatewayLab, etag: str = "") -> str:
    """Fetch the desired state of leaf-1, and return its ETag."""
    answer = await lab.settled(lab.client.get(DESIRED, **{"if-none-match": etag} if etag else {}))
    return answer.headers["etag"]


async def live(lab: GatewayLab, seconds: int = 60) -> str:
    """Let leaf-1 poll and report for a while; return the ETag of what it has."""
    etag = ""
    for _ in range(0, seconds, 15):
        etag = await poll(lab, etag)
        await lab.report("leaf-1", then_s=15)
    return etag


def silence(lab: GatewayLab) -> tuple[str, int | None]:
    """Return AgentConnected of the process of leaf-1, and the generation that its device fetched last."""
    obj: dict[str, Any] = lab.kube.objects(DEVICE_PROCESSES)[PROCESS]
    found = next(each for each in obj["status"]["conditions"] if each["type"] == "AgentConnected")
    return found["status"], found.get("observedGeneration")


async def dies_just_before(lab: GatewayLab, etag: str) -> None:
    await offer(lab)


async def dies_long_before(lab: GatewayLab, etag: str) -> None:
    await lab.clock.advance(40)
    await offer(lab)


async def dies_while_it_is_answered(lab: GatewayLab, etag: str) -> None:
    await offer(lab)
    await poll(lab, etag)


async def dies_while_its_poll_is_held(lab: GatewayLab, etag: str) -> None:
    polling = asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=etag, prefer="wait=50"))
    await lab.clock.settle()
    await offer(lab)
    assert (await polling).status == 200


async def dies_after_it_named_the_new_one(lab: GatewayLab, etag: str) -> None:
    await offer(lab)
    await poll(lab, await poll(lab, etag))


async def closes_its_poll_before(lab: GatewayLab, etag: str) -> None:
    gone = asyncio.Event()
    headers = {"if-none-match": etag, "prefer": "wait=50"}
    polling = asyncio.ensure_future(lab.client.request("GET", DESIRED, headers=headers, gone=gone))
    await lab.clock.settle()
    gone.set()
    await polling
    await offer(lab)


async def asks_for_any(lab: GatewayLab, etag: str) -> None:
    await offer(lab)
    assert (await lab.client.get(DESIRED, if_none_match="*")).status == 304


async def asks_without_the_body(lab: GatewayLab, etag: str) -> None:
    await offer(lab)
    assert (await lab.client.request("HEAD", DESIRED)).status == 200


@pytest.mark.parametrize(
    ("death", "fetched"),
    [
        (dies_just_before, 1),
        (dies_long_before, 1),
        (closes_its_poll_before, 1),
        (asks_for_any, 1),
        (asks_without_the_body, 1),
        (dies_while_it_is_answered, 2),
        (dies_while_its_poll_is_held, 2),
        (dies_after_it_named_the_new_one, 2),
    ],
)
async def test_a_silent_device_is_said_to_have_what_it_fetched(lab: GatewayLab, death: Any, fetched: int) -> None:
    await death(lab, await live(lab))
    await lab.clock.advance(120)
    assert lab.process("leaf-1")["metadata"]["generation"] == 2
    assert silence(lab) == ("False", fetched)


class OfferBeforeStatus(InProcessKube):
    """An API in which the next offer arrives just before the first status that is written once it is *armed*."""

    armed = False

    async def patch(self, resource: Resource, key: Key, body: Any, **options: Any) -> dict[str, Any]:
        if self.armed and key == PROCESS and options.get("subresource") == "status":
            self.armed = False
            await super().patch(resource, key, {"spec": {"execution": {"command": ["v2"]}}})
        return await super().patch(resource, key, body, **options)


async def test_an_offer_that_crosses_the_judgement_is_not_said_to_be_fetched() -> None:
    """The write of the judgement conflicts with the offer, and is composed again from the offered object."""
    clock = FakeClock()
    kube = OfferBeforeStatus(clock)
    async with running_lab(kube, clock, devices=["leaf-1"]) as lab:
        await live(lab)
        kube.armed = True
        await lab.clock.advance(120)
        assert lab.process("leaf-1")["metadata"]["generation"] == 2
        assert lab.value("status_writes_total", outcome="conflict") == 1
        assert silence(lab) == ("False", 1)


async def test_a_process_that_a_connected_device_never_fetched_says_so(lab: GatewayLab) -> None:
    await live(lab)
    await lab.settled(lab.kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1", name="later")))
    await lab.clock.advance(120)
    later = lab.kube.objects(DEVICE_PROCESSES)[Key("lab", "later")]
    found = next(each for each in later["status"]["conditions"] if each["type"] == "AgentConnected")
    assert (found["status"], found["observedGeneration"]) == ("False", 0)


async def test_a_process_that_is_created_again_was_not_fetched(lab: GatewayLab) -> None:
    await live(lab)
    await lab.kube.delete(DEVICE_PROCESSES, PROCESS)
    await lab.settled(lab.kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1")))
    await lab.clock.advance(120)
    assert silence(lab) == ("False", 0)


async def test_after_a_restore_what_was_fetched_before_is_not_known() -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        await live(lab)
        await offer(lab)
        await live(lab, 15)
        lab.kube.rewind(1)
        await offer(lab, "v3")
        lab.kube.send_bookmarks()
        await lab.clock.advance(120)
        assert silence(lab) == ("False", None)


async def test_a_device_that_is_damped_and_fetched_the_offer_is_said_to_have_it(lab: GatewayLab) -> None:
    """A version that makes the device restart again and again: it fetches it, but is not heard for long enough."""
    for _ in range(3):
        await live(lab, 15)
        await lab.clock.advance(75)
    assert silence(lab) == ("False", 1)
    await offer(lab)
    await poll(lab)
    await lab.clock.advance(5)
    assert silence(lab) == ("False", 2)


@pytest.mark.parametrize(
    ("asked", "fetched"),
    [("first", 2), ("second", 2), ("", 1)],
)
async def test_whichever_replica_answers_the_judge_knows_what_was_fetched(asked: str, fetched: int) -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        first, second = await network.start("first", stack), await network.start("second", stack)
        await first.declare("leaf-1")
        await first.clock.advance(5)
        etag = await live(first)
        await offer(first)
        if asked:
            await poll(network.labs[asked], etag)
        await second.clock.advance(120)
        assert (first.value("arbiter"), second.value("arbiter")) == (1, 0)
        assert silence(first) == ("False", fetched)


@pytest.mark.parametrize(
    ("polls", "fetched"),
    [
        pytest.param((), None, id="the-judge-that-is-gone-may-have-answered"),
        pytest.param(("second",), 2, id="another-replica-answered"),
        pytest.param(("first",), None, id="the-judge-that-is-gone-answered"),
    ],
)
async def test_after_a_change_of_judge_what_is_not_known_is_not_said(polls: tuple[str, ...], fetched: int) -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        async with AsyncExitStack() as short:
            first = await network.start("first", short)
            second = await network.start("second", stack)
            await first.declare("leaf-1")
            await live(second)
            await offer(first)
            for name in polls:
                await poll(network.labs[name])
        await second.clock.advance(120)
        assert second.value("arbiter") == 1
        assert silence(second) == ("False", fetched)


async def test_the_next_judge_knows_what_devices_fetch_from_it_afterwards() -> None:
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        async with AsyncExitStack() as short:
            await network.start("first", short)
            second = await network.start("second", stack)
            await second.declare("leaf-1")
        await second.clock.advance(5)
        await live(second)
        await offer(second)
        await second.clock.advance(120)
        assert silence(second) == ("False", 1)


@pytest.mark.parametrize("fault", ["lost", "older version"])
async def test_what_a_replica_may_have_answered_without_saying_so_is_not_known(fault: str) -> None:
    """The device has its desired state from one replica and reports to the other, which is the judge."""
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        first, second = await network.start("first", stack), await network.start("second", stack)
        await first.declare("leaf-1")
        await first.clock.advance(5)
        etag = await live(first)
        network.cut, network.outdated = fault == "lost", fault == "older version"
        await offer(first)
        await poll(second, etag)
        await first.clock.advance(120)
        assert silence(first) == ("False", None)


async def test_a_whole_fleet_is_pushed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_ENTRIES", 3)
    network = PeerNetwork()
    async with AsyncExitStack() as stack:
        first, second = await network.start("first", stack), await network.start("second", stack)
        for number in range(4):
            await first.declare(f"leaf-{number}")
        await first.clock.advance(5)
        for number in range(4):
            await second.client.get(f"/v1/devices/leaf-{number}/desired")
        await first.clock.advance(2)
        assert first.value("devices_connected") == 4
        for _ in range(24):
            await beat(second, 5, "leaf-0", "leaf-2", "leaf-3")
        assert silence(first) == ("False", 1)

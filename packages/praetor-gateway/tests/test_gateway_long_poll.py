# SPDX-License-Identifier: Apache-2.0
"""Held polls: what ends them, and what does not."""

from __future__ import annotations

import asyncio

import pytest

from gateway_testing import Answer, GatewayLab, one_device, run_in_virtual_time, running_lab
from praetor_api.canonical import desired_etag
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_gateway.http.device_api import TOGETHER_S

DESIRED = "/v1/devices/leaf-1/desired"
lab = pytest.fixture(one_device)


async def _etag(lab: GatewayLab) -> str:
    return (await lab.client.get(DESIRED)).headers["etag"]


async def test_a_held_poll_is_answered_when_something_changes(lab: GatewayLab) -> None:
    poll = asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=await _etag(lab), prefer="wait=30"))
    await lab.clock.settle()
    assert not poll.done()
    assert lab.value("waiters") == 1
    await lab.kube.patch(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), {"spec": {"restartPolicy": "Never"}})
    answer = await poll
    assert lab.value("waiters") == 0
    assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=30")


async def test_a_held_poll_is_not_answered_for_changes_of_others(lab: GatewayLab) -> None:
    poll = asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=await _etag(lab), prefer="wait=30"))
    await lab.clock.settle()
    await lab.declare("leaf-2")
    await lab.report("leaf-1", await lab.running("leaf-1"), then_s=1)
    assert not poll.done()
    lab.gateway.drain()
    assert (await poll).status == 304


def test_a_held_poll_ends_with_304_when_its_time_is_up() -> None:
    async def scenario() -> tuple[float, Answer]:
        async with running_lab(max_wait_s=20, devices=["leaf-1"]) as lab:
            loop = asyncio.get_running_loop()
            began = loop.time()
            answer = await lab.client.get(DESIRED, if_none_match=await _etag(lab), prefer="respond-async, wait=300")
            return loop.time() - began, answer

    took, answer = run_in_virtual_time(scenario())
    assert took == pytest.approx(20)
    assert (answer.status, answer.headers["preference-applied"]) == (304, "wait=20")


def test_polls_that_end_at_nearly_the_same_time_are_answered_together_and_none_is_late() -> None:
    async def poll(lab: GatewayLab, etag: str, after_s: float) -> tuple[float, float]:
        await asyncio.sleep(after_s)
        began = asyncio.get_running_loop().time()
        await lab.client.get(DESIRED, if_none_match=etag, prefer="wait=20")
        return began, asyncio.get_running_loop().time()

    async def scenario() -> list[tuple[float, float]]:
        async with running_lab(devices=["leaf-1"]) as lab:
            etag = await _etag(lab)
            first_s = TOGETHER_S - asyncio.get_running_loop().time() % TOGETHER_S
            polls = (poll(lab, etag, first_s + number * TOGETHER_S / 5) for number in range(10))
            return await asyncio.gather(*polls)

    polls = run_in_virtual_time(scenario())
    assert len({round(ended, 2) for _, ended in polls}) == 2
    held = [ended - began for began, ended in polls]
    assert min(held) > 20 - TOGETHER_S - 1e-6
    assert max(held) < 20 + 1e-6


async def test_a_client_that_goes_away_waits_no_more(lab: GatewayLab) -> None:
    gone = asyncio.Event()
    headers = {"If-None-Match": await _etag(lab), "Prefer": "wait=30"}
    poll = asyncio.ensure_future(lab.client.request("GET", DESIRED, headers=headers, gone=gone))
    await lab.clock.settle()
    gone.set()
    assert (await poll).status == 0
    assert lab.value("waiters") == 0
    assert lab.value("poll_held_seconds_count") == lab.value("requests_total", route="desired", code="304") == 0
    assert lab.value("request_duration_seconds_count", route="desired") == 1  # the one that asked for the ETag


async def test_a_device_that_is_declared_while_it_polls_is_answered() -> None:
    async with running_lab() as lab:
        poll = asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=desired_etag(()), prefer="wait=30"))
        await lab.clock.settle()
        await lab.declare("leaf-1")
        assert len((await poll).json()["items"]) == 1
        assert lab.value("waiters") == 0


async def test_draining_answers_all_held_polls_at_once(lab: GatewayLab) -> None:
    etag = await _etag(lab)
    polls = [asyncio.ensure_future(lab.client.get(DESIRED, if_none_match=etag, prefer="wait=30")) for _ in "abc"]
    await lab.clock.settle()
    lab.gateway.drain()
    assert [(await poll).status for poll in polls] == [304] * 3
    assert lab.gateway.unready() == "draining"
    late = await lab.client.get(DESIRED, if_none_match=etag, prefer="wait=30")
    assert late.status == 304

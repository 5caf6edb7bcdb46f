# SPDX-License-Identifier: Apache-2.0
"""How often a device may ask, and what a flood costs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable

import pytest

from gateway_testing import SHARED_TOKEN, Answer, AsgiClient, GatewayLab, running_lab
from kube_testing import FakeClock
from praetor_gateway.http.problems import PAUSE_S, REFUSALS_PER_S, ProblemHandlers
from praetor_gateway.http.rate_limit import BURST_S, RateLimit, network_of

DEVICE = "/v1/devices/leaf-1"
ENDPOINTS = [("GET", "desired"), ("HEAD", "desired"), ("POST", "report"), ("POST", "connect")]


async def paused(lab: GatewayLab, request: Awaitable[Answer]) -> Answer:
    """Return the answer to *request*, which comes after the pause and no earlier."""
    answer = asyncio.ensure_future(request)
    await lab.clock.settle()
    assert not answer.done()
    await lab.clock.advance(PAUSE_S)
    return await answer


@pytest.mark.parametrize("device", ["leaf-1", "undeclared"])
@pytest.mark.parametrize(("method", "action"), ENDPOINTS)
async def test_a_device_that_asks_too_often_is_slowed_down_at_each_endpoint(
    method: str, action: str, device: str
) -> None:
    async with running_lab(device_rate_per_s=0.5, devices=["leaf-1"]) as lab:
        path = f"/v1/devices/{device}/{action}"
        body = (b"{}",)
        assert [(await lab.client.request(method, path, chunks=body)).status for _ in range(5)] == [200] * 5
        answer = await paused(lab, lab.client.request(method, path, chunks=()))  # before the body is there
        assert (answer.status, answer.headers["retry-after"]) == (429, "3")
        for verb, other in ENDPOINTS:
            if other != action:
                assert (await lab.client.request(verb, f"{DEVICE}/{other}", chunks=body)).status == 200
        assert (await lab.client.get("/v1/devices/leaf-2/desired")).status == 200
        await lab.clock.advance(2)
        assert (await lab.client.request(method, path, chunks=body)).status == 200


async def test_a_device_that_asks_too_often_is_not_disconnected() -> None:
    async with running_lab(device_rate_per_s=0.01, devices=["leaf-1"]) as lab:
        await lab.client.post(f"{DEVICE}/connect")
        for _ in range(90):
            answer = asyncio.ensure_future(lab.client.post(f"{DEVICE}/connect"))
            await lab.clock.advance(PAUSE_S)
            assert (await answer).status in (200, 429)
        assert lab.value("devices_connected") == 1


async def test_requests_without_a_good_token_spend_nothing_of_the_device() -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        stranger = AsgiClient(lab.gateway.app, "wrong")
        burst = int(REFUSALS_PER_S * BURST_S)
        assert {(await stranger.get(f"{DEVICE}/desired")).status for _ in range(burst)} == {401}
        assert (await paused(lab, stranger.get(f"{DEVICE}/desired"))).status == 401
        assert (await lab.client.get(f"{DEVICE}/desired")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/devices/%2e/desired", 400),
        ("PUT", f"{DEVICE}/desired", 405),
        ("OPTIONS", f"{DEVICE}/desired", 204),
        ("POST", f"{DEVICE}/report", 401),
    ],
)
async def test_what_needs_no_token_is_slowed_down_for_each_address(method: str, path: str, status: int) -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        stranger = AsgiClient(lab.gateway.app, None)
        for _ in range(int(REFUSALS_PER_S * BURST_S)):
            assert (await stranger.request(method, path)).status == status
        assert (await paused(lab, stranger.request(method, path))).status == status
        await lab.clock.advance(BURST_S)
        assert (await stranger.request(method, path)).status == status


async def test_connections_that_are_slowed_down_at_once_are_not_answered_at_once() -> None:
    clock, fractions = FakeClock(), itertools.cycle(number / 10 for number in range(10))
    problems = ProblemHandlers(lambda *_: None, clock, lambda: next(fractions))
    waiting = [asyncio.ensure_future(problems.slow_down({}, 429)) for _ in range(100)]
    await clock.advance(PAUSE_S / 2)
    answered = [sum(each.done() for each in waiting)]
    for _ in range(10):
        await clock.advance(PAUSE_S / 20)
        answered.append(sum(each.done() for each in waiting))
    assert max(after - before for before, after in itertools.pairwise(answered)) <= 20
    assert answered[-1] == 100


@pytest.mark.parametrize("heartbeat_s", [1, 15])
async def test_an_agent_that_polls_and_reports_as_documented_is_never_refused(heartbeat_s: int) -> None:
    """Also one that cannot hold a poll, and reports each step of a start at once."""
    async with running_lab(devices=["leaf-1"]) as lab:
        client = AsgiClient(lab.gateway.app, SHARED_TOKEN)
        for _ in range(200):
            for _ in range(5 if heartbeat_s > 1 else 1):
                assert (await client.post(f"{DEVICE}/report")).status == 200
                assert (await client.get(f"{DEVICE}/desired")).status == 200
            await lab.clock.advance(heartbeat_s)


def test_a_bucket_refills_up_to_its_burst() -> None:
    limit = RateLimit(2.0)
    assert [limit.spend("a", 0.0) for _ in range(21)] == [0.0] * 20 + [0.5]
    assert limit.spend("a", 0.5) == 0.0
    assert limit.spend("b", 0.5) == 0.0
    assert [limit.spend("a", 100.0) for _ in range(21)] == [0.0] * 20 + [0.5]


def test_no_more_is_remembered_than_its_bound() -> None:
    limit = RateLimit(1.0, max_keys=2_000)
    for at in range(10_000):
        assert limit.spend(str(at), at / 1000) == 0.0
    assert len(limit) <= 2_000
    assert limit.spend("later", 1000.0) == 0.0
    for at in range(2_000):
        limit.spend(str(at), 2000.0)
    assert len(limit) <= 2_000


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("", "", True),
    ],
)
def test_an_address_stands_for_what_one_client_can_send_from(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same

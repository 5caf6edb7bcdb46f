# SPDX-License-Identifier: Apache-2.0
"""Statuses reach the apiserver: once, in the end, and not more often than they must."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from gateway_testing import GatewayLab, conditions, healthy, one_device, process_object, running_lab
from kube_testing import FakeClock, InProcessKube
from praetor_api.kube.client.errors import KubeError, Unreachable, api_error
from praetor_api.kube.client.resource import DEVICE_PROCESSES, LEASES, NETWORK_SWITCHES, Key, Resource
from praetor_gateway.status.composer import StatusComposer
from praetor_gateway.status.merge import merge
from praetor_gateway.status.pending import PendingStatuses, StatusKey

KEY = Key("lab", "agent-leaf-1")
lab = pytest.fixture(one_device)
good = pytest.fixture(healthy)


def asked(lab: GatewayLab) -> int:
    """Return how many requests reached the apiserver, renewals of the Lease apart."""
    return sum(request.resource != LEASES and request.verb != "watch" for request in lab.kube.requests)


def writes(lab: GatewayLab, device: str = "leaf-1") -> int:
    return sum(
        request.verb == "patch" and request.key == Key("lab", f"agent-{device}") for request in lab.kube.requests
    )


@pytest.mark.timeout(600)  # ten thousand requests
async def test_heartbeats_with_nothing_changed_cost_no_request() -> None:
    async with running_lab(device_rate_per_s=1000.0, devices=["leaf-1"]) as lab:
        good = await lab.running("leaf-1")
        await lab.report("leaf-1", good, agentVersion="1", bootID="b", facts={"os": "linux"}, then_s=10)
        before = asked(lab)
        path = "/v1/devices/leaf-1/report"
        for number in range(10_000):
            body = {"agentVersion": "1", "bootID": "b", "seq": number, "timestamp": "t", "facts": {"os": "linux"}}
            body |= {"observations": [good] if number % 10 == 0 else []}
            answer = await lab.client.post(path, body)
            assert answer.status == 200
        await lab.clock.advance(10)
        assert asked(lab) == before


async def test_a_clean_start_and_a_clean_update_take_at_most_two_writes_each(lab: GatewayLab, good: Any) -> None:
    steps = [
        {"processStarted": False, "healthy": None, "pid": None, "artifactDownloaded": False},
        {"processStarted": False, "healthy": None, "pid": None, "artifactDownloaded": True},
        {"processStarted": True, "healthy": None},
        {},
    ]
    for step in steps:
        await lab.report("leaf-1", {**good, **step}, then_s=0.05)
    await lab.clock.advance(10)
    assert lab.process("leaf-1")["status"]["phase"] == "Running"
    assert writes(lab) <= 2
    before = writes(lab)
    await lab.kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"restartPolicy": "OnFailure"}})
    before += 1
    await lab.clock.settle()
    good = await lab.running("leaf-1")
    for step in steps:
        await lab.report("leaf-1", {**good, **step}, then_s=0.05)
    await lab.clock.advance(10)
    assert lab.process("leaf-1")["status"]["observedGeneration"] == 2
    assert writes(lab) - before <= 2


async def test_a_restarted_gateway_requests_a_resync_and_writes_nothing_that_is_written() -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        good = await lab.running("leaf-1")
        await lab.report("leaf-1", good, agentVersion="1", then_s=10)
    before = lab.process("leaf-1")
    async with running_lab(kube=lab.kube.another_client(), clock=lab.clock) as lab:
        assert (await lab.report("leaf-1", agentVersion="1"))["resync"] is True
        assert (await lab.report("leaf-1", good, agentVersion="1"))["resync"] is False
        await lab.clock.advance(10)
        assert lab.process("leaf-1") == before
        assert writes(lab) == 0


async def test_after_a_conflict_the_status_is_computed_again_and_other_writers_lose_nothing(lab: GatewayLab) -> None:
    lab.kube.silence_watches()
    other = {"type": "Audited", "status": "True", "reason": "Done", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    await lab.kube.patch(DEVICE_PROCESSES, KEY, {"status": {"conditions": [other]}}, subresource="status")
    await lab.report("leaf-1", await lab.running("leaf-1"), then_s=2)
    assert conditions(lab.process("leaf-1"))["Audited"] == "True"
    assert conditions(lab.process("leaf-1"))["Healthy"] == "True"
    assert lab.value("status_writes_total", outcome="conflict") == 1


async def test_a_field_that_is_no_longer_reported_is_removed_from_the_status(lab: GatewayLab, good: Any) -> None:
    await lab.report("leaf-1", {**good, "restartCount": 3}, then_s=1)
    await lab.report("leaf-1", {**good, "processStarted": False, "healthy": False, "pid": None, "exitCode": 1})
    await lab.clock.advance(1)
    status = lab.process("leaf-1")["status"]
    assert "pid" not in status
    assert status["restartCount"] == 0
    assert status["exitCode"] == 1


@pytest.mark.parametrize(
    "error",
    [api_error(429, "TooManyRequests", "slow down", retry_after=2.0), api_error(500), Unreachable("cut off")],
    ids=["429", "500", "cut-off"],
)
async def test_a_write_that_fails_is_made_later(lab: GatewayLab, error: KubeError) -> None:
    lab.kube.fail_next(error, verb="patch", resource=DEVICE_PROCESSES, times=4)
    await lab.report("leaf-1", await lab.running("leaf-1"), then_s=1)
    assert lab.value("queue_depth") >= 1
    await lab.clock.advance(90)
    assert conditions(lab.process("leaf-1"))["ProcessStarted"] == "True"
    assert lab.value("queue_depth") == 0
    assert lab.value("status_writes_total", outcome="failed") == 4


async def test_an_outage_loses_nothing_and_the_newest_observation_wins(lab: GatewayLab, good: Any) -> None:
    lab.kube.unreachable = True
    lab.kube.end_watches()
    for pid in range(20):
        await lab.report("leaf-1", {**good, "pid": pid}, then_s=15)
    lab.kube.heal()
    await lab.clock.advance(60)
    assert lab.process("leaf-1")["status"]["pid"] == 19
    assert lab.value("queue_depth") == 0


@pytest.mark.parametrize(
    ("error", "read_error", "outcome"),
    [
        pytest.param(api_error(404, "NotFound"), None, "gone", id="deleted"),
        pytest.param(api_error(422, "Invalid"), None, "refused", id="invalid"),
        pytest.param(api_error(409, "Conflict"), api_error(404, "NotFound"), "gone", id="deleted-during-a-conflict"),
    ],
)
async def test_a_write_that_cannot_succeed_is_dropped(
    error: KubeError, read_error: KubeError | None, outcome: str
) -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1", switch=False)
        good = await lab.running("leaf-1")
        await lab.clock.advance(1)
        lab.kube.fail_next(error, verb="patch", resource=DEVICE_PROCESSES)
        if read_error is not None:
            lab.kube.fail_next(read_error, verb="get", resource=DEVICE_PROCESSES)
        await lab.report("leaf-1", good, then_s=1)
        assert lab.value("status_writes_total", outcome=outcome) == 1
        assert lab.value("queue_depth") == 0


async def test_an_observation_does_not_outlive_its_process() -> None:
    async with running_lab() as lab:
        await lab.declare("leaf-1", switch=False)
        good = await lab.running("leaf-1")
        await lab.clock.advance(1)
        lab.kube.fail_next(api_error(500), verb="patch", resource=DEVICE_PROCESSES, times=2)
        await lab.report("leaf-1", good, then_s=0.1)
        await lab.kube.delete(DEVICE_PROCESSES, KEY)
        await lab.kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1"))
        await lab.clock.advance(60)
        assert "ProcessStarted" not in conditions(lab.process("leaf-1"))
        assert lab.value("queue_depth") == 0


async def test_the_queue_is_written_before_the_gateway_ends() -> None:
    async with running_lab(devices=["leaf-1"]) as lab:
        await lab.report("leaf-1", await lab.running("leaf-1"))
    assert conditions(lab.process("leaf-1"))["Healthy"] == "True"
    assert "agentVersion" not in lab.kube.objects(NETWORK_SWITCHES)[Key("lab", "leaf-1")]["status"]


async def test_an_outage_does_not_keep_the_gateway_from_ending() -> None:
    async with running_lab(shutdown_timeout_s=4.0, devices=["leaf-1"]) as lab:
        lab.kube.unreachable = True
        await lab.report("leaf-1", await lab.running("leaf-1"))
        began = lab.clock.monotonic()
    assert lab.clock.monotonic() - began < 8.0


async def test_the_echo_of_our_own_write_causes_no_further_write(lab: GatewayLab, good: Any) -> None:
    await lab.report("leaf-1", good, then_s=30)
    before = len(lab.kube.requests)
    lab.kube.expire_history()
    await lab.clock.advance(14)
    await lab.report("leaf-1", good, then_s=5)
    later = lab.kube.requests[before:]
    assert [r for r in later if r.verb == "patch" and r.resource != LEASES] == []
    assert [r for r in later if r.verb == "list"] != []


async def test_a_change_that_is_reverted_while_it_is_debounced_is_not_written(lab: GatewayLab, good: Any) -> None:
    await lab.report("leaf-1", good, then_s=10)
    before, written = lab.process("leaf-1"), writes(lab)
    await lab.report("leaf-1", {**good, "artifactDownloaded": None, "warningMessage": None, "pid": 43})
    await lab.report("leaf-1", good, then_s=10)
    assert lab.process("leaf-1") == before
    assert writes(lab) == written


@contextmanager
def counted_calls(*functions: Callable[..., object]) -> Iterator[Counter[str]]:
    """Count the calls of *functions* by name while the block runs, as a profiler sees them."""
    names = {function.__code__: function.__name__ for function in functions}
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in names:
            calls[names[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)


async def test_a_changed_observation_is_merged_at_most_three_times_until_it_is_written(
    lab: GatewayLab, good: Any
) -> None:
    await lab.report("leaf-1", good, then_s=10)
    before = writes(lab)
    with counted_calls(merge, StatusComposer.compose) as calls:
        await lab.report("leaf-1", {**good, "healthy": False}, then_s=1)
    assert writes(lab) == before + 1
    assert conditions(lab.process("leaf-1"))["Healthy"] == "False"
    assert 1 <= calls["merge"] <= 3
    assert calls["compose"] == 1


async def test_each_attempt_to_write_composes_the_status_once(lab: GatewayLab, good: Any) -> None:
    await lab.report("leaf-1", good, then_s=10)
    before = writes(lab)
    lab.kube.fail_next(api_error(409, "Conflict"), verb="patch", resource=DEVICE_PROCESSES)
    lab.kube.fail_next(api_error(500), verb="patch", resource=DEVICE_PROCESSES)
    with counted_calls(StatusComposer.compose) as calls:
        await lab.report("leaf-1", {**good, "healthy": False}, then_s=2)
    assert conditions(lab.process("leaf-1"))["Healthy"] == "False"
    assert calls["compose"] == writes(lab) - before == 3


async def test_a_report_that_comes_while_the_last_one_is_written_is_written_as_well(lab: GatewayLab, good: Any) -> None:
    await lab.report("leaf-1", good, then_s=10)
    slow = SlowAnswers(lab.clock, plane=lab.kube.plane)
    async with running_lab(slow, lab.clock, identity="gateway-2") as other:
        await other.report("leaf-1", {**good, "healthy": False})
        await slow.sent.wait()
        await other.report("leaf-1", good)  # what the status said before
        slow.answer.set()
        await lab.clock.advance(1)
        assert conditions(other.process("leaf-1"))["Healthy"] == "True"
        assert other.value("status_writes_total", outcome="written") == 2


async def test_a_connection_that_is_lost_while_the_former_one_is_written_is_written_as_well() -> None:
    clock = FakeClock()
    slow = SlowAnswers(clock)
    slow.answer.set()
    async with running_lab(slow, clock) as lab:
        await lab.declare("leaf-1", switch=False)
        await lab.report("leaf-1", await lab.running("leaf-1"))
        await clock.advance(120)
        assert conditions(lab.process("leaf-1"))["AgentConnected"] == "False"
        slow.answer.clear()
        await lab.report("leaf-1")
        await clock.advance(1)
        await clock.advance(120)
        slow.silence_watches()  # else the echo of the write corrects it, too
        slow.answer.set()
        await clock.advance(1)
        assert conditions(lab.process("leaf-1"))["AgentConnected"] == "False"
        assert lab.value("status_writes_total", outcome="written") == 4


class SlowAnswers(InProcessKube):
    """Holds each write of a status until `answer` is set."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sent, self.answer = asyncio.Event(), asyncio.Event()

    async def patch(self, resource: Resource, *args: Any, **options: Any) -> dict[str, Any]:
        if resource is DEVICE_PROCESSES:
            self.sent.set()
            await self.answer.wait()
        return await super().patch(resource, *args, **options)


async def test_the_oldest_change_ages_until_it_is_written() -> None:
    clock = FakeClock()
    pending, old, new = PendingStatuses(clock), *(StatusKey(DEVICE_PROCESSES, Key("lab", name)) for name in "ab")
    pending.submit(old)
    await clock.advance(5)
    pending.submit(new)
    async with pending.take() as key:
        assert key == old
        assert [pending.waited_s(each) for each in (old, new)] == [5, 0]
        pending.retry(old)
    assert pending.oldest_s == 5
    pending.done(old)
    await clock.advance(2)
    assert pending.oldest_s == 2
    pending.submit_again(new)
    await clock.advance(3)
    assert pending.oldest_s == 5  # of the first one again, which waits since it was written

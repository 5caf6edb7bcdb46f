# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kube_testing import FakeClock, InProcessKube
from praetor_api.kube.client.errors import Forbidden, ServerError, TooManyRequests
from praetor_api.kube.client.resource import CORE_EVENTS, EVENTS
from praetor_api.kube.runtime.events import (
    BURST,
    QUEUE_SIZE,
    REFILL_S,
    REMEMBERED,
    SIMILAR_WINDOW_S,
    Correlator,
    EventRecorder,
    ObjectRef,
    Occurrence,
    bounded,
)


def ref(name: str = "leaf-1") -> ObjectRef:
    return ObjectRef(
        api_version="azure.com/v1alpha1", kind="NetworkSwitch", namespace="lab", name=name, uid=f"uid-{name}"
    )


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.recorder = EventRecorder(self.kube, self.clock, "praetor-gateway", "gateway-0")

    def record(self, note: str = "gone", name: str = "leaf-1") -> None:
        self.recorder.record(ref(name), type="Warning", reason="Disconnected", action="Judge", note=note)

    def events(self) -> list[dict[str, Any]]:
        return list(self.kube.objects(EVENTS).values())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.recorder.run(), name="events")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_an_event_names_its_object_reason_and_note() -> None:
    world = World()
    async with world.running():
        world.record()
        await world.recorder.flush()
    (event,) = world.events()
    assert event["metadata"]["name"].startswith("leaf-1.")
    del event["metadata"]
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z",
        "deprecatedLastTimestamp": "2026-01-01T00:00:00Z",
        "deprecatedCount": 1,
        "deprecatedSource": {"component": "praetor-gateway"},
        "reportingController": "praetor-gateway",
        "reportingInstance": "gateway-0",
        "type": "Warning",
        "reason": "Disconnected",
        "action": "Judge",
        "note": "gone",
        "regarding": {
            "apiVersion": "azure.com/v1alpha1",
            "kind": "NetworkSwitch",
            "namespace": "lab",
            "name": "leaf-1",
            "uid": "uid-leaf-1",
        },
    }


async def test_equal_events_are_counted_in_a_series() -> None:
    world = World()
    async with world.running():
        for _ in range(3):
            world.record()
            await world.clock.advance(1)
    (event,) = world.events()
    assert event["series"] == {"count": 3, "lastObservedTime": "2026-01-01T00:00:02.000000Z"}
    assert (event["deprecatedCount"], event["deprecatedFirstTimestamp"], event["deprecatedLastTimestamp"]) == (
        3, "2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z",
    )  # fmt: skip


async def test_with_roles_of_an_earlier_release_events_are_written_as_these_allow() -> None:
    world = World()
    world.kube.fail_next(Forbidden(403, "Forbidden"), resource=CORE_EVENTS, times=1000)
    async with world.running():
        for _ in range(3):
            world.record()
            await world.clock.advance(1)
    (event,) = world.events()
    assert event["series"]["count"] == 3
    assert "deprecatedLastTimestamp" not in event
    assert world.recorder.dropped == 0
    assert sum(request.resource == CORE_EVENTS for request in world.kube.requests) == 1


async def test_a_series_whose_event_has_expired_starts_over() -> None:
    world = World()
    async with world.running():
        world.record()
        await world.clock.advance(1)
        for key in world.kube.objects(EVENTS):
            await world.kube.delete(EVENTS, key)
        world.record()
        await world.clock.advance(1)
        assert "series" not in world.events()[0]
        world.record()
        await world.clock.advance(1)
    assert world.events()[0]["series"]["count"] == 2


async def test_many_similar_events_become_one() -> None:
    world = World()
    async with world.running():
        for i in range(20):
            world.record(f"gone for {i} s")
        await world.recorder.flush()
    assert len(world.events()) == 11
    (combined,) = (event for event in world.events() if event["note"].startswith("(combined from similar events)"))
    assert combined["series"]["count"] == 10


async def test_an_object_over_its_event_limit_is_throttled_and_others_are_not() -> None:
    world = World()
    async with world.running():
        for i in range(100):
            world.recorder.record(ref(), type="Normal", reason=f"R{i}", action="A", note="")
        world.record(name="leaf-2")
        await world.recorder.flush()
    assert len(world.events()) == BURST + 1
    assert world.recorder.dropped == 75


async def test_recording_never_blocks_and_memory_is_bounded() -> None:
    world = World()
    for i in range(QUEUE_SIZE + 10):
        world.record(name=f"leaf-{i}")
    assert world.recorder.dropped == 10
    async with world.running():
        await world.recorder.flush()
    assert len(world.events()) == QUEUE_SIZE


async def test_an_event_is_retried_while_the_api_fails_and_then_dropped() -> None:
    world = World()
    world.kube.fail_next(ServerError(500), times=3)
    world.kube.fail_next(TooManyRequests(429, "", "", None, 20.0))
    async with world.running():
        world.record()
        await world.clock.advance(60)
        assert len(world.events()) == 1
        world.kube.unreachable = True
        world.record(name="leaf-2")
        await world.clock.advance(120)
        assert world.recorder.dropped == 1
        world.kube.heal()
        world.kube.hang_next()
        world.record(name="leaf-3")
        await world.clock.advance(60)
    assert {event["regarding"]["name"] for event in world.events()} == {"leaf-1", "leaf-3"}


async def test_a_refused_event_is_not_retried() -> None:
    world = World()
    world.kube.fail_next(Forbidden(403), times=2)
    async with world.running():
        world.record()
        await world.recorder.flush()
    assert world.events() == []
    assert world.recorder.dropped == 1


async def test_a_namespace_that_is_being_deleted_does_not_undate_later_events() -> None:
    world = World()
    world.kube.fail_next(Forbidden(403), times=2)  # such a namespace forbids both APIs
    async with world.running():
        world.record(name="leaf-1")
        await world.recorder.flush()
        world.record(name="leaf-2")
        await world.recorder.flush()
    (event,) = world.events()
    assert event["deprecatedLastTimestamp"] == "2026-01-01T00:00:00Z"


async def test_texts_fit_the_limits_of_the_api() -> None:
    world = World()
    async with world.running():
        world.recorder.record(ref("x" * 229 + ".y"), type="Normal", reason="R" * 200, action="A" * 200, note="ü" * 2000)
        await world.recorder.flush()
    (event,) = world.events()
    assert len(event["note"].encode()) <= 1024
    assert len(event["reason"]) <= 128
    assert len(event["action"].encode()) <= 128
    assert len(event["metadata"]["name"]) <= 253
    assert ".." not in event["metadata"]["name"]


@given(st.text(), st.integers(3, 50))
def test_bounded_text_is_whole_characters_within_the_size(text: str, size: int) -> None:
    assert len(bounded(text, size).encode()) <= size
    if len(text.encode("utf-8", "replace")) <= size:
        assert bounded(text, size) == text.encode("utf-8", "replace").decode()


def occurrence(regarding: str = "leaf-1", note: str = "gone", reason: str = "Disconnected") -> Occurrence[str]:
    return Occurrence(regarding=regarding, type="Warning", reason=reason, action="A", note=note, at=FakeClock().now())


def test_similar_events_are_separate_again_after_the_window() -> None:
    correlator: Correlator[str] = Correlator()
    for i in range(12):
        correlator.correlate(occurrence(note=str(i)), 0.0)
    series = correlator.correlate(occurrence(note="later"), SIMILAR_WINDOW_S + 1)
    assert series is not None
    assert series.last.note == "later"


def test_throttled_events_are_counted_and_written_later() -> None:
    correlator: Correlator[str] = Correlator()
    written = [correlator.correlate(occurrence(), 0.0) for _ in range(30)]
    assert sum(series is not None for series in written) == BURST
    series = correlator.correlate(occurrence(), REFILL_S)
    assert series is not None
    assert series.count == 31


def test_the_number_of_remembered_objects_is_bounded() -> None:
    correlator: Correlator[str] = Correlator()
    for i in range(REMEMBERED + 1):
        correlator.correlate(occurrence(f"leaf-{i}"), 0.0)
    first, last = (correlator.correlate(occurrence(f"leaf-{i}"), 0.0) for i in (0, REMEMBERED))
    assert first is not None
    assert last is not None
    assert (first.count, last.count) == (1, 2)

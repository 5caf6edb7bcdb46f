"""The fakes behave as the real things do."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kube_testing import FakeClock, FakeKube, Request
from praetor_api.kube.client.api import KubeApi, PatchType
from praetor_api.kube.client.errors import AlreadyExists, ApiError, Conflict, Gone, Invalid, NotFound, Unreachable
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS, DEVICE_PROCESSES, LEASES, Key
from praetor_api.kube.runtime.clock import Clock, SystemClock, within

KEY = Key("lab", "a")
SPEC = {"spec": {"x": 1}}


def world() -> tuple[FakeClock, FakeKube]:
    clock = FakeClock()
    return clock, FakeKube(clock)


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **SPEC, **more}


async def test_sleepers_wake_in_order_at_their_time() -> None:
    clock: FakeClock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))
        if name == "a":
            await sleeper("again", 1)

    tasks = [asyncio.create_task(sleeper(name, s)) for name, s in (("b", 3), ("a", 1), ("now", 0), ("late", 9))]
    await clock.advance(5)
    assert woken == [("now", 1000.0), ("a", 1001.0), ("again", 1002.0), ("b", 1003.0)]
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)
    tasks[3].cancel()
    await clock.advance(10)
    assert len(woken) == 4


async def test_the_system_clock_moves_on_and_knows_its_zone() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(-1)
    await clock.sleep(0.001)
    assert clock.monotonic() > before
    assert clock.now().utcoffset() == timedelta(0)


async def test_within_gives_the_result_the_error_or_up() -> None:
    clock = FakeClock()

    async def work(seconds: float, error: Exception | None = None) -> str:
        await clock.sleep(seconds)
        if error is not None:
            raise error
        return "done"

    tasks = [
        asyncio.create_task(within(clock, 5, work(1))),
        asyncio.create_task(within(clock, 5, work(1, ValueError("boom")))),
        asyncio.create_task(within(clock, 5, work(50))),
    ]
    await clock.advance(5)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == "done"
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], TimeoutError)


async def test_an_object_gets_what_the_server_owns() -> None:
    _clock, kube = world()
    api: KubeApi = kube
    stored = await api.create(DEVICE_PROCESSES, "lab", named("a", status={"phase": "Running"}))
    assert stored["kind"] == "DeviceProcess"
    assert stored["metadata"]["generation"] == 1
    assert stored["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert "status" not in stored
    assert await api.get(DEVICE_PROCESSES, KEY) == stored
    with pytest.raises(AlreadyExists):
        await api.create(DEVICE_PROCESSES, "lab", named("a"))
    with pytest.raises(Invalid):
        await api.create(DEVICE_PROCESSES, "lab", {"metadata": {}})
    made = await api.create(CONTROLLER_REVISIONS, "lab", {"metadata": {"generateName": "rev-"}, "revision": 1})
    assert made["metadata"]["name"].startswith("rev-")
    assert "generation" not in made["metadata"]
    with pytest.raises(NotFound):
        await api.get(LEASES, KEY)


async def test_generation_follows_the_spec_and_status_has_a_door_of_its_own() -> None:
    _clock, kube = world()
    await kube.create(DEVICE_PROCESSES, "lab", named("a"))
    patched = await kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"x": 2}, "status": {"phase": "Running"}})
    assert (patched["metadata"]["generation"], patched["spec"]) == (2, {"x": 2})
    assert "status" not in patched
    patched = await kube.patch(
        DEVICE_PROCESSES, KEY, {"spec": {"x": 3}, "status": {"phase": "Running"}}, subresource="status"
    )
    assert (patched["metadata"]["generation"], patched["spec"]) == (2, {"x": 2})
    assert patched["status"] == {"phase": "Running"}
    patched = await kube.patch(DEVICE_PROCESSES, KEY, {"metadata": {"labels": {"a": "b"}}, "spec": {"x": None, "y": 1}})
    assert (patched["metadata"]["generation"], patched["spec"]) == (3, {"y": 1})
    assert patched["status"] == {"phase": "Running"}
    again = await kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"y": 1}})
    assert again["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"]


async def test_preconditions_are_checked() -> None:
    _clock, kube = world()
    old = (await kube.create(LEASES, "lab", named("a")))["metadata"]
    await kube.patch(LEASES, KEY, {"metadata": {"resourceVersion": old["resourceVersion"]}, "spec": {"x": 2}})
    with pytest.raises(Conflict):
        await kube.patch(LEASES, KEY, {"metadata": {"resourceVersion": old["resourceVersion"]}, "spec": {"x": 3}})
    with pytest.raises(Conflict):
        await kube.patch(LEASES, KEY, {"metadata": {"uid": "other"}})
    with pytest.raises(Conflict):
        await kube.delete(LEASES, KEY, uid="other")
    await kube.delete(LEASES, KEY, uid=old["uid"])
    with pytest.raises(NotFound):
        await kube.delete(LEASES, KEY)


async def test_apply_creates_and_unknown_patches_are_refused() -> None:
    _clock, kube = world()
    await kube.patch(LEASES, KEY, named("a"), patch_type=PatchType.APPLY, field_manager="praetor")
    await kube.patch(LEASES, KEY, {"spec": {"y": 2}}, patch_type=PatchType.APPLY, field_manager="praetor")
    assert kube.objects(LEASES)[KEY]["spec"] == {"x": 1, "y": 2}
    with pytest.raises(ApiError, match="415"):
        await kube.patch(LEASES, KEY, [], patch_type=PatchType.JSON)


async def test_finalizers_hold_an_object_back() -> None:
    _clock, kube = world()
    await kube.create(LEASES, "lab", {"metadata": {"name": "a", "finalizers": ["x"]}})
    await kube.delete(LEASES, KEY)
    await kube.delete(LEASES, KEY)
    assert kube.objects(LEASES)[KEY]["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"
    await kube.patch(LEASES, KEY, {"metadata": {"finalizers": None}})
    assert kube.objects(LEASES) == {}


async def test_pages_end_and_expire() -> None:
    _clock, kube = world()
    for name in "abc":
        await kube.create(LEASES, "lab", named(name))
    page = await kube.list_page(LEASES, "lab", limit=2)
    assert [item["metadata"]["name"] for item in page["items"]] == ["a", "b"]
    token = page["metadata"]["continue"]
    rest = await kube.list_page(LEASES, "lab", limit=2, continue_token=token)
    assert [item["metadata"]["name"] for item in rest["items"]] == ["c"]
    assert "continue" not in rest["metadata"]
    assert len((await kube.list_page(LEASES, None, limit=0))["items"]) == 3
    kube.expire_history()
    with pytest.raises(Gone):
        await kube.list_page(LEASES, "lab", continue_token=token)


async def test_a_watch_replays_selects_and_ends() -> None:
    clock, kube = world()
    start = (await kube.list_page(LEASES, None))["metadata"]["resourceVersion"]
    await kube.create(LEASES, "lab", {"metadata": {"name": "a", "labels": {"k": "v"}}})
    await kube.create(LEASES, "other", {"metadata": {"name": "b", "labels": {"k": "v"}}})
    seen: list[tuple[str, str]] = []

    async def watch() -> None:
        async with aclosing(
            kube.watch(LEASES, "lab", resource_version=start, label_selector="k=v", timeout_s=60)
        ) as events:
            async for event in events:
                seen.append((event.type.value, event.object["metadata"]["resourceVersion"]))  # noqa: PERF401

    task = asyncio.create_task(watch())
    await clock.settle()
    await kube.patch(LEASES, KEY, {"metadata": {"labels": {"z": "z"}}})
    await kube.patch(LEASES, KEY, {"metadata": {"labels": {"k": "other"}}})
    await clock.settle()
    kube.send_bookmarks()
    await clock.advance(61)
    assert task.done()
    assert seen == [("ADDED", "2"), ("MODIFIED", "4"), ("DELETED", "5"), ("BOOKMARK", "5")]
    kube.expire_history()
    with pytest.raises(Gone):
        await anext(kube.watch(LEASES, None, resource_version=start, timeout_s=60))


async def test_a_bookmark_is_never_older_than_the_news_before_it() -> None:
    _clock, kube = world()
    await kube.create(LEASES, "lab", named("a"))
    async with aclosing(kube.watch(LEASES, "lab", resource_version="1", timeout_s=60)) as events:
        seen = [await anext(events)]
        kube.send_bookmarks()
        await kube.patch(LEASES, KEY, {"metadata": {"labels": {"z": "z"}}})  # the reader was busy until now
        seen += [await anext(events), await anext(events)]
    assert [event.object["metadata"]["resourceVersion"] for event in seen] == ["2", "3", "3"]


async def test_troubles_hit_whom_they_are_meant_for() -> None:
    _clock, kube = world()
    other = kube.another_client()
    kube.fail_next(Unreachable("cut"), verb="get", resource=LEASES)
    await kube.create(LEASES, "lab", named("a"))
    await other.get(LEASES, KEY)
    with pytest.raises(Unreachable, match="cut"):
        await kube.get(LEASES, KEY)
    await kube.get(LEASES, KEY)
    kube.hang_next()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(kube.get(LEASES, KEY), 0.01)
    kube.unreachable = True
    with pytest.raises(Unreachable):
        await kube.list_page(LEASES, None)
    kube.heal()
    assert other.requests == [Request("get", LEASES, KEY)]
    assert len(kube.objects(LEASES)) == 1

"""The clock that tests move, and the client of a control plane in the process with its injected faults."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kube_testing import FakeClock, InProcessKube, Request, body_of
from praetor_api.kube.client.api import KubeApi, PatchType
from praetor_api.kube.client.errors import AlreadyExists, ApiError, Conflict, Gone, Invalid, NotFound, Unreachable
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS, DEVICE_PROCESSES, LEASES, Key
from praetor_api.kube.runtime.clock import Clock, SystemClock, within

KEY = Key("lab", "a")
EXECUTION = {"backend": "process", "command": ["v1"]}


def world() -> tuple[FakeClock, InProcessKube]:
    clock = FakeClock()
    return clock, InProcessKube(clock)


def lease(name: str, **labels: str) -> dict[str, Any]:
    return body_of(LEASES, name, {"labels": labels}, spec={"leaseTransitions": 1})


def process(name: str, **parts: Any) -> dict[str, Any]:
    return body_of(DEVICE_PROCESSES, name, spec={"deviceRef": {"name": "leaf-1"}, "execution": EXECUTION}, **parts)


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
    stored = await api.create(DEVICE_PROCESSES, "lab", process("a", status={"phase": "Running"}))
    assert stored["kind"] == "DeviceProcess"
    assert stored["metadata"]["generation"] == 1
    assert stored["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert "status" not in stored
    assert await api.get(DEVICE_PROCESSES, KEY) == stored
    with pytest.raises(AlreadyExists):
        await api.create(DEVICE_PROCESSES, "lab", process("a"))
    with pytest.raises(Invalid):
        await api.create(DEVICE_PROCESSES, "lab", process(""))
    made = await api.create(
        CONTROLLER_REVISIONS, "lab", {"metadata": {"generateName": "rev-"}, "revision": 1, "data": {}}
    )
    assert made["metadata"]["name"].startswith("rev-")
    assert "generation" not in made["metadata"]
    with pytest.raises(NotFound):
        await api.get(LEASES, KEY)


async def test_objects_are_validated_defaulted_and_pruned_by_the_projects_definitions() -> None:
    _clock, kube = world()
    body = process("a")
    stored = await kube.create(DEVICE_PROCESSES, "lab", body | {"spec": body["spec"] | {"unknown": 1}})
    assert stored["spec"]["restartPolicy"] == "Always"
    assert "unknown" not in stored["spec"]
    with pytest.raises(Invalid, match=r"execution\.command is needed"):
        await kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"execution": {"command": None}}})
    await kube.loosen(DEVICE_PROCESSES)
    await kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"execution": {"command": None}}})


async def test_generation_follows_the_spec_and_status_is_written_through_its_subresource() -> None:
    _clock, kube = world()
    await kube.create(DEVICE_PROCESSES, "lab", process("a"))

    async def patch(user: str, subresource: str | None = None) -> tuple[int, str, Any]:
        body = {"spec": {"execution": {"user": user}}, "status": {"phase": "Running"}}
        made = await kube.patch(DEVICE_PROCESSES, KEY, body, subresource=subresource)
        return made["metadata"]["generation"], made["spec"]["execution"]["user"], made.get("status")

    assert await patch("a") == (2, "a", None)
    assert await patch("b", "status") == (2, "a", {"phase": "Running"})
    assert await patch("b") == (3, "b", {"phase": "Running"})
    patched = await kube.get(DEVICE_PROCESSES, KEY)
    again = await kube.patch(DEVICE_PROCESSES, KEY, {"spec": {"execution": {"user": "b"}}})
    assert again["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"]


async def test_preconditions_are_checked() -> None:
    _clock, kube = world()
    old = (await kube.create(LEASES, "lab", lease("a")))["metadata"]
    version = {"metadata": {"resourceVersion": old["resourceVersion"]}}
    await kube.patch(LEASES, KEY, version | {"spec": {"leaseTransitions": 2}})
    with pytest.raises(Conflict):
        await kube.patch(LEASES, KEY, version | {"spec": {"leaseTransitions": 3}})
    with pytest.raises(Invalid, match=r"metadata\.uid"):
        await kube.patch(LEASES, KEY, {"metadata": {"uid": "other"}})
    with pytest.raises(Conflict):
        await kube.delete(LEASES, KEY, uid="other")
    await kube.delete(LEASES, KEY, uid=old["uid"])
    with pytest.raises(NotFound):
        await kube.delete(LEASES, KEY)


async def test_patches_of_every_type_are_applied() -> None:
    _clock, kube = world()
    await kube.patch(LEASES, KEY, lease("a"), patch_type=PatchType.APPLY, field_manager="praetor")
    await kube.patch(LEASES, KEY, {"metadata": {"labels": {"b": "2"}}})
    await kube.patch(LEASES, KEY, {"metadata": {"labels": {"c": "3"}}}, patch_type=PatchType.STRATEGIC)
    operation = {"op": "add", "path": "/metadata/labels/d", "value": "4"}
    await kube.patch(LEASES, KEY, [operation], patch_type=PatchType.JSON)
    assert kube.objects(LEASES)[KEY]["metadata"]["labels"] == {"b": "2", "c": "3", "d": "4"}
    await kube.create(DEVICE_PROCESSES, "lab", process("a"))
    with pytest.raises(ApiError, match="415"):
        await kube.patch(DEVICE_PROCESSES, KEY, {}, patch_type=PatchType.STRATEGIC)


async def test_finalizers_hold_an_object_back() -> None:
    _clock, kube = world()
    await kube.create(LEASES, "lab", body_of(LEASES, "a", {"finalizers": ["example.com/x"]}))
    await kube.delete(LEASES, KEY)
    await kube.delete(LEASES, KEY)
    assert kube.objects(LEASES)[KEY]["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"
    await kube.patch(LEASES, KEY, {"metadata": {"finalizers": None}})
    assert kube.objects(LEASES) == {}


async def test_pages_end_and_expire() -> None:
    _clock, kube = world()
    for name in "abc":
        await kube.create(LEASES, "lab", lease(name))
    page = await kube.list_page(LEASES, "lab", limit=2)
    assert [item["metadata"]["name"] for item in page["items"]] == ["a", "b"]
    token = page["metadata"]["continue"]
    rest = await kube.list_page(LEASES, "lab", limit=2, continue_token=token)
    assert [item["metadata"]["name"] for item in rest["items"]] == ["c"]
    assert not rest["metadata"].get("continue")
    assert len((await kube.list_page(LEASES, None, limit=0))["items"]) == 3
    kube.expire_history()
    with pytest.raises(Gone):
        await kube.list_page(LEASES, "lab", continue_token=token)


async def test_a_watch_replays_selects_and_ends() -> None:
    clock, kube = world()
    start = (await kube.list_page(LEASES, None))["metadata"]["resourceVersion"]
    await kube.create(LEASES, "lab", lease("a", k="v"))
    await kube.create(LEASES, "other", lease("b", k="v"))
    seen: list[tuple[str, int]] = []

    async def watch() -> None:
        async with aclosing(
            kube.watch(LEASES, "lab", resource_version=start, label_selector="k=v", timeout_s=60)
        ) as events:
            async for event in events:
                later = int(event.object["metadata"]["resourceVersion"]) - int(start)
                seen.append((event.type.value, later))

    task = asyncio.create_task(watch())
    await clock.settle()
    await kube.patch(LEASES, KEY, {"metadata": {"labels": {"z": "z"}}})
    await kube.patch(LEASES, KEY, {"metadata": {"labels": {"k": "other"}}})
    await clock.settle()
    kube.send_bookmarks()
    await clock.advance(61)
    assert task.done()
    assert seen == [("ADDED", 1), ("MODIFIED", 3), ("DELETED", 4), ("BOOKMARK", 4)]
    kube.expire_history()
    with pytest.raises(Gone):
        await anext(kube.watch(LEASES, None, resource_version=start, timeout_s=60))


async def test_a_bookmark_is_sent_in_the_order_of_the_changes() -> None:
    _clock, kube = world()
    start = kube.version
    await kube.create(LEASES, "lab", lease("a"))
    async with aclosing(kube.watch(LEASES, "lab", resource_version=str(start), timeout_s=60)) as events:
        seen = [await anext(events)]
        kube.send_bookmarks()
        await kube.patch(LEASES, KEY, {"metadata": {"labels": {"z": "z"}}})  # the reader was busy until now
        seen += [await anext(events), await anext(events)]
    versions = [int(event.object["metadata"]["resourceVersion"]) - start for event in seen]
    assert list(zip([event.type.value for event in seen], versions, strict=True)) == [
        ("ADDED", 1),
        ("BOOKMARK", 1),
        ("MODIFIED", 2),
    ]


async def test_a_watch_that_was_silenced_receives_nothing_and_does_not_end() -> None:
    clock, kube = world()
    seen: list[str] = []

    async def watch() -> None:
        async with aclosing(kube.watch(LEASES, "lab", resource_version=str(kube.version), timeout_s=60)) as events:
            seen.extend([event.type.value async for event in events])

    task = asyncio.create_task(watch())
    await clock.settle()
    kube.silence_watches()
    await kube.create(LEASES, "lab", lease("a"))
    kube.end_watches()
    await clock.advance(120)
    assert not task.done()
    assert seen == []
    task.cancel()


async def test_the_version_goes_back_as_after_a_restore() -> None:
    _clock, kube = world()
    before = kube.version
    await kube.create(LEASES, "lab", lease("a"))
    kube.rewind(before)
    assert (await kube.list_page(LEASES, None))["metadata"]["resourceVersion"] == str(before)


async def test_faults_hit_the_requests_that_they_name_of_one_client() -> None:
    _clock, kube = world()
    other = kube.another_client()
    kube.fail_next(Unreachable("cut"), verb="get", resource=LEASES)
    await kube.create(LEASES, "lab", lease("a"))
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

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest

from kube_testing import FakeClock, InProcessKube
from praetor_api.kube.client.api import WatchEvent, WatchType
from praetor_api.kube.client.errors import (
    ApiError,
    Forbidden,
    Gone,
    ServerError,
    TooManyRequests,
    Unreachable,
    api_error,
)
from praetor_api.kube.client.resource import Key, Resource
from praetor_api.kube.runtime.informer import CATCH_UP_S, DOUBT_S, LIST_TIMEOUT_S, OPEN_S, SILENCE_S, Informer

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
Row = tuple[str, int]  # device and number


def project(obj: dict[str, Any]) -> Row:
    return obj["data"]["device"], int(obj["data"]["number"])


def body(name: str, device: str = "leaf-1", number: int = 0, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "data": {"device": device, "number": str(number)}}


class World:
    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.api = self.kube.another_client()  # the informer's, with its own troubles
        self.informer = Informer(self.api, CONFIG_MAPS, project=project, clock=self.clock, **options)
        self.log: list[tuple[str, Row | None, Row | None]] = []
        self.informer.add_index("device", lambda row: [row[0]])
        self.informer.add_handler(lambda key, old, new: self.log.append((key.name, old, new)))

    async def create(self, *names: str, **more: Any) -> None:
        for name in names:
            await self.kube.create(CONFIG_MAPS, "lab", body(name, **more))

    async def set_number(self, name: str, number: int) -> None:
        await self.kube.patch(CONFIG_MAPS, Key("lab", name), {"data": {"number": str(number)}})

    async def delete(self, name: str) -> None:
        await self.kube.delete(CONFIG_MAPS, Key("lab", name))

    def rows(self) -> dict[str, Row]:
        return {key.name: row for key, row in self.informer.items()}

    def asked(self, verb: str) -> int:
        return sum(request.verb == verb for request in self.api.requests)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.informer.run(), name="informer")
        await self.clock.settle()
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_the_copy_follows_the_api() -> None:
    world = World()
    await world.create("a", "b")
    async with world.running():
        assert world.informer.synced.is_set()
        await world.create("c")
        await world.set_number("a", 7)
        await world.delete("b")
        await world.clock.settle()
        assert world.rows() == {"a": ("leaf-1", 7), "c": ("leaf-1", 0)}
        assert world.informer.get(Key("lab", "a")) == ("leaf-1", 7)
        assert world.informer.get(Key("lab", "b")) is None
        assert len(world.informer) == 2
    assert world.log == [
        ("a", None, ("leaf-1", 0)),
        ("b", None, ("leaf-1", 0)),
        ("c", None, ("leaf-1", 0)),
        ("a", ("leaf-1", 0), ("leaf-1", 7)),
        ("b", ("leaf-1", 0), None),
    ]
    assert (world.asked("list"), world.asked("watch")) == (1, 1)


async def test_lists_come_in_pages() -> None:
    world = World(page_size=3)
    await world.create(*(f"p{i}" for i in range(7)))
    async with world.running():
        assert len(world.informer) == 7
        assert world.asked("list") == 3


async def large_world() -> World:
    """A world with more objects than are read in pages: p0 to p11 in pages of 2."""
    world = World(page_size=2)
    await world.create(*(f"p{i}" for i in range(12)))
    return world


async def test_a_large_kind_is_read_as_a_stream() -> None:
    world = await large_world()
    async with world.running():
        assert world.informer.synced.is_set()
        assert set(world.rows()) == {f"p{i}" for i in range(12)}
        assert (world.asked("list"), world.asked("watch")) == (1, 2)  # a page, the stream, and the watch from there
        assert len(world.log) == 12
        await world.set_number("p1", 5)
        await world.clock.settle()
        assert world.rows()["p1"] == ("leaf-1", 5)


async def test_what_was_deleted_is_missing_in_the_stream_and_goes() -> None:
    world = await large_world()
    async with world.running():
        world.api.unreachable = True
        world.api.end_watches(Unreachable("cut"))
        await world.clock.advance(1)
        await world.delete("p11")
        await world.create("q")
        world.kube.expire_history()
        world.api.heal()
        await world.clock.advance(120)
        assert set(world.rows()) == {f"p{i}" for i in range(11)} | {"q"}


@pytest.mark.parametrize("status", [400, 422])
async def test_an_api_that_sends_no_stream_is_read_in_pages_from_then_on(status: int) -> None:
    world = await large_world()
    world.api.fail_next(api_error(status, "Invalid", "sendInitialEvents is forbidden"), verb="watch")
    async with world.running():
        assert len(world.informer) == 12
        assert (world.asked("list"), world.asked("watch")) == (6, 2)
        world.api.expire_history()
        await world.clock.advance(60)
        assert world.asked("list") == 12


async def test_a_stream_that_ends_too_soon_is_no_whole_list(monkeypatch: pytest.MonkeyPatch) -> None:
    world, whole = await large_world(), [False, True]
    watch = world.api.watch

    async def cut(*args: Any, **options: Any) -> AsyncIterator[WatchEvent]:
        is_whole = not options.get("listed") or whole.pop(0)
        async with aclosing(watch(*args, **options)) as events:
            async for event in events:
                if event.type is WatchType.BOOKMARK and not is_whole:
                    return
                yield event

    monkeypatch.setattr(world.api, "watch", cut)
    async with world.running():
        assert len(world.informer) == 12
        assert not world.informer.synced.is_set()
        await world.clock.advance(10)
        assert world.informer.synced.is_set()


async def test_what_is_deleted_while_the_stream_begins_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await large_world()
    watch = world.api.watch

    async def deleting(*args: Any, **options: Any) -> AsyncIterator[WatchEvent]:
        async with aclosing(watch(*args, **options)) as events:
            async for event in events:
                if event.type is WatchType.BOOKMARK and options.get("listed"):
                    gone = {"metadata": {"namespace": "lab", "name": "p3", "resourceVersion": "1"}}
                    yield WatchEvent(WatchType.DELETED, gone)
                yield event

    monkeypatch.setattr(world.api, "watch", deleting)
    async with world.running():
        assert set(world.rows()) == {f"p{i}" for i in range(12) if i != 3}


async def test_a_stream_that_stops_is_given_up() -> None:
    world = await large_world()
    world.api.hang_next(verb="watch")
    async with world.running():
        await world.clock.advance(LIST_TIMEOUT_S - 1)
        assert not world.informer.synced.is_set()
        await world.clock.advance(10)
        assert len(world.informer) == 12


async def test_rows_are_found_by_index() -> None:
    world = World()
    await world.create("a", "b", device="leaf-1")
    await world.create("c", device="leaf-2", number=5)
    async with world.running():
        assert world.informer.by_index("device", "leaf-2") == (("leaf-2", 5),)
        assert len(world.informer.by_index("device", "leaf-1")) == 2
        assert world.informer.by_index("device", "leaf-3") == ()


async def test_what_leaves_the_selection_is_deleted() -> None:
    world = World(label_selector="site=ams")
    await world.kube.create(CONFIG_MAPS, "lab", body("a", site="ams"))
    await world.kube.create(CONFIG_MAPS, "lab", body("b", site="fra"))
    async with world.running():
        assert set(world.rows()) == {"a"}
        await world.kube.patch(CONFIG_MAPS, Key("lab", "a"), {"metadata": {"labels": {"site": "fra"}}})
        await world.clock.settle()
        assert world.rows() == {}


async def test_a_change_that_the_row_does_not_show_calls_no_handler() -> None:
    world = World()
    await world.create("a")
    async with world.running():
        await world.kube.patch(CONFIG_MAPS, Key("lab", "a"), {"metadata": {"annotations": {"x": "y"}}})
        await world.clock.settle()
        assert len(world.log) == 1


async def test_a_watch_that_ends_is_resumed_without_a_list() -> None:
    world = World()
    await world.create("a")
    async with world.running():
        await world.clock.advance(60)
        world.api.end_watches()
        await world.create("b")
        await world.clock.settle()
        assert set(world.rows()) == {"a", "b"}
        assert (world.asked("list"), world.asked("watch")) == (1, 2)


async def test_a_watch_that_always_ends_at_once_is_not_asked_in_a_hot_loop() -> None:
    world = World()
    async with world.running():
        for _ in range(600):
            world.api.end_watches()
            await world.clock.advance(0.5)
    assert world.asked("watch") < 60  # 300 s at 30 s a try, half of that by jitter, and the first few


async def test_bookmarks_move_the_version_from_which_a_watch_resumes() -> None:
    world = World()
    await world.create("a")
    async with world.running():
        for i in range(5):
            await world.kube.create(CONFIG_MAPS, "other", body(f"x{i}"))
        world.api.send_bookmarks()
        await world.clock.settle()
        assert world.informer.last_contact == world.clock.monotonic()
        world.api.end_watches()
        await world.clock.advance(1)
        assert world.asked("list") == 1


async def test_the_copy_is_current_while_the_watch_works() -> None:
    world = World()
    assert not world.informer.is_current()
    async with world.running():
        assert world.informer.is_current()
        world.api.end_watches()
        await world.clock.settle()
        assert world.informer.is_current()  # as every watch ends after some minutes


async def test_the_copy_is_not_current_during_an_outage_and_until_missed_events_arrived() -> None:
    world = World()
    async with world.running():
        world.api.unreachable = True
        world.api.end_watches(Unreachable("cut"))
        await world.clock.advance(60)
        assert not world.informer.is_current()
        world.api.heal()
        asked = world.asked("watch")
        while world.asked("watch") == asked:
            await world.clock.advance(0.1)
        assert world.informer.last_contact == pytest.approx(world.clock.monotonic(), abs=0.1)  # without events
        assert not world.informer.is_current()
        await world.clock.advance(CATCH_UP_S)
        assert world.informer.is_current()


async def test_the_copy_is_current_at_once_after_a_list() -> None:
    world = World()
    async with world.running():
        world.kube.expire_history()
        world.api.end_watches(Gone(410, "Expired"))
        await world.clock.settle()
        assert not world.informer.is_current()
        while world.asked("list") < 2:
            await world.clock.advance(0.1)
        assert world.informer.is_current()


async def test_after_a_long_list_the_copy_is_current_only_once_the_watch_caught_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    list_page = world.api.list_page

    async def slow(*args: Any, **options: Any) -> dict[str, Any]:
        page = await list_page(*args, **options)
        await world.clock.sleep(40)
        return page

    monkeypatch.setattr(world.api, "list_page", slow)
    async with world.running():
        await world.create("made-meanwhile")
        await world.clock.advance(40)
        assert world.informer.synced.is_set()
        assert not world.informer.is_current()
        await world.clock.advance(CATCH_UP_S)
        assert set(world.rows()) == {"made-meanwhile"}
        assert world.informer.is_current()


async def test_expired_history_leads_to_a_relist_whose_differences_reach_the_handlers() -> None:
    world = World(page_size=2)
    await world.create("a", "b", "c")
    async with world.running():
        world.log.clear()
        world.api.unreachable = True
        world.api.end_watches(Unreachable("cut"))
        await world.clock.advance(1)
        await world.set_number("a", 1)
        await world.delete("b")
        await world.create("d")
        world.kube.expire_history()
        await world.clock.advance(10)
        assert set(world.rows()) == {"a", "b", "c"}  # it serves what it knew
        world.api.heal()
        await world.clock.advance(120)
        assert world.rows() == {"a": ("leaf-1", 1), "c": ("leaf-1", 0), "d": ("leaf-1", 0)}
        assert sorted(world.log, key=lambda entry: entry[0]) == [
            ("a", ("leaf-1", 0), ("leaf-1", 1)),
            ("b", ("leaf-1", 0), None),
            ("d", None, ("leaf-1", 0)),
        ]
        assert world.informer.by_index("device", "leaf-1") == (("leaf-1", 1), ("leaf-1", 0), ("leaf-1", 0))


async def test_a_continue_token_that_is_gone_starts_the_list_over() -> None:
    world = World(page_size=2)
    await world.create("a", "b", "c")
    world.api.fail_next(Gone(410, "Expired", "the continue parameter is too old"), verb="list")
    async with world.running():
        await world.clock.advance(2)
        assert set(world.rows()) == {"a", "b", "c"}


async def test_a_silent_connection_is_detected_and_replaced() -> None:
    world = World()
    await world.create("a")
    async with world.running():
        world.api.silence_watches()
        await world.delete("a")
        await world.clock.advance(SILENCE_S - 1)
        assert set(world.rows()) == {"a"}
        await world.clock.advance(3)
        assert world.rows() == {}


async def test_a_watch_of_a_kind_that_never_changes_is_replaced_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    async with world.running():
        await world.clock.advance(3 * SILENCE_S)
        assert world.asked("watch") >= 3
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_bookmarks_keep_a_quiet_watch_alive() -> None:
    world = World()
    async with world.running():
        for _ in range(4):
            await world.clock.advance(60)
            world.api.send_bookmarks()
        assert world.asked("watch") == 1


async def test_a_list_that_hangs_is_given_up() -> None:
    world = World()
    await world.create("a")
    world.api.hang_next(verb="list")
    async with world.running():
        assert not world.informer.synced.is_set()
        await world.clock.advance(62)
        assert world.informer.synced.is_set()


@pytest.mark.parametrize(
    ("error", "most"),
    [
        pytest.param(ServerError(500, "InternalError"), 120, id="500"),
        pytest.param(Forbidden(403, "Forbidden"), 120, id="403"),
        pytest.param(Unreachable("refused"), 400, id="unreachable"),
    ],
)
async def test_failures_are_retried_with_growing_delays(error: Exception, most: int) -> None:
    world = World()
    await world.create("a")
    world.api.fail_next(error, verb="list", times=1000)  # type: ignore[arg-type]
    async with world.running():
        await world.clock.advance(600)
        assert 20 <= world.asked("list") < most
        world.api.heal()
        await world.clock.advance(31)
        assert set(world.rows()) == {"a"}


async def test_the_delay_that_the_server_asks_for_is_kept() -> None:
    world = World()
    world.api.fail_next(TooManyRequests(429, "", "", None, 20.0), verb="watch")
    async with world.running():
        await world.clock.advance(19)
        assert world.asked("watch") == 1
        await world.clock.advance(6)
        assert world.asked("watch") == 2
        assert world.asked("list") == 1


async def test_a_healthy_period_resets_the_backoff() -> None:
    world = World()
    world.api.fail_next(ServerError(500), verb="watch", times=12)
    async with world.running():
        for _ in range(8):
            await world.clock.advance(60)
            world.api.send_bookmarks()
        asked = world.asked("watch")
        world.api.end_watches(ServerError(500))
        await world.clock.advance(0.8)
        assert world.asked("watch") == asked + 1
        assert world.informer.last_error is not None
        await world.clock.advance(60)
        world.api.end_watches()
        await world.clock.settle()
        assert world.informer.last_error is None


async def test_a_watch_whose_version_decreases_leads_to_a_relist() -> None:
    world = World()
    await world.create("a", "b")
    async with world.running():
        lists = world.asked("list")
        world.kube.rewind(1)  # restored from a backup
        world.api.send_bookmarks()
        await world.clock.advance(1)
        assert world.asked("list") == lists + 1


async def test_a_copy_of_what_a_restored_store_lost_is_corrected_though_its_watch_stays_open_and_silent() -> None:
    world = World()
    await world.create("a")
    async with world.running():
        await world.create("ghost")
        await world.clock.advance(1)
        world.api.silence_watches()  # it is from a version that does not exist yet
        await world.delete("ghost")
        world.kube.rewind(2)
        lists = world.asked("list")
        await world.clock.advance(150)
        assert set(world.rows()) == {"a"}
        assert world.asked("list") == lists + 1


async def test_a_copy_in_doubt_is_not_current_until_a_new_watch_works() -> None:
    world = World()
    await world.create("a")
    async with world.running():
        await world.clock.advance(60)
        world.api.silence_watches()
        await world.set_number("a", 5)
        assert world.informer.is_current()
        lists = world.asked("list")
        world.informer.doubt(world.clock.monotonic() - 1)
        assert not world.informer.is_current()
        await world.clock.advance(3)
        assert world.rows()["a"] == ("leaf-1", 5)
        assert world.informer.is_current()
        assert world.asked("list") == lists


async def test_a_doubt_costs_nothing_where_the_watch_works_and_few_watches_where_it_comes_often() -> None:
    world = World()
    async with world.running():
        await world.create("a")
        await world.clock.advance(1)
        watches = world.asked("watch")
        world.informer.doubt(world.clock.monotonic() - 2)  # an event arrived since
        await world.clock.advance(1)
        assert world.asked("watch") == watches
        for _ in range(10):
            world.informer.doubt(world.clock.monotonic())
            await world.clock.advance(DOUBT_S / 10)
        assert world.asked("watch") <= watches + 2


async def test_a_store_that_was_restored_is_listed_again_at_once() -> None:
    world = World()
    async with world.running():
        lists = world.asked("list")
        world.informer.doubt(None)
        await world.clock.advance(2)
        assert world.asked("list") == lists + 1
        assert world.informer.is_current()


async def test_a_watch_that_is_not_answered_is_given_up_soon() -> None:
    world = World()
    world.api.hang_next(verb="watch")
    async with world.running():
        await world.clock.advance(OPEN_S + 2)
        assert world.asked("watch") == 2
        assert world.asked("list") == 1


async def test_a_version_that_the_server_does_not_know_yet_leads_to_a_relist() -> None:
    world = World()
    world.api.fail_next(api_error(504, "Timeout", "Too large resource version"), verb="watch")
    async with world.running():
        await world.clock.advance(1)
        assert world.asked("list") == 2


async def test_an_object_that_cannot_be_projected_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await world.create("a", "b")
    async with world.running():
        await world.kube.patch(CONFIG_MAPS, Key("lab", "a"), {"data": {"device": None}})
        await world.set_number("b", 1)
        await world.clock.settle()
        assert world.rows() == {"a": ("leaf-1", 0), "b": ("leaf-1", 1)}
    assert "cannot project ConfigMap lab/a" in caplog.text


async def test_an_outage_soon_after_another_starts_with_a_short_delay() -> None:
    """Else a copy would stay blind for half a minute though the API is back."""
    world = World()
    async with world.running():
        world.api.fail_next(Unreachable("gone"), verb="watch", times=12)
        world.api.end_watches(Unreachable("gone"))
        while world.asked("watch") < 14:
            await world.clock.advance(0.5)
        await world.create("a")
        await world.clock.settle()
        assert set(world.rows()) == {"a"}
        world.api.end_watches(Unreachable("gone again"))
        await world.create("b")
        await world.clock.advance(0.8)
        assert set(world.rows()) == {"a", "b"}


async def test_an_expired_version_is_relisted_at_once_even_after_many_failures() -> None:
    world = World()
    async with world.running():
        world.api.fail_next(Unreachable("gone"), verb="watch", times=12)
        world.api.end_watches(Unreachable("gone"))
        await world.create("a")
        world.api.expire_history()
        while world.asked("watch") < 14:
            await world.clock.advance(0.5)
        await world.clock.advance(0.8)
        assert set(world.rows()) == {"a"}


async def test_versions_that_are_always_too_old_do_not_make_a_hot_loop_of_lists() -> None:
    world = World()
    world.api.fail_next(Gone(410, "Expired", "too old"), verb="watch", times=1000)
    async with world.running():
        await world.clock.advance(600)
        assert world.asked("list") < 120


ABSENT = api_error(404, "", "404 page not found")


@pytest.mark.parametrize("refusal", [ABSENT, api_error(403, "Forbidden", "no")])
async def test_an_optional_kind_that_is_absent_is_empty_and_current_until_it_exists(refusal: ApiError) -> None:
    world = World(optional=True)
    await world.create("a")
    world.api.fail_next(refusal, verb="list", times=5)
    async with world.running():
        assert (world.informer.synced.is_set(), world.informer.is_current(), world.rows()) == (True, True, {})
        assert world.informer.absent is refusal
        world.informer.doubt(None)
        assert world.informer.is_current()
        await world.clock.advance(120)
        assert 2 <= world.asked("list") <= 4
        await world.clock.advance(300)
        assert world.rows() == {"a": ("leaf-1", 0)}
        assert world.informer.absent is not refusal


async def test_a_kind_that_is_needed_is_not_current_while_it_is_absent() -> None:
    world = World()
    world.api.fail_next(ABSENT, verb="list", times=100)
    async with world.running():
        await world.clock.advance(60)
        assert (world.informer.synced.is_set(), world.informer.is_current()) == (False, False)


async def test_an_optional_kind_with_objects_that_becomes_absent_is_kept_and_not_current() -> None:
    world = World(optional=True)
    await world.create("a")
    async with world.running():
        world.api.fail_next(ABSENT, times=1000)
        world.api.end_watches()
        await world.clock.advance(60)
        assert (world.rows(), world.informer.is_current()) == ({"a": ("leaf-1", 0)}, False)

# SPDX-License-Identifier: Apache-2.0
"""Read your own writes: rows that were written are served before the informer shows them, and until it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from attrs import evolve

from controller_testing import runs
from kube_testing import FakeClock, InProcessKube, body_of
from praetor_api.kube.client.errors import Unreachable
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_api.kube.runtime.informer import Informer
from praetor_controller.model.projection import project_process
from praetor_controller.model.rows import ProcessRow
from praetor_controller.reconcile.assumed_cache import LIFETIME_S, AssumedCache
from praetor_controller.reconcile.cache import Cache

KEY = Key("lab", "tel-a")
BY_DEVICE = "device"
Change = tuple[Key, ProcessRow | None, ProcessRow | None]


class Fixture:
    """Processes in an API, the cache that follows them, and what its handlers were called with."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.informer = Informer(self.kube, DEVICE_PROCESSES, project=project_process, clock=self.clock)
        self.cache = AssumedCache([(None, self.informer)], self.clock)
        self.cache.add_index(BY_DEVICE, lambda row: (row.device,))
        self.changes: list[Change] = []
        self.events: list[Change] = []
        self.cache.add_handler(lambda *change: self.changes.append(change))
        self.cache.add_event_handler(lambda *change: self.events.append(change))

    async def create(self, device: str = "a", **metadata: Any) -> ProcessRow:
        spec = runs("v1") | {"deviceRef": {"name": device}}
        body = body_of(DEVICE_PROCESSES, f"tel-{device}", metadata, spec=spec)
        return project_process(await self.kube.create(DEVICE_PROCESSES, "lab", body))

    async def write(self, command: str) -> ProcessRow:
        return project_process(await self.kube.patch(DEVICE_PROCESSES, KEY, {"spec": runs(command)}))

    async def delete(self) -> None:
        await self.kube.delete(DEVICE_PROCESSES, KEY)

    async def catch_up(self) -> None:
        await self.clock.advance(0.1)

    def on(self, device: str) -> list[ProcessRow]:
        return list(self.cache.by_index(BY_DEVICE, device))


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    await fixture.create()
    running = asyncio.create_task(fixture.informer.run())
    await fixture.catch_up()
    fixture.changes.clear()
    fixture.events.clear()
    yield fixture
    running.cancel()
    await asyncio.wait((running,))


async def test_a_write_is_read_back_at_once_and_its_event_is_no_change(fixture: Fixture) -> None:
    written = await fixture.write("v2")
    fixture.cache.assume(written)
    assert fixture.informer.get(KEY) != written
    assert fixture.cache.get(KEY) == written
    assert fixture.on("a") == [written]
    await fixture.catch_up()
    assert fixture.informer.get(KEY) == fixture.cache.get(KEY) == written
    assert fixture.changes == []
    assert [new for _, _, new in fixture.events] == [written]


async def test_a_change_of_another_client_is_a_change_from_what_was_assumed(fixture: Fixture) -> None:
    written = await fixture.write("v2")
    fixture.cache.assume(written)
    other = await fixture.write("v3")
    await fixture.catch_up()
    assert fixture.cache.get(KEY) == other
    assert fixture.changes == [(KEY, written, other)]
    assert len(fixture.events) == 2


async def test_an_older_version_that_the_informer_shows_late_is_not_served(fixture: Fixture) -> None:
    shown = fixture.cache.get(KEY)
    assert shown is not None
    newer = evolve(shown, spec_hash="newer", resource_version=str(int(shown.resource_version) + 100))
    fixture.cache.assume(newer)
    late = await fixture.write("v2")
    await fixture.catch_up()
    assert [new for _, _, new in fixture.events] == [late]
    assert fixture.changes == []
    assert fixture.cache.get(KEY) == newer


async def test_a_created_row_is_served_before_the_informer_has_it(fixture: Fixture) -> None:
    created = await fixture.create("b")
    fixture.cache.assume(created, is_new=True)
    assert fixture.informer.get(Key("lab", "tel-b")) is None
    assert fixture.on("b") == [created]
    await fixture.catch_up()
    assert fixture.on("b") == [created]
    assert fixture.changes == []


async def test_the_row_of_a_created_object_is_known_for_that_version_alone(fixture: Fixture) -> None:
    written = await fixture.write("v2")
    fixture.cache.assume(written)
    assert fixture.cache.created(KEY, written.uid, written.resource_version) is None  # it was not created by that

    key = Key("lab", "tel-b")
    created = await fixture.create("b")
    assert fixture.cache.created(key, created.uid, created.resource_version) is None
    fixture.cache.assume_created(created)
    assert fixture.cache.get(key) is created
    assert fixture.cache.created(key, created.uid, created.resource_version) is created
    assert fixture.cache.created(key, created.uid, "1") is None
    assert fixture.cache.created(key, "another", created.resource_version) is None
    await fixture.catch_up()
    assert fixture.cache.created(key, created.uid, created.resource_version) is None  # the informer has it by now
    assert fixture.changes == []


async def test_what_is_read_back_of_an_own_create_is_not_projected_again() -> None:
    clock = FakeClock()
    kube = InProcessKube(clock)
    cache = Cache(kube, clock, ())
    body = body_of(DEVICE_PROCESSES, "tel-a", spec=runs("v1") | {"deviceRef": {"name": "a"}})
    stored = await kube.create(DEVICE_PROCESSES, "lab", body)
    row = cache.process(stored)
    assert cache.process(stored) is not row
    cache.processes.assume_created(row)
    assert cache.process(stored) is row
    changed = await kube.patch(DEVICE_PROCESSES, KEY, {"spec": runs("v2")})
    assert cache.process(changed).spec_hash != row.spec_hash


async def test_the_index_follows_what_is_assumed(fixture: Fixture) -> None:
    moved = evolve(await fixture.write("v2"), device="b")
    fixture.cache.assume(moved)
    assert (fixture.on("a"), fixture.on("b")) == ([], [moved])


async def test_an_update_of_a_row_that_is_gone_meanwhile_does_not_bring_it_back(fixture: Fixture) -> None:
    written = await fixture.write("v2")
    await fixture.delete()
    await fixture.catch_up()
    fixture.cache.assume(written)
    assert fixture.cache.get(KEY) is None
    assert fixture.on("a") == []


async def test_a_deleted_row_is_gone_before_the_informer_shows_it(fixture: Fixture) -> None:
    row = fixture.cache.get(KEY)
    assert row is not None
    await fixture.delete()
    fixture.cache.assume_deleted(row)
    assert fixture.cache.get(KEY) is None
    assert fixture.on("a") == []
    await fixture.catch_up()
    assert fixture.changes == []
    assert [new for _, _, new in fixture.events] == [None]


async def test_a_row_of_the_same_name_that_is_created_after_the_deletion_is_served(fixture: Fixture) -> None:
    row = fixture.cache.get(KEY)
    assert row is not None
    await fixture.delete()
    fixture.cache.assume_deleted(row)
    recreated = await fixture.create()
    await fixture.catch_up()
    assert fixture.cache.get(KEY) == recreated
    assert fixture.changes == [(KEY, None, recreated)]


async def test_a_deleted_row_that_a_finalizer_keeps_is_served_as_terminating(fixture: Fixture) -> None:
    await fixture.kube.patch(DEVICE_PROCESSES, KEY, {"metadata": {"finalizers": ["keep"]}})
    await fixture.catch_up()
    row = fixture.cache.get(KEY)
    assert row is not None
    await fixture.delete()
    fixture.cache.assume_deleted(row)
    assert fixture.cache.get(KEY) is None
    await fixture.catch_up()
    kept = fixture.cache.get(KEY)
    assert kept is not None
    assert kept.terminating


async def test_a_deleted_incarnation_does_not_overtake_the_present_one(fixture: Fixture) -> None:
    before = fixture.cache.get(KEY)
    assert before is not None
    await fixture.delete()
    recreated = await fixture.create()
    await fixture.catch_up()
    fixture.cache.assume_deleted(before)
    assert fixture.cache.get(KEY) == recreated


async def test_an_assumed_row_that_no_event_confirms_expires(fixture: Fixture) -> None:
    shown = fixture.cache.get(KEY)
    fixture.kube.unreachable = True
    fixture.kube.end_watches(Unreachable("cut"))
    written = project_process(await fixture.kube.another_client().patch(DEVICE_PROCESSES, KEY, {"spec": {"x": 1}}))
    fixture.cache.assume(written)
    await fixture.clock.advance(LIFETIME_S - 1)
    assert fixture.cache.get(KEY) == written
    await fixture.clock.advance(2)
    assert fixture.cache.get(KEY) == shown
    assert fixture.on("a") == [shown]


async def test_a_deletion_that_the_informer_shows_first_ends_what_was_assumed(fixture: Fixture) -> None:
    written = await fixture.write("v2")
    fixture.cache.assume(written)
    await fixture.delete()
    await fixture.catch_up()
    assert fixture.cache.get(KEY) is None
    assert fixture.changes == [(KEY, written, None)]


async def test_the_late_deletion_of_an_earlier_incarnation_leaves_the_assumed_one(fixture: Fixture) -> None:
    fixture.kube.silence_watches()
    await fixture.delete()
    new = await fixture.create()
    fixture.cache.assume(new, is_new=True)
    fixture.informer._remove(KEY)  # the deletion arrives, and the creation does not yet
    assert fixture.cache.get(KEY) == new
    assert fixture.on("a") == [new]
    assert fixture.changes == []


@pytest.mark.parametrize("deleted", [False, True])
async def test_what_a_restored_store_lost_is_assumed_no_longer(fixture: Fixture, deleted: bool) -> None:
    kept = fixture.cache.get(KEY)
    assert kept is not None
    if deleted:
        fixture.cache.assume_deleted(kept)
    else:
        fixture.cache.assume(evolve(kept, resource_version=str(int(kept.resource_version) + 1), spec_hash="v2"))
    before = fixture.cache.get(KEY)
    assert before != kept
    await fixture.clock.advance(1)
    assert fixture.cache.get(KEY) == before
    fixture.informer.doubt(None)  # the store of the API is that of a backup
    await fixture.clock.advance(5)
    assert fixture.cache.get(KEY) == kept
    assert fixture.on("a") == [kept]
    assert fixture.changes == [(KEY, before, kept)]

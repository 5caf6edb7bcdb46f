# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kube_testing import FakeClock
from praetor_api.kube.runtime.backoff import Backoff
from praetor_api.kube.runtime.workqueue import Workqueue


class Workers:
    """Take keys; each holds its key until released."""

    def __init__(self, queue: Workqueue[str], clock: FakeClock) -> None:
        self.queue = queue
        self.clock = clock
        self.handled: list[tuple[str, float]] = []
        self.busy: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def work(self) -> None:
        while True:
            async with self.queue.get() as key:
                assert key not in self.busy
                self.busy.append(key)
                self.handled.append((key, self.clock.monotonic() - 1000.0))
                await self.gate.wait()
                self.busy.remove(key)

    @asynccontextmanager
    async def running(self, count: int = 3) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.work(), name=f"worker {i}") for i in range(count)]
        await self.clock.settle()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def world(backoff: Backoff | None = None) -> tuple[FakeClock, Workqueue[str], Workers]:
    clock = FakeClock()
    queue: Workqueue[str] = Workqueue(clock, backoff) if backoff else Workqueue(clock)
    return clock, queue, Workers(queue, clock)


async def test_a_key_waits_at_most_once_and_in_order() -> None:
    _clock, queue, workers = world()
    for key in "abab":
        queue.add(key)
    assert len(queue) == 2
    async with workers.running(1):
        assert [key for key, _ in workers.handled] == ["a", "b"]
        assert len(queue) == 0


async def test_a_key_added_while_it_is_processed_is_handed_out_again_afterwards() -> None:
    clock, queue, workers = world()
    workers.gate.clear()
    async with workers.running():
        queue.add("a")
        await clock.settle()
        queue.add("a")
        queue.add("a")
        await clock.settle()
        assert workers.busy == ["a"]
        assert len(workers.handled) == 1
        workers.gate.set()
        await clock.settle()
        assert len(workers.handled) == 2


async def test_the_age_of_the_first_key_counts_from_when_it_could_be_handed_out() -> None:
    clock, waits = FakeClock(), list[float]()
    queue: Workqueue[str] = Workqueue(clock, waited=waits.append)
    assert queue.oldest_s == 0
    queue.add_after("b", 5.0)
    queue.add("a")
    await clock.advance(7)
    assert queue.oldest_s == 7
    async with queue.get() as key:
        assert (key, len(queue)) == ("a", 1)
        queue.add("a")
        await clock.advance(2)
        assert queue.oldest_s == 2
    async with queue.get() as key:
        assert key == "b"
    assert queue.oldest_s == 0
    await clock.advance(3)
    assert queue.oldest_s == 3
    async with queue.get() as key:
        assert key == "a"
    assert waits == [7, 2, 3]


async def test_of_several_delays_the_earliest_counts() -> None:
    clock, queue, workers = world()
    async with workers.running():
        queue.add_after("a", 5)
        queue.add_after("a", 3)
        queue.add_after("a", 9)
        queue.add_after("b", 1)
        queue.add_after("c", 0)
        assert len(queue) == 1
        await clock.advance(20)
        assert workers.handled == [("c", 0.0), ("b", 1.0), ("a", 3.0)]


async def test_delays_run_while_all_workers_are_busy_or_gone() -> None:
    clock, queue, workers = world()
    queue.add_after("a", 1)
    await clock.advance(2)
    assert len(queue) == 1
    async with workers.running(1):
        assert workers.handled == [("a", 2.0)]


async def test_rate_limited_keys_are_delayed_exponentially_until_forgotten() -> None:
    clock, queue, workers = world(Backoff(1.0, 2.0, 8.0, 0.0))
    async with workers.running():
        for _ in range(5):
            queue.add_rate_limited("a")
            await clock.advance(8)
        starts = [at for _, at in workers.handled]
        assert starts == [1.0, 10.0, 20.0, 32.0, 40.0]
        queue.forget("a")
        queue.forget("a")
        queue.add_rate_limited("a")
        await clock.advance(1)
        assert len(workers.handled) == 6


async def test_a_worker_that_fails_gives_its_key_back() -> None:
    _clock, queue, _workers = world()
    queue.add("a")
    try:
        async with queue.get() as key:
            queue.add(key)
            raise ValueError
    except ValueError:
        pass
    async with queue.get() as key:
        assert key == "a"


async def test_a_worker_cancelled_while_waiting_loses_no_key() -> None:
    clock, queue, workers = world()
    tasks = [asyncio.create_task(workers.work()) for _ in range(3)]
    await clock.settle()
    queue.add_after("b", 1)
    queue.add("a")
    tasks[0].cancel()  # it was woken for a, and it keeps the time for b
    await clock.advance(2)
    assert workers.handled == [("a", 0.0), ("b", 1.0)]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_many_workers_share_many_keys() -> None:
    clock, queue, workers = world()
    async with workers.running(8):
        for i in range(500):
            queue.add_after(str(i), i % 7)
            queue.add(str(i))
        await clock.advance(10)
        assert len(workers.handled) == 500 + sum(1 for i in range(500) if i % 7)

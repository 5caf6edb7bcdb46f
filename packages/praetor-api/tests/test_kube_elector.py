# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from kube_testing import FakeClock, InProcessKube
from praetor_api.kube.client.errors import ServerError
from praetor_api.kube.client.resource import LEASES, Key
from praetor_api.kube.runtime.elector import Elector

KEY = Key("praetor-system", "praetor-controller")


class Candidate:
    """One process; notes from when to when its work ran."""

    def __init__(self, kube: InProcessKube, clock: FakeClock, name: str, **options: Any) -> None:
        self.api = kube.another_client()
        self.clock = clock
        self.elector = Elector(self.api, KEY, name, clock, **options)
        self.terms: list[list[float]] = []
        self.fault: Exception | None = None
        self.stop = asyncio.Event()

    async def lead(self) -> None:
        self.terms.append([self.clock.monotonic()])
        try:
            await self.stop.wait()
        finally:
            self.terms[-1].append(self.clock.monotonic())
        if self.fault is not None:
            raise self.fault

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.elector.run(self.lead), name="elector")
        await self.clock.settle()
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, ValueError):
                await task


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.a = Candidate(self.kube, self.clock, "a", annotations={"address": "10.0.0.1:9443"})
        self.b = Candidate(self.kube, self.clock, "b")

    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.kube.objects(LEASES)[KEY]["spec"]
        return spec

    def leaders(self) -> set[str]:
        return {name for name, who in (("a", self.a), ("b", self.b)) if who.elector.fresh(self.clock.monotonic())}

    def assert_never_two(self) -> None:
        terms = sorted([*self.a.terms, *self.b.terms])
        for earlier, later in itertools.pairwise(terms):
            assert len(earlier) == 2, "the earlier leader still works"
            assert earlier[1] <= later[0]


async def test_one_leads_and_the_others_know_the_holder() -> None:
    world = World()
    async with world.a.running(), world.b.running():
        await world.clock.advance(60)
        assert world.leaders() == {"a"}
        assert world.a.elector.holder == world.b.elector.holder == "a"
        assert world.b.elector.holder_annotations == {"address": "10.0.0.1:9443"}
        assert world.b.terms == []
        assert world.spec()["leaseTransitions"] == 0
        assert world.spec()["leaseDurationSeconds"] == 15
        assert world.spec()["renewTime"] == "2026-01-01T00:01:00.000000Z"
        assert world.spec()["acquireTime"] == "2026-01-01T00:00:00.000000Z"


async def test_steady_leading_costs_one_request_a_period() -> None:
    world = World()
    async with world.a.running():
        before = len(world.a.api.requests)
        await world.clock.advance(60)
        assert len(world.a.api.requests) - before == 30


async def test_a_cancelled_leader_releases_and_the_next_takes_over_at_once() -> None:
    world = World()
    async with world.a.running() as leading, world.b.running():
        await world.clock.advance(30)
        leading.cancel()
        await world.clock.settle()
        assert leading.done()
        assert world.spec()["holderIdentity"] == ""
        await world.clock.advance(2.4)
        assert world.leaders() == {"b"}
        assert world.spec()["leaseTransitions"] == 1
    world.assert_never_two()


async def test_what_the_holder_announced_stays_until_the_next_one_announces() -> None:
    world = World()
    world.b = Candidate(world.kube, world.clock, "b", defaults={"longest": "15", "unit": "s"})
    async with world.a.running() as leading, world.b.running():
        world.a.elector.announce({"longest": "60"})
        await world.clock.advance(10)
        leading.cancel()
        await world.clock.advance(10)
        assert world.leaders() == {"b"}
        assert world.b.elector.holder_annotations == {"address": "10.0.0.1:9443", "longest": "60", "unit": "s"}
        world.b.elector.announce({"longest": "30"})
        await world.clock.advance(10)
        async with world.a.running():
            world.b.stop.set()
            await world.clock.advance(10)
            assert world.leaders() == {"a"}
            assert world.a.elector.holder_annotations["longest"] == "30"  # and not what it said in its first term


async def test_a_hung_renewal_never_gives_two_leaders() -> None:
    world = World()
    async with world.a.running(), world.b.running():
        await world.clock.advance(30)
        world.a.api.hang_next(times=1000)
        await world.clock.advance(10)
        assert world.leaders() == set()
        assert world.a.terms == [[1000.0, 1040.0]]
        await world.clock.advance(10)
        assert world.leaders() == {"b"}
        assert world.b.terms[0][0] >= 1045.0  # no candidate can know sooner
        world.a.api.heal()
        await world.clock.advance(30)
        assert world.leaders() == {"b"}
        world.assert_never_two()


async def test_an_outage_of_the_api_ends_the_term_before_the_lease_expires() -> None:
    world = World()
    async with world.a.running(), world.b.running():
        await world.clock.advance(30)
        world.a.api.unreachable = world.b.api.unreachable = True
        await world.clock.advance(300)
        assert world.leaders() == set()
        assert world.a.terms == [[1000.0, 1040.0]]
        world.a.api.heal()
        world.b.api.heal()
        await world.clock.advance(20)
        assert len(world.leaders()) == 1
        world.assert_never_two()


async def test_a_short_outage_costs_nothing() -> None:
    world = World()
    async with world.a.running(), world.b.running():
        world.a.api.fail_next(ServerError(500), times=3)
        await world.clock.advance(60)
        assert world.leaders() == {"a"}
        assert world.a.terms == [[1000.0]]


async def test_wall_clocks_that_jump_or_differ_do_not_matter() -> None:
    world = World()
    async with world.a.running(), world.b.running():
        for jump in (3600, -7200, 86400):
            world.clock.jump(jump)
            await world.clock.advance(20)
            assert world.leaders() == {"a"}


async def test_a_lease_taken_by_force_ends_the_term() -> None:
    world = World()
    async with world.a.running():
        await world.kube.patch(LEASES, KEY, {"spec": {"holderIdentity": "c"}})
        await world.clock.advance(4.1)
        assert world.leaders() == set()
        assert len(world.a.terms[0]) == 2
        await world.clock.advance(20)  # c never renews
        assert world.leaders() == {"a"}
        assert world.spec()["leaseTransitions"] == 1


async def test_a_deleted_lease_is_created_again() -> None:
    world = World()
    async with world.a.running():
        await world.kube.delete(LEASES, KEY)
        await world.clock.advance(5)
        assert world.leaders() == {"a"}
        assert world.spec()["holderIdentity"] == "a"
        assert world.a.terms == [[1000.0]]


async def test_an_error_of_the_work_ends_the_run_and_releases() -> None:
    world = World()
    world.a.fault = ValueError("boom")
    async with world.a.running() as run:
        world.a.stop.set()
        await world.clock.settle()
        assert run.done()
        with pytest.raises(ValueError, match="boom"):
            await run
    assert world.spec()["holderIdentity"] == ""
    assert not world.a.elector.fresh(world.clock.monotonic())


async def test_work_that_ends_ends_the_run() -> None:
    world = World()
    async with world.a.running() as run:
        world.a.stop.set()
        await world.clock.settle()
        assert run.done()
    assert world.spec()["holderIdentity"] == ""


async def test_a_release_that_fails_does_not_hold_up_the_exit() -> None:
    world = World()
    async with world.a.running() as run:
        world.a.api.hang_next(times=10)
        run.cancel()
        await world.clock.advance(2)
        assert run.done()
    assert world.spec()["holderIdentity"] == "a"


async def test_freshness_ends_with_the_deadline_even_when_no_task_ran_meanwhile() -> None:
    world = World()
    async with world.a.running():
        assert world.a.elector.fresh(world.clock.monotonic() + 9.9)
        assert not world.a.elector.fresh(world.clock.monotonic() + 10)


async def test_many_candidates_take_turns_without_ever_overlapping() -> None:
    world = World()
    async with world.a.running(), world.b.running():
        for step in range(40):
            cut = (world.a, world.b)[step % 2]
            cut.api.hang_next(times=8)
            await world.clock.advance(17)
            cut.api.heal()
            assert len(world.leaders()) <= 1
    world.assert_never_two()
    assert len(world.a.terms) + len(world.b.terms) > 2


@pytest.mark.parametrize(("lease", "deadline", "retry"), [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_durations_that_cannot_be_safe_are_refused(lease: float, deadline: float, retry: float) -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="lease_duration_s must exceed"):
        Elector(
            InProcessKube(clock),
            KEY,
            "a",
            clock,
            lease_duration_s=lease,
            renew_deadline_s=deadline,
            retry_period_s=retry,
        )


async def test_two_that_find_no_lease_at_the_same_moment_do_not_both_lead() -> None:
    world = World()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(who.elector.run(who.lead)) for who in (world.a, world.b)]
        await world.clock.advance(10)
        assert len(world.leaders()) == 1
        for task in tasks:
            task.cancel()
    world.assert_never_two()


async def test_a_leader_that_was_stopped_past_its_deadline_stops_before_it_asks_again() -> None:
    world = World()
    async with world.a.running():
        await world.clock.advance(4)
        world.clock.oversleep(60)  # as a process that got SIGSTOP, or a machine that slept
        assert not world.a.elector.fresh(world.clock.monotonic())
        before = len(world.a.api.requests)
        await world.clock.advance(2)
        assert world.a.terms[0][1] == 1064.0
        assert [request.verb for request in world.a.api.requests[before:]][:1] == ["get"]


async def test_a_request_without_an_answer_causes_doubt_and_a_refused_one_does_not() -> None:
    world, doubts = World(), list[float | None]()
    candidate = Candidate(world.kube, world.clock, "c", on_doubt=doubts.append)
    async with candidate.running():
        await world.clock.advance(10)
        candidate.api.fail_next(ServerError(500, "InternalError"), resource=LEASES)
        await world.clock.advance(5)
        assert doubts == []
        candidate.api.hang_next(resource=LEASES)
        sent_at = world.clock.monotonic()
        await world.clock.advance(10)
        assert len(doubts) == 1
        assert doubts[0] is not None
        assert doubts[0] >= sent_at


async def test_a_lease_that_goes_back_shows_that_the_store_was_restored() -> None:
    world, doubts = World(), list[float | None]()
    candidate = Candidate(world.kube, world.clock, "c", on_doubt=doubts.append)
    async with candidate.running():
        await world.clock.advance(10)
        world.kube.rewind(1)
        await world.clock.advance(5)
        assert None in doubts

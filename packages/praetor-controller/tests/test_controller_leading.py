# SPDX-License-Identifier: Apache-2.0
"""A former leader writes nothing and stops working, at whatever moment it lost the lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from controller_testing import JudgingGateway, runs
from kube_testing import FakeClock, InProcessKube, body_of
from praetor_api.kube.client.resource import DEVICE_PROCESS_DEPLOYMENTS, DEVICE_PROCESSES, NETWORK_SWITCHES, Key
from praetor_api.kube.runtime.events import EventRecorder
from praetor_api.kube.runtime.workqueue import TokenBucket
from praetor_controller.errors import NotLeading
from praetor_controller.metrics import Metrics
from praetor_controller.reconcile.cache import Cache
from praetor_controller.reconcile.controller import Controller
from praetor_controller.reconcile.reconciler import DeploymentReconciler, Result
from praetor_controller.reconcile.revision_history import RevisionHistory
from praetor_controller.reconcile.writer import Writer

TEL = Key("lab", "tel")


class LeadershipFixture:
    """A controller on an API in memory that leads while *leads* is true."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kube = InProcessKube(self.clock)
        self.cache = Cache(self.kube, self.clock, ())
        self.leads = True
        metrics, recorder = Metrics(), EventRecorder(self.kube, self.clock, "praetor-controller", "me")
        self.controller = Controller(self.cache, metrics, self.clock, workers=1)
        limiter, may_write = TokenBucket(1000, 1000, self.clock), self.may_write
        writer = Writer(self.kube, self.cache, self.clock, limiter, metrics, may_write)
        history = RevisionHistory(self.kube, self.cache, self.clock, may_write)
        self.reconciler = DeploymentReconciler(
            self.kube,
            self.cache,
            writer,
            history,
            recorder,
            metrics,
            self.clock,
            self.controller.dirty,
            JudgingGateway(),
        )

    def may_write(self) -> bool:
        return self.leads

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Create a switch and a deployment, and run a cache that follows them."""
        await self.kube.create(NETWORK_SWITCHES, "lab", body_of(NETWORK_SWITCHES, "a", spec={}))
        spec = {"selector": {}, "template": {"spec": runs("v1")}}
        await self.kube.create(DEVICE_PROCESS_DEPLOYMENTS, "lab", body_of(DEVICE_PROCESS_DEPLOYMENTS, "tel", spec=spec))
        following = asyncio.create_task(self.cache.run())
        await self.clock.advance(1)
        yield
        following.cancel()
        await asyncio.wait((following,))

    def writes(self) -> list[str]:
        return [each.verb for each in self.kube.requests if each.verb in ("create", "patch", "delete")]


async def test_a_former_leader_writes_no_status() -> None:
    fixture = LeadershipFixture()
    async with fixture.running():
        await fixture.reconciler.reconcile(TEL)
        await fixture.clock.advance(2)
        await fixture.reconciler.reconcile(TEL)
        assert fixture.kube.objects(DEVICE_PROCESS_DEPLOYMENTS)[TEL]["status"]["currentNumberScheduled"] == 1
        await fixture.kube.delete(DEVICE_PROCESSES, Key("lab", "tel-a"))
        await fixture.kube.delete(NETWORK_SWITCHES, Key("lab", "a"))
        await fixture.clock.advance(2)
        before, fixture.leads = fixture.writes(), False
        with pytest.raises(NotLeading):
            await fixture.reconciler.reconcile(TEL)
        assert fixture.writes() == before


class LosingReconciler(DeploymentReconciler):
    """Loses the lease while it writes."""

    def __init__(self) -> None:
        self.writing, self.lost = asyncio.Event(), asyncio.Event()

    async def reconcile(self, key: Key) -> Result:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
        return Result()

    async def _write(self) -> None:
        self.writing.set()
        await self.lost.wait()
        raise NotLeading


async def test_work_that_is_cancelled_ends_even_when_a_write_is_refused_at_that_moment() -> None:
    fixture, losing = LeadershipFixture(), LosingReconciler()
    async with fixture.running():
        leading = asyncio.create_task(fixture.controller.lead(losing))
        await losing.writing.wait()
        losing.lost.set()
        leading.cancel()
        await fixture.clock.advance(20)
        ended = leading.done()
        for task in asyncio.all_tasks():
            if task.get_name().startswith("reconcile"):
                task.cancel()
        await asyncio.wait((leading,))
    assert ended

# SPDX-License-Identifier: Apache-2.0
"""No new offers while no gateway judges which devices are connected."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from controller_testing import START, deployment, device, process, snapshot
from kube_testing import InProcessKube, body_of
from praetor_api.annotations import JUDGES_WITHIN_ANNOTATION
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import EVENTS, LEASES, Key, Resource
from praetor_api.kube.objects import FailurePolicy
from praetor_controller.model.actions import Delete
from praetor_controller.rollout.planner import plan
from praetor_controller.rollout.reasons import ReasonCode
from praetor_controller.rollout.snapshot import GatewayState
from program_testing import ProgramFixture

LEASE = Key("praetor-system", "praetor-gateway-arbiter")
DURATION_S, SETTLE_S = 15, 30


class JudgedFixture(ProgramFixture):
    """With a gateway that renews its Lease while the clock runs, until it is killed."""

    judging = True
    renewals = 0
    holder = "gateway-1"
    judges_within_s = SETTLE_S

    async def judge(self, **spec: Any) -> None:
        self.renewals += 1
        lease = {"holderIdentity": self.holder, "leaseDurationSeconds": DURATION_S, "leaseTransitions": self.renewals}
        annotations = {JUDGES_WITHIN_ANNOTATION: str(self.judges_within_s)}
        body = body_of(LEASES, LEASE.name, {"annotations": annotations}, spec=lease | spec)
        if LEASE in self.kube.objects(LEASES):
            metadata = {"annotations": annotations}
            await self.kube.patch(LEASES, LEASE, {"metadata": metadata, "spec": lease | spec})
        else:
            await self.kube.create(LEASES, LEASE.namespace, body)

    async def advance(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            if self.judging:
                await self.judge()
            await self.clock.advance(1)

    def has_condition(self) -> bool:
        return any(each["type"] == "GatewayAvailable" for each in self.status()["conditions"])


@pytest.fixture
async def fixture() -> AsyncIterator[JudgedFixture]:
    fixture = JudgedFixture()
    await fixture.judge()
    for name in ("a", "b", "c"):
        await fixture.switch(name)
    await fixture.deploy()
    async with fixture.controller():
        await fixture.advance(5)
        await fixture.report_ready()
        await fixture.advance(3)
        assert fixture.condition("Progressing") == ("True", "NewRevisionRolledOut")
        yield fixture


async def test_a_dead_gateway_holds_new_offers_and_every_deployment_says_so(fixture: JudgedFixture) -> None:
    fixture.judging = False
    await fixture.advance(DURATION_S + 4)
    assert fixture.condition("GatewayAvailable") == ("False", "GatewayUnavailable")
    assert fixture.condition("Progressing") == ("True", "NewRevisionRolledOut")
    await fixture.change_template("v2")
    await fixture.switch("d")
    await fixture.advance(10)
    assert set(fixture.commands().values()) == {"v1"}
    assert fixture.status()["reasons"] == {"GatewayUnavailable": 4}
    assert fixture.condition("Progressing") == ("Unknown", "GatewayUnavailable")
    assert any(each["reason"] == "GatewayUnavailable" for each in fixture.kube.objects(EVENTS).values())

    fixture.judging = True
    await fixture.advance(SETTLE_S - 2)
    assert set(fixture.commands().values()) == {"v1"}, "it has heard no device yet"
    await fixture.advance(8)
    assert "v2" in fixture.commands().values()
    assert fixture.condition("Progressing") == ("True", "RolloutInProgress")
    assert not fixture.has_condition()


async def test_the_one_that_takes_over_says_how_long_to_wait_for_it(fixture: JudgedFixture) -> None:
    fixture.judging = False
    await fixture.advance(DURATION_S + 4)
    await fixture.change_template("v2")
    fixture.judging, fixture.judges_within_s = True, 3600
    await fixture.advance(SETTLE_S + 10)
    assert set(fixture.commands().values()) == {"v1"}, "it said that it may not have noticed all for an hour"

    fixture.holder, fixture.judges_within_s = "gateway-2", SETTLE_S
    await fixture.advance(SETTLE_S - 5)
    assert set(fixture.commands().values()) == {"v1"}
    await fixture.advance(15)
    assert "v2" in fixture.commands().values()
    assert not fixture.has_condition()


async def test_a_gateway_that_gave_its_lease_up_and_one_that_was_deleted_judge_no_more(fixture: JudgedFixture) -> None:
    fixture.judging = False
    await fixture.judge(holderIdentity="", leaseDurationSeconds=1)
    await fixture.advance(DURATION_S - 5)
    assert not fixture.has_condition(), "the next replica takes it in this time"
    await fixture.kube.delete(LEASES, LEASE)
    await fixture.advance(10)
    assert fixture.condition("GatewayAvailable") == ("False", "GatewayUnavailable")


async def test_an_outage_of_the_api_is_not_one_of_the_gateway(fixture: JudgedFixture) -> None:
    fixture.judging = False
    fixture.kube.unreachable = True
    await fixture.advance(120)
    fixture.kube.unreachable = False
    await fixture.advance(3)
    fixture.judging = True
    await fixture.advance(20)
    assert not fixture.has_condition()


async def test_a_controller_that_just_started_offers_nothing_until_it_saw_a_renewal() -> None:
    fixture = JudgedFixture()
    await fixture.judge()
    await fixture.switch("a")
    await fixture.deploy()
    async with fixture.controller():
        fixture.judging = False
        await fixture.advance(5)
        assert fixture.commands() == {}
        assert fixture.status()["reasons"] == {"GatewayUnavailable": 1}
        assert not fixture.has_condition()
        fixture.judging = True
        await fixture.advance(5)
        assert fixture.commands() == {"tel-a": "v1"}


async def test_a_controller_that_starts_in_the_outage_goes_on_saying_so() -> None:
    fixture = JudgedFixture()
    await fixture.judge()
    await fixture.switch("a")
    await fixture.deploy()
    fixture.judging = False
    async with fixture.controller():
        await fixture.advance(25)
        assert fixture.condition("Progressing") == ("Unknown", "GatewayUnavailable")
    written = fixture.status()
    async with fixture.controller():
        await fixture.advance(25)
        assert fixture.status() == written


class ForbiddenLeases(InProcessKube):
    """An API whose roles are from before the controller read the gateways' Lease."""

    async def get(self, resource: Resource, key: Key) -> dict[str, Any]:
        if (resource, key) == (LEASES, LEASE):
            raise api_error(403, "Forbidden", "leases is forbidden")
        return await super().get(resource, key)


@pytest.mark.parametrize("kube", [InProcessKube, ForbiddenLeases])
async def test_without_a_lease_that_can_be_read_rollouts_go_on_and_a_metric_says_so(kube: type[InProcessKube]) -> None:
    fixture = ProgramFixture(kube)
    await fixture.switch("a")
    await fixture.deploy()
    async with fixture.controller() as program:
        await fixture.clock.advance(30)
        assert fixture.commands() == {"tel-a": "v1"}
        assert math.isnan(program.metrics.registry.get_sample_value("praetor_controller_gateway_judging") or 0.0)


NOT_JUDGING = [GatewayState.AWAITED, GatewayState.GONE, GatewayState.RETURNING]


@pytest.mark.parametrize("state", [*NOT_JUDGING, GatewayState.JUDGING])
def test_no_device_fails_while_no_gateway_judges(state: GatewayState) -> None:
    row = deployment("v2", failure_policy=FailurePolicy(max_failures=0), progress_deadline_seconds=60)
    late = process("a", "v2", ready_since=None, settled_since=None)
    planned = plan(snapshot(row, [device("a")], [late], gateway=state), START + timedelta(hours=1))
    assert planned.status is not None
    assert (planned.status.failed_revision is None) == (state is not GatewayState.JUDGING)


def test_devices_have_their_whole_time_again_when_a_gateway_judges_again() -> None:
    row = deployment("v2", failure_policy=FailurePolicy(max_failures=0), progress_deadline_seconds=60)
    late = process("a", "v2", ready_since=None, settled_since=None)
    now = START + timedelta(hours=1)
    back = snapshot(row, [device("a")], [late], judged_since=now.timestamp())
    first, last = plan(back, now + timedelta(seconds=59)), plan(back, now + timedelta(seconds=60))
    assert first.status is not None
    assert first.status.failed_revision is None
    assert last.status is not None
    assert last.status.failed_revision == "rev-v2"


@pytest.mark.parametrize("state", NOT_JUDGING)
def test_what_is_down_stays_in_the_budget_and_deletions_go_on(state: GatewayState) -> None:
    devices = [device(name) for name in "abc"]
    unready = process("a", "v1", ready_since=None, settled_since=None)
    processes = [unready, process("b", "v2"), process("gone", "v1")]
    planned = plan(snapshot(deployment("v2", max_unavailable=2), devices, processes, gateway=state), START)
    assert [type(each) for each in planned.actions] == [Delete]
    assert {name: each.code for name, each in planned.reasons.items()} == {
        "a": ReasonCode.GATEWAY_UNAVAILABLE,
        "b": ReasonCode.UP_TO_DATE,
        "c": ReasonCode.GATEWAY_UNAVAILABLE,
    }

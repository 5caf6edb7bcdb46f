# SPDX-License-Identifier: Apache-2.0
"""Two gateways with different Leases that judge the same devices: one gives way, and they do not fight."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_testing import GatewayLab, running_lab
from praetor_api.kube.client.resource import EVENTS
from praetor_gateway.fleet.judges import JudgeLease
from praetor_gateway.fleet.rows import judges_of

UID, OTHER = "0" * 31 + "1", "0" * 31 + "2"


async def beat(lab: GatewayLab, seconds: int) -> None:
    for _ in range(0, seconds, 5):
        await lab.client.post("/v1/devices/leaf-1/connect")
        await lab.clock.advance(5)


@pytest.mark.parametrize("first", ["lab", "other"])
async def test_the_judge_with_the_younger_lease_gives_way(first: str) -> None:
    second = "other" if first == "lab" else "lab"
    async with running_lab(lease_namespace=first) as old:
        await old.clock.advance(5)
        async with running_lab(
            old.kube.another_client(), old.clock, identity="gateway-2", lease_namespace=second
        ) as young:
            await old.declare("leaf-1")
            await beat(old, 60)
            for _ in range(24):  # each hears the device for a while, and the other does not
                await beat(old, 60)
                await beat(young, 60)
            written = old.value("status_writes_total", outcome="written")
            written += young.value("status_writes_total", outcome="written")
            assert written < 120
            assert (old.value("rival_judge"), young.value("rival_judge")) == (0, 1)
            assert old.gateway.unready() == ""
            assert f"{first}/praetor-gateway-arbiter" in young.gateway.unready()
            reasons = [event["reason"] for event in old.kube.objects(EVENTS).values()]
            assert reasons.count("AnotherJudge") == 1
            before = young.value("status_writes_total", outcome="written")
            await beat(old, 120)
            assert young.value("status_writes_total", outcome="written") == before


async def test_replicas_with_one_lease_are_no_rivals() -> None:
    async with running_lab() as first:
        async with running_lab(first.kube.another_client(), first.clock, identity="gateway-2") as second:
            await first.declare("leaf-1")
            await beat(first, 90)
            for _ in range(3):
                await beat(second, 90)
        managers = [each for each, _ in judges_of(first.switch("leaf-1")["metadata"])]
        assert [each.split("/")[:2] for each in managers] == [["lab", "praetor-gateway-arbiter"]]
        assert (first.value("rival_judge"), second.value("rival_judge")) == (0, 0)


def lease(created: str, uid: str = UID, **metadata: Any) -> JudgeLease:
    given = {"creationTimestamp": created, "uid": uid, "namespace": "lab", "name": "arbiter"} | metadata
    found = JudgeLease.of({"metadata": given})
    assert found is not None
    return found


def test_leases_are_ordered_by_age_then_by_uid() -> None:
    old, young = lease("2026-01-01T00:00:00Z"), lease("2026-01-01T00:00:01Z")
    assert old < young
    assert old < lease("2026-01-01T00:00:00Z", OTHER, namespace="a")
    assert JudgeLease.named(young.manager) == young
    assert len(lease("2099-01-01T00:00:00Z", namespace="n" * 63, name="praetor-gateway-arbiter").manager) <= 128


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        {"metadata": {"uid": UID}},
        {"metadata": {"uid": "x", "namespace": "a", "name": "b", "creationTimestamp": "2026-01-01T00:00:00Z"}},
    ],
)
def test_a_lease_that_is_not_known_names_no_judge(raw: Any) -> None:
    assert JudgeLease.of(raw) is None
    assert JudgeLease.named("kubectl-edit") is None
    assert judges_of({"managedFields": [{"manager": "kubectl-edit"}, {}]}) == ()

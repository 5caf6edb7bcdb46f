# SPDX-License-Identifier: Apache-2.0
"""Reports and connects, sent to a whole gateway on fakes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway_testing import (
    GatewayLab,
    conditions,
    healthy,
    one_device,
    run_in_virtual_time,
    running_lab,
)
from praetor_api.kube.client.resource import EVENTS
from praetor_api.protocol import MAX_BODY_BYTES, MAX_OBSERVATIONS

DESIRED = "/v1/devices/leaf-1/desired"
REPORT = "/v1/devices/leaf-1/report"
lab = pytest.fixture(one_device)
good = pytest.fixture(healthy)


async def test_a_report_becomes_status_conditions_and_events(lab: GatewayLab) -> None:
    first = await lab.report("leaf-1", agentVersion="1.2", bootID="b1", seq=1, facts={"os": "linux"})
    assert first["resync"] is True
    answer = await lab.report("leaf-1", await lab.running("leaf-1"), agentVersion="1.2", bootID="b1", seq=2, then_s=10)
    assert 0 < lab.value("status_write_delay_seconds_sum") < 10
    status = lab.process("leaf-1")["status"]
    assert status["phase"] == "Running"
    assert (status["pid"], status["observedGeneration"]) == (42, 1)
    assert conditions(lab.process("leaf-1")) == {
        "AgentConnected": "True",
        "Healthy": "True",
        "ProcessStarted": "True",
        "SpecObserved": "True",
    }
    switch = lab.switch("leaf-1")["status"]
    assert (switch["agentVersion"], switch["bootID"], switch["facts"]) == ("1.2", "b1", {"os": "linux"})
    assert switch["processes"] == {"desired": 1, "running": 1, "healthy": 1}
    etag = (await lab.client.get(DESIRED)).headers["etag"]
    reasons = {event["reason"] for event in lab.kube.objects(EVENTS).values()}
    assert answer == {
        "ack": True,
        "desiredETag": etag,
        "heartbeatIntervalSeconds": 15,
        "pollIsHeartbeat": True,
        "resync": False,
    }
    assert reasons == {"AgentConnected", "SpecObserved", "ProcessStarted", "Healthy"}


async def test_bad_observations_come_back_and_do_not_spoil_the_good_one(lab: GatewayLab) -> None:
    await lab.declare("leaf-2")
    good = await lab.running("leaf-1")
    other = await lab.running("leaf-2")
    answer = await lab.report(
        "leaf-1",
        other,
        {"name": 3},
        {**good, "uid": "older"},
        {**good, "startTime": "noon"},
        {**good, "startTime": "0001-01-01T00:00:00+01:00"},
        "junk",
        {**good, "startTime": "0001-01-01T00:00:00Z"},
    )
    await lab.clock.advance(1)
    assert lab.process("leaf-1")["status"]["phase"] == "Running"
    assert "startTime" not in lab.process("leaf-1")["status"]
    assert "ProcessStarted" not in conditions(lab.process("leaf-2"))
    reasons = [rejected["reason"] for rejected in answer["rejected"]]
    assert len(reasons) == 6
    assert {"no such process on this device"} < set(reasons)
    assert any("startTime" in reason for reason in reasons)
    assert any("uid" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param(b"{", "", id="cut-off"),
        pytest.param(b'{"seq": NaN}', "", id="nan"),
        pytest.param(b'{"seq": 1e999}', "", id="infinite"),
        pytest.param(b"[" * 200_000, "", id="deep"),
        pytest.param(b"\xff", "", id="not-utf8"),
        pytest.param(b"[]", "", id="a-list"),
        pytest.param(b'{"seq": -1}', "seq", id="negative"),
        pytest.param(b'{"bootID": 7}', "bootID", id="wrong-type"),
        pytest.param(json.dumps({"facts": {"x" * 318: "y"}}).encode(), "facts", id="long-name"),
        pytest.param(b'{"observations": {}}', "observations", id="no-list"),
        pytest.param(
            json.dumps({"observations": [{"name": "x"}] * (MAX_OBSERVATIONS + 1)}).encode(), "observations", id="many"
        ),
    ],
)
async def test_a_bad_report_names_the_field(lab: GatewayLab, body: bytes, field: str) -> None:
    answer = await lab.client.post(REPORT, body)
    assert answer.status == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_a_body_beyond_the_limit_is_refused_while_it_streams(lab: GatewayLab) -> None:
    announced = await lab.client.request("POST", REPORT, headers={"Content-Length": str(MAX_BODY_BYTES + 1)})
    streamed = await lab.client.request("POST", REPORT, chunks=[b" " * 65536] * 5)
    lying = await lab.client.request("POST", REPORT, headers={"Content-Length": "x"})
    assert [answer.status for answer in (announced, streamed, lying)] == [413, 413, 413]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity"}, 200),
        ({"Content-Length": "2", "Transfer-Encoding": "chunked"}, 400),
    ],
)
async def test_unclear_bodies_are_refused(lab: GatewayLab, headers: dict[str, str], status: int) -> None:
    answer = await lab.client.request("POST", REPORT, headers=headers, chunks=[b"{}"])
    assert answer.status == status


def test_a_body_that_does_not_come_ends_after_a_while() -> None:
    async def scenario() -> int:
        async with running_lab(devices=["leaf-1"]) as lab:
            return (await lab.client.request("POST", REPORT, chunks=[])).status

    assert run_in_virtual_time(scenario()) == 408


async def test_a_connection_that_ends_within_the_body_is_a_bad_request(lab: GatewayLab) -> None:
    gone = asyncio.Event()
    gone.set()
    assert (await lab.client.request("POST", REPORT, chunks=[], gone=gone)).status == 400


async def test_facts_are_kept_once_when_they_are_on_record(lab: GatewayLab) -> None:
    facts = {"os": "linux", "kernel": "6.1"}
    await lab.report("leaf-1", facts=facts, then_s=5)
    device = lab.gateway._fleet.device("leaf-1")
    assert device is not None
    assert device.switch is not None
    assert device.session.facts == facts
    assert device.session.facts is device.switch.status.facts
    await lab.report("leaf-1", facts=dict(facts))
    assert device.session.facts is device.switch.status.facts
    await lab.report("leaf-1", facts={"os": "other"})
    assert (device.session.facts, device.switch.status.facts) == ({"os": "other"}, facts)


async def test_a_report_that_was_overtaken_is_ignored(lab: GatewayLab, good: Any) -> None:
    await lab.report("leaf-1", good, bootID="b", seq=5)
    await lab.report("leaf-1", {**good, "healthy": False}, bootID="b", seq=4, then_s=1)
    assert conditions(lab.process("leaf-1"))["Healthy"] == "True"
    await lab.report("leaf-1", {**good, "healthy": False}, bootID="c", seq=1, then_s=1)
    assert conditions(lab.process("leaf-1"))["Healthy"] == "False"


async def test_connect_is_acknowledged_like_a_heartbeat(lab: GatewayLab) -> None:
    answer = await lab.client.post("/v1/devices/leaf-1/connect")
    await lab.clock.advance(1)
    assert conditions(lab.switch("leaf-1")) == {"AgentConnected": "True"}
    assert answer.json()["ack"] is True
    assert answer.json()["resync"] is True


async def test_a_crash_is_answered_with_a_problem_without_a_traceback(lab: GatewayLab) -> None:
    with pytest.raises(TypeError):
        await lab.client.request("POST", REPORT, headers={"Content-Length": "2"}, chunks=[None])  # type: ignore[list-item]

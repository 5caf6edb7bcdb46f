# SPDX-License-Identifier: Apache-2.0
"""The trace of a write goes on when the device gets the new spec, and ends with what it says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway_testing import GatewayLab, process_object, process_row, running_lab
from kube_testing import FakeClock
from praetor_api.annotations import TRACEPARENT_ANNOTATION
from praetor_api.kube.client.resource import DEVICE_PROCESSES, Key
from praetor_gateway.reports.traces import MAX_OPEN, DeviceTraces
from tracing_testing import RecordedSpans, recorded_spans

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203332-01"


@pytest.fixture
def spans() -> Iterator[RecordedSpans]:
    with recorded_spans() as spans:
        yield spans


@pytest.fixture
async def lab(spans: RecordedSpans) -> AsyncIterator[GatewayLab]:
    async with running_lab(spans=spans.tracer) as lab:
        await declare(lab, PARENT)
        yield lab


async def declare(lab: GatewayLab, traceparent: str) -> None:
    body = process_object("leaf-1")
    body["metadata"]["annotations"] = {TRACEPARENT_ANNOTATION: traceparent}
    await lab.settled(lab.kube.create(DEVICE_PROCESSES, "lab", body))


async def item(lab: GatewayLab) -> dict[str, Any]:
    found: dict[str, Any] = (await lab.desired("leaf-1"))["items"][0]
    return found


async def test_the_device_gets_the_traceparent_and_its_result_ends_the_trace(
    lab: GatewayLab, spans: RecordedSpans
) -> None:
    await lab.clock.advance(3)
    assert (await item(lab))["traceparent"] == PARENT
    good = await lab.running("leaf-1") | {"traceparent": PARENT}
    await lab.clock.advance(4)
    await lab.report("leaf-1", good | {"healthy": None})
    assert not spans.named("device reported"), "it is no result yet"
    await lab.report("leaf-1", good)
    await lab.report("leaf-1", good | {"healthy": False})
    (served,), (reported,) = spans.named("desired state served"), spans.named("device reported")
    assert served.parent is not None
    assert reported.parent is not None
    assert f"{served.parent.span_id:016x}" == PARENT.split("-")[2]
    assert reported.parent.span_id == served.context.span_id
    assert served.attributes == {
        "praetor.namespace": "lab",
        "praetor.process": "agent-leaf-1",
        "praetor.device": "leaf-1",
    }
    assert (reported.attributes or {})["praetor.healthy"] is True
    assert served.end_time is not None
    assert reported.start_time is not None


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        ({"rolledBackReason": "CrashLoop", "rolledBackMessage": "it ended 3 times"}, "it ended 3 times"),
        ({"rolledBackReason": "CrashLoop"}, "CrashLoop"),
        ({"healthy": None, "errorMessage": "no such file"}, "no such file"),
        ({"healthy": False}, "not healthy"),
    ],
)
async def test_a_failure_is_an_error_in_the_trace(
    lab: GatewayLab, spans: RecordedSpans, failure: dict[str, Any], problem: str
) -> None:
    await lab.report("leaf-1", await lab.running("leaf-1") | {"traceparent": PARENT} | failure)
    (reported,) = spans.named("device reported")
    assert (reported.status.is_ok, reported.status.description) == (False, problem)
    assert (reported.attributes or {})["praetor.healthy"] is False


@pytest.mark.parametrize("said", [None, OTHER, "nonsense"])
async def test_a_device_cannot_speak_of_another_trace(lab: GatewayLab, spans: RecordedSpans, said: str | None) -> None:
    await lab.report("leaf-1", await lab.running("leaf-1") | {"traceparent": said}, then_s=5)
    assert not spans.named("device reported")
    assert lab.process("leaf-1")["status"]["phase"] == "Running"


async def test_the_next_write_is_a_trace_of_its_own(lab: GatewayLab, spans: RecordedSpans) -> None:
    await lab.desired("leaf-1")
    patch = {
        "metadata": {"annotations": {TRACEPARENT_ANNOTATION: OTHER}},
        "spec": {"execution": {"command": ["sleep", "10"]}},
    }
    await lab.settled(lab.kube.patch(DEVICE_PROCESSES, Key("lab", "agent-leaf-1"), patch))
    await lab.report("leaf-1", await lab.running("leaf-1") | {"traceparent": PARENT})
    assert not spans.named("device reported"), "it speaks of the version before"
    await lab.report("leaf-1", await lab.running("leaf-1") | {"traceparent": OTHER})
    assert [len(spans.named(name)) for name in ("desired state served", "device reported")] == [2, 1]


async def test_a_spec_on_record_as_seen_is_not_traced_again_after_a_restart(
    lab: GatewayLab, spans: RecordedSpans
) -> None:
    await lab.report("leaf-1", await lab.running("leaf-1") | {"traceparent": PARENT}, then_s=5)
    assert len(spans.named("device reported")) == 1
    with recorded_spans() as later:
        async with running_lab(lab.kube, lab.clock, spans=later.tracer) as restarted:
            await restarted.report("leaf-1", await restarted.running("leaf-1") | {"traceparent": PARENT})
        assert later.chain() == []


@pytest.mark.parametrize(
    "result",
    [
        pytest.param({}, id="healthy"),
        pytest.param({"healthy": False}, id="not-healthy"),
        pytest.param({"healthy": None, "processStarted": False, "errorMessage": "no such file"}, id="does-not-start"),
        pytest.param({"healthy": False, "processStarted": False, "exitCode": 1}, id="ended"),
        pytest.param(
            {"healthy": None, "observedSpecHash": "older", "artifactDownloaded": False, "errorMessage": "404"},
            id="no-artifact",
        ),
    ],
)
async def test_a_result_ends_the_trace_in_all_replicas(spans: RecordedSpans, result: dict[str, Any]) -> None:
    async with running_lab(spans=spans.tracer) as lab:
        await declare(lab, PARENT)
        with recorded_spans() as others:
            kube = lab.kube.another_client()
            async with running_lab(kube, lab.clock, spans=others.tracer, identity="gateway-2") as other:
                seen = await lab.running("leaf-1") | {"traceparent": PARENT}
                await lab.report("leaf-1", seen | {"healthy": None}, then_s=5)
                await lab.report("leaf-1", seen | result, then_s=5)
                await lab.clock.advance(60)
                await other.report("leaf-1", seen, then_s=5)
            assert others.named("device reported") == []
        assert len(spans.named("device reported")) == 1


async def test_a_trace_goes_on_in_the_replica_that_the_result_reaches(lab: GatewayLab, spans: RecordedSpans) -> None:
    with recorded_spans() as others:
        kube = lab.kube.another_client()
        async with running_lab(kube, lab.clock, spans=others.tracer, identity="gateway-2") as other:
            seen = await lab.running("leaf-1") | {"traceparent": PARENT}
            await lab.report("leaf-1", seen | {"healthy": None}, then_s=5)
            await other.report("leaf-1", seen, then_s=5)
        assert len(others.named("device reported")) == 1
    await lab.report("leaf-1", seen, then_s=5)
    assert spans.named("device reported") == []


@pytest.mark.parametrize("written", ["", "nonsense", PARENT])
async def test_without_tracing_or_with_a_foreign_text_the_device_learns_of_none(written: str) -> None:
    async with running_lab() as lab:
        await declare(lab, written)
        assert "traceparent" not in await item(lab)
    with recorded_spans() as spans:
        async with running_lab(spans=spans.tracer) as lab:
            await declare(lab, written)
            assert (await item(lab)).get("traceparent") == (written if written == PARENT else None)


def test_the_oldest_traces_are_given_up_and_a_deleted_process_leaves_none(spans: RecordedSpans) -> None:
    traces = DeviceTraces(spans.tracer, FakeClock())
    rows = [process_row(traceparent=f"00-{number + 1:032x}-{1:016x}-01") for number in range(MAX_OPEN + 1)]
    for row in rows:
        traces.on_change(row.key, None, row)
    assert len(traces) == MAX_OPEN
    traces.served(rows[:2])
    assert len(spans.named("desired state served")) == 1
    for row in rows:
        traces.on_change(row.key, row, None)
    assert len(traces) == 0

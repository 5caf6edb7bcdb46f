# SPDX-License-Identifier: Apache-2.0
"""One trace leads from the changed template to each write of a process, over a change of the leader."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from praetor_api.annotations import TRACEPARENT_ANNOTATION
from praetor_api.kube.client.errors import api_error
from praetor_api.kube.client.resource import CONTROLLER_REVISIONS, DEVICE_PROCESSES
from program_testing import ProgramFixture
from tracing_testing import RecordedSpans, recorded_spans


@pytest.fixture
def spans() -> Iterator[RecordedSpans]:
    with recorded_spans() as spans:
        yield spans


async def fleet_of(*names: str) -> ProgramFixture:
    fixture = ProgramFixture()
    for name in names:
        await fixture.switch(name)
    await fixture.deploy()
    return fixture


def traceparents(fixture: ProgramFixture) -> dict[str, str | None]:
    return {
        name: obj["metadata"]["annotations"].get(TRACEPARENT_ANNOTATION) for name, obj in fixture.processes().items()
    }


async def test_one_trace_leads_from_the_template_to_each_write(spans: RecordedSpans) -> None:
    fixture = await fleet_of("a", "b")
    async with fixture.controller(spans=spans.tracer):
        await fixture.clock.advance(2)
    assert spans.chain() == ["template changed x1", "process written x2"]
    written = {f"{span.context.span_id:016x}": span for span in spans.named("process written")}
    for name, traceparent in traceparents(fixture).items():
        assert traceparent is not None
        attributes = written[traceparent.split("-")[2]].attributes or {}
        assert attributes["praetor.process"] == name
        assert attributes["praetor.device"] == name.removeprefix("tel-")


async def test_another_leader_goes_on_with_the_trace(spans: RecordedSpans) -> None:
    fixture = await fleet_of("a", "b")
    async with fixture.controller():
        await fixture.report_ready()
    async with fixture.controller(spans=spans.tracer):
        await fixture.change_template("v2")
        await fixture.clock.advance(2)
    assert len(spans.named("process written")) == 1
    with recorded_spans() as later:
        async with fixture.controller(spans=later.tracer):
            for _ in range(3):
                await fixture.report_ready()
                await fixture.clock.advance(5)
        (first,), (second,) = spans.named("process written"), later.named("process written")
        assert second.context.trace_id == first.context.trace_id
        assert second.parent is not None
        assert first.parent is not None
        assert second.parent.span_id == first.parent.span_id


async def test_a_template_that_is_used_again_begins_a_trace_of_its_own(spans: RecordedSpans) -> None:
    fixture = await fleet_of("a")
    async with fixture.controller(spans=spans.tracer):
        for command in ("v2", "v1"):
            await fixture.change_template(command)
            await fixture.report_ready()
            await fixture.clock.advance(5)
    begun = [span.context.trace_id for span in spans.named("template changed")]
    assert len(set(begun)) == len(begun) == 3
    assert [span.context.trace_id for span in spans.named("process written")] == begun


async def test_a_change_of_labels_alone_is_no_new_trace_for_the_device(spans: RecordedSpans) -> None:
    fixture = await fleet_of("a")
    async with fixture.controller(spans=spans.tracer):
        await fixture.report_ready()
        before = traceparents(fixture)
        await fixture.change_template("v1", labels={"app": "tel", "tier": "one"})
        await fixture.clock.advance(5)
        assert fixture.processes()["tel-a"]["metadata"]["labels"]["tier"] == "one"
        assert traceparents(fixture) == before


async def test_without_tracing_nothing_names_a_trace() -> None:
    fixture = await fleet_of("a")
    async with fixture.controller():
        await fixture.clock.advance(2)
    assert traceparents(fixture) == {"tel-a": None}
    revisions = fixture.kube.objects(CONTROLLER_REVISIONS).values()
    assert [TRACEPARENT_ANNOTATION in each["metadata"]["annotations"] for each in revisions] == [False]


async def test_a_write_that_the_api_refuses_is_an_error_in_the_trace(spans: RecordedSpans) -> None:
    fixture = await fleet_of("a")
    refusal = api_error(422, "Invalid", "spec.execution: no", {"causes": [{}]})
    fixture.kube.fail_next(refusal, verb="create", resource=DEVICE_PROCESSES)
    async with fixture.controller(spans=spans.tracer):
        await fixture.clock.advance(60)
    refused, written = spans.named("process written")
    assert (refused.status.is_ok, refused.status.description) == (False, str(refusal))
    assert written.status.is_ok

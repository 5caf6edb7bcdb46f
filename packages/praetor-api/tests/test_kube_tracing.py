# SPDX-License-Identifier: Apache-2.0
"""Spans follow each other by their traceparent; without --tracing nothing is recorded."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest

from praetor_api.kube.options import BadOption
from praetor_api.kube.runtime.tracing import NO_TRACER, recording_tracer
from praetor_api.protocol import valid_traceparent
from tracing_testing import recorded_spans

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (GOOD, True),
        (GOOD.upper(), False),
        (GOOD + "\n", False),
        (GOOD.replace("00-", "ff-", 1), False),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01", False),
        ("", False),
        (None, False),
        (7, False),
    ],
)
def test_a_traceparent_that_anyone_may_have_written_is_checked(text: object, valid: bool) -> None:
    assert valid_traceparent(text) == (text if valid else "")


def test_a_span_follows_its_parent_and_says_what_it_is_about_and_what_failed() -> None:
    began = datetime(2026, 3, 1, 12, tzinfo=UTC)
    with recorded_spans() as spans:
        first = spans.tracer.start("first", {"device": "leaf-1"}, since=began)
        assert valid_traceparent(first.traceparent)
        first.end("no route", attempt=2)
        spans.tracer.start("second", {}, first.traceparent).end()
        (failed,), (after,) = spans.named("first"), spans.named("second")
        assert spans.chain() == ["first x1", "second x1"]
        assert failed.attributes == {"praetor.device": "leaf-1", "praetor.attempt": 2}
        assert (failed.status.is_ok, failed.status.description, after.status.is_ok) == (False, "no route", True)
        assert failed.start_time == int(began.timestamp() * 1e9)


def test_a_parent_that_is_none_begins_another_trace() -> None:
    with recorded_spans() as spans:
        one, other = (spans.tracer.start("root", {}, parent).traceparent for parent in ("", "nonsense"))
        assert one.split("-")[1] != other.split("-")[1]


def test_nothing_is_recorded_unless_it_is_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as where it is not installed
    with recording_tracer(enabled=False, service="praetor-gateway", version="1") as tracer:
        assert tracer is NO_TRACER
        span = tracer.start("first", {})
        span.end("whatever")
        assert span.traceparent == ""


def test_switching_it_on_without_opentelemetry_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with (
        pytest.raises(BadOption, match=r"--tracing: .*install praetor-gateway\[otel\]"),
        recording_tracer(enabled=True, service="praetor-gateway", version="1"),
    ):
        pass

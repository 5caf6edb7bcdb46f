# SPDX-License-Identifier: Apache-2.0
"""Spans that stay in memory, for tests of what records them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from praetor_api.kube.runtime.tracing import OtelTracer


class RecordedSpans:
    """A tracer, and what it recorded so far."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OtelTracer(self._provider)

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans of that name in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def chain(self) -> list[str]:
        """Return the names from the root on, each with its number of spans; they must be of one trace."""
        spans = self._exporter.get_finished_spans()
        assert len({span.context.trace_id for span in spans}) <= 1
        parents = {span.context.span_id: span.parent.span_id if span.parent else None for span in spans}
        found: list[str] = []
        level: set[int | None] = {None}
        while level:
            below = {each for each, parent in parents.items() if parent in level}
            names = [span.name for span in spans if span.context.span_id in below]
            found += [f"{name} x{names.count(name)}" for name in dict.fromkeys(names)]
            level = {*below}
        return found

    def close(self) -> None:
        self._provider.shutdown()


@contextmanager
def recorded_spans() -> Iterator[RecordedSpans]:
    """Yield spans in memory."""
    spans = RecordedSpans()
    try:
        yield spans
    finally:
        spans.close()

# SPDX-License-Identifier: Apache-2.0
"""Traces of a rollout, with OpenTelemetry where it is installed and switched on; else nothing is recorded.

A span's context travels as W3C `traceparent` text: in an annotation from the controller to the gateway, and in the
device protocol from there to the agent and back. No program waits for the collector.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeAlias

from praetor_api.kube.options import BadOption

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

__all__ = ["NO_TRACER", "Attributes", "OtelTracer", "Span", "Tracer", "recording_tracer"]

Attributes: TypeAlias = Mapping[str, str | int | bool]

_FLUSH_S = 2.0
"""How many seconds the last spans may take when a program ends: as many as the controller's last events."""


class Span(Protocol):
    """One step that takes time. *traceparent* is its context, for what follows it elsewhere; "" when not recorded."""

    traceparent: str

    def end(self, problem: str = "", **attributes: str | int | bool) -> None:
        """End the span; *problem* says what failed."""


class Tracer(Protocol):
    """Where a program records its spans."""

    enabled: bool

    def start(self, name: str, about: Attributes, parent: str = "", *, since: datetime | None = None) -> Span:
        """Begin a span.

        Args:
            name: what happens, the same for all devices.
            about: what it happens to; each name gets the prefix `praetor.`.
            parent: the traceparent of the span before it; one of a new trace when it is empty or not valid.
            since: when it began; now if None.
        """


class _NoSpan:
    traceparent = ""

    def end(self, problem: str = "", **attributes: str | int | bool) -> None:
        """Record nothing."""


class _NoTracer:
    enabled = False
    _span = _NoSpan()

    def start(self, name: str, about: Attributes, parent: str = "", *, since: datetime | None = None) -> Span:
        """Record nothing."""
        return self._span


NO_TRACER: Tracer = _NoTracer()
"""Records nothing, at the cost of a call."""


class OtelTracer:
    """Records spans with *provider*, which decides which are kept and where they go."""

    enabled = True

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("praetor")

    def start(self, name: str, about: Attributes, parent: str = "", *, since: datetime | None = None) -> Span:
        """Begin a span, as Tracer says."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
        began = None if since is None else int(since.timestamp() * 1e9)
        return _OtelSpan(self._tracer.start_span(name, context, attributes=_prefixed(about), start_time=began))


class _OtelSpan:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, problem: str = "", **attributes: str | int | bool) -> None:
        """End the span, as Span says."""
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes(_prefixed(attributes))
        if problem:
            self._span.set_status(Status(StatusCode.ERROR, problem))
        self._span.end()


def _prefixed(attributes: Attributes) -> dict[str, str | int | bool]:
    return {f"praetor.{name}": value for name, value in attributes.items()}


@contextmanager
def recording_tracer(*, enabled: bool, service: str, version: str) -> Iterator[Tracer]:
    """Yield where the program *service* records its spans; NO_TRACER unless *enabled*.

    OpenTelemetry's own environment variables say where they go (OTEL_EXPORTER_OTLP_ENDPOINT) and which are kept
    (OTEL_TRACES_SAMPLER). What is recorded last is sent within two seconds when the block ends.

    Raises:
        BadOption: OpenTelemetry is not installed.
    """
    if not enabled:
        yield NO_TRACER
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as e:
        message = f"OpenTelemetry is not installed; install {service}[otel], or leave the option out"
        raise BadOption("--tracing", message) from e
    resource = Resource.create({SERVICE_VERSION: version})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield OtelTracer(provider)
    finally:  # a collector that does not answer keeps the provider for half a minute
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(_FLUSH_S)

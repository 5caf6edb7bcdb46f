# SPDX-License-Identifier: Apache-2.0
"""With --tracing a collector gets one trace per rollout, from the changed template to what the device says of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from attrs import frozen
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from e2e.clusters.cluster import Capability
from e2e.stack.kube import Kube
from e2e.stack.manifests import deployment
from e2e.stack.server import Server
from e2e.stack.stack import Stack
from e2e.stack.waiting import eventually
from e2e.suite.fleet import AgentFleet
from e2e.suite.readiness import await_ready, await_revision
from e2e.suite.workloads import prompt

pytestmark = pytest.mark.needs(Capability.PROGRAMS)

NAME = "sleeper"
STEPS = ["template changed", "process written", "desired state served", "device reported"]
OF_CONTROLLER, OF_GATEWAY = "praetor-controller", "praetor-gateway"


@frozen
class Span:
    """A span as the collector got it."""

    trace: bytes
    number: bytes
    parent: bytes
    name: str
    service: str
    device: str
    began: int
    ended: int
    failed: bool


class Collector:
    """Takes spans by OTLP over HTTP, as the collectors that people run do."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                about = {each.key: each.value.string_value for each in span.attributes}
                self.spans.append(
                    Span(
                        trace=span.trace_id,
                        number=span.span_id,
                        parent=span.parent_span_id,
                        name=span.name,
                        service=service,
                        device=about.get("praetor.device", ""),
                        began=span.start_time_unix_nano,
                        ended=span.end_time_unix_nano,
                        failed=span.status.code == Status.STATUS_CODE_ERROR,
                    )
                )

    def chains(self) -> dict[str, list[Span]]:
        """Return the spans of each device's last rollout that are there so far, from the root on."""
        spans = {span.number: span for span in self.spans}
        found = {}
        for last in (span for span in self.spans if span.name == STEPS[-1]):
            chain = [last]
            while chain[0].parent in spans:
                chain.insert(0, spans[chain[0].parent])
            found[last.device] = chain
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def traced_gateway(stack: Stack, collector: Collector) -> Iterator[Server]:
    """Return the gateway of a controller and a gateway that record spans, in place of those of the other tests."""
    for server in stack.servers():
        server.program.terminate()
    servers = [
        stack.new_controller("controller-traced", "--tracing", variables=collector.variables),
        stack.new_gateway("gateway-traced", "--tracing", variables=collector.variables),
    ]
    for server in servers:
        server.start()
    yield servers[1]
    for server in servers:
        server.program.stop()


def test_each_device_of_a_rollout_is_in_its_trace(
    stack: Stack, kube: Kube, traced_gateway: Server, collector: Collector
) -> None:
    fleet = AgentFleet(stack, kube)
    try:
        devices = [fleet.declare() for _ in range(2)]
        for device in devices:
            fleet.power_on(device, traced_gateway)
        kube.apply(deployment(NAME, prompt("1"), max_unavailable=2))
        await_ready(kube, devices)
        first = eventually(collector.chains, lambda found: set(found) == {*devices}, what="the devices' spans")
        _check(first)
        kube.apply(deployment(NAME, prompt("2"), max_unavailable=2))
        await_revision(kube, devices, "2")
        known = {chain[0].trace for chain in first.values()}
        second = eventually(
            collector.chains,
            lambda found: not known & {chain[0].trace for chain in found.values()},
            what="the spans of the second rollout",
        )
        _check(second)
        broken = prompt("3", execution={"command": ["/nowhere/at/all"]})
        kube.apply(deployment(NAME, broken, max_unavailable=2))
        failed = eventually(
            collector.chains,
            lambda found: all(chain[-1].failed for chain in found.values()),
            what="the spans of the version that cannot start",
        )
        assert {tuple(span.name for span in chain) for chain in failed.values()} == {tuple(STEPS)}
    finally:
        fleet.close()


def _check(chains: dict[str, list[Span]]) -> None:
    """Check that all devices are in one trace, each step after the one before, by the program that did it."""
    assert len({span.trace for chain in chains.values() for span in chain}) == 1
    assert len({chain[0].number for chain in chains.values()}) == 1
    for chain in chains.values():
        assert [span.name for span in chain] == STEPS
        assert [span.service for span in chain] == [OF_CONTROLLER] * 2 + [OF_GATEWAY] * 2
        assert [span.began for span in chain] == sorted(span.began for span in chain)
        assert all(span.began <= span.ended for span in chain)
        assert not any(span.failed for span in chain)

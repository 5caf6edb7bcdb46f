# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from praetor_api.kube.options import BadOption, BindAddress
from praetor_api.kube.runtime.probes import MAX_PROBE_CONNECTIONS, serve_probes


def registry_with(name: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter(name, "A counter.", registry=registry).inc()
    return registry


def free_address() -> BindAddress:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return BindAddress("127.0.0.1", probe.getsockname()[1])


async def fetch(port: int, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, response.headers["Content-Type"], await response.text()


@pytest.mark.parametrize("shared", [True, False], ids=["one-port", "two-ports"])
async def test_probes_and_metrics_are_served(shared: bool) -> None:
    probes = free_address()
    metrics = probes if shared else free_address()
    reason = "the cache is not filled yet"
    async with serve_probes(probes, metrics, unready=lambda: reason, registry=registry_with("seen")) as port:
        assert port == probes.port
        for path in ("/livez", "/healthz"):
            assert (await fetch(port, path))[::2] == (200, "ok")
        assert (await fetch(port, "/readyz"))[::2] == (503, "the cache is not filled yet")
        reason = ""
        assert (await fetch(port, "/readyz"))[::2] == (200, "ok")
        status, kind, text = await fetch(metrics.port, "/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert "seen_total 1.0" in text
        assert (await fetch(metrics.port, "/readyz"))[0] == (200 if shared else 404)
        assert (await fetch(probes.port, "/metrics"))[0] == (200 if shared else 404)


async def test_a_probe_may_leave_out_a_check_but_never_readiness_itself() -> None:
    reason = ""
    serving = serve_probes(
        BindAddress("127.0.0.1", 0),
        None,
        unready=lambda: reason,
        registry=CollectorRegistry(),
        checks={"fine": str, "keys": lambda: "the keys are old"},
    )
    async with serving as port:
        assert (await fetch(port, "/readyz"))[::2] == (503, "the keys are old")
        assert (await fetch(port, "/readyz?exclude=fine"))[0] == 503
        assert (await fetch(port, "/readyz?exclude=fine&exclude=keys"))[::2] == (200, "ok")
        reason = "draining"
        assert (await fetch(port, "/readyz?exclude=keys"))[::2] == (503, "draining")


async def test_documents_are_served_with_the_probes() -> None:
    documents = {"/openapi.json": lambda: b'{"openapi": "3.1.0"}'}
    serving = serve_probes(
        BindAddress("127.0.0.1", 0), None, unready=str, registry=CollectorRegistry(), documents=documents
    )
    async with serving as port:
        status, kind, text = await fetch(port, "/openapi.json")
        assert (status, kind.partition(";")[0], text) == (200, "application/json", '{"openapi": "3.1.0"}')


async def test_the_port_is_free_again_after_the_block() -> None:
    address = free_address()
    for _ in range(2):
        async with serve_probes(address, None, unready=str, registry=CollectorRegistry()) as port:
            assert (await fetch(port, "/livez"))[0] == 200


async def test_any_free_port_may_be_asked_for() -> None:
    async with serve_probes(BindAddress("127.0.0.1", 0), None, unready=str, registry=CollectorRegistry()) as port:
        assert (await fetch(port, "/readyz"))[0] == 200


async def test_metrics_are_served_without_probes() -> None:
    address = free_address()
    async with serve_probes(None, address, unready=str, registry=registry_with("seen")) as port:
        assert port == 0
        assert (await fetch(address.port, "/metrics"))[0] == 200


async def test_nothing_is_served_when_both_are_off() -> None:
    async with serve_probes(None, None, unready=str, registry=CollectorRegistry()) as port:
        assert port == 0


async def said(port: int, *pieces: bytes) -> bytes:
    """Return what the server says to *pieces*, each of which arrives by itself; nothing if it breaks the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with suppress(ConnectionResetError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            for _ in range(3):  # rounds of the loop in which the server reads it
                await asyncio.sleep(0)
        answer = await reader.read()
    await leave(writer)
    return answer


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("size", [2**20, 97], ids=["one-piece", "many-pieces"])
@pytest.mark.parametrize(
    ("head", "served"),
    [
        (b"GET /livez HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n", True),
        (b"GET http://x/livez HTTP/1.1\r\n", True),
        (b"PRI * HTTP/2.0\r\n", False),
        (b"GET /livez HTTP/9.9\r\n", False),
        (b"get /livez HTTP/1.1\r\n", False),
        (b"GET /livez HTTP/1.1\r\nA: " + b"a" * 20_000 + b"\r\n", False),
        (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 1_000, False),
    ],
    ids=["h2c", "absolute", "HTTP/2", "HTTP/9.9", "lower-case", "20-kB", "1000-lines"],
)
async def test_probes_speak_nothing_but_http_1(head: bytes, served: bool, size: int) -> None:
    request = head + b"Host: x\r\nConnection: close\r\n\r\n"
    pieces = [request[at : at + size] for at in range(0, len(request), size)]
    async with serve_probes(BindAddress("127.0.0.1", 0), None, unready=str, registry=CollectorRegistry()) as port:
        answer = await said(port, *pieces)
    assert answer.startswith(b"HTTP/1.1 200") if served else answer[8:].strip()[:3] in (b"", b"400")


async def test_a_probe_is_answered_however_many_idle_connections_there_are() -> None:
    async with serve_probes(BindAddress("127.0.0.1", 0), None, unready=str, registry=CollectorRegistry()) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4 * MAX_PROBE_CONNECTIONS)]
        assert (await fetch(port, "/livez"))[0] == 200
        for reader, _ in idle[: 2 * MAX_PROBE_CONNECTIONS]:
            assert await reader.read() == b""
        for _, writer in idle:
            await leave(writer)


@pytest.mark.parametrize("option", ["--health-probe-bind-address", "--metrics-bind-address"])
async def test_an_address_in_use_is_refused_with_its_flag(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = BindAddress("127.0.0.1", taken.getsockname()[1])
        probes, metrics = (address, None) if "probe" in option else (None, address)
        with pytest.raises(BadOption, match=rf"^{option}: cannot listen on 127\.0\.0\.1:\d+ \(.+\); choose another"):
            async with serve_probes(probes, metrics, unready=str, registry=CollectorRegistry()):
                pass

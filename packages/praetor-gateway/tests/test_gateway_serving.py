"""The real server on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from praetor_api.kube.clock import SystemClock
from praetor_api.kube.resource import DEVICE_PROCESSES
from praetor_api.kube.testing import FakeKube
from praetor_gateway.errors import ConfigurationError
from praetor_gateway.gateway import Gateway
from praetor_gateway.main import serve
from praetor_gateway.serving import Listener, Tls
from praetor_gateway.testing import SETTINGS, SHARED_TOKEN, process_object


@asynccontextmanager
async def served() -> AsyncIterator[tuple[FakeKube, int, int, asyncio.Event, asyncio.Task[None]]]:
    """Run the program on a fake API; yield it, both ports, what stops it, and its task."""
    kube, stop = FakeKube(), asyncio.Event()
    await kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1"))
    gateway = Gateway(kube, SETTINGS, SystemClock(), CollectorRegistry())
    ports: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    program = asyncio.ensure_future(serve(gateway, SETTINGS, stop, lambda *bound: ports.set_result(bound)))
    try:
        devices, probes = await asyncio.wait_for(ports, 10)
        await until(probes, "GET /readyz", b"HTTP/1.1 200")
        yield kube, devices, probes, stop, program
    finally:
        stop.set()
        await asyncio.wait_for(program, 20)


async def ask(port: int, line: str, *headers: str, body: str = "") -> bytes:
    """Return all that the server says to one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{line} HTTP/1.1", "Host: x", f"X-Device-Token: {SHARED_TOKEN}", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}" if body else "X: y", "", body]).encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await writer.wait_closed()
    return answer


async def until(port: int, line: str, words: bytes) -> None:
    """Ask until the answer has *words*."""
    async with asyncio.timeout(20):
        while words not in await ask(port, line):
            pass


async def test_devices_and_probes_are_served_until_the_end() -> None:
    async with served() as (_, devices, probes, stop, program):
        desired = await ask(devices, "GET /v1/devices/leaf-1/desired")
        assert b'"deviceName":"leaf-1"' in desired
        assert b"server:" not in desired.lower()
        assert b'"ack":true' in await ask(devices, "POST /v1/devices/leaf-1/report", body="{}")
        for path in ("healthz", "livez", "readyz"):
            assert (await ask(probes, f"GET /{path}")).endswith(b"ok")
        metrics = await ask(probes, "GET /metrics")
        assert b'praetor_gateway_requests_total{code="200",route="desired"} 1.0' in metrics
        assert b"leaf-1" not in metrics
        stop.set()
        await asyncio.wait_for(program, 20)


async def test_a_waiting_device_is_answered_at_shutdown() -> None:
    async with served() as (_, devices, probes, stop, program):
        poll = asyncio.ensure_future(
            ask(devices, "GET /v1/devices/leaf-1/desired", "If-None-Match: *", "Prefer: wait=55")
        )
        await until(probes, "GET /metrics", b"praetor_gateway_waiters 1.0")
        stop.set()
        assert (await poll).startswith(b"HTTP/1.1 304")
        await asyncio.wait_for(program, 20)


async def test_both_lengths_end_the_connection() -> None:
    async with served() as (_, devices, *_rest):
        answer = await ask(devices, "POST /v1/devices/leaf-1/report", "Transfer-Encoding: chunked", body="0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in answer.lower()


async def test_an_encoded_slash_reaches_nobody() -> None:
    async with served() as (_, devices, *_rest):
        assert (await ask(devices, "GET /v1/devices/a%2f..%2fleaf-1/desired")).startswith(b"HTTP/1.1 400")


async def test_an_address_in_use_is_refused_by_name() -> None:
    async with served() as (_, devices, *_rest):
        with pytest.raises(ConfigurationError, match="--addr: cannot listen"):
            Listener(lambda *_: None, f"127.0.0.1:{devices}", option="--addr")  # type: ignore[arg-type]


def test_a_bad_certificate_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "junk.pem"
    path.write_text("junk")
    with pytest.raises(ConfigurationError, match="--tls-cert: cannot use"):
        Listener(lambda *_: None, "127.0.0.1:0", option="--addr", tls=Tls(cert=path, key=path))  # type: ignore[arg-type]

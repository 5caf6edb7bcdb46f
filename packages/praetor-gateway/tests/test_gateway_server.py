# SPDX-License-Identifier: Apache-2.0
"""The real server on real sockets."""

from __future__ import annotations

import asyncio
import gc
import platform
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from attrs import evolve
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Receive, Scope, Send

import gateway_testing
from gateway_testing import SETTINGS, SHARED_TOKEN, listening, process_object
from kube_testing import FakeClock, InProcessKube
from kubeplane.http.tls import server_context
from praetor_api.kube.client.resource import DEVICE_PROCESSES
from praetor_api.kube.options import BadOption, BindAddress
from praetor_api.kube.runtime.clock import SystemClock
from praetor_gateway import main
from praetor_gateway.__about__ import __version__
from praetor_gateway.gateway import Gateway
from praetor_gateway.http.certificates import CHECK_S, TlsFiles
from praetor_gateway.http.server import Listener, on_loop_error
from praetor_gateway.main import serve
from praetor_gateway.settings import GatewaySettings, PeerSettings, ServerKind


@pytest.fixture(autouse=True, params=[ServerKind.HYPERCORN, ServerKind.UVICORN])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ServerKind:
    """Both servers keep the same promises."""
    kind: ServerKind = request.param
    monkeypatch.setattr(gateway_testing, "SETTINGS", evolve(SETTINGS, server=kind))
    return kind


@asynccontextmanager
async def served(
    settings: GatewaySettings | None = None,
) -> AsyncIterator[tuple[InProcessKube, int, int, asyncio.Event, asyncio.Task[None]]]:
    """Run the program on a fake API; yield the API, both ports, the event that stops it, and its task."""
    settings = evolve(settings or SETTINGS, server=gateway_testing.SETTINGS.server)
    kube, stop = InProcessKube(), asyncio.Event()
    await kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1"))
    gateway = Gateway(kube, settings, SystemClock(), CollectorRegistry())
    ports: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()
    program = asyncio.ensure_future(serve(gateway, settings, stop, lambda **bound: ports.set_result(bound)))
    try:
        devices, probes = (await ports).values()
        await until(probes, "GET /readyz", b"HTTP/1.1 200")
        yield kube, devices, probes, stop, program
    finally:
        stop.set()
        await program


async def test_the_fleet_is_kept_from_the_garbage_collector_once_it_is_read() -> None:
    gc.unfreeze()
    try:
        async with served():
            async with asyncio.timeout(60):
                while not gc.get_freeze_count():  # noqa: ASYNC110  # nothing else says so
                    await asyncio.sleep(0.01)
    finally:
        gc.unfreeze()


DOCUMENTED = re.compile(r"^\| `((?:praetor_gateway|process)_\w+)` \| (\w+) \|", re.MULTILINE)
PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


async def test_the_metrics_are_those_of_the_documentation(tmp_path: Path) -> None:
    tls, _, certificate = self_signed(tmp_path)
    peers = PeerSettings(addr=BindAddress("127.0.0.1", 0), advertise="a:1", tokens=("x",))
    settings = evolve(SETTINGS, tls_cert=tls.cert, tls_key=tls.key, peers=peers)
    async with served(settings) as (_, devices, probes, *_rest):
        assert await shown(devices, "localhost") == certificate
        text = (await ask(probes, "GET /metrics")).partition(b"\r\n\r\n")[2].decode()
    families = list(text_string_to_metric_families(text))
    total = {"counter": "_total"}
    scraped = {(each.name + total.get(each.type, ""), each.type) for each in families}
    scraped = {(name, kind) for name, kind in scraped if not name.endswith("_created")}
    assert scraped == set(DOCUMENTED.findall(PAGE.read_text(encoding="utf-8")))
    value = {sample.name: sample.value for each in families for sample in each.samples if not sample.labels}
    expiry = value["praetor_gateway_certificate_expiry_timestamp_seconds"]
    assert 0 < expiry - time.time() < 3650 * 86400
    assert value["process_open_fds"] > 3
    assert value["praetor_gateway_connections"] <= 1
    assert f'praetor_gateway_build_info{{python="{platform.python_version()}",version="{__version__}"}} 1.0' in text


async def test_the_time_of_requests_and_of_held_polls_is_measured_apart() -> None:
    async with served() as (_, devices, probes, stop, _program):
        await ask(devices, "GET /v1/devices/leaf-1/desired")
        path = "GET /v1/devices/leaf-1/desired"
        poll = asyncio.ensure_future(ask(devices, path, "If-None-Match: *", "Prefer: wait=1"))
        assert (await poll).startswith(b"HTTP/1.1 304")
        await ask(devices, "POST /v1/devices/leaf-1/report", body="{}")
        metrics = await ask(probes, "GET /metrics")
        for route in (b"desired", b"report"):
            assert b'praetor_gateway_request_duration_seconds_count{route="%b"} 1.0' % route in metrics
        assert b"praetor_gateway_poll_held_seconds_count 1.0" in metrics
        stop.set()


@pytest.mark.parametrize(("over_tls", "limit"), [(False, 712), (True, 224)])
async def test_little_memory_is_for_few_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over_tls: bool, limit: int
) -> None:
    monkeypatch.setattr(main, "memory_bytes", lambda: 64 * 2**20)
    tls, _, _ = self_signed(tmp_path)
    settings = evolve(SETTINGS, tls_cert=tls.cert, tls_key=tls.key) if over_tls else SETTINGS
    async with served(settings) as (_, _devices, probes, *_rest):
        assert f"praetor_gateway_connections_limit {limit}.0".encode() in await ask(probes, "GET /metrics")


async def test_connections_beyond_the_number_that_is_asked_for_are_closed_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main, "memory_bytes", lambda: 1)  # what is asked for counts instead
    async with served(evolve(SETTINGS, max_connections=2)) as (_, devices, probes, *_rest):
        first, second, third = [await asyncio.open_connection("127.0.0.1", devices) for _ in range(3)]
        with suppress(OSError):
            assert await third[0].read() == b""
        first[1].write(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first[0].readline()).startswith(b"HTTP/1.1 404")
        metrics = await ask(probes, "GET /metrics")
        assert b"praetor_gateway_connections_limit 2.0" in metrics
        assert b"praetor_gateway_connections_refused_total 1.0" in metrics
        for _, writer in (first, second, third):
            writer.close()


async def ask(port: int, line: str, *headers: str, body: str = "") -> bytes:
    """Return all that the server says to one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{line} HTTP/1.1", "Host: x", f"X-Device-Token: {SHARED_TOKEN}", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}" if body else "X: y", "", body]).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def until(port: int, line: str, words: bytes) -> None:
    """Ask until the answer has *words*."""
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
        await program


async def test_a_waiting_device_is_answered_at_shutdown() -> None:
    async with served() as (_, devices, probes, stop, program):
        poll = asyncio.ensure_future(
            ask(devices, "GET /v1/devices/leaf-1/desired", "If-None-Match: *", "Prefer: wait=55")
        )
        await until(probes, "GET /metrics", b"praetor_gateway_waiters 1.0")
        stop.set()
        assert (await poll).startswith(b"HTTP/1.1 304")
        await program


async def test_both_lengths_end_the_connection() -> None:
    async with served() as (_, devices, *_rest):
        answer = await ask(devices, "POST /v1/devices/leaf-1/report", "Transfer-Encoding: chunked", body="0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in answer.lower()


async def test_an_encoded_slash_in_a_path_is_refused() -> None:
    async with served() as (_, devices, *_rest):
        assert (await ask(devices, "GET /v1/devices/a%2f..%2fleaf-1/desired")).startswith(b"HTTP/1.1 400")


async def test_an_address_in_use_is_refused_by_name() -> None:
    async with served() as (_, devices, *_rest):
        with pytest.raises(BadOption, match="--addr: cannot listen"):
            Listener(lambda *_: None, BindAddress("127.0.0.1", devices), option="--addr")  # type: ignore[arg-type]


def test_a_bad_certificate_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "junk.pem"
    path.write_text("junk")
    with pytest.raises(BadOption, match="--tls-cert: cannot use"):
        Listener(lambda *_: None, BindAddress("127.0.0.1", 0), option="--addr", tls=TlsFiles(cert=path, key=path))  # type: ignore[arg-type]


async def test_what_is_written_is_sent_without_waiting_for_more() -> None:
    async with listening(hello) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        while not (accepted := tuple(listener._acceptor._open)):  # noqa: ASYNC110 - nothing else says so
            await asyncio.sleep(0)
        assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        writer.close()


async def test_a_hung_request_does_not_keep_the_server_from_ending() -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def hang(*_: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with listening(hang, timeout_s=0.1) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await started.wait()
    writer.close()
    await cancelled.wait()


async def test_failed_handshakes_and_cut_connections_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    for error in (ssl.SSLError("handshake"), asyncio.CancelledError(), TimeoutError()):
        on_loop_error(loop, {"message": "x", "exception": error})
    assert caplog.records == []
    on_loop_error(loop, {"message": "a bug", "exception": ValueError("bug")})
    assert "a bug" in caplog.text


async def hello(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def test_devices_are_served_over_tls(tmp_path: Path) -> None:
    tls, _, certificate = self_signed(tmp_path)
    context = ssl.create_default_context(cadata=certificate.decode())
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with listening(hello, tls=tls) as listener:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", listener.port, ssl=context, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"hi")
        writer.close()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_devices_are_served_over_tls_of_each_version(version: str, tmp_path: Path) -> None:
    tls, _, certificate = self_signed(tmp_path)
    context = ssl.create_default_context(cadata=certificate.decode())
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
    async with listening(hello, tls=tls) as listener:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", listener.port, ssl=context, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").version() == version
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"hi")
        writer.close()


async def test_an_old_version_of_tls_is_refused(tmp_path: Path) -> None:
    tls, _, _ = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # else this client would not speak it
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with listening(hello, tls=tls) as listener:
        with pytest.raises(ConnectionResetError):  # by the server: an error of the client's own would be another one
            await asyncio.open_connection("127.0.0.1", listener.port, ssl=context)


async def shown(port: int, name: str) -> bytes:
    """Return the certificate that a client gets that asks for *name*, or for no name."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return ssl.DER_cert_to_PEM_cert(der).encode()


@pytest.mark.parametrize("name", ["localhost", ""], ids=["by-name", "by-address"])
async def test_a_renewed_certificate_is_served_once_its_key_matches(tmp_path: Path, name: str) -> None:
    (tls, _, old), (_, new_key, new), clock = self_signed(tmp_path / "old"), self_signed(tmp_path / "new"), FakeClock()

    async def put(file: Path, content: bytes) -> None:
        """Replace a file, as mounted Secrets are, and let it be noticed."""
        (tmp_path / "next").write_bytes(content)
        (tmp_path / "next").replace(file)
        await clock.advance(CHECK_S)

    async with listening(hello, tls=tls, clock=clock) as listener:
        assert await shown(listener.port, name) == old
        await put(tls.cert, new)
        assert await shown(listener.port, name) == old
        tls.key.unlink()
        await clock.advance(CHECK_S)
        assert await shown(listener.port, name) == old
        await put(tls.key, new_key)
        assert await shown(listener.port, name) == new


def self_signed(folder: Path) -> tuple[TlsFiles, bytes, bytes]:
    """Return the files of a key and a certificate of localhost, made in *folder*, and the content of both."""
    server_context(folder)
    tls = TlsFiles(cert=folder / "apiserver.crt", key=folder / "apiserver.key")
    return tls, tls.key.read_bytes(), tls.cert.read_bytes()

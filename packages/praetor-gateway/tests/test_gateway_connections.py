# SPDX-License-Identifier: Apache-2.0
"""What a client can do to the server by the way it connects, sends and leaves: raw bytes on real sockets."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import h11
import pytest
from starlette.types import Receive, Scope, Send

from connection_testing import (
    FEW_BYTES,
    SOME_BYTES,
    TlsByHand,
    closed,
    connected,
    crowded_out,
    each_server,
    echo,
    hold,
    in_pieces,
    leave,
    said,
    some,
    tls_of,
    torrent,
)
from gateway_testing import SHARED_TOKEN, listening, run_in_virtual_time, running_lab
from hostile_requests import GET, HEAD, LEFT, POST, REFUSED, SILENT, UNCLEAR
from praetor_gateway.http.connection import MAX_HEAD_BYTES, MAX_HEADER_LINES, READ_BYTES, ConnectionLimits
from praetor_gateway.http.device_api import send_answer
from praetor_gateway.http.hypercorn import _StrictConnection
from praetor_gateway.http.server import Listener
from praetor_gateway.settings import ServerKind

LARGE = bytes(4 * 2**20)
"""More than the kernel takes of an answer."""

SendAll = Callable[[Scope, Send, int, list[tuple[bytes, bytes]], bytes], Awaitable[None]]


async def in_two_messages(_: Scope, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Answer as any ASGI application does."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


server = pytest.fixture(autouse=True, params=[ServerKind.HYPERCORN, ServerKind.UVICORN])(each_server)


@pytest.mark.parametrize("size", [2**20, 97], ids=["one-piece", "many-pieces"])
@pytest.mark.parametrize(("request_", "status"), REFUSED.values(), ids=REFUSED)
async def test_limits_hold_however_the_bytes_arrive(request_: bytes, status: bytes, size: int) -> None:
    async with listening(echo) as listener:
        answer = await said(listener, *in_pieces(request_, size))
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("request_", ["1000-lines", "1000-trailers"])
def test_lines_beyond_the_limit_are_not_parsed_by_hypercorn(request_: str) -> None:
    connection = _StrictConnection(h11.SERVER)
    connection.receive_data(REFUSED[request_][0])
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        with suppress(h11.RemoteProtocolError):
            while connection.next_event():
                pass
    finally:
        sys.setprofile(None)
    assert connection.their_state is h11.ERROR
    assert calls < 3_000  # two of each line, and what is before them; with the parsing there are more than 20,000


@pytest.mark.parametrize("size", [2**20, 7], ids=["one-piece", "many-pieces"])
@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b"GET http://gateway:8080/v1/a%2fb?c=d HTTP/1.1", b"GET /v1/a%2fb /v1/a/b"),
        (b"GET HTTPS://gateway/v1 HTTP/1.1", b"GET /v1 /v1"),
        (b"GET http://gateway HTTP/1.1", b"GET / /"),
        (b"GET http://gateway?c=d HTTP/1.1", b"GET / /"),
        (b"OPTIONS * HTTP/1.1", b"OPTIONS * *"),
        (b"GET /v1 HTTP/1.0", b"GET /v1 /v1"),
        (b"GET /v1 HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ", b"GET /v1 /v1"),
        (b"GET /v1 HTTP/1.1\r\nUpgrade: websocket", b"GET /v1 /v1"),
        (b"GET /v1 HTTP/1.1\r\n" + b"\r\n".join([b"A: b"] * (MAX_HEADER_LINES - 2)), b"GET /v1 /v1"),
        (b"GET /v1 HTTP/1.1\r\nA: " + b"b" * (MAX_HEAD_BYTES - 100), b"GET /v1 /v1"),
    ],
    ids=["absolute", "https", "no-path", "query", "star", "HTTP/1.0", "h2c", "websocket", "100-lines", "16-kB"],
)
async def test_what_http_1_allows_is_served(line: bytes, seen: bytes, size: int) -> None:
    request = line + b"\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listening(echo) as listener:
        answer = await said(listener, *in_pieces(request, size))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n" + seen)


async def test_requests_that_follow_each_other_at_once_are_answered_in_order() -> None:
    last = b"GET /y HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listening(echo) as listener:
        answer = await said(listener, GET + GET + last)
    assert re.findall(rb"GET /.", answer) == [b"GET /x", b"GET /x", b"GET /y"]


@pytest.mark.parametrize("size", [2**20, 7], ids=["one-piece", "many-pieces"])
@pytest.mark.parametrize("request_", UNCLEAR.values(), ids=UNCLEAR)
async def test_where_a_body_ends_is_clear_or_the_request_is_refused(request_: bytes, size: int) -> None:
    async with listening(echo) as listener, connected(listener) as (reader, writer):
        for piece in in_pieces(request_, size):
            writer.write(piece)
            await asyncio.sleep(0)
        head = await reader.readuntil(b"\r\n\r\n")
        rest = b"" if head.startswith(b"HTTP/1.1 200") else await reader.read()
        if not rest:  # the body was taken as one: what comes next is a request of its own
            writer.write(b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            rest = await reader.read()
            assert not head.startswith(b"HTTP/1.1 200") or b"GET /next" in rest
    assert b"/smuggled" not in rest


@pytest.mark.parametrize("size", [2**20, 7], ids=["one-piece", "many-pieces"])
async def test_trailers_are_no_headers(size: int) -> None:
    seen: list[list[bytes]] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        seen.append([name for name, _ in scope["headers"]])

    lines = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\nX-Device-Token: t\r\n\r\n"
    async with listening(note) as listener:
        assert (await said(listener, *in_pieces(POST + lines, size))).startswith(b"HTTP/1.1 200")
    assert seen == [[b"host", b"transfer-encoding", b"connection"]]


@pytest.mark.parametrize("pieces", [[], [GET], [GET, GET, GET]], ids=["one", "two", "many"])
async def test_requests_behind_one_that_is_held_wait_their_turn(pieces: list[bytes]) -> None:
    held = asyncio.Event()

    async def hold_first(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            await held.wait()
        await echo(scope, receive, send)

    first = b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"
    post = b"POST /y HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    last = b"GET /z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listening(hold_first) as listener, connected(listener) as (reader, writer):
        for piece in (first, *pieces, post[:-3], post[-3:], GET):
            writer.write(piece)
            await asyncio.sleep(0.02)
        held.set()
        writer.write(last)
        answer = await reader.read()
    between = [b"GET /x"] * len(pieces)
    assert re.findall(rb"(?:GET|POST) /\w+", answer) == [b"GET /held", *between, b"POST /y", b"GET /x", b"GET /z"]


@pytest.mark.parametrize("request_", [GET, GET + GET, GET + HEAD], ids=["one", "two", "one-and-a-half"])
async def test_what_is_held_for_a_client_ends_when_its_connection_breaks(request_: bytes) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        await hold(scope, receive, send)
        await ended.put("held")

    async with listening(note) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(request_)
        await asyncio.sleep(0.05)
        made = writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset instead of an end
        writer.transport.abort()
        assert await ended.get() == "held"


async def test_what_was_answered_is_sent_although_the_server_stops() -> None:
    size = 8 * 2**20

    async def big(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    async with AsyncExitStack() as clients:
        async with listening(big, timeout_s=60.0) as listener:
            reader, writer = await clients.enter_async_context(connected(listener))
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            reading = asyncio.ensure_future(reader.readexactly(size))
        assert len(await reading) == size


async def test_what_was_answered_over_tls_is_sent_although_the_server_stops(tmp_path: Path) -> None:
    """It is encrypted, and waits below TLS: the client reads it once the server stops."""
    tls, context = tls_of(tmp_path)
    answered = asyncio.Event()

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        await some(scope, receive, send)
        answered.set()

    async def read_late(listener: Listener, client: TlsByHand) -> bytes:
        while listener._acceptor._listening.fileno() >= 0:  # noqa: ASYNC110 - it stops when this is closed
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        return await client.read()

    async with AsyncExitStack() as clients:
        async with listening(note, tls=tls, timeout_s=60.0) as listener:
            client = TlsByHand(await clients.enter_async_context(crowded_out(listener)), context)
            await client.begin()
            await client.write(GET)
            await answered.wait()
            reading = asyncio.ensure_future(read_late(listener, client))
        assert (await reading).endswith(b"\r\n\r\n" + bytes(SOME_BYTES))


@pytest.mark.parametrize("request_", [GET, HEAD + b"Connection: close\r\n\r\n"], ids=["kept", "closed"])
def test_a_client_that_reads_nothing_keeps_a_server_that_stops_for_as_long_as_it_may_take(
    request_: bytes, tmp_path: Path
) -> None:
    tls, context = tls_of(tmp_path)

    async def measured() -> float:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as clients:
            async with listening(some, tls=tls, timeout_s=600.0) as listener:
                client = TlsByHand(await clients.enter_async_context(crowded_out(listener)), context)
                await client.begin()
                await client.write(request_)
                await asyncio.sleep(1.0)
                began = loop.time()
            return loop.time() - began

    assert 15 < run_in_virtual_time(measured()) < 45


def test_a_client_that_reads_on_is_not_cut() -> None:
    """It read the first answer whole: what it may take for the second one begins with that."""

    async def measured() -> int:
        serving = listening(torrent, limits=ConnectionLimits(write_s=2.0))
        async with serving as listener, connected(listener, limit=2**27) as (reader, writer):
            writer.write(GET)
            first = len(await reader.readuntil(b"\r\n0\r\n\r\n"))
            await asyncio.sleep(1.9)
            writer.write(GET)
            await asyncio.sleep(0.3)
            return len(await reader.readuntil(b"\r\n0\r\n\r\n")) - first

    assert run_in_virtual_time(measured()) == 0


def test_a_refusal_within_a_head_ends_the_connection_at_once() -> None:
    async def measured() -> float:
        async with listening(echo) as listener, connected(listener) as (_, writer):
            writer.write(b"GET /x HTTP/1.1\r\n\r\n")
            return await closed(listener)

    assert run_in_virtual_time(measured()) <= 1.5


async def test_space_around_a_value_is_no_part_of_it() -> None:
    seen: list[dict[bytes, bytes]] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["headers"]))
        await echo(scope, receive, send)

    async with listening(note) as listener:
        await said(listener, HEAD + b"A:  b c \t \r\nConnection: close\r\n\r\n")
    assert seen[0][b"a"] == b"b c"


async def test_a_body_that_is_refused_while_it_is_awaited_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    chunked = b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    async with listening(echo) as listener:
        answer = await said(listener, POST + chunked + b"zz\r\n")
    assert b"HTTP/1.1 400" in answer
    assert not [each for each in caplog.records if each.exc_info]


@pytest.mark.parametrize("send_", [send_answer, in_two_messages])
@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_answer_without_a_body_ends_with_its_head(method: str, status: int, send_: SendAll) -> None:
    async def empty(scope: Scope, _: Receive, send: Send) -> None:
        headers = [] if status == 204 else [(b"content-length", b"0"), (b"etag", scope["raw_path"][1:])]
        await send_(scope, send, status, headers, b"")

    line = f"{method} /%s HTTP/1.1\r\nHost: x\r\n%s\r\n"
    async with listening(empty) as listener:
        requests = (line % ("a", "") + line % ("b", "Connection: close\r\n")).encode()
        heads = await said(listener, requests)
    assert heads.count(b"HTTP/1.1 %d" % status) == 2
    assert heads.lower().count(b"\r\ndate: ") == 2
    assert heads.endswith(b"\r\n\r\n")
    assert len(heads.split(b"\r\n\r\n")) == 3


@pytest.mark.parametrize("send_", [send_answer, in_two_messages])
async def test_the_answer_to_head_has_no_body(send_: SendAll) -> None:
    async def full(scope: Scope, _: Receive, send: Send) -> None:
        await send_(scope, send, 200, [(b"content-length", b"4")], b"body")

    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listening(full) as listener:
        answers = await said(listener, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" + last)
    assert answers.count(b"content-length: 4") == 2
    assert answers.count(b"body") == 1
    assert answers.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("send_", [send_answer, in_two_messages])
async def test_an_answer_before_the_body_ends_the_connection(send_: SendAll) -> None:
    async def hasty(scope: Scope, _: Receive, send: Send) -> None:
        await send_(scope, send, 200, [(b"content-length", b"5")], b"hasty")

    async with listening(hasty) as listener:
        heard = await said(listener, POST + b"Content-Length: 9\r\n\r\npart")
    assert b"\r\nconnection: close\r\n" in heard.lower()
    assert heard.endswith(b"\r\n\r\nhasty")


@pytest.mark.parametrize("send_", [send_answer, in_two_messages])
async def test_answers_that_are_not_read_wait_for_the_client(send_: SendAll) -> None:
    waiting: list[bool] = []

    async def large(scope: Scope, _: Receive, send: Send) -> None:
        waiting.append(True)
        await send_(scope, send, 200, [(b"content-length", b"%d" % len(LARGE))], LARGE)
        waiting.remove(True)

    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listening(large) as listener, connected(listener, limit=FEW_BYTES) as (reader, writer):
        writer.write(GET + GET + last)
        await asyncio.wait_for(reader.readexactly(1), 60)
        for _ in range(10):  # rounds of the loop in which the server writes all that it may
            await asyncio.sleep(0)
        assert waiting
        assert (await reader.read()).count(LARGE) == 3


@pytest.mark.parametrize("send_", [send_answer, in_two_messages])
async def test_an_answer_that_waits_for_its_client_ends_when_the_client_leaves(send_: SendAll) -> None:
    ended = asyncio.Event()

    async def large(scope: Scope, _: Receive, send: Send) -> None:
        if scope["path"] == "/last":
            await send_(scope, send, 200, [(b"content-length", b"0")], b"")
            ended.set()
        else:
            await send_(scope, send, 200, [(b"content-length", b"%d" % len(LARGE))], LARGE)

    last = b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n"
    async with listening(large) as listener:
        async with connected(listener, limit=FEW_BYTES) as (reader, writer):
            writer.write(GET + last)
            await asyncio.wait_for(reader.readexactly(1), 60)
        await asyncio.wait_for(ended.wait(), 60)


async def test_there_is_one_answer_to_a_request() -> None:
    async def twice(scope: Scope, _: Receive, send: Send) -> None:
        for __ in range(2):
            await send_answer(scope, send, 200, [(b"content-length", b"0")], b"")

    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with listening(twice) as listener:
        heard = await said(listener, last)
    assert heard.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("pieces", "open_s"),
    [(pieces, 75 if pieces == (GET,) else 10) for pieces in SILENT.values()],
    ids=SILENT,
)
def test_a_connection_is_closed_that_sends_no_request_in_time(pieces: tuple[bytes, ...], open_s: int) -> None:
    async def measured() -> float:
        async with listening(echo) as listener, connected(listener) as (_, writer):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.1)
            return await closed(listener)

    assert open_s - 1 < run_in_virtual_time(measured()) < open_s + 1.5


@pytest.mark.parametrize("handshake", [True, False], ids=["after-handshake", "no-handshake"])
def test_a_silent_connection_over_tls_is_closed(handshake: bool, tmp_path: Path) -> None:
    tls, context = tls_of(tmp_path)
    options = {"ssl": context} if handshake else {}

    async def measured() -> float:
        async with listening(echo, tls=tls) as listener, connected(listener, **options):
            return await closed(listener)

    assert 9 < run_in_virtual_time(measured()) < 11.5


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Write *piece* each second."""
    while True:
        await asyncio.sleep(1.0)
        writer.write(piece)


def test_a_head_that_drips_is_cut() -> None:
    async def measured() -> float:
        async with listening(echo) as listener, connected(listener) as (_, writer):
            writer.write(HEAD)
            dripping = asyncio.ensure_future(drip(writer, b"A: b\r\n"))
            seconds = await closed(listener)
            dripping.cancel()
            return seconds

    assert 9 < run_in_virtual_time(measured()) < 12


@pytest.mark.parametrize("lines", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_a_body_that_drips_is_refused(lines: bytes) -> None:
    head = b"POST /v1/devices/leaf-1/report HTTP/1.1\r\nHost: x\r\nX-Device-Token: %b\r\n" % SHARED_TOKEN.encode()
    piece = b" " if b"Length" in lines else b"1\r\n \r\n"

    async def measured() -> tuple[bytes, float]:
        async with (
            running_lab(devices=["leaf-1"]) as lab,
            listening(lab.gateway.app) as listener,
            connected(listener) as (reader, writer),
        ):
            writer.write(head + lines + b"\r\n\r\n")
            dripping = asyncio.ensure_future(drip(writer, piece))
            began = asyncio.get_running_loop().time()
            answer = await reader.readuntil(b"\r\n\r\n")
            seconds = asyncio.get_running_loop().time() - began
            assert await closed(listener) < 3
            dripping.cancel()
            return answer, seconds

    answer, seconds = run_in_virtual_time(measured())
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()
    assert 9 < seconds < 12


def test_a_client_that_reads_no_answer_is_cut() -> None:
    async def measured() -> float:
        async with listening(torrent) as listener, connected(listener) as (_, writer):
            writer.write(GET)
            await asyncio.sleep(1.0)
            return await closed(listener)

    # 20 s without progress; what the kernel's buffers still take, which grow while they may, is some: once more 20 s
    assert 15 < run_in_virtual_time(measured()) < 45


@pytest.mark.parametrize("app", [echo, hold], ids=["answered", "held"])
@pytest.mark.parametrize("request_", LEFT.values(), ids=LEFT)
def test_a_connection_is_released_when_its_client_leaves(
    app: Callable[[Scope, Receive, Send], Awaitable[None]], request_: bytes
) -> None:
    async def measured() -> float:
        async with listening(app) as listener:
            await asyncio.gather(*(leave(listener, request_) for _ in range(1 if len(request_) > READ_BYTES else 3)))
            return await closed(listener)

    assert run_in_virtual_time(measured()) <= 1.0


@pytest.mark.parametrize("app", [echo, hold], ids=["answered", "held"])
@pytest.mark.parametrize("request_", [b"", GET, GET + GET], ids=["nothing", "request", "two"])
def test_a_connection_over_tls_is_released_when_its_client_leaves(
    app: Callable[[Scope, Receive, Send], Awaitable[None]], request_: bytes, tmp_path: Path
) -> None:
    tls, context = tls_of(tmp_path)

    async def measured() -> float:
        async with listening(app, tls=tls) as listener:
            await asyncio.gather(*(leave(listener, request_, ssl=context) for _ in range(3)))
            async with connected(listener, ssl=context):
                pass
            return await closed(listener)

    assert run_in_virtual_time(measured()) <= 1.0


def test_a_slow_reader_over_tls_gets_the_whole_answer(tmp_path: Path) -> None:
    """What is encrypted waits below TLS, where its transport does not count it."""
    tls, context = tls_of(tmp_path)
    size = 2**24

    async def big(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    async def read() -> int:
        async with listening(big, tls=tls) as listener, connected(listener, ssl=context) as (reader, writer):
            writer.write(HEAD + b"Connection: close\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(5 * ConnectionLimits().linger_s)
            return len(await reader.readexactly(size))

    assert run_in_virtual_time(read()) == size


async def test_the_answer_to_a_refused_body_is_read_before_the_connection_ends() -> None:
    async def refuse(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async with listening(refuse) as listener, connected(listener) as (reader, writer):
        writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes(1_000_000))
        await writer.drain()
        assert await reader.read() == b""
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


SERVED = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 256))
from attrs import evolve
from prometheus_client import CollectorRegistry
from gateway_testing import SETTINGS, process_object
from kube_testing import InProcessKube
from praetor_api.kube.client.resource import DEVICE_PROCESSES
from praetor_api.kube.runtime.clock import SystemClock
from praetor_api.kube.runtime.logs import configure_logs
from praetor_gateway.gateway import Gateway
from praetor_gateway.http.server import event_loop
from praetor_gateway.main import serve
from praetor_gateway.settings import ServerKind

async def main():
    kube, stop = InProcessKube(), asyncio.Event()
    await kube.create(DEVICE_PROCESSES, "lab", process_object("leaf-1"))
    settings = evolve(SETTINGS, server=ServerKind(sys.argv[1]))
    gateway = Gateway(kube, settings, SystemClock(), CollectorRegistry())
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    await serve(gateway, settings, stop, lambda port, probe_port: print(port, probe_port, flush=True))

configure_logs("info", "text")
with asyncio.Runner(loop_factory=lambda: event_loop(ServerKind(sys.argv[1]))) as runner:
    runner.run(main())
"""


@pytest.fixture
async def crowded(server: ServerKind) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, int]]:
    """Run a gateway that may open 256 files; yield it with its ports."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipe = subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVED, server, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    )
    assert program.stdout is not None
    try:
        port, probe_port = map(int, (await program.stdout.readline()).split())
        yield program, port, probe_port
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()


async def answer(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    token = f"X-Device-Token: {SHARED_TOKEN}\r\n"
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{token}Connection: close\r\n\r\n".encode())
        return await reader.read()
    except OSError:  # refused, for its connections that were closed are not noticed yet
        return b""
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def test_more_connections_than_descriptors_leave_the_gateway_working(
    crowded: tuple[asyncio.subprocess.Process, int, int],
) -> None:
    program, port, probe_port = crowded
    while b"HTTP/1.1 200" not in await answer(probe_port, "/readyz"):
        pass
    assert resource.prlimit(program.pid, resource.RLIMIT_NOFILE) == (256, 256)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
    idle = [socket.create_connection(("127.0.0.1", probe_port)) for _ in range(100)]
    while b"praetor_gateway_connections_refused_total 272.0" not in (metrics := await answer(probe_port, "/metrics")):
        pass
    assert b"praetor_gateway_connections 128.0" in metrics
    assert b"praetor_gateway_connections_limit 128.0" in metrics
    assert b"HTTP/1.1 200" in await answer(probe_port, "/readyz")
    clients[0].setblocking(False)
    reader, writer = await asyncio.open_connection(sock=clients[0])
    writer.write(GET)
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")
    assert await asyncio.to_thread(clients[399].recv, 1) == b""
    for client in (*clients[1:], *idle):
        client.close()
    writer.close()
    while b"HTTP/1.1 200" not in await answer(port, "/v1/devices/leaf-1/desired"):
        pass
    assert program.stdin is not None
    program.stdin.close()
    assert program.stderr is not None
    log = (await program.stderr.read()).decode()
    assert await program.wait() == 0
    assert log.count("connections refused") == 1
    assert "Traceback" not in log

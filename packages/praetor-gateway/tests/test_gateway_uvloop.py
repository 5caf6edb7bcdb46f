# SPDX-License-Identifier: Apache-2.0
"""uvicorn on uvloop, as it runs in production: the promises to clients that do not depend on virtual time.

What other modules promise of both servers is collected here, too; what they measure in virtual time is measured here
in time that passes: a client's limit is either an hour, so that nothing but what is tested ends a connection, or short.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from connection_testing import connected, each_server, echo, hold, leave, said, tls_of, torrent
from gateway_testing import listening
from hostile_requests import GET, HEAD, LEFT
from praetor_gateway.http.connection import ConnectionLimits
from praetor_gateway.http.server import Listener
from praetor_gateway.settings import ServerKind
from test_gateway_connections import (  # noqa: F401 - collected here, to run on this loop
    test_a_body_that_is_refused_while_it_is_awaited_leaves_no_trace,
    test_an_answer_before_the_body_ends_the_connection,
    test_an_answer_that_waits_for_its_client_ends_when_the_client_leaves,
    test_an_answer_without_a_body_ends_with_its_head,
    test_answers_that_are_not_read_wait_for_the_client,
    test_limits_hold_however_the_bytes_arrive,
    test_requests_behind_one_that_is_held_wait_their_turn,
    test_requests_that_follow_each_other_at_once_are_answered_in_order,
    test_the_answer_to_a_refused_body_is_read_before_the_connection_ends,
    test_trailers_are_no_headers,
    test_what_http_1_allows_is_served,
    test_what_is_held_for_a_client_ends_when_its_connection_breaks,
    test_what_was_answered_is_sent_although_the_server_stops,
    test_what_was_answered_over_tls_is_sent_although_the_server_stops,
    test_where_a_body_ends_is_clear_or_the_request_is_refused,
)
from test_gateway_server import (  # noqa: F401 - collected here, to run on this loop
    test_a_hung_request_does_not_keep_the_server_from_ending,
    test_a_renewed_certificate_is_served_once_its_key_matches,
    test_a_waiting_device_is_answered_at_shutdown,
    test_an_old_version_of_tls_is_refused,
    test_devices_are_served_over_tls,
    test_devices_are_served_over_tls_of_each_version,
    test_what_is_written_is_sent_without_waiting_for_more,
)

server = pytest.fixture(autouse=True, params=[ServerKind.UVICORN])(each_server)

HOUR_S = 3600.0
PATIENT = ConnectionLimits(first_byte_s=HOUR_S, head_s=HOUR_S, keep_alive_s=HOUR_S, write_s=HOUR_S, linger_s=HOUR_S)
SHORT_S = 0.2


async def released(listener: Listener) -> None:
    """Return when no connection is open; TimeoutError if that takes longer than the slowest machine does."""
    async with asyncio.timeout(60):
        while len(listener):  # noqa: ASYNC110 - nothing else says so
            await asyncio.sleep(0.01)


async def test_these_tests_run_on_the_loop_of_production() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


@pytest.mark.parametrize("app", [echo, hold], ids=["answered", "held"])
async def test_connections_are_released_when_their_clients_leave(app: ASGIApp) -> None:
    async with listening(app, limits=PATIENT) as listener:
        await asyncio.gather(*(leave(listener, request, after_s=SHORT_S) for request in LEFT.values()))
        await released(listener)


@pytest.mark.parametrize("app", [echo, hold], ids=["answered", "held"])
async def test_connections_over_tls_are_released_when_their_clients_leave(app: ASGIApp, tmp_path: Path) -> None:
    tls, context = tls_of(tmp_path)
    async with listening(app, tls=tls, limits=PATIENT) as listener:
        requests = (b"", GET, GET + GET, HEAD)
        await asyncio.gather(*(leave(listener, each, after_s=SHORT_S, ssl=context) for each in requests))
        async with connected(listener, ssl=context):
            pass
        await released(listener)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_connection_is_closed_after_its_last_answer(encrypted: bool, tmp_path: Path) -> None:
    tls, context = tls_of(tmp_path) if encrypted else (None, None)
    async with listening(echo, tls=tls, limits=PATIENT) as listener:
        answer = await said(listener, HEAD + b"Connection: close\r\n\r\n", ssl=context)
        assert answer.endswith(b"GET /x /x")
        await released(listener)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_slow_reader_gets_the_whole_answer(encrypted: bool, tmp_path: Path) -> None:
    tls, context = tls_of(tmp_path) if encrypted else (None, None)
    size = 2**24

    async def big(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    limits = ConnectionLimits(linger_s=SHORT_S)
    serving = listening(big, tls=tls, limits=limits)
    async with serving as listener, connected(listener, ssl=context) as (reader, writer):
        writer.write(HEAD + b"Connection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3 * SHORT_S)
        assert len(await reader.readexactly(size)) == size


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_client_that_reads_no_answer_is_cut(encrypted: bool, tmp_path: Path) -> None:
    tls, context = tls_of(tmp_path) if encrypted else (None, None)
    limits = ConnectionLimits(write_s=SHORT_S)
    async with listening(torrent, tls=tls, limits=limits) as listener, connected(listener, ssl=context) as (_, writer):
        began = asyncio.get_running_loop().time()
        writer.write(GET)
        await released(listener)
        assert asyncio.get_running_loop().time() - began >= SHORT_S


@pytest.mark.parametrize("pieces", [(), (b"G",), (HEAD,), (GET,)], ids=["nothing", "byte", "half-a-head", "request"])
async def test_a_silent_client_is_cut(pieces: tuple[bytes, ...]) -> None:
    limits = ConnectionLimits(first_byte_s=SHORT_S, head_s=SHORT_S, keep_alive_s=SHORT_S)
    async with listening(echo, limits=limits) as listener, connected(listener) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
        await reader.read()
        await released(listener)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_held_requests_are_answered_when_the_server_stops(encrypted: bool, tmp_path: Path) -> None:
    tls, context = tls_of(tmp_path) if encrypted else (None, None)
    ends, waiting = asyncio.Event(), asyncio.Semaphore(0)

    async def until_the_end(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.release()
        await ends.wait()
        await echo(scope, receive, send)

    async with AsyncExitStack() as clients:
        async with listening(until_the_end, tls=tls, timeout_s=60.0) as listener:
            opened = [await clients.enter_async_context(connected(listener, ssl=context)) for _ in range(20)]
            for _, writer in opened:
                writer.write(GET)
                await waiting.acquire()
            asyncio.get_running_loop().call_later(SHORT_S, ends.set)
        for reader, _ in opened:
            assert (await reader.read()).endswith(b"GET /x /x")

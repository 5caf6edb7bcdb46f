# SPDX-License-Identifier: Apache-2.0
"""Both servers say the same to the same bytes, up to the edge of each limit."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from connection_testing import connected, echo, in_pieces
from gateway_testing import listening, run_in_virtual_time
from hostile_requests import ALLOWED, CHUNKED, HEAD, LEFT, REFUSED, STRICT, UNCLEAR
from praetor_gateway.http.connection import MAX_HEAD_BYTES, MAX_HEADER_LINES, READ_BYTES
from praetor_gateway.settings import ServerKind

SERVERS = (ServerKind.HYPERCORN, ServerKind.UVICORN)
SETTLED_S = 3.0
"""A server that has not closed a connection by then does not mean to: the first time of a client ends later."""
LATE_BYTES = 1024
"""How far beyond a limit uvicorn may notice it."""

Heard = tuple[list[bytes], bool]
"""The statuses of answers and the requests that the application saw, and whether the server closes the connection."""


async def heard(server: ServerKind, *pieces: bytes, app: ASGIApp = echo) -> Heard:
    """Return how *server*, with *app*, answers a client that sends *pieces* and waits."""
    said, closes = b"", False
    async with listening(app, server=server) as listener, connected(listener) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_S):
                with suppress(ConnectionResetError):
                    while data := await reader.read(2**16):
                        said += data
                closes = True
    return re.findall(rb"(?<=HTTP/1.1 )\d{3}|(?:GET|POST|HEAD) /\S*", said), closes


def each_heard(request: bytes, size: int) -> tuple[Heard, Heard]:
    """Return how each server answers *request*, which comes in pieces of *size* bytes."""
    one, other = (run_in_virtual_time(heard(server, *in_pieces(request, size))) for server in SERVERS)
    return one, other


REQUESTS = {
    **{name: request for name, (request, _) in REFUSED.items()},
    **{name: request for name, (request, _) in STRICT.items()},
    **{name: request for name, (request, _) in ALLOWED.items()},
    **UNCLEAR,
    # of one that is longer, how much is answered before too much of it is there is chance
    **{f"left, {name}": request for name, request in LEFT.items() if len(request) <= READ_BYTES},
}


@pytest.mark.parametrize("size", [2**20, 97], ids=["one-piece", "many-pieces"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_both_servers_answer_alike(request_: bytes, size: int) -> None:
    hypercorn, uvicorn = each_heard(request_, size)
    assert hypercorn == uvicorn


@pytest.mark.parametrize("size", [2**20, 1], ids=["one-piece", "bytes"])
@pytest.mark.parametrize(("request_", "status"), STRICT.values(), ids=STRICT)
def test_what_only_one_parser_takes_is_refused(request_: bytes, status: bytes, size: int) -> None:
    assert each_heard(request_, size) == (([status], True), ([status], True))


@pytest.mark.parametrize("size", [2**20, 1], ids=["one-piece", "bytes"])
@pytest.mark.parametrize(("request_", "answers"), ALLOWED.values(), ids=ALLOWED)
def test_what_only_one_parser_refuses_is_served(request_: bytes, answers: int, size: int) -> None:
    for words, closes in each_heard(request_, size):
        assert (words.count(b"200"), closes) == (answers, False)


def head_of(size: int) -> bytes:
    return HEAD + b"A: " + b"a" * (size - len(HEAD) - 7) + b"\r\n\r\n"


def chunk_of(size: int) -> bytes:
    return CHUNKED + b"1;" + b"a" * (size - 4) + b"\r\na\r\n0\r\n\r\n"


def trailers_of(size: int) -> bytes:
    return CHUNKED + b"0\r\nA: " + b"a" * (size - 10) + b"\r\n\r\n"


def lines_of(count: int) -> bytes:
    return HEAD + b"A: b\r\n" * (count - 1) + b"\r\n"


def trailer_lines_of(count: int) -> bytes:
    return CHUNKED + b"0\r\n" + b"A: b\r\n" * count + b"\r\n"


@pytest.mark.parametrize("size", [2**20, 97], ids=["one-piece", "many-pieces"])
@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        pytest.param(head_of(MAX_HEAD_BYTES), head_of(MAX_HEAD_BYTES + LATE_BYTES), id="head"),
        pytest.param(chunk_of(MAX_HEAD_BYTES), chunk_of(MAX_HEAD_BYTES + LATE_BYTES), id="head-of-a-chunk"),
        pytest.param(trailers_of(MAX_HEAD_BYTES), trailers_of(MAX_HEAD_BYTES + LATE_BYTES), id="trailers"),
        pytest.param(lines_of(MAX_HEADER_LINES), lines_of(MAX_HEADER_LINES + 1), id="lines"),
        pytest.param(trailer_lines_of(MAX_HEADER_LINES), trailer_lines_of(MAX_HEADER_LINES + 1), id="trailer-lines"),
    ],
)
def test_a_limit_ends_at_the_same_size(within: bytes, beyond: bytes, size: int) -> None:
    for words, closes in each_heard(within, size):
        assert (words[0], closes) == (b"200", False)
    assert each_heard(beyond, size) == (([b"431"], True), ([b"431"], True))


@pytest.mark.parametrize("apart", [True, False], ids=["later", "at-once"])
@pytest.mark.parametrize("server", SERVERS)
def test_64_kib_are_read_ahead_of_an_answer(server: ServerKind, apart: bool) -> None:
    first, next_ = b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n", head_of(1024)

    async def hold_first(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            await asyncio.sleep(1.0)
        await echo(scope, receive, send)

    def answered(count: int) -> Heard:
        pieces = (first, count * next_) if apart else (first + count * next_,)
        return run_in_virtual_time(heard(server, *pieces, app=hold_first))

    most = READ_BYTES // len(next_)
    assert answered(most) == ([b"200", b"GET /held"] + most * [b"200", b"GET /x"], False)
    assert answered(most + 2) == ([], True)  # uvicorn has parsed one of them

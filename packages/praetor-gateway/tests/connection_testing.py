# SPDX-License-Identifier: Apache-2.0
"""What tests of connections share: applications to serve, and clients that speak in raw bytes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from attrs import evolve
from starlette.types import Receive, Scope, Send

import gateway_testing
from gateway_testing import SETTINGS
from kubeplane.http.tls import server_context
from praetor_gateway.http.certificates import TlsFiles
from praetor_gateway.http.server import Listener
from praetor_gateway.settings import ServerKind

T = TypeVar("T")

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]

FEW_BYTES = 4096
"""Of a socket buffer; the kernel takes some more."""
SOME_BYTES = 60_000
"""Of an answer: less than a transport buffers before it says so, and more than two such sockets take."""


def each_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ServerKind:
    """Serve with the server that is the parameter. A test module makes it a fixture."""
    kind: ServerKind = request.param
    monkeypatch.setattr(gateway_testing, "SETTINGS", evolve(SETTINGS, server=kind))
    return kind


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the method and the path, once the body is there."""
    while (message := await receive()).get("more_body", False):
        pass
    if message["type"] == "http.disconnect":
        return
    body = scope["method"].encode() + b" " + scope["raw_path"] + b" " + scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def hold(_: Scope, receive: Receive, __: Send) -> None:
    """Hold each request until the client goes away, as a long poll."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def torrent(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with more than the buffers of two sockets take."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def some(_: Scope, __: Receive, send: Send) -> None:
    """Answer with what TLS encrypts at once, and the kernel takes only while the client reads."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % SOME_BYTES)]})
    await send({"type": "http.response.body", "body": bytes(SOME_BYTES)})


@asynccontextmanager
async def connected(listener: Listener, **options: Any) -> AsyncIterator[Client]:
    """Connect, and leave at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def said(listener: Listener, *pieces: bytes, **options: Any) -> bytes:
    """Return all that the server says to *pieces*, each of which arrives by itself."""
    async with connected(listener, **options) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            for _ in range(3):  # rounds of the loop in which the server reads it
                await asyncio.sleep(0)
        return await reader.read()


async def closed(listener: Listener) -> float:
    """Return how many seconds the server takes to close what is open."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while len(listener):  # noqa: ASYNC110 - in virtual time, which passes only where the loop would wait
        await asyncio.sleep(0.1)
    return loop.time() - began


async def leave(listener: Listener, request: bytes, *, after_s: float = 0.5, **options: Any) -> None:
    """Connect, send *request*, let the server handle it for *after_s* seconds, and leave."""
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port, **options)
    writer.write(request)
    await asyncio.sleep(after_s)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def tls_of(folder: Path) -> tuple[TlsFiles, ssl.SSLContext]:
    """Return the files of a server's certificate, made in *folder*, and what a client connects with."""
    server_context(folder)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return TlsFiles(cert=folder / "apiserver.crt", key=folder / "apiserver.key"), context


def in_pieces(request: bytes, size: int) -> list[bytes]:
    return [request[at : at + size] for at in range(0, len(request), size)]


@asynccontextmanager
async def crowded_out(listener: Listener) -> AsyncIterator[Client]:
    """Connect as a client that reads only what it asks for, and whose kernel and the server's keep little meanwhile."""
    listener._acceptor._listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FEW_BYTES)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, FEW_BYTES)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", listener.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


class TlsByHand:
    """TLS over *client*, which decrypts, and so reads, only when it is asked to."""

    def __init__(self, client: Client, context: ssl.SSLContext) -> None:
        self._reader, self._writer = client
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._goes)

    async def begin(self) -> None:
        """Shake hands."""
        await self._until_done(self._tls.do_handshake)

    async def write(self, data: bytes) -> None:
        """Send *data*."""
        await self._until_done(lambda: self._tls.write(data))

    async def read(self) -> bytes:
        """Return all that the server sends until it closes."""
        read = bytearray()
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while data := await self._until_done(lambda: self._tls.read(2**14)):
                read += data
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._writer.write(self._goes.read())
        return bytes(read)

    async def _until_done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._writer.write(self._goes.read())
                if data := await self._reader.read(2**14):
                    self._came.write(data)
                else:
                    self._came.write_eof()
            else:
                self._writer.write(self._goes.read())
                return done

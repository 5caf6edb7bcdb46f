# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 client on asyncio protocols, so that one thread can hold the polls of thousands of devices."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from praetor_agent.errors import GatewayError
from praetor_agent.simulate.sources import bound, is_loopback, own_loopback
from praetor_api.protocol import AGENT_FEATURES, FEATURES_HEADER

CONNECT_TIMEOUT_SECONDS = 10.0
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_HEAD_BYTES = 16 * 1024
RESET = struct.pack("ii", 1, 0)
"""Ends a connection with a reset: after any other end its port is taken for a minute."""
_FEATURES = f"{FEATURES_HEADER}: {', '.join(sorted(AGENT_FEATURES))}\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a gateway listens; *tls* is set for https. *source* is the address to connect from, None for the link's."""

    host: str
    port: int
    prefix: str = ""
    tls: ssl.SSLContext | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The network of the devices: each device uses one of *endpoints*, and after a failure any other one.

    Each connects from one of *sources*; if there are none, from where the kernel, or the endpoint, says. A request
    begins up to *lag* seconds late, and the share *loss* of them is lost with its connection.
    """

    endpoints: Sequence[Endpoint]
    sources: Sequence[str] = ()
    lag: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def endpoint(url: str, tls: ssl.SSLContext | None) -> Endpoint:
    """Return the endpoint that *url* names, which this process reaches from an address of its own if it is on loopback.

    *tls* is for https.
    """
    parts = urlsplit(url)
    tls = tls if parts.scheme == "https" else None
    host = parts.hostname or ""
    port = parts.port or (443 if tls else 80)
    source = own_loopback() if is_loopback(host) else None
    return Endpoint(host=host, port=port, prefix=parts.path.rstrip("/"), tls=tls, source=source)


class Connection:
    """One connection of device *number*, kept alive and opened again after it was lost."""

    __slots__ = ("_at", "_channel", "_link", "_source", "_token")

    def __init__(self, link: Link, token: str | None, number: int) -> None:
        self._link = link
        self._at = number % len(link.endpoints)
        # the devices of each endpoint use all sources
        turn = number // len(link.endpoints)
        self._source = link.sources[turn % len(link.sources)] if link.sources else None
        self._token = f"X-Device-Token: {token}\r\n" if token is not None else ""
        self._channel: _Channel | None = None

    async def request(self, method: str, path: str, headers: str, body: bytes, timeout: float) -> Response:
        """Return the answer to one request; GatewayError if there is none within *timeout* seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._request(method, path, headers, body)
        except (OSError, EOFError, ValueError, TimeoutError) as e:
            self.close()
            self._move_on()
            raise GatewayError(f"{type(e).__name__}: {e}") from e
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; a request that waits fails."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.end(EOFError("the connection was closed"))

    def _move_on(self) -> None:
        """Use any other endpoint from now on, as behind a load balancer."""
        if (others := len(self._link.endpoints) - 1) > 0:
            self._at = (self._at + 1 + random.randrange(others)) % (others + 1)  # noqa: S311  # no secret

    async def _request(self, method: str, path: str, headers: str, body: bytes) -> Response:
        link = self._link
        if link.lag:
            await asyncio.sleep(link.lag * random.random())  # noqa: S311  # no secret
        if link.loss and random.random() < link.loss:  # noqa: S311  # no secret
            raise ConnectionAbortedError("lost, as --loss asks")
        channel, where = self._channel, link.endpoints[self._at]
        if channel is None or channel.ended:
            channel = self._channel = await _connect(where, self._source or where.source)
        head = (
            f"{method} {where.prefix}{path} HTTP/1.1\r\nHost: {where.host}:{where.port}\r\n"
            f"User-Agent: praetor-agent-simulate\r\n{_FEATURES}{self._token}{headers}"
        )
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        elif method == "POST":
            head += "Content-Length: 0\r\n"
        response = await channel.ask(head.encode("ascii") + b"\r\n" + body)
        if response.headers.get("connection", "").lower() == "close":
            self.close()
        return response


class _Channel(asyncio.Protocol):
    """One TCP connection: a request, its answer, the next request."""

    __slots__ = ("_answer", "_received", "_transport", "ended")

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._received = b""
        self.ended = False

    async def ask(self, request: bytes) -> Response:
        """Return the answer to *request*."""
        if self._transport is None or self.ended:
            raise EOFError("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def end(self, error: Exception) -> None:
        """Close the connection without waiting; what waits for an answer fails with *error*."""
        if self._transport is not None and not self.ended:
            self._transport.abort()
        self.connection_lost(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Use the new connection."""
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer."""
        self._received += data
        answer = self._answer
        if answer is None or answer.done():
            self.end(ValueError("more than was asked for"))
            return
        try:
            response = parse(self._received)
        except ValueError as e:
            self.end(e)
            return
        if response is not None:
            self._received = b""
            answer.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits for an answer."""
        self.ended = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or EOFError("the connection was closed"))


async def _connect(where: Endpoint, source: str | None) -> _Channel:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
        if source is not None:
            try:
                return await _connect_from(source, where)
            except ConnectionRefusedError:
                if source != where.source or where.host.startswith("127."):
                    raise  # else it is a name of loopback, and may be that of ::1, too
        _, channel = await loop.create_connection(_Channel, where.host, where.port, ssl=where.tls)
        return channel


async def _connect_from(source: str, where: Endpoint) -> _Channel:
    loop = asyncio.get_running_loop()
    sock = bound(source)
    try:
        await loop.sock_connect(sock, (where.host, where.port))
        name = where.host if where.tls is not None else None
        _, channel = await loop.create_connection(_Channel, sock=sock, ssl=where.tls, server_hostname=name)
    except BaseException:
        sock.close()
        raise
    return channel


def parse(received: bytes) -> Response | None:
    """Return the answer that *received* is; None while a part is missing, ValueError if it can be none."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > MAX_HEAD_BYTES:
            raise ValueError("an answer with an endless head")
        return None
    lines = received[:end].decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ", 2)[1])
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if status in (204, 304):
        return Response(status=status, headers=headers, body=b"")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _chunks(received, end + 4)
        return None if body is None else Response(status=status, headers=headers, body=body)
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY_BYTES:
        raise ValueError(f"an answer of {length} bytes")
    if len(received) < end + 4 + length:
        return None
    return Response(status=status, headers=headers, body=received[end + 4 : end + 4 + length])


def _chunks(received: bytes, at: int) -> bytes | None:
    """Return the body whose chunks begin *at*; None while a part is missing. Trailers are not read."""
    body = b""
    while (end := received.find(b"\r\n", at)) >= 0:
        size = int(received[at:end].split(b";")[0], 16)
        if not 0 <= size <= MAX_BODY_BYTES - len(body):
            raise ValueError("an answer without end")
        at = end + 2 + size + 2
        if len(received) < at:
            return None
        if size == 0:
            return body
        body += received[end + 2 : end + 2 + size]
    return None

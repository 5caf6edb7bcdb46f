# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 client on asyncio protocols, so that one thread can hold the polls of thousands of devices."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from praetor_agent.errors import GatewayError
from praetor_api.protocol import AGENT_FEATURES, FEATURES_HEADER

CONNECT_TIMEOUT_SECONDS = 10.0
IP_BIND_ADDRESS_NO_PORT = 24
"""Of Linux: the port is chosen when connecting. A bind that has to find one looks at thousands of them."""
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_HEAD_BYTES = 16 * 1024
_FEATURES = f"{FEATURES_HEADER}: {', '.join(sorted(AGENT_FEATURES))}\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a gateway listens; *tls* is set for https, *source* is the address to connect from, None for any."""

    host: str
    port: int
    prefix: str = ""
    tls: ssl.SSLContext | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The network of the devices: each device uses one of *endpoints*, and after a failure any other one.

    A request begins up to *lag* seconds late, and the share *loss* of them is lost with its connection.
    """

    endpoints: Sequence[Endpoint]
    lag: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def endpoint(url: str, tls: ssl.SSLContext | None) -> Endpoint:
    """Return the endpoint that *url* names; *tls* is for https."""
    parts = urlsplit(url)
    tls = tls if parts.scheme == "https" else None
    host = parts.hostname or ""
    port = parts.port or (443 if tls else 80)
    return Endpoint(host=host, port=port, prefix=parts.path.rstrip("/"), tls=tls, source=_source(host))


def _source(host: str) -> str | None:
    """Return an address of this process's own to connect to *host* from, where that is on loopback.

    An address has ports for 28,000 connections only, and each process may have nearly as many devices.
    """
    try:
        loopback = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        loopback = False
    number = os.getpid()
    return f"127.{1 + number // 2**16 % 127}.{number // 2**8 % 256}.{1 + number % 2**8 % 254}" if loopback else None


class Connection:
    """One connection, kept alive and opened again after it was lost; number *first* of the endpoints is tried first."""

    __slots__ = ("_at", "_channel", "_link", "_token")

    def __init__(self, link: Link, token: str | None, first: int) -> None:
        self._link = link
        self._at = first % len(link.endpoints)
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
            channel = self._channel = await _connect(where)
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


async def _connect(where: Endpoint) -> _Channel:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
        if where.source is None:
            _, channel = await loop.create_connection(_Channel, where.host, where.port, ssl=where.tls)
            return channel
        bound = socket.socket()
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            bound.bind((where.source, 0))
            await loop.sock_connect(bound, (where.host, where.port))
            name = where.host if where.tls is not None else None
            _, channel = await loop.create_connection(_Channel, sock=bound, ssl=where.tls, server_hostname=name)
        except BaseException:
            bound.close()
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
